"""``oci:FOLDER[:TAG]``: an OCI image layout."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from winlayers import durable
from winlayers.errors import ImageError, ImageNotFoundError, InvalidReferenceError
from winlayers.images.compression import Reader
from winlayers.images.documents import REF_NAME, Descriptor
from winlayers.images.layout import OciLayout
from winlayers.images.reference import Reference, sanitised
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer

_CONTAINERD_NAME = "io.containerd.image.name"


def reference_for(descriptor: Descriptor, stem: str) -> Reference | None:
    """The reference that a layout gives an image.

    containerd's annotation holds a whole one; ``ref.name`` holds a whole one or a tag, which then belongs to
    a repository called after the folder or file, *stem*.  None where it names nothing usable.
    """
    for text in (descriptor.annotations.get(_CONTAINERD_NAME), descriptor.annotations.get(REF_NAME)):
        if text is None:
            continue
        whole = text if "/" in text or ":" in text else f"{sanitised(stem)}:{text}"
        try:
            return Reference.parse(whole)
        except InvalidReferenceError:
            continue
    return None


def select(manifests: Sequence[Descriptor], tag: str | None, stem: str, what: str) -> list[Offer]:
    """What a layout's index offers, or the one image that *tag* means.

    Raises:
        ImageNotFoundError: there is none; the message lists what there is.
    """
    offers = []
    seen: set[tuple[str, Reference | None, str]] = set()
    for descriptor in manifests:
        label = descriptor.annotations.get(REF_NAME, "")
        reference = reference_for(descriptor, stem)
        if reference is None and tag is None and len(manifests) == 1:
            reference = Reference.parse(f"{sanitised(stem)}:latest")
        if (descriptor.digest, reference, label) not in seen:  # what is listed twice is one
            seen.add((descriptor.digest, reference, label))
            offers.append(Offer(descriptor, () if reference is None else (reference,), label))
    if tag is None:
        if not offers:
            raise ImageNotFoundError(f"{what} holds no images")
        return offers
    for offer in offers:
        if tag in (offer.label, offer.descriptor.annotations.get(_CONTAINERD_NAME), offer.descriptor.digest):
            return [offer]
    labels = ", ".join(sorted(offer.label or offer.descriptor.digest for offer in offers))
    raise ImageNotFoundError(f"{what} has no image tagged {tag!r}", hint=f"it has {labels or 'none'}")


class LayoutSource(ImageSource):
    """Images in an OCI layout."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tag: str | None = None,
        options: RegistryOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Look at the layout *folder*; *tag* chooses one of its images.

        Args:
            options: how foreign layers are fetched that the layout has not.

        Raises:
            ImageError: it is no layout.
        """
        self._layout = OciLayout(folder)
        self._tag = tag
        self._options = options
        self.name = f"oci:{os.fspath(folder)}" + (f":{tag}" if tag is not None else "")

    def offers(self) -> Sequence[Offer]:
        stem = Path(self._layout.root).resolve().name
        return select(self._layout.manifests(), self._tag, stem, os.fspath(self._layout.root))

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        return self._layout.read(descriptor, what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return open_or_fetch(lambda: self._layout.open(descriptor.digest), descriptor, self._options)


def open_or_fetch(
    opened: Callable[[], BinaryIO], descriptor: Descriptor, options: RegistryOptions
) -> BinaryIO:
    """A blob of a layout; a foreign layer that it has not comes from its URLs.

    Raises:
        ImageNotFoundError: it is not there, or nowhere.
    """
    try:
        return opened()
    except ImageNotFoundError as missing:
        if not descriptor.is_foreign or not descriptor.urls:
            raise
        from winlayers.images.registry.client import first_of, open_url

        attempts = (partial(open_url, url, descriptor, options) for url in descriptor.urls)
        try:
            return cast(BinaryIO, first_of(iter(attempts)))  # a raw file with the methods that are used
        except ImageError as error:
            raise ImageNotFoundError(
                f"{missing.message}, and its URLs don't have it: {error.message}"
            ) from error


class LayoutTarget(ImageTarget):
    """An OCI layout that an image goes to, new or existing."""

    parallel = None

    def __init__(self, folder: str | os.PathLike[str], tag: str | None) -> None:
        """Write to the layout *folder*, under *tag*.

        Raises:
            ImageError: there is something else in that folder.
        """
        self._existed = Path(folder, "oci-layout").exists()
        self._layout = OciLayout.create(folder)
        self._tag = tag
        self._written: list[str] = []
        self.name = f"oci:{os.fspath(folder)}" + (f":{tag}" if tag is not None else "")

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self._layout.has(descriptor)

    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        self._layout.copy_in(open_source(), descriptor, count)
        self._written.append(descriptor.digest)

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        if not self._layout.has(descriptor):
            self._layout.copy_in(io.BytesIO(raw), descriptor, lambda count: None)
            self._written.append(descriptor.digest)

    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        self.put_document(descriptor, raw)
        if self._tag is not None:
            self._layout.tag(self._tag, descriptor.without_mention())
        else:
            with self._layout.lock():
                kept = [d for d in self._layout.manifests() if d.digest != descriptor.digest]
                self._layout.replace_manifests([*kept, descriptor.without_mention()])
        self._written.clear()

    def abort(self) -> None:
        for digest in self._written:
            self._layout.delete(digest)
        self._written.clear()
        if not self._existed and not self._layout.manifests():
            durable.remove_tree(os.fspath(self._layout.root / "blobs"))
            for name in ("index.json", "oci-layout"):
                (self._layout.root / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the caller's own folder may hold more
                self._layout.root.rmdir()
