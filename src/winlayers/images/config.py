"""Image configurations: read with checks, changed without loss.

What is not known here is kept: a changed configuration is the old document with some fields replaced, in
the old order.  Source: OCI image specification ``config.md``; Windows adds ``os.version`` and
``os.features``, Docker adds ``ArgsEscaped`` (the entry point is one command line, escaped already).
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping, Sequence

from winlayers.errors import ImageError
from winlayers.images.digest import chain_ids, check_digest, digest_of
from winlayers.images.documents import Manifest, compact_json, require_windows
from winlayers.images.jsonfields import Fields, parse_object
from winlayers.images.platforms import Platform


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """One step of an image's history; ``created`` and the texts are as they came, "" where missing."""

    created: str
    created_by: str
    comment: str
    author: str
    empty_layer: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration.

    Attributes:
        raw: its bytes.
        value: the whole document; not to be changed.
        platform: operating system, architecture, version, features.
        created: RFC 3339 text, or "".
        diff_ids: digests of the layers' uncompressed tars, base first.
        history: the steps.
    """

    raw: bytes
    value: Mapping[str, object]
    platform: Platform
    created: str
    diff_ids: tuple[str, ...]
    history: tuple[History, ...]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> ImageConfig:
        """Read and check a configuration.

        Raises:
            ImageError: it is malformed.
        """
        fields = Fields(parse_object(raw, what), what)
        rootfs = fields.child("rootfs")
        kind = rootfs.string("type", "")
        if kind != "layers":
            hint = "its base layer must be on the host" if kind == "layers+base" else None
            raise ImageError(f"{what}: rootfs.type is {kind!r}, not 'layers'", hint=hint)
        return cls(
            raw=raw,
            value=fields.value,
            platform=Platform.from_fields(fields),
            created=fields.string("created", ""),
            diff_ids=tuple(check_digest(d) for d in rootfs.strings("diff_ids")),
            history=tuple(_history(f) for f in fields.objects("history")),
        )

    @property
    def digest(self) -> str:
        """The digest of the bytes: Docker's image id."""
        return digest_of(self.raw)

    @property
    def chain_ids(self) -> list[str]:
        """The layers' chain ids, base first."""
        return chain_ids(self.diff_ids)

    @property
    def run(self) -> Mapping[str, object]:
        """The ``config`` object: what containers start with."""
        value = self.value.get("config")
        return value if isinstance(value, dict) else {}

    def check_against(self, manifest: Manifest, what: str) -> None:
        """Check that this configuration can belong to *manifest*, and is for Windows.

        Raises:
            PlatformError: it is for another operating system.
            ImageError: the numbers of layers differ.
        """
        require_windows(self.platform, what)
        if len(self.diff_ids) != len(manifest.layers):
            raise ImageError(
                f"{what}: the manifest has {len(manifest.layers)} layers,"
                f" but the configuration names {len(self.diff_ids)}"
            )


def _history(fields: Fields) -> History:
    return History(
        created=fields.string("created", ""),
        created_by=fields.string("created_by", ""),
        comment=fields.string("comment", ""),
        author=fields.string("author", ""),
        empty_layer=fields.value.get("empty_layer") is True,
    )


def history_entry(
    created_by: str,
    *,
    created: str | None = None,
    comment: str = "",
    author: str = "",
    empty_layer: bool = False,
) -> dict[str, object]:
    """A new step of a history, as JSON; *created* None: now."""
    value: dict[str, object] = {"created": created or now(), "created_by": created_by}
    if author:
        value["author"] = author
    if comment:
        value["comment"] = comment
    if empty_layer:
        value["empty_layer"] = True
    return value


def derive(
    base: ImageConfig,
    *,
    diff_ids: Sequence[str],
    history: Sequence[Mapping[str, object]],
    change_run: Callable[[dict[str, object]], None] | None = None,
    change_document: Callable[[dict[str, object]], None] | None = None,
    author: str | None = None,
) -> bytes:
    """A new configuration's bytes: *base* with other layers and history, made now.

    Fields that describe the container or the builder that made the base are dropped: they would be lies.

    Args:
        diff_ids: all layers of the new image.
        history: all steps of the new image, as JSON.
        change_run: gets a copy of the ``config`` object to change.
        change_document: gets a copy of the whole document to change.
        author: the new author; None keeps the old one.
    """
    value = copy.deepcopy(dict(base.value))
    for stale in (
        "container",
        "container_config",
        "docker_version",
        "parent",
        "id",
        "moby.buildkit.buildinfo.v1",
    ):
        value.pop(stale, None)
    value["created"] = now()
    if author is not None:
        value["author"] = author
    rootfs = value.get("rootfs")
    value["rootfs"] = {**(rootfs if isinstance(rootfs, dict) else {}), "diff_ids": list(diff_ids)}
    value["history"] = [dict(step) for step in history]
    if change_run is not None:
        run = value.get("config")
        changed: dict[str, object] = run if isinstance(run, dict) else {}
        change_run(changed)
        value["config"] = changed
    if change_document is not None:
        change_document(value)
    return compact_json(value)


def raw_history(base: ImageConfig) -> list[Mapping[str, object]]:
    """The steps of *base* as JSON, to be extended."""
    steps = base.value.get("history")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def now() -> str:
    """The time for ``created`` fields, RFC 3339 in UTC: SOURCE_DATE_EPOCH where it is set, else the clock.

    Raises:
        ImageError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None or epoch == "":
        moment = datetime.datetime.now(datetime.UTC)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    try:
        moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ImageError(f"SOURCE_DATE_EPOCH is {epoch!r}, which is no time in seconds") from error
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
