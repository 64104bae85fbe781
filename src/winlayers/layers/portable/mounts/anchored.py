"""Files below an open folder: opened component by component, never through a link."""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import BinaryIO

assert sys.platform != "win32"

from winlayers.errors import LayerContentError

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_QUIET = getattr(os, "O_NOATIME", 0)

Parts = tuple[bytes, ...]


def open_directory(root: int, parts: Iterable[bytes] = ()) -> int:
    """The directory at *parts* below the open directory *root*, as a descriptor that the caller closes.

    Raises:
        OSError: it is not there, or a part is no directory (ENOTDIR, ELOOP).
    """
    fd = os.dup(root)
    for part in parts:
        try:
            child = _open(part, _DIRECTORY, fd)
        finally:
            os.close(fd)
        fd = child
    return fd


class Anchor:
    """An open folder, and what lies below it; it is closed with the last reference to it."""

    def __init__(self, path: str) -> None:
        """Open the folder *path*, which must not be a link.

        Raises:
            OSError: it can't be opened.
        """
        self.fd = _open(path, _DIRECTORY)
        weakref.finalize(self, os.close, self.fd)

    def directory(self, parts: Iterable[bytes] = ()) -> int:
        """`open_directory` below it."""
        return open_directory(self.fd, parts)

    def file(self, parts: Sequence[bytes]) -> BinaryIO:
        """The file at *parts*, open for reading.

        Raises:
            LayerContentError: it has become a link.
            OSError: it can't be opened.
        """
        directory = self.directory(parts[:-1])
        try:
            fd = _open(parts[-1], _FILE, directory)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise LayerContentError(
                "a file has become a link while it was read", path=os.fsdecode(b"/".join(parts))
            ) from error
        finally:
            os.close(directory)
        return os.fdopen(fd, "rb")


def _open(name: str | bytes, flags: int, directory: int | None = None) -> int:
    """Open without leaving an access time behind, where that is allowed: looking must not change a layer."""
    try:
        return os.open(name, flags | _QUIET, dir_fd=directory)
    except PermissionError:
        return os.open(name, flags, dir_fd=directory)  # the file is somebody else's


def names(directory: int) -> list[bytes]:
    """The names in the open directory, sorted."""
    return sorted(os.fsencode(name) for name in os.listdir(directory))


def attributes_of(directory: int, name: bytes) -> dict[str, bytes] | None:
    """The extended attributes of *name* in the open directory; None: its file system has none."""
    if not hasattr(os, "listxattr"):
        return None
    path = b"/proc/self/fd/%d/%b" % (directory, name)
    try:
        return {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT, errno.ENODATA):
            return None
        raise
