"""Descriptors, manifests and indexes, checked, with their bytes kept.

A manifest is never written again: what came is stored and given out byte for byte.  New ones come from
:func:`manifest_bytes`.  Sources: OCI image specification ``descriptor.md``, ``manifest.md``,
``image-index.md``; distribution ``docs/spec/manifest-v2-2.md``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from winlayers.errors import ImageError, PlatformError
from winlayers.images import mediatypes
from winlayers.images.digest import check_digest, digest_of
from winlayers.images.jsonfields import Fields, parse_object
from winlayers.images.platforms import Platform

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation by which an OCI layout's index names its images."""

_KNOWN = frozenset({"mediaType", "digest", "size", "annotations", "urls", "platform"})
_MAX_LAYERS = 1000
"""Windows stops at 127 layers or so; a manifest with more than this is an attack."""


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: its type, digest and size.

    Attributes:
        media_type: the blob's media type.
        digest: ``sha256:...``.
        size: bytes.
        annotations: texts that belong to the mention, not to the blob.
        urls: where else the blob can be had (foreign layers).
        platform: in an index, what the manifest is for.
        extra: fields that are not known here, kept as they came.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Descriptor:
        """Check and read a descriptor.

        Raises:
            ImageError: a field is missing or malformed.
        """
        has_platform = fields.value.get("platform") is not None
        return cls(
            media_type=fields.string("mediaType"),
            digest=check_digest(fields.string("digest")),
            size=fields.integer("size"),
            annotations=fields.text_map("annotations"),
            urls=fields.strings("urls"),
            platform=Platform.from_fields(fields.child("platform")) if has_platform else None,
            extra={k: v for k, v in fields.value.items() if k not in _KNOWN},
        )

    def to_json(self) -> dict[str, object]:
        """The descriptor as JSON, empty fields left out."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        return {**value, **self.extra}

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that need not be in registries and is not pushed unasked."""
        return self.media_type in mediatypes.FOREIGN_LAYERS

    def without_mention(self) -> Descriptor:
        """The same blob without annotations and platform."""
        return Descriptor(self.media_type, self.digest, self.size, urls=self.urls)


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """One image's manifest.

    Attributes:
        raw: its bytes.
        media_type: OCI's or Docker's.
        config: the configuration blob.
        layers: base first.
        annotations: of the manifest (OCI only).
    """

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The SHA-256 digest of the bytes."""
        return digest_of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """What names this manifest."""
        return Descriptor(self.media_type, self.digest, len(self.raw))


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """An index (OCI) or manifest list (Docker): one image for several platforms."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]


Document: TypeAlias = Manifest | Index


def parse_document(raw: bytes, media_type: str, what: str) -> Document:
    """Read and check a manifest or an index.

    Args:
        raw: the bytes, whose digest the caller has checked.
        media_type: what the descriptor or the server called it; "" where nothing did.
        what: names it in errors.

    Raises:
        ImageError: it is malformed, of another type than said, or of a kind that is not read.
    """
    fields, links = _read(raw, media_type, what)
    if links.media_type in mediatypes.INDEXES:
        return Index(raw, links.media_type, links.manifests)
    return _manifest(raw, fields, links, what)


@dataclasses.dataclass(frozen=True, slots=True)
class Links:
    """What a document of any kind names, an image's or not: what a copy of it takes along.

    Attributes:
        media_type: the document's.
        manifests: further documents (of an index).
        blobs: configuration and layers (of a manifest), in this order.
    """

    media_type: str
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def parse_links(raw: bytes, media_type: str, what: str) -> Links:
    """Read what a manifest or index names; also an artifact's: attestations lie beside images in indexes.

    Arguments and errors are those of :func:`parse_document`.
    """
    return _read(raw, media_type, what)[1]


def _read(raw: bytes, media_type: str, what: str) -> tuple[Fields, Links]:
    """A document's fields, and what it names."""
    fields = Fields(parse_object(raw, what), what)
    if fields.value.get("schemaVersion") == 1 or mediatypes.is_schema_1(media_type):
        raise ImageError(f"{what} is in Docker's schema 1, which can't be verified", hint="push it anew")
    if fields.value.get("schemaVersion") != 2:
        raise ImageError(f"{what}: schemaVersion is not 2")
    actual = _media_type(fields, media_type, what)
    if actual in mediatypes.INDEXES:
        manifests = fields.objects("manifests", required=True)
        return fields, Links(actual, tuple(map(Descriptor.from_fields, manifests)), ())
    layers = fields.objects("layers", required=True)
    if len(layers) > _MAX_LAYERS:
        raise ImageError(f"{what} has {len(layers)} layers; at most {_MAX_LAYERS} are read")
    blobs = (fields.child("config"), *layers)
    return fields, Links(actual, (), tuple(map(Descriptor.from_fields, blobs)))


def _media_type(fields: Fields, said: str, what: str) -> str:
    """The document's type: from itself, else from outside, else guessed; contradictions are refused.

    A document that is both manifest and index is an attack on those who look at one half only
    (source: OCI distribution advisory GHSA-mc8v-mgrf-8f4m).
    """
    own = fields.string("mediaType", "")
    if "manifests" in fields.value and ("layers" in fields.value or "config" in fields.value):
        raise ImageError(f"{what} is a manifest and an index at once")
    known = mediatypes.MANIFESTS | mediatypes.INDEXES
    if own and said in known and own != said:
        raise ImageError(f"{what} was announced as {said} but says that it is {own}")
    chosen = own or (said if said in known else "")
    if not chosen:
        chosen = mediatypes.OCI_INDEX if "manifests" in fields.value else mediatypes.OCI_MANIFEST
    if chosen not in known:
        raise ImageError(f"{what} is of type {chosen!r}, which is no image manifest")
    if (chosen in mediatypes.INDEXES) != ("manifests" in fields.value):
        raise ImageError(f"{what} is of type {chosen} but has the fields of another")
    return chosen


def _manifest(raw: bytes, fields: Fields, links: Links, what: str) -> Manifest:
    config, *layers = links.blobs
    if config.media_type not in mediatypes.CONFIGS:
        raise ImageError(f"{what} is an artifact ({config.media_type}), not a container image")
    if not layers:
        raise ImageError(f"{what} has no layers")
    for index, layer in enumerate(layers):
        if layer.media_type not in mediatypes.LAYERS:
            raise ImageError(f"{what}: layer {index} is of type {layer.media_type!r}, which is no layer")
    return Manifest(raw, links.media_type, config, tuple(layers), fields.text_map("annotations"))


def manifest_bytes(
    media_type: str,
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """A new manifest's bytes: compact JSON in the order that Go's implementations write."""
    value: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if annotations and not mediatypes.is_docker(media_type):
        value["annotations"] = dict(annotations)
    return compact_json(value)


def compact_json(value: object) -> bytes:
    """*value* as JSON without blanks, in the order given, as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def require_windows(platform: Platform, what: str) -> None:
    """Accept only Windows.

    Raises:
        PlatformError: the platform is another.
    """
    if platform.os.lower() != "windows":
        raise PlatformError(
            f"{what} is an image for {platform.os or 'no operating system'}", hint="winlayers is for Windows"
        )
