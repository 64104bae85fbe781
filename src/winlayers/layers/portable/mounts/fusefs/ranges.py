"""Room for ranges of files, and holes in them: ``fallocate`` and ``SEEK_HOLE``."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

assert sys.platform != "win32"

from winlayers.layers.portable.mounts.fusefs.cowfile import segments
from winlayers.layers.portable.mounts.fusefs.operations import MAX_SIZE, Operations
from winlayers.layers.portable.mounts.fusefs.record import Inode, Kind, Mark
from winlayers.layers.portable.mounts.fusefs.space import data_cost
from winlayers.layers.portable.mounts.fusefs.tree import Tree, error
from winlayers.layers.portable.mounts.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE

_PIECE = 1 << 20


class _Unsupported(OSError):
    """The file system below can keep no room."""


def allocate(operations: Operations, node_id: int, mode: int, offset: int, size: int) -> Iterator[None]:
    """Do what ``fallocate`` asks for, in steps between which others can be served.

    What is still the layers' own is copied where room for it is asked for: writing to it later must not
    fail.  The file's size counts with its holes (see `space.cost_of`), so that a hole where the layers have
    data takes from the scratch layer's size, and one in its own data gives nothing back.  Room beyond a
    file's end is kept on the disk, and must fit into the scratch layer's size, but does not count.

    Raises:
        OSError: ENOSPC; EFBIG: NTFS has no files that large; EOPNOTSUPP: ranges can't be taken out or put in,
            or the file system below can keep no room.
    """
    if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
        raise error(errno.EOPNOTSUPP)
    end = offset + size
    if end > MAX_SIZE:
        raise error(errno.EFBIG)
    inode = operations.raise_inode(node_id)
    if inode.kind is not Kind.FILE:
        raise error(errno.ENODEV)
    inside = min(end, inode.size)
    if mode & FALLOC_PUNCH_HOLE:
        if offset < inside:
            operations.space.require(_more(operations, inode, offset, inside))
            _zero(operations, inode, offset, inside)
        return
    grown = max(inode.size, inside if mode & FALLOC_KEEP_SIZE else end)
    operations.space.require(_more(operations, inode, offset, end))
    if mode & FALLOC_ZERO_RANGE:
        if offset < inside:
            _zero(operations, inode, offset, inside)
        with contextlib.suppress(_Unsupported):
            _reserve(operations, inode, offset, end)
    else:
        _reserve(operations, inode, offset, end)
        for start in range(offset, inside, _PIECE):
            with _counted(operations, inode):
                operations.data.copy_up(inode, start, min(start + _PIECE, inside))
            yield
    if grown > inode.size:
        with _counted(operations, inode):
            operations.data.truncate(inode, grown)


def _more(operations: Operations, inode: Inode, offset: int, end: int) -> int:
    held = inode.size - inode.lent
    return data_cost(held + operations.data.cost(inode, offset, end - offset)) - data_cost(held)


@contextlib.contextmanager
def _counted(operations: Operations, inode: Inode) -> Iterator[None]:
    """Note and count what becomes of the file; whether it fits has been asked before."""
    held = data_cost(inode.size - inode.lent)
    try:
        yield
    finally:
        operations.space.used += data_cost(inode.size - inode.lent) - held
        operations.wrote(inode)
        operations.record.put(inode)


def _zero(operations: Operations, inode: Inode, offset: int, end: int) -> None:
    with _counted(operations, inode):
        operations.data.zero(inode, offset, end)


def _reserve(operations: Operations, inode: Inode, offset: int, end: int) -> None:
    with _counted(operations, inode):
        try:
            operations.data.reserve(inode, offset, end)
        except OSError as failure:
            if failure.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise _Unsupported(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from failure
            raise
        inode.marks |= Mark.METADATA  # the data may be what it was, but not the time


class Place(NamedTuple):
    """Where the data or the hole is that was asked for.

    Attributes:
        offset: the answer; None: there is no data any more.
        hole, end: the hole that the answer rests on: that was passed over, or that was found.
    """

    offset: int | None
    hole: int
    end: int


def seek(tree: Tree, node_id: int, offset: int, *, data: bool) -> Place:
    """Where from *offset* on there is data, or a hole; beyond its last byte each file has one.

    All that the layers have is data.

    Raises:
        OSError: ENXIO: *offset* is not inside the file.
    """
    inode = tree.inodes.get(node_id)
    size = inode.size if inode is not None else tree.lower.extent(node_id).size
    if offset >= size:
        raise error(errno.ENXIO)
    start, end = next(_holes(tree, inode, offset), (size, size)) if inode is not None else (size, size)
    if not data:
        return Place(start, start, end)
    if start > offset:
        return Place(offset, offset, offset)
    return Place(end if end < size else None, start, end)


def seek_surely(find: Callable[[], Place], offset: int, write_back: Callable[[int, int], None]) -> int:
    """The answer of *find* (a `seek` from *offset*), once no shared mapping has news for the hole it names.

    Args:
        write_back: has the kernel write what it has of a range: its offset and size.

    Raises:
        OSError: ENXIO: there is no data any more.
    """
    sure = offset
    while True:
        place = find()
        if place.end <= sure or place.hole == place.end:
            break
        start = max(place.hole, sure)
        write_back(start, place.end - start)
        sure = place.end
    if place.offset is None:
        raise error(errno.ENXIO)
    return place.offset


def _holes(tree: Tree, inode: Inode, offset: int) -> Iterator[tuple[int, int]]:
    """The holes of a changed file from *offset* on: where each begins and ends."""
    for lent, at, size in segments(inode, offset, inode.size):
        if lent:
            continue
        stop = at + size
        if not inode.file or tree.data is None:
            yield at, stop
            continue
        fd = tree.data.descriptor(inode)
        while at < stop:
            try:
                begin = min(os.lseek(fd, at, os.SEEK_DATA), stop)
            except OSError as failure:
                if failure.errno != errno.ENXIO:
                    raise
                begin = stop
            if begin > at:
                yield at, begin
            at = stop if begin == stop else min(os.lseek(fd, begin, os.SEEK_HOLE), stop)
