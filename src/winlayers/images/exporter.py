"""From the store to a target, blob for blob, nothing written anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from winlayers.errors import ImageNotFoundError
from winlayers.images.compression import Reader
from winlayers.images.documents import Descriptor
from winlayers.images.image import Image
from winlayers.images.importer import pick, resolve
from winlayers.images.platforms import Platform
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.store import ImageStore
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer
from winlayers.images.transports.names import open_source, open_target, parse_name, split_name


def send_image(
    image: Image,
    open_blob: Callable[[Descriptor], BinaryIO],
    target: ImageTarget,
    *,
    foreign: bool = False,
    progress: Progress = QUIET,
) -> Descriptor:
    """Send an image's blobs that *target* has not, then its manifest.

    Args:
        image: the image.
        open_blob: opens a blob of it from the start.
        foreign: also send layers that may not be distributed, to where they need not be.

    Returns:
        The manifest's descriptor.

    Raises:
        ImageNotFoundError: a blob is missing.
        DigestMismatchError: a blob is damaged.
    """
    config = image.manifest.config
    sent: set[str] = set()
    total = len(image.manifest.layers)
    work: Sequence[tuple[str, Descriptor]] = [
        *((f"layer {number}/{total}", layer) for number, layer in enumerate(image.manifest.layers, 1)),
        ("configuration", config),
    ]
    for label, blob in work:
        if blob.digest in sent:
            continue
        sent.add(blob.digest)
        _send(label, blob, open_blob, target, foreign, progress)
    target.publish(image.descriptor.without_mention(), image.manifest.raw)
    return image.descriptor


def _send(
    label: str,
    blob: Descriptor,
    open_blob: Callable[[Descriptor], BinaryIO],
    target: ImageTarget,
    foreign: bool,
    progress: Progress,
) -> None:
    progress.start(blob.digest, label, blob.size)
    if target.has_blob(blob):
        progress.finish(blob.digest, "exists already")
        return
    if blob.is_foreign and blob.urls and not foreign and not target.wants_foreign:
        progress.finish(blob.digest, "foreign, not sent")
        return
    opened: list[BinaryIO] = []

    def open_source() -> Reader:
        file = open_blob(blob)
        opened.append(file)
        return file

    try:
        target.put_blob(blob, open_source, lambda count: progress.advance(blob.digest, count))
    finally:
        for file in opened:
            file.close()
    progress.finish(blob.digest, "sent")


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
    return send_image(image, source.open_blob, target, foreign=foreign, progress=progress)


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
    """Send an image of the store to *target*, under a lease."""

    def open_blob(descriptor: Descriptor) -> BinaryIO:
        try:
            return store.content.open(descriptor.digest)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"blob {descriptor.digest} is not in the store", hint="load the image again, with its blobs"
            ) from error

    with store.lease() as lease:
        lease.add(d.digest for d in image.blobs)
        return send_image(image, open_blob, target, foreign=foreign, progress=progress)


def copy(
    source: str,
    target: str,
    *,
    platform: Platform | None = None,
    foreign: bool = False,
    registry: RegistryOptions = DEFAULT_OPTIONS,
    progress: Progress = QUIET,
) -> Descriptor:
    """Copy an image between two places, each named with its transport; no store is needed.

    Raises:
        ImageError: as from opening both, and from :func:`copy_image`.
    """
    with open_source(source, registry) as opened:
        offer = pick(opened.offers(), opened.name)
        near = [parse_name(rest).path for kind, rest in (split_name(source),) if kind == "docker"]
        if near and parse_name(split_name(source)[1]).domain != _domain(target):
            near = []
        with open_target(target, registry, mount_from=near) as sink:
            return copy_image(opened, offer, sink, platform=platform, foreign=foreign, progress=progress)


def _domain(target: str) -> str | None:
    transport, rest = split_name(target)
    return parse_name(rest).domain if transport == "docker" else None
