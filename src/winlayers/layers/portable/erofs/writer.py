"""Puts EROFS inodes, directories and shared attributes down, in one pass and bounded memory.

The image is laid out as it is written: superblock and device table, then for each directory the inodes of
all that lies in it and its own entries, then the shared attributes.  A directory's size and place are known
only after its inode is written, so these few bytes are put in at the end.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from typing import IO

from winlayers.errors import UnsupportedError
from winlayers.layers.portable.erofs import format as fs

_BUFFER = 1 << 20
_SPOOL = 8 << 20
_MEMO_BYTES = 16 << 20
_SLOT = 1 << fs.SLOT_BITS
_MAX_POSITION = 0xFFFFFFFF << fs.BLOCK_BITS


class Output:
    """The image's file: buffered, hashed, and patched when all is written."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._parts: list[bytes] = []
        self._buffered = 0
        self._digest = hashlib.sha256()
        self._patches = array("Q")  # triples: offset, a directory's size, its first block
        self._links = array("Q")  # pairs: offset, number of links
        self.position = start
        file.seek(start)

    def put(self, data: bytes) -> int:
        """Append *data*; return where it begins."""
        begin = self.position
        self._parts.append(data)
        size = len(data)
        self.position = begin + size
        self._buffered += size
        if self._buffered > _BUFFER:
            self.flush()
        return begin

    def align(self, size: int) -> int:
        """Go on at a multiple of *size*; return it."""
        rest = -self.position % size
        if rest:
            self.put(bytes(rest))
        return self.position

    def flush(self) -> None:
        """Write what is buffered."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        self._digest.update(data)
        self._file.write(data)

    def patch_directory(self, nid: int, size: int, block: int, links: int) -> None:
        """Give the directory inode *nid* what is known of it only now."""
        self._patches.extend(((nid << fs.SLOT_BITS) + fs.INODE_SIZE_AT, size, block))
        self.patch_links(nid, links)

    def patch_links(self, nid: int, links: int) -> None:
        """Give the inode *nid* its number of links."""
        self._links.extend(((nid << fs.SLOT_BITS) + fs.INODE_LINKS_AT, links))

    def finish(self) -> bytes:
        """Write and patch all; return the digest of all that was written."""
        self.flush()
        self._digest.update(self._patches.tobytes())
        self._digest.update(self._links.tobytes())
        for number in range(0, len(self._patches), 3):
            offset, size, block = self._patches[number : number + 3]
            self._file.seek(offset)
            self._file.write(fs.SIZE_AND_START.pack(size, block))
        for number in range(0, len(self._links), 2):
            offset, links = self._links[number : number + 2]
            self._file.seek(offset)
            self._file.write(fs.U32.pack(min(links, 0xFFFFFFFF)))
        return self._digest.digest()


class SharedAttributes:
    """Attributes that many inodes refer to by a number: their offset in the shared area, divided by four."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(_SPOOL)  # noqa: SIM115 - closed by `write`
        self._size = 0
        self._memo: dict[bytes, int] = {}
        self._memo_bytes = 0

    def add(self, entry: bytes) -> int:
        """The number of *entry* (see `fs.xattr_entry`); equal entries are stored once, within reason."""
        number = self._memo.get(entry)
        if number is None:
            number = self._size >> 2
            self._spool.write(entry)
            self._size += len(entry)
            if self._memo_bytes < _MEMO_BYTES:
                self._memo[entry] = number
                self._memo_bytes += len(entry) + 100
        return number

    @property
    def full(self) -> bool:
        """Whether further attributes had better lie in their inodes."""
        return self._memo_bytes >= _MEMO_BYTES

    def write(self, output: Output) -> int:
        """Append the area to the image; return its first block."""
        block = output.align(fs.BLOCK) >> fs.BLOCK_BITS
        self._spool.seek(0)
        while data := self._spool.read(_BUFFER):
            output.put(data)
        output.align(fs.BLOCK)
        self._spool.close()
        return block


def pack_name(name: bytes, nid: int, kind: int) -> bytes:
    """A directory's entry before its place is known; such entries sort as EROFS sorts names."""
    return b"%b\0%b%c" % (name, nid.to_bytes(8, "little"), kind)


def put_directory(output: Output, entries: list[bytes]) -> tuple[int, int]:
    """Append the entries (of `pack_name`, with ``.`` and ``..``); return the size and the first block."""
    entries.sort()
    output.align(fs.BLOCK)
    block = output.position >> fs.BLOCK_BITS
    total = 0
    group: list[bytes] = []
    used = 0
    for entry in entries:
        need = len(entry) + 2  # an entry of 12 bytes for the 10 behind the name
        if used + need > fs.BLOCK:
            output.put(_directory_block(group).ljust(fs.BLOCK, b"\0"))
            total += fs.BLOCK
            group = []
            used = 0
        group.append(entry)
        used += need
    output.put(_directory_block(group))
    if used < fs.BLOCK:
        # The kernel takes the last name to end at a NUL or at the block's end, whatever the directory's size.
        output.put(b"\0")
    total += used
    output.align(_SLOT)
    return total, block


def _directory_block(group: list[bytes]) -> bytes:
    parts = []
    offset = fs.DIRENT_SIZE * len(group)
    for entry in group:
        parts.append(b"%b%b%b\0" % (entry[-9:-1], offset.to_bytes(2, "little"), entry[-1:]))
        offset += len(entry) - 10
    parts += [entry[:-10] for entry in group]
    return b"".join(parts)


def check_position(output: Output) -> None:
    """Refuse an image whose blocks can't be numbered with 32 bits.

    Raises:
        UnsupportedError: it is that large.
    """
    if output.position > _MAX_POSITION:
        raise UnsupportedError("the view's metadata does not fit into an EROFS image")
