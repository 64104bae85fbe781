"""From a source into the store: choose, check, copy blobs, import layers, name the image.

Nothing is visible until all is there: the reference is set last.  What a failed import brought is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from winlayers.errors import (
    DigestMismatchError,
    FormatError,
    ImageError,
    ImageNotFoundError,
    LayerError,
    PlatformError,
    RegistryError,
)
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

MAX_NESTING = 4
"""How deep indexes may lie in indexes."""

_MAX_DOCUMENTS = 200
"""How many manifests and indexes are looked at for one image."""


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
    return _Search(source, platform).image(descriptor, 1)


class _Search:
    """The search for an image through indexes; it reads a bounded number of documents."""

    def __init__(self, source: ImageSource, platform: Platform | None) -> None:
        self._source = source
        self._platform = platform
        self._left = _MAX_DOCUMENTS

    def image(self, descriptor: Descriptor, depth: int) -> Resolved:
        """The image that *descriptor* stands for, at that depth of nesting."""
        source, what = self._source, f"{self._source.name} ({descriptor.digest})"
        self._left -= 1
        if depth > MAX_NESTING or self._left < 0:
            raise ImageError(f"{source.name}: indexes are nested more than {MAX_NESTING} deep, or too many")
        raw = source.read_document(descriptor, "manifest")
        document = parse_document(raw, descriptor.media_type, what)
        if isinstance(document, Index):
            return self._of_index(document, depth + 1)
        raw_config = source.read_document(document.config, "configuration")
        config = ImageConfig.parse(raw_config, f"configuration {document.config.digest}")
        config.check_against(document, source.name)
        if self._platform is not None:
            choose(self._platform, [config.platform], source.name)
        return Resolved(dataclasses.replace(document.descriptor, digest=descriptor.digest), document, config)

    def _of_index(self, index: Index, depth: int) -> Resolved:
        """What fits best by the platforms that the index names; else the first that fits by its own.

        So does containerd: an index in an index, or an image, need not be said what it is for.
        """
        unsaid = [entry for entry in index.manifests if entry.platform is None]
        if len(index.manifests) == 1 and unsaid:
            return self.image(unsaid[0], depth)
        wanted = WINDOWS if self._platform is None else self._platform
        try:
            chosen = choose(wanted, [entry.platform for entry in index.manifests], self._source.name)
        except PlatformError:
            for entry in unsaid:
                try:
                    found = self.image(entry, depth)
                    choose(wanted, [found.config.platform], self._source.name)
                except (DigestMismatchError, ImageNotFoundError, RegistryError):
                    raise
                except ImageError:  # for another platform, or an artifact
                    continue
                return found
            raise
        return self.image(index.manifests[chosen], depth)


def pick(offers: Sequence[Offer], what: str) -> Offer:
    """The only offer.

    Raises:
        ImageNotFoundError: there are several; the message lists them.
    """
    if len(offers) == 1:
        return offers[0]
    counts = Counter(offer.label for offer in offers)
    labels = ", ".join(
        offer.label if counts[offer.label] == 1 and offer.label else offer.descriptor.digest
        for offer in offers[:20]
    )
    raise ImageNotFoundError(f"{what} holds {len(offers)} images", hint=f"name one of {labels}")


def import_image(
    store: ImageStore,
    source: ImageSource,
    offer: Offer,
    *,
    reference: Reference | None = None,
    platform: Platform | None = None,
    keep_blobs: bool = True,
    progress: Progress = QUIET,
) -> Image:
    """Bring one image into the store.

    Args:
        reference: what to call it; None: what the source calls it.
        keep_blobs: keep the compressed layers; without them the image takes less room, but can't be saved or
            pushed with its own digests any more.

    Raises:
        PlatformError: it is not for Windows, or not for *platform*.
        DigestMismatchError: some blob is not what it should be.
        ImageError: a document is malformed, or a blob is missing.
    """
    names = (reference,) if reference is not None else offer.references
    resolved = resolve(source, offer.descriptor, platform)
    with store.lease() as lease:
        _Import(store, source, resolved, lease, keep_blobs=keep_blobs, progress=progress).run()
        return [store.set_reference(name, resolved.descriptor) for name in names or (None,)][-1]


class _Import:
    """One import under way."""

    def __init__(
        self,
        store: ImageStore,
        source: ImageSource,
        image: Resolved,
        lease: Lease,
        *,
        keep_blobs: bool,
        progress: Progress,
    ) -> None:
        self._store = store
        self._source = source
        self._image = image
        self._lease = lease
        self._keep_blobs = keep_blobs
        self._progress = progress
        self._stopped = threading.Event()
        self._begin_lock = threading.Lock()
        self._begun: set[str] = set()

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
        workers = self._source.parallel - 1
        with _Prefetch(self._fetch, manifest.layers, workers, self._give_up) as prefetch:
            for number, (identifier, layer) in enumerate(zip(identifiers, manifest.layers, strict=True), 1):
                self._begin(layer)
                prefetch.wait_for(layer)
                with self._store.layer_lock(identifier):
                    note = self._layer(identifier, parent, layer, config.diff_ids[number - 1])
                self._progress.finish(layer.digest, note)
                parent = identifier
        for layer in manifest.layers:
            if self._keep_blobs:
                self._store.note_kept(layer.digest)
            elif not self._store.content.has(layer):
                self._store.note_unkept(layer.digest)

    def _give_up(self) -> None:
        self._stopped.set()
        self._source.give_up()

    def _fetch(self, blob: Descriptor) -> None:
        """Bring a blob into the content store, while the layers below it are still being imported."""
        if self._keep_blobs and not self._store.content.has(blob):
            self._begin(blob)
            with self._source.open_blob(blob) as file:
                self._store.content.copy_in(file, blob, self._counter(blob))

    def _begin(self, blob: Descriptor) -> None:
        """Tell, once, that a layer is being worked on."""
        with self._begin_lock:
            if blob.digest in self._begun:
                return
            self._begun.add(blob.digest)
        layers = self._image.manifest.layers
        self._progress.start(blob.digest, f"layer {layers.index(blob) + 1}/{len(layers)}", blob.size)

    def _counter(self, blob: Descriptor) -> Callable[[int], None]:
        def count(size: int) -> None:
            if self._stopped.is_set():
                raise ImageError(f"the import of {self._source.name} was stopped")
            self._progress.advance(blob.digest, size)

        return count

    def _layer(self, identifier: str, parent: str, blob: Descriptor, diff_id: str) -> str:
        """Import a layer, in one pass over its blob, which is kept on the way."""
        content, driver = self._store.content, self._store.driver
        kept, present = content.has(blob), driver.exists(identifier)
        if present and (kept or not self._keep_blobs):
            return "exists already"
        count = self._counter(blob)
        with contextlib.ExitStack() as stack:
            writer = None
            if kept:
                file = stack.enter_context(content.open(blob.digest))
            else:
                file = stack.enter_context(self._source.open_blob(blob))
                if self._keep_blobs:
                    writer = stack.enter_context(content.writer())

            def tee(data: bytes) -> None:
                if writer is not None:
                    writer.write(data)
                if not kept:
                    count(len(data))

            stream = stack.enter_context(LayerStream(file, blob, diff_id, tee=tee))
            if present:
                stream.drain()
            else:
                self._apply(identifier, parent, stream, diff_id)
            if writer is not None:
                writer.commit(blob.digest)
        return "imported"

    def _apply(self, identifier: str, parent: str, stream: LayerStream, diff_id: str) -> None:
        driver = self._store.driver
        self._store.expect_layer(identifier, diff_id)
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


class _Prefetch:
    """Fetches blobs ahead of the one that is being imported; that one comes straight from the source."""

    def __init__(
        self,
        fetch: Callable[[Descriptor], None],
        blobs: Sequence[Descriptor],
        workers: int,
        stop: Callable[[], None],
    ) -> None:
        self._stop = stop
        self._pool = (
            ThreadPoolExecutor(workers, thread_name_prefix="winlayers-fetch") if workers > 0 else None
        )
        self._futures: dict[str, Future[None]] = {}
        if self._pool is not None:
            for blob in blobs[1:]:
                if blob.digest not in self._futures:
                    self._futures[blob.digest] = self._pool.submit(fetch, blob)

    def wait_for(self, blob: Descriptor) -> None:
        """Wait for a blob whose fetch has begun; one that has not is left to the caller."""
        future = self._futures.get(blob.digest)
        if future is not None and not future.cancel():
            future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
