"""How much a scratch layer may hold, and holds."""

from __future__ import annotations

import errno
import os
import sys

assert sys.platform != "win32"

from winlayers.layers.portable.mounts.fusefs.record import Inode

INODE_COST = 1024
"""What a file counts for besides its data: NTFS's file records are that large."""

_CLUSTER = 4096
_HOST_RESERVE = 1 << 20


class NoRoomError(OSError):
    """ENOSPC: more is to be kept than fits."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


def data_cost(size: int) -> int:
    """What *size* bytes of data count for: whole clusters, as on NTFS."""
    return (size + _CLUSTER - 1) // _CLUSTER * _CLUSTER


def cost_of(inode: Inode) -> int:
    """What the file counts for.  Data that is still read from the layers below is free; holes are not."""
    streams = sum(len(data) for _, data in inode.streams.values() if data is not None)
    return INODE_COST + data_cost(inode.size - inode.lent) + streams


class Space:
    """The account of one scratch layer."""

    def __init__(self, folder: str, limit: int | None, used: int) -> None:
        """Begin with *used* bytes of *limit* (None: no bound but the host's) in *folder*."""
        self._folder = folder
        self.limit = limit
        self.used = used

    def charge(self, more: int) -> None:
        """Count *more* bytes (fewer, if negative).

        Raises:
            NoRoomError: they would not fit, or the host's file system is full.
        """
        self.require(more)
        self.used = max(0, self.used + more)

    def require(self, more: int) -> None:
        """See to it that *more* bytes would fit.

        Raises:
            NoRoomError: they would not, or the host's file system is full.
        """
        if more > 0:
            if self.limit is not None and self.used + more > self.limit:
                raise NoRoomError
            if self._host_free() < more + _HOST_RESERVE:
                raise NoRoomError

    def _host_free(self) -> int:
        about = os.statvfs(self._folder)
        return about.f_bavail * about.f_frsize

    def totals(self) -> tuple[int, int]:
        """The size and what is free of it, in bytes."""
        free = max(0, self._host_free() - _HOST_RESERVE)
        if self.limit is None:
            return self.used + free, free
        return self.limit, min(free, max(0, self.limit - self.used))
