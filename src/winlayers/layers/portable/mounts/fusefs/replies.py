"""The bodies of replies that take more than packing a few numbers."""

from __future__ import annotations

import errno
import sqlite3
import sys

assert sys.platform != "win32"

from winlayers.errors import FormatError
from winlayers.layers.portable.mounts.fusefs import protocol
from winlayers.layers.portable.mounts.fusefs.tree import error
from winlayers.win32.filetime import TICKS_PER_SECOND, UNIX_EPOCH

FOREVER = 1 << 31
"""Seconds: as long as the kernel likes."""


def statx(attr: bytes, creation_time: int) -> bytes:
    """``struct fuse_statx_out``, from ``struct fuse_attr`` and a FILETIME."""
    fields = protocol.ATTR.unpack(attr)
    number, size, blocks, a, w, c, an, wn, cn, mode, nlink, uid, gid, _, block, _ = fields
    b, ticks = divmod((creation_time or UNIX_EPOCH) - UNIX_EPOCH, TICKS_PER_SECOND)
    mask = protocol.STATX_BASIC | protocol.STATX_BTIME
    return protocol.STATX_PREFIX.pack(FOREVER, 0, 0) + protocol.STATX.pack(
        mask, block, 0, nlink, uid, gid, mode, 0, number, size, blocks, 0,
        a, an, 0, b, ticks * 100, 0, c, cn, 0, w, wn, 0, 0, 0, 0, 0,
    )  # fmt: skip


def sized(value: bytes, size: int) -> bytes:
    """The answer to a question for a value, or for its size alone."""
    if not size:
        return protocol.XATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise error(errno.ERANGE)
    return value


def dirent(node_id: int, cookie: int, name: bytes, kind: int) -> bytes:
    data = protocol.DIRENT.pack(node_id, cookie, len(name), kind) + name
    return data.ljust(protocol.align8(len(data)), b"\0")


def errno_of(failure: BaseException) -> int:
    """The error number that tells a program about *failure*."""
    if isinstance(failure, OSError):
        return failure.errno or errno.EIO
    if isinstance(failure, FormatError):
        return errno.EINVAL
    if isinstance(failure, MemoryError):
        return errno.ENOMEM
    if isinstance(failure, sqlite3.OperationalError) and "full" in str(failure):
        return errno.ENOSPC
    return errno.EIO
