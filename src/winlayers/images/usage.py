"""What takes how much room in a store, and what of it could go."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections import Counter

from winlayers.images.image import Image
from winlayers.images.store import ImageStore


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """One row of :func:`disk_usage`.

    Attributes:
        kind: ``blobs``, ``layers``, ``containers`` or ``cache`` (of blobs that were looked into).
        total: how many there are.
        active: how many of them are needed by an image, a container or an operation under way.
        size: bytes on disk.
        reclaimable: bytes that pruning would free.
    """

    kind: str
    total: int
    active: int
    size: int
    reclaimable: int


@dataclasses.dataclass(frozen=True, slots=True)
class ImageUsage:
    """An image's share of the blobs.

    Attributes:
        image: the image.
        size: bytes of its blobs.
        shared: bytes of these that other images have as well.
        unique: bytes that would be freed with it.
        containers: how many containers stand on it.
    """

    image: Image
    size: int
    shared: int
    unique: int
    containers: int


def disk_usage(store: ImageStore, container_ids: list[str]) -> list[Usage]:
    """The room that blobs, image layers and containers take."""
    with store.lock(shared=True):  # no image goes while it is counted
        going = {image.digest for image in store.unneeded()}
        needed = store.needed(tidy=False, without=going)
        blobs = dict(store.content.digests())
    free = {digest: size for digest, size in blobs.items() if digest not in needed}
    rows = [Usage("blobs", len(blobs), len(blobs) - len(free), sum(blobs.values()), sum(free.values()))]
    known = store.layer_ids()
    sizes = {name: folder_size(store.driver.layer_path(name)) for name in known}
    free_layers = {name: size for name, size in sizes.items() if name not in needed}
    active = len(known) - len(free_layers)
    rows.append(Usage("layers", len(known), active, sum(sizes.values()), sum(free_layers.values())))
    scratch = sum(folder_size(store.driver.layer_path(name)) for name in container_ids)
    rows.append(Usage("containers", len(container_ids), len(container_ids), scratch, 0))
    return rows


def image_usage(store: ImageStore) -> list[ImageUsage]:
    """Each image's share of the blobs."""
    images = store.images()
    users = Counter(digest for image in images for digest in {d.digest for d in image.blobs})
    rows = []
    for image in images:
        blobs = {d.digest: d.size for d in image.blobs if store.content.has(d)}
        shared = sum(size for digest, size in blobs.items() if users[digest] > 1)
        size = sum(blobs.values())
        rows.append(ImageUsage(image, size, shared, size - shared, len(store.users(image))))
    return rows


def folder_size(path: str) -> int:
    """Bytes on disk of all below the folder *path*, files with several names counted once.

    What is mounted in it is not counted: it is another file system.
    """
    total = 0
    seen: set[int] = set()
    try:
        device = os.lstat(path).st_dev
    except OSError:
        return 0
    stack = [path]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue  # it went meanwhile, or is not ours to see
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != device:
                continue
            if stat.S_ISDIR(found.st_mode):
                stack.append(entry.path)
            elif found.st_ino not in seen:
                seen.add(found.st_ino)
                total += getattr(found, "st_blocks", (found.st_size + 511) // 512) * 512
    return total
