"""Makes the EROFS image of a view: the drive's tree, with every file's data left where it is, in the tars.

Each tar or side file that some file's data lies in is an extra device of the image.  Its slot in the device
table is tagged with the layer's number in the view and the kind of file, so the image says itself what it
must be mounted with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
import struct
import tempfile
from typing import IO

from winlayers.durable import replacing
from winlayers.errors import LayerCorruptError, StoreError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs import format as fs
from winlayers.layers.portable.erofs.tree import Tree
from winlayers.layers.portable.view import Source, View

WRITER_VERSION = 1
"""Raised with every change of what is written: older images are made again."""

_CHUNK = 1 << 20
IMAGE_NAME = "view.erofs"
WRITABLE_IMAGE_NAME = "view-rw.erofs"


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says of itself.

    Attributes:
        uuid: the file system's id, made from its content.
        stamp: what the image was made from; see `stamp_of`.
        devices: the files that must be given to the mount, in this order.
        complete: whether every attribute fits into `xattrs.WRITABLE_ROOM`.
        inodes: the number of inodes.
    """

    uuid: bytes
    stamp: str
    devices: tuple[tuple[int, Source], ...]
    complete: bool
    inodes: int


def stamp_of(view: View, room: int) -> str:
    """Tells whether an image was made from this view's file, by this writer, with this room."""
    about = os.stat(view.path)
    text = f"{WRITER_VERSION} {room} {about.st_size} {about.st_mtime_ns} {about.st_ino}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:14]


def read_facts(path: str) -> ImageFacts | None:
    """What the image at *path* says; None: there is none, or none of ours."""
    try:
        with open(path, "rb") as file:
            file.seek(fs.SUPER_OFFSET)
            head = file.read(fs.SUPER.size)
            if len(head) < fs.SUPER.size:
                return None
            fields = fs.SUPER.unpack(head)
            magic, inodes, uuid, name, devices, slot = (fields[n] for n in (0, 6, 12, 13, 16, 17))
            if magic != fs.SUPER_MAGIC or name[:1] not in (b"C", b"L"):
                return None
            file.seek(slot * fs.DEVICE_SLOT.size)
            tags = [fs.DEVICE_SLOT.unpack(file.read(fs.DEVICE_SLOT.size))[0] for _ in range(devices)]
            found = tuple(_parse_tag(tag) for tag in tags)
    except (FileNotFoundError, struct.error, ValueError):
        return None
    return ImageFacts(uuid, name[1:15].decode("ascii", "replace"), found, name[:1] == b"C", inodes)


def _parse_tag(tag: bytes) -> tuple[int, Source]:
    layer, source = tag.rstrip(b"\0").split()
    return int(layer), Source(int(source))


def ensure_image(view: View, folder: str, *, writable: bool) -> str:
    """The path of an up-to-date image of *view* in *folder*; it is made where there is none.

    Read-only and writable mounts share one image unless some file's attributes are too large to be copied
    to a scratch layer (`xattrs.WRITABLE_ROOM`).

    Raises:
        LayerCorruptError: the view points outside a layer's files.
        UnsupportedError: the view is too large for the format.
    """
    path = os.path.join(folder, IMAGE_NAME)
    facts = _ensure(view, path, xattrs.READ_ONLY_ROOM)
    if not writable or facts.complete:
        return path
    path = os.path.join(folder, WRITABLE_IMAGE_NAME)
    _ensure(view, path, xattrs.WRITABLE_ROOM)
    return path


def _ensure(view: View, path: str, room: int) -> ImageFacts:
    facts = read_facts(path)
    if facts is None or facts.stamp != stamp_of(view, room):
        write_image(view, path, room)
        facts = read_facts(path)
        if facts is None:
            raise LayerCorruptError("the image that was just written can't be read", layer=path)
    return facts


def write_image(view: View, path: str, room: int = xattrs.READ_ONLY_ROOM) -> None:
    """Write the image of *view*'s drive to *path*, atomically and durably.

    Args:
        room: bytes that one file's attributes may take; see `xattrs`.

    Raises:
        LayerCorruptError: the view points outside a layer's files, or is damaged.
        UnsupportedError: the view is too large for the format.
    """
    with replacing(path) as file:
        try:
            _write(view, file, room)
        except (sqlite3.DatabaseError, struct.error) as error:
            raise LayerCorruptError(f"the view is damaged: {error}", layer=view.path) from error


def is_image_of(path: str, view: View, room: int) -> bool | None:
    """Whether the image at *path* is, bit for bit, what is made from *view*; made again to be compared.

    Returns:
        None where it is of an earlier state of the view, so that it is made again before it is used.

    Raises:
        LayerCorruptError: the view is damaged.
        StoreError: there is no room for the other one, which says nothing of either.
        OSError: the image can't be read.
    """
    facts = read_facts(path)
    if facts is None:
        return False
    if facts.stamp != stamp_of(view, room):
        return None
    with contextlib.ExitStack() as stack:
        try:
            fresh = stack.enter_context(tempfile.TemporaryFile())
            _write(view, fresh, room)
            fresh.seek(0)
        except (sqlite3.DatabaseError, struct.error) as error:
            raise LayerCorruptError(f"the view is damaged: {error}", layer=view.path) from error
        except OSError as error:
            raise StoreError(
                f"no temporary file can be written to compare it with: {error.strerror}",
                path=path,
                hint="set TMPDIR to a folder with room",
            ) from error
        file = stack.enter_context(open(path, "rb"))
        while data := fresh.read(_CHUNK):
            if file.read(len(data)) != data:
                return False
        return not file.read(1)


def image_inode(path: str, nid: int) -> int:
    """The view's inode that the inode *nid* of the image at *path* stands for; 0: there is none."""
    if nid << fs.SLOT_BITS > os.path.getsize(path):
        return 0
    with open(path, "rb") as file:
        file.seek(nid << fs.SLOT_BITS)
        data = file.read(fs.INODE_SIZE)
    return int(fs.INODE.unpack(data)[6]) if len(data) == fs.INODE_SIZE else 0


def _write(view: View, file: IO[bytes], room: int) -> None:
    tree = Tree(view, file, room)
    tree.write()
    features = fs.INCOMPAT_CHUNKED_FILE if tree.devices else 0
    for number, ((layer, source), device) in enumerate(tree.devices.items()):
        blocks = _blocks(view, layer, Source(source), tree.ends[device])
        file.seek(tree.table + number * fs.DEVICE_SLOT.size)
        file.write(fs.DEVICE_SLOT.pack(f"{layer} {source}".encode("ascii"), blocks, 0, 0, 0, b""))
        features |= fs.INCOMPAT_DEVICE_TABLE
    name = ("C" if tree.complete else "L") + stamp_of(view, room)
    head = fs.SUPER.pack(
        fs.SUPER_MAGIC,
        0,
        fs.COMPAT_CHECKSUM | fs.COMPAT_MTIME | fs.COMPAT_XATTR_FILTER,
        fs.BLOCK_BITS,
        0,
        tree.root,
        tree.inodes,
        0,
        0,
        tree.output.position >> fs.BLOCK_BITS,
        0,
        tree.shared_block,
        tree.digest[:16],
        name.encode("ascii"),
        features,
        0,
        len(tree.devices),
        tree.table // fs.DEVICE_SLOT.size,
        0,
        0,
        0,
        0,
        0,
        b"",
    ).ljust(fs.BLOCK, b"\0")
    checksum = fs.U32.pack(fs.crc32c(head))
    file.seek(fs.SUPER_OFFSET)
    file.write(head[:4] + checksum + head[8:])


def _blocks(view: View, layer: int, source: Source, end: int) -> int:
    """The size in blocks of the file that a device is, which holds all extents up to *end*."""
    size = os.fstat(view.open_source(layer, source).fileno()).st_size
    if end > size + -size % fs.BLOCK:
        raise LayerCorruptError("a file's data lies beyond the layer's own", layer=view.layers[layer].name)
    return min(size >> fs.BLOCK_BITS, fs.MAX_DEVICE_BLOCKS)
