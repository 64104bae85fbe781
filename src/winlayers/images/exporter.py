"""From the store to a target, blob for blob, nothing written anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from winlayers.images.compression import Reader
from winlayers.images.documents import Descriptor
from winlayers.images.image import Image
from winlayers.images.progress import QUIET, Progress
from winlayers.images.store import ImageStore
from winlayers.images.transports.base import ImageTarget


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


def save_image(
    store: ImageStore, image: Image, target: ImageTarget, *, foreign: bool = False, progress: Progress = QUIET
) -> Descriptor:
    """Send an image of the store to *target*, under a lease."""
    with store.lease() as lease:
        lease.add(d.digest for d in image.blobs)
        return send_image(
            image, lambda d: store.content.open(d.digest), target, foreign=foreign, progress=progress
        )
