"""Changed files' data: a sparse file of what was written, over the view's data.

A file that is written to is not copied.  Its data file has the blocks of 64 KiB that were written, a bitmap
tells which (`Inode.held`), and the rest is read from the layers' tars; so a byte written to a file of many
gigabytes takes one block.  Beyond the view's data (`Inode.base`) all is in the data file, or zero.
"""

from __future__ import annotations

import collections
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

assert sys.platform != "win32"

from winlayers.layers.portable.mounts import syscalls
from winlayers.layers.portable.mounts.fusefs.lower import Lower
from winlayers.layers.portable.mounts.fusefs.record import Inode, Mark, Record
from winlayers.layers.portable.view import Extent, View

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

BLOCK = 1 << 16
DATA = "data"

_OPEN_FILES = 256
_FOLDERS = 256
_COPY = 1 << 20


def bitmap(base: int) -> bytearray:
    """A bitmap for *base* bytes with no bit set."""
    return bytearray((base + BLOCK * 8 - 1) // (BLOCK * 8))


def is_held(inode: Inode, block: int) -> bool:
    """Whether the data file has the block, one below `Inode.base`."""
    return bool(inode.held[block >> 3] >> (block & 7) & 1)


def lent_bytes(inode: Inode) -> int:
    """How many bytes of the view's data show through."""
    blocks = (inode.base + BLOCK - 1) // BLOCK
    free = sum(1 for block in range(blocks) if not is_held(inode, block))
    lent = free * BLOCK
    if blocks and not is_held(inode, blocks - 1):
        lent -= blocks * BLOCK - inode.base
    return lent


def segments(inode: Inode, offset: int, size: int) -> Iterator[tuple[bool, int, int]]:
    """The runs that make up a range inside the file: whether the view has it, offset, size."""
    end = min(offset + size, inode.size)
    while offset < end:
        block = offset // BLOCK
        lent = offset < inode.base and not is_held(inode, block)
        stop = offset
        while stop < end and (stop < inode.base and not is_held(inode, stop // BLOCK)) == lent:
            limit = inode.base if lent else end
            if not lent and stop >= inode.base:
                stop = end
            else:
                stop = min((stop // BLOCK + 1) * BLOCK, limit, end)
        yield lent, offset, stop - offset
        offset = stop


def data_path(state_dir: str, number: int) -> str:
    """Where the data file of that number is."""
    return os.path.join(state_dir, DATA, f"{number % _FOLDERS:02x}", f"{number:x}")


class DataFiles:
    """The data files of a scratch layer, in its folder *state_dir*.  For use by one thread."""

    def __init__(self, state_dir: str, lower: Lower, record: Record) -> None:
        self._lower = lower
        self._state_dir = state_dir
        self._folder = os.path.join(state_dir, DATA)
        self._open: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._next = record.next_file()
        self.unsynced: set[int] = set()
        """The inodes whose data may not be on disk."""
        self.new_files = False
        """Whether data files were made whose names may not be on disk."""
        for inode in record.inodes.values():
            inode.lent = lent_bytes(inode)

    def sweep(self, record: Record) -> None:
        """Remove what no file of the record needs; make the folders."""
        os.makedirs(self._folder, exist_ok=True)
        wanted = {inode.file for inode in record.inodes.values()}
        for folder in os.listdir(self._folder):
            for name in os.listdir(os.path.join(self._folder, folder)):
                if int(name, 16) not in wanted:
                    os.unlink(os.path.join(self._folder, folder, name))

    def path(self, number: int) -> str:
        """Where the data file of that number is."""
        return data_path(self._state_dir, number)

    # -- reading --

    def read(self, inode: Inode, offset: int, size: int) -> bytes:
        """Up to *size* bytes of the file from *offset*; fewer at its end."""
        parts = []
        for lent, at, length in segments(inode, offset, size):
            if lent:
                data = self._lower.view.read(self._lower.extent(inode.id), at, length)
            else:
                data = os.pread(self.descriptor(inode), length, at) if inode.file else b""
            parts.append(data if len(data) == length else data.ljust(length, b"\0"))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- writing --

    def cost(self, inode: Inode, offset: int, size: int) -> int:
        """How many more bytes the scratch layer holds when the range is written."""
        end = offset + size
        more = max(0, end - inode.size)
        for block in self._blocks_below_base(inode, offset, end):
            if not is_held(inode, block):
                more += min((block + 1) * BLOCK, inode.base) - block * BLOCK
        return more

    def write(self, inode: Inode, offset: int, data: memoryview | bytes) -> None:
        """Write *data* at *offset*; the file grows as needed."""
        end = offset + len(data)
        fd = self._descriptor_for_writing(inode)
        self._copy_edges(inode, fd, offset, end)
        if offset > inode.size:
            self._trim(fd, inode.size)
        _write_all(fd, data, offset)
        self._hold(inode, offset, end)
        inode.size = max(inode.size, end)
        inode.marks |= Mark.DATA

    def zero(self, inode: Inode, offset: int, end: int) -> None:
        """Make a range inside the file zeros: a hole, where the file system can have one."""
        fd = self._descriptor_for_writing(inode)
        self._copy_edges(inode, fd, offset, end)
        _punch(fd, offset, end)
        self._hold(inode, offset, end)
        inode.marks |= Mark.DATA

    def reserve(self, inode: Inode, offset: int, end: int) -> None:
        """Have the file system below keep room for a range, which may lie beyond the file's end.

        Raises:
            OSError: ENOSPC: there is no room; EOPNOTSUPP: it can't keep any.
        """
        fd = self._descriptor_for_writing(inode)
        syscalls.allocate(fd, syscalls.FALLOC_KEEP_SIZE, offset, end - offset)
        self.unsynced.add(inode.id)

    def copy_up(self, inode: Inode, offset: int, end: int) -> None:
        """Copy the view's blocks that a range touches; the file stays what it is."""
        fd = self._descriptor_for_writing(inode)
        for block in self._blocks_below_base(inode, offset, end):
            if not is_held(inode, block):
                self._copy_block(inode, fd, block)
        self._hold(inode, offset, end)

    def _copy_edges(self, inode: Inode, fd: int, offset: int, end: int) -> None:
        """Copy the view's blocks of which the range takes only a part."""
        for block in self._blocks_below_base(inode, offset, end):
            start, stop = block * BLOCK, min((block + 1) * BLOCK, inode.base)
            if not is_held(inode, block) and (offset > start or end < stop):
                self._copy_block(inode, fd, block)

    def _copy_block(self, inode: Inode, fd: int, block: int) -> None:
        start, stop = block * BLOCK, min((block + 1) * BLOCK, inode.base)
        _write_all(fd, self._lower.view.read(self._lower.extent(inode.id), start, stop - start), start)

    def _hold(self, inode: Inode, offset: int, end: int) -> None:
        """From now on the data file has the blocks that the range touches."""
        for block in self._blocks_below_base(inode, offset, end):
            if not is_held(inode, block):
                inode.held[block >> 3] |= 1 << (block & 7)
                inode.lent -= min((block + 1) * BLOCK, inode.base) - block * BLOCK
        self.unsynced.add(inode.id)

    @staticmethod
    def _trim(fd: int, size: int) -> None:
        """Cut off what is beyond *size*, also what a write left there that failed or was never noted."""
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)

    def truncate(self, inode: Inode, size: int) -> None:
        """Make the file *size* bytes long."""
        if inode.file and size != inode.size:
            self._trim(self.descriptor(inode), min(size, inode.size))
            self.unsynced.add(inode.id)
        if size < inode.base:
            inode.base = size
            del inode.held[len(bitmap(size)) :]
            inode.lent = lent_bytes(inode)
        inode.size = size
        inode.marks |= Mark.DATA

    @staticmethod
    def _blocks_below_base(inode: Inode, offset: int, end: int) -> range:
        stop = min(end, inode.base)
        return range(offset // BLOCK, (stop + BLOCK - 1) // BLOCK if stop > offset else offset // BLOCK)

    # -- descriptors --

    def descriptor(self, inode: Inode) -> int:
        """A descriptor of the inode's data file, good until the next call."""
        fd = self._open.get(inode.file)
        if fd is None:
            fd = os.open(self.path(inode.file), os.O_RDWR | os.O_CLOEXEC)
            self._remember(inode.file, fd)
        else:
            self._open.move_to_end(inode.file)
        return fd

    def _descriptor_for_writing(self, inode: Inode) -> int:
        if inode.file:
            return self.descriptor(inode)
        number = self._next
        path = self.path(number)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, flags, 0o600)
        self._next += 1
        inode.file = number
        self.new_files = True
        self._remember(number, fd)
        return fd

    def _remember(self, number: int, fd: int) -> None:
        while len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[number] = fd

    def remove(self, inode: Inode) -> None:
        """Remove the inode's data file."""
        self.unsynced.discard(inode.id)
        if not inode.file:
            return
        fd = self._open.pop(inode.file, None)
        if fd is not None:
            os.close(fd)
        try:
            os.unlink(self.path(inode.file))
        except FileNotFoundError:
            pass
        inode.file = 0

    def folders(self) -> list[str]:
        """The folders that names of data files are in."""
        return [self._folder, *(os.path.join(self._folder, name) for name in os.listdir(self._folder))]

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


def _write_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        left = left[written:]
        offset += written


def _punch(fd: int, offset: int, end: int) -> None:
    try:
        syscalls.allocate(fd, syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE, offset, end - offset)
        return
    except OSError as failure:
        if failure.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    end = min(end, os.fstat(fd).st_size)
    while offset < end:
        size = min(_COPY, end - offset)
        _write_all(fd, bytes(size), offset)
        offset += size


class MergedFile(io.RawIOBase):
    """A changed file's data, to be read from its beginning to its end."""

    def __init__(self, view: View, extent: Extent | None, inode: Inode, path: str) -> None:
        """Open the data.

        Args:
            extent: the view's data; None: the view has no such file.
            path: the data file, if the inode has one.
        """
        super().__init__()
        self._view = view
        self._extent = extent
        self._inode = inode
        self._position = 0
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if inode.file else -1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        for lent, offset, size in segments(self._inode, self._position, len(target)):
            if lent and self._extent is not None:
                data = self._view.read(self._extent, offset, size)
            else:
                data = os.pread(self._fd, size, offset) if self._fd >= 0 else b""
            target[:size] = data if len(data) == size else data.ljust(size, b"\0")
            self._position += size
            return size
        return 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()
