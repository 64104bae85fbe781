"""Files below a folder, reached one path component at a time and never through a link.

What is unpacked or read on behalf of a layer must not leave the folder that it belongs to, whatever links
lie in it and whoever changes them meanwhile.  On POSIX each component is opened relative to its parent's
descriptor without following links, so there is no moment between check and use.  On Windows each component
is looked at first; a reparse point is refused there too (the native layer service has handle-relative calls
of its own for layers).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

from winlayers.errors import InvalidNameError, LayerContentError, LayerNotFoundError

BCD_COPIES = {
    "UtilityVM/Files/EFI/Microsoft/Boot/BCD": "bcd.bak",
    "UtilityVM/Files/EFI/Microsoft/Boot/BCD.LOG": "bcd.log.bak",
    "UtilityVM/Files/EFI/Microsoft/Boot/BCD.LOG1": "bcd.log1.bak",
    "UtilityVM/Files/EFI/Microsoft/Boot/BCD.LOG2": "bcd.log2.bak",
}
"""The boot files that an import changes, and where in the layer's folder their originals are kept.

Source: moby ``daemon/graphdriver/windows/windows.go`` (``mutatedFiles``), hcsshim ``wclayer``.
"""

MAX_DEPTH = 256
"""The most components that a path may have."""

_ON_POSIX = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
# Constants that Windows lacks are read by name, so that they are 0 there.
_HOME = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = _HOME | getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for a writer
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Root:
    """The folder that all paths of a piece of work are relative to; a context manager.

    Paths are ``/``-separated and relative.  Not for use by several threads at once.

    Raises (from every method that takes a path):
        InvalidNameError: the path is empty, absolute, or has an empty, ``.`` or ``..`` component.
        LayerContentError: something on the way is a link or not a directory, or the path is too deep.
        OSError: the file system refuses.
    """

    def __init__(self, path: str) -> None:
        """Hold the folder *path* (whose own path may lead through links).

        Raises:
            LayerNotFoundError: it is not there, or not a folder.
        """
        self.path = os.path.abspath(path)
        self._fd: int | None = None
        self._parent: tuple[str, int] | None = None
        try:
            if _ON_POSIX:
                self._fd = os.open(self.path, os.O_RDONLY | _HOME)
            elif not os.path.isdir(self.path):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LayerNotFoundError("there is no such folder", layer=self.path) from error

    def close(self) -> None:
        """Release the folder; harmless when called twice."""
        self._forget_parent()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking --

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at *path*, links not followed; None if there is nothing."""
        try:
            where, folder = self._at(path)
            return os.stat(where, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, path: str) -> list[str]:
        """The names in the directory *path* ("" for the root), in no order."""
        where, folder = self._directory(path)
        try:
            return os.listdir(where if folder is None else folder)
        finally:
            if folder is not None:
                os.close(folder)

    def open_file(self, path: str) -> BinaryIO:
        """Open the regular file *path* for reading.

        Raises:
            LayerContentError: there is no regular file at that path.
        """
        try:
            where, folder = self._at(path)
            fd = os.open(where, os.O_RDONLY | _FILE | _NO_WAIT, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LayerContentError("there is no such file", path=path) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise LayerContentError("not a regular file", path=path) from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise LayerContentError("not a regular file", path=path)
        return open(fd, "rb")

    def read_link(self, path: str) -> str:
        """The text of the symbolic link *path*."""
        where, folder = self._at(path)
        return os.readlink(where, dir_fd=folder)

    # -- changing --

    def make_parents(self, path: str, mode: int = 0o755) -> None:
        """Make the directories that *path* needs above it."""
        parts = _split(path)[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if self._parent is not None and f"{self._parent[0]}/".startswith(f"{parent}/"):
                continue
            try:
                self.make_directory(parent, mode)
            except FileExistsError:
                pass

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        """Make one directory; its parent must be there."""
        where, folder = self._at(path)
        os.mkdir(where, mode, dir_fd=folder)

    def create_file(self, path: str, mode: int = 0o644) -> BinaryIO:
        """A new regular file, open for writing; nothing may be at *path*."""
        where, folder = self._at(path)
        return open(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, mode, dir_fd=folder), "wb")

    def link(self, target: str, path: str) -> None:
        """A hard link at *path* to what is at *target* (a symbolic link itself, not what it points to)."""
        self._forget_parent()
        where, folder = self._at(target)
        # _at keeps one descriptor, which the second call may close.
        held = None if folder is None else os.dup(folder)
        try:
            new, new_folder = self._at(path)
            if folder is None:
                os.link(where, new)
            else:
                os.link(where, new, src_dir_fd=held, dst_dir_fd=new_folder, follow_symlinks=False)
        finally:
            if held is not None:
                os.close(held)

    def symlink(self, target: str, path: str) -> None:
        """A symbolic link at *path* with the text *target*, which is not looked at."""
        where, folder = self._at(path)
        os.symlink(target, where, dir_fd=folder)

    def remove(self, path: str) -> None:
        """Remove what is at *path*, a directory with all below it; nothing there is fine."""
        found = self.lstat(path)
        if found is None:
            return
        where, folder = self._at(path)
        if stat.S_ISDIR(found.st_mode) and not _is_reparse_point(found):
            shutil.rmtree(where, dir_fd=folder, onerror=_retry_writable)
            self._forget_parent()
        elif stat.S_ISDIR(found.st_mode):
            os.rmdir(where)  # a junction: the link goes, not what it leads to
        else:
            os.unlink(where, dir_fd=folder)

    def set_mode(self, path: str, mode: int) -> None:
        """Set the permission bits of the file or directory *path* (never of what a link points to)."""
        if not _ON_POSIX:
            os.chmod(self._at(path)[0], mode)
            return
        where, folder = self._at(path)
        fd = os.open(where, os.O_RDONLY | _FILE | _NO_WAIT, dir_fd=folder)
        try:
            os.chmod(fd, mode)
        finally:
            os.close(fd)

    def set_times(self, path: str, access: int, modification: int) -> None:
        """Set the times, in nanoseconds since 1970, of what is at *path* (of a link itself)."""
        where, folder = self._at(path)
        times = (access, modification)
        if os.utime in os.supports_follow_symlinks:
            os.utime(where, ns=times, dir_fd=folder, follow_symlinks=False)
        else:
            os.utime(where, ns=times)

    # -- the way to a path --

    def _at(self, path: str) -> tuple[str, int | None]:
        """Where *path* is, for a call with ``dir_fd``: its name and its parent's descriptor.

        On Windows: its whole path and None.  The descriptor is kept until the next call.
        """
        parts = _split(path)
        if self._fd is None:
            return os.path.join(self._walk_by_path(parts[:-1]), parts[-1]), None
        if len(parts) == 1:
            return parts[0], self._fd
        parent = "/".join(parts[:-1])
        if self._parent is None or self._parent[0] != parent:
            fd = self._walk(parts[:-1])
            self._forget_parent()
            self._parent = (parent, fd)
        return parts[-1], self._parent[1]

    def _directory(self, path: str) -> tuple[str, int | None]:
        """A fresh descriptor of the directory *path* (on Windows: its whole path and None)."""
        parts = _split(path) if path else []
        if self._fd is None:
            return self._walk_by_path(parts), None
        return "", self._walk(parts)

    def _walk(self, parts: list[str]) -> int:
        assert self._fd is not None
        fd = os.dup(self._fd)
        try:
            for depth, part in enumerate(parts):
                try:
                    following = os.open(part, os.O_RDONLY | _DIRECTORY, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise LayerContentError(
                            "something on the way is a link or not a directory",
                            path="/".join(parts[: depth + 1]),
                        ) from error
                    raise
                os.close(fd)
                fd = following
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _walk_by_path(self, parts: list[str]) -> str:
        where = self.path
        for depth, part in enumerate(parts):
            where = os.path.join(where, part)
            found = os.lstat(where)
            if _is_reparse_point(found) or not stat.S_ISDIR(found.st_mode):
                raise LayerContentError(
                    "something on the way is a link or not a directory", path="/".join(parts[: depth + 1])
                )
        return where

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None


def _split(path: str) -> list[str]:
    parts = path.split("/")
    for part in parts:
        if (
            part in ("", ".", "..")
            or "\0" in part
            or (sys.platform == "win32" and ("\\" in part or ":" in part))
        ):
            raise InvalidNameError(f"{part!r} can't be part of a path in a layer", path=path)
    if len(parts) > MAX_DEPTH:
        raise LayerContentError(f"the path has more than {MAX_DEPTH} components", path=parts[-1])
    return parts


def _is_reparse_point(found: os.stat_result) -> bool:
    return stat.S_ISLNK(found.st_mode) or bool(getattr(found, "st_reparse_tag", 0))


def _retry_writable(function: Callable[..., object], name: str, info: object) -> None:
    error = info[1] if isinstance(info, tuple) else info
    if sys.platform == "win32" and isinstance(error, PermissionError):
        os.chmod(name, stat.S_IWRITE)  # a file with the read-only attribute can't be deleted there
        function(name)
        return
    if isinstance(error, FileNotFoundError):
        return
    if isinstance(error, BaseException):
        raise error
