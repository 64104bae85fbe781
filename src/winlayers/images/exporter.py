"""From the store to a target, blob for blob, nothing written anew."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import BinaryIO

from winlayers.errors import ImageError, ImageNotFoundError
from winlayers.images import mediatypes
from winlayers.images.compression import Reader
from winlayers.images.documents import Descriptor, Links, parse_links
from winlayers.images.image import Image
from winlayers.images.importer import MAX_NESTING, pick, resolve
from winlayers.images.platforms import Platform
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.store import ImageStore
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer
from winlayers.images.transports.names import open_source, open_target, parse_name, split_name

_MAX_DOCUMENTS = 1000
_MAX_TOTAL = 64 << 20
"""The largest indexes in use name some dozens, of a few kB each; more than this is an attack."""


def send_image(
    image: Image,
    open_blob: Callable[[Descriptor], BinaryIO],
    target: ImageTarget,
    *,
    foreign: bool = False,
    parallel: int = 1,
    give_up: Callable[[], object] = lambda: None,
    progress: Progress = QUIET,
) -> Descriptor:
    """Send an image's blobs that *target* has not, then its manifest.

    Args:
        image: the image.
        open_blob: opens a blob of it from the start.
        give_up: ends what other threads are waiting for where the blobs come from.
        foreign: also send layers that may not be distributed, to where they need not be.
        parallel: how many blobs may usefully be read at once.

    Returns:
        The manifest's descriptor.

    Raises:
        ImageNotFoundError: a blob is missing.
        DigestMismatchError: a blob is damaged.
    """
    target.expect(image.descriptor)
    sending = _Sending(open_blob, target, give_up, foreign=foreign, progress=progress)
    sending.run(_work(image.manifest.layers, image.manifest.config), parallel)
    target.publish(image.descriptor.without_mention(), image.manifest.raw)
    return image.descriptor


def _work(
    layers: Sequence[Descriptor], config: Descriptor, image: str = ""
) -> Iterator[tuple[str, Descriptor]]:
    """An image's blobs and what they are called for people."""
    for number, layer in enumerate(layers, 1):
        yield f"{image}layer {number}/{len(layers)}", layer
    yield f"{image}configuration", config


class _Stopped(ImageError):
    """Another blob has failed; this one is given up."""


class _Sending:
    """Blobs on their way to a target, several at once where that is of use."""

    def __init__(
        self,
        open_blob: Callable[[Descriptor], BinaryIO],
        target: ImageTarget,
        give_up: Callable[[], object],
        *,
        foreign: bool,
        progress: Progress,
    ) -> None:
        self._open_blob = open_blob
        self._target = target
        self._give_up = give_up
        self._foreign = foreign
        self._progress = progress
        self._stopped = threading.Event()
        self._failing = threading.Lock()
        self._failure: BaseException | None = None

    def run(self, work: Iterable[tuple[str, Descriptor]], parallel: int) -> None:
        """Send each blob of *work* once; the first failure stops the others.

        Args:
            parallel: how many blobs may usefully be read at once.
        """
        blobs: dict[str, tuple[str, Descriptor]] = {}
        for label, blob in work:
            blobs.setdefault(blob.digest, (label, blob))
        workers = parallel if self._target.parallel is None else self._target.parallel
        if workers < 2:
            for label, blob in blobs.values():
                self._send(label, blob)
            return
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._attempt, *item) for item in blobs.values()]
            try:
                wait(futures)
            except BaseException:  # an interrupt
                self._stop()
                raise
        if self._failure is not None:
            raise self._failure

    def _attempt(self, label: str, blob: Descriptor) -> None:
        try:
            self._check()
            self._send(label, blob)
        except BaseException as error:
            with self._failing:
                if not self._stopped.is_set():
                    self._failure = error  # those of the others follow from it
                    self._stop()
            raise

    def _stop(self) -> None:
        self._stopped.set()
        self._give_up()
        self._target.give_up()

    def _send(self, label: str, blob: Descriptor) -> None:
        progress = self._progress
        progress.start(blob.digest, label, blob.size)
        if self._target.has_blob(blob):
            progress.finish(blob.digest, "exists already")
            return
        if blob.is_foreign and blob.urls and not self._foreign and not self._target.wants_foreign:
            progress.finish(blob.digest, "foreign, not sent")
            return
        opened: list[BinaryIO] = []

        def open_source() -> Reader:
            file = self._open_blob(blob)
            opened.append(file)
            return file

        def count(size: int) -> None:
            self._check()
            progress.advance(blob.digest, size)

        try:
            self._target.put_blob(blob, open_source, count)
        finally:
            for file in opened:
                file.close()
        progress.finish(blob.digest, "sent")

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped("another blob could not be sent")


def copy_image(
    source: ImageSource,
    offer: Offer,
    target: ImageTarget,
    *,
    platform: Platform | None = None,
    foreign: bool = False,
    progress: Progress = QUIET,
) -> Descriptor:
    """Send an image from one place to another, without a store.

    Raises:
        PlatformError: it is not for Windows, or nothing fits *platform*.
        ImageError: a document is malformed, or a blob is missing or damaged.
    """
    resolved = resolve(source, offer.descriptor, platform)
    image = Image((), resolved.descriptor, resolved.manifest, resolved.config)
    return send_image(
        image,
        source.open_blob,
        target,
        foreign=foreign,
        parallel=source.parallel,
        give_up=source.give_up,
        progress=progress,
    )


def copy_whole(
    source: ImageSource,
    offer: Offer,
    target: ImageTarget,
    *,
    foreign: bool = False,
    progress: Progress = QUIET,
) -> Descriptor:
    """Send what a name stands for as it is: an index with all that it names, for whatever platforms.

    What an index names comes before the index, so a copy that breaks off leaves none with gaps.

    Returns:
        The descriptor of the index, or of the manifest where there is no index.

    Raises:
        ImageError: *target* can't hold an index, or a document or blob is missing, malformed or damaged.
    """
    documents = _documents(source, offer.descriptor)
    root = documents[-1]
    if root.links.media_type in mediatypes.INDEXES and not target.takes_indexes:
        raise ImageError(
            f"{target.name} can't hold {source.name}, which is for several platforms",
            hint="copy one of them with --platform, or to another kind of place",
        )
    target.expect(root.descriptor)
    images = [document for document in documents if document.links.blobs]
    work: list[tuple[str, Descriptor]] = []
    for number, document in enumerate(images, 1):
        image = f"image {number}/{len(images)}, " if len(images) > 1 else ""
        config, *layers = document.links.blobs
        work += _work(layers, config, image)
    sending = _Sending(source.open_blob, target, source.give_up, foreign=foreign, progress=progress)
    sending.run(work, source.parallel)
    for document in documents[:-1]:
        target.put_document(document.descriptor, document.raw)
    target.publish(root.descriptor, root.raw)
    return root.descriptor


@dataclasses.dataclass(frozen=True, slots=True)
class _Document:
    descriptor: Descriptor
    raw: bytes
    links: Links


def _documents(source: ImageSource, root: Descriptor) -> list[_Document]:
    """A document and all below it, each once and after what it names.

    Raises:
        ImageError: there are too many, or one is missing or malformed.
    """
    found: dict[str, _Document] = {}
    seen: set[str] = set()
    total = 0

    def visit(descriptor: Descriptor, depth: int) -> None:
        nonlocal total
        if descriptor.digest in seen:
            return
        seen.add(descriptor.digest)
        if depth > MAX_NESTING:
            raise ImageError(f"{source.name}: indexes are nested more than {MAX_NESTING} deep")
        if len(seen) > _MAX_DOCUMENTS:
            raise ImageError(f"{source.name} names more than {_MAX_DOCUMENTS} manifests")
        raw = source.read_document(descriptor, "manifest")
        total += len(raw)
        if total > _MAX_TOTAL:
            raise ImageError(f"{source.name} has more than {_MAX_TOTAL} bytes of manifests")
        links = parse_links(raw, descriptor.media_type, f"{source.name} ({descriptor.digest})")
        for child in links.manifests:
            visit(child, depth + 1)
        named = Descriptor(links.media_type, descriptor.digest, len(raw))
        found[descriptor.digest] = _Document(named, raw, links)

    visit(root, 1)
    return list(found.values())


def mount_candidates(store: ImageStore, image: Image, target: str) -> list[str]:
    """The repositories in *target*'s registry that images of the store with common blobs are named after."""
    transport, rest = split_name(target)
    if transport != "docker":
        return []
    domain = parse_name(rest).domain
    blobs = {layer.digest for layer in image.manifest.layers}
    paths = []
    for other in store.images():
        if blobs.isdisjoint(layer.digest for layer in other.manifest.layers):
            continue
        named = [Reference.parse(text) for text in other.references]
        paths += [reference.path for reference in named if reference.domain == domain]
    return paths


def save_image(
    store: ImageStore, image: Image, target: ImageTarget, *, foreign: bool = False, progress: Progress = QUIET
) -> Descriptor:
    """Send an image of the store to *target*, under a lease.

    A store that can only be read takes no leases: what its owner removes meanwhile is missing then.
    """

    def open_blob(descriptor: Descriptor) -> BinaryIO:
        try:
            return store.content.open(descriptor.digest)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"blob {descriptor.digest} is not in the store", hint="load the image again, with its blobs"
            ) from error

    with contextlib.ExitStack() as stack:
        if not store.read_only:
            stack.enter_context(store.lease()).add(d.digest for d in image.blobs)
        return send_image(image, open_blob, target, foreign=foreign, progress=progress)


def copy(
    source: str,
    target: str,
    *,
    platform: Platform | None = None,
    everything: bool = False,
    foreign: bool = False,
    registry: RegistryOptions = DEFAULT_OPTIONS,
    target_registry: RegistryOptions | None = None,
    progress: Progress = QUIET,
) -> Descriptor:
    """Copy an image between two places, each named with its transport; no store is needed.

    Args:
        platform: which image of an index to copy; None: the newest Windows on amd64.
        everything: copy the index itself and all that it names instead, its digest kept.
        registry: how registries are reached.
        target_registry: how the target's is, where that is other.

    Raises:
        ImageError: as from opening both, and from :func:`copy_image` and :func:`copy_whole`.
    """
    with open_source(source, registry) as opened:
        offer = pick(opened.offers(), opened.name)
        near = [parse_name(rest).path for kind, rest in (split_name(source),) if kind == "docker"]
        if near and parse_name(split_name(source)[1]).domain != _domain(target):
            near = []
        with open_target(target, target_registry or registry, mount_from=near) as sink:
            if everything:
                return copy_whole(opened, offer, sink, foreign=foreign, progress=progress)
            return copy_image(opened, offer, sink, platform=platform, foreign=foreign, progress=progress)


def _domain(target: str) -> str | None:
    transport, rest = split_name(target)
    return parse_name(rest).domain if transport == "docker" else None
