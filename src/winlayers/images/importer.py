"""From a source into the store: choose, check, copy blobs, import layers, name the image.

Nothing is visible until all is there: the reference is set last.  What a failed import brought is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from winlayers.errors import FormatError, ImageError, ImageNotFoundError, LayerError
from winlayers.images.blobstream import LayerStream
from winlayers.images.config import ImageConfig
from winlayers.images.digest import layer_id
from winlayers.images.documents import Descriptor, Index, Manifest, parse_document
from winlayers.images.image import Image
from winlayers.images.leases import Lease
from winlayers.images.platforms import WINDOWS, Platform, choose
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore
from winlayers.images.transports.base import ImageSource, Offer

_MAX_NESTING = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """An image in a source: its documents, read and checked."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig


def resolve(source: ImageSource, descriptor: Descriptor, platform: Platform | None = None) -> Resolved:
    """Read an image's documents from *source*, choosing from indexes.

    Args:
        platform: what to choose, and what the image must then be for; None: Windows on amd64, and any
            architecture where there is no choice.

    Raises:
        PlatformError: it is not for Windows, or nothing fits *platform*.
        ImageError: a document is missing or malformed.
    """
    wanted = WINDOWS if platform is None else platform
    for _ in range(_MAX_NESTING):
        what = f"{source.name} ({descriptor.digest})"
        document = parse_document(source.read_document(descriptor, "manifest"), descriptor.media_type, what)
        if isinstance(document, Manifest):
            raw = source.read_document(document.config, "configuration")
            config = ImageConfig.parse(raw, f"configuration {document.config.digest}")
            config.check_against(document, source.name)
            if platform is not None:
                choose(platform, [config.platform], source.name)
            named = dataclasses.replace(document.descriptor, digest=descriptor.digest)
            return Resolved(named, document, config)
        descriptor = _choose(document, wanted, source.name)
    raise ImageError(f"{source.name}: indexes are nested more than {_MAX_NESTING} deep")


def _choose(index: Index, wanted: Platform, what: str) -> Descriptor:
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    return index.manifests[choose(wanted, [d.platform for d in index.manifests], what)]


def pick(offers: Sequence[Offer], what: str) -> Offer:
    """The only offer.

    Raises:
        ImageNotFoundError: there are several; the message lists them.
    """
    if len(offers) == 1:
        return offers[0]
    labels = ", ".join(offer.label or offer.descriptor.digest for offer in offers[:20])
    raise ImageNotFoundError(f"{what} holds {len(offers)} images", hint=f"name one of {labels}")


def import_image(
    store: ImageStore,
    source: ImageSource,
    offer: Offer,
    *,
    reference: Reference | None = None,
    platform: Platform | None = None,
    progress: Progress = QUIET,
) -> Image:
    """Bring one image into the store.

    Args:
        reference: what to call it; None: what the source calls it.

    Raises:
        PlatformError: it is not for Windows, or not for *platform*.
        DigestMismatchError: some blob is not what it should be.
        ImageError: a document is malformed, or a blob is missing.
    """
    names = (reference,) if reference is not None else offer.references
    resolved = resolve(source, offer.descriptor, platform)
    with store.lease() as lease:
        importer = _Import(store, source, resolved, lease, progress)
        importer.run()
        for name in names or (None,):
            store.set_reference(name, resolved.descriptor)
    return store.find(resolved.descriptor.digest)


class _Import:
    """One import under way."""

    def __init__(
        self, store: ImageStore, source: ImageSource, image: Resolved, lease: Lease, progress: Progress
    ) -> None:
        self._store = store
        self._source = source
        self._image = image
        self._lease = lease
        self._progress = progress

    def run(self) -> None:
        manifest, config = self._image.manifest, self._image.config
        identifiers = [layer_id(chain) for chain in config.chain_ids]
        blobs = (self._image.descriptor, manifest.config, *manifest.layers)
        self._lease.add([*(d.digest for d in blobs), *identifiers])
        for descriptor, raw in ((self._image.descriptor, manifest.raw), (manifest.config, config.raw)):
            if not self._store.content.has(descriptor):
                with self._store.content.writer() as writer:
                    writer.write(raw)
                    writer.commit(descriptor.digest)
        parent = ""
        total = len(identifiers)
        for number, (identifier, layer) in enumerate(zip(identifiers, manifest.layers, strict=True), 1):
            self._progress.start(identifier, f"layer {number}/{total}", layer.size)
            with self._store.layer_lock(identifier):
                note = self._layer(identifier, parent, layer, config.diff_ids[number - 1])
            self._progress.finish(identifier, note)
            parent = identifier

    def _layer(self, identifier: str, parent: str, blob: Descriptor, diff_id: str) -> str:
        content, driver = self._store.content, self._store.driver
        kept, present = content.has(blob), driver.exists(identifier)
        if kept and present:
            return "exists already"
        with contextlib.ExitStack() as stack:
            tee: Callable[[bytes], object]
            writer = None
            if kept:
                file = stack.enter_context(content.open(blob.digest))

                def tee(data: bytes) -> None:
                    self._progress.advance(identifier, len(data))

            else:
                file = stack.enter_context(self._source.open_blob(blob))
                writer = stack.enter_context(content.writer())
                write = writer.write

                def tee(data: bytes) -> None:
                    write(data)
                    self._progress.advance(identifier, len(data))

            stream = stack.enter_context(LayerStream(file, blob, diff_id, tee=tee))
            if present:
                stream.drain()
            else:
                try:
                    size = driver.apply_diff(identifier, parent, stream)
                except (FormatError, LayerError):
                    stream.drain()  # a damaged blob makes bad tars: then its digest is the better answer
                    raise
                try:
                    stream.drain()  # a driver that stops at the tar's end has not seen the last checks
                except BaseException:
                    driver.remove(identifier)
                    raise
                self._store.record_layer(identifier, diff_id, size, stream.size)
            if writer is not None:
                writer.commit(blob.digest)
        return "imported"
