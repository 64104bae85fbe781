"""Removing whole trees, never through a link or a mount."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable


def remove_tree(path: str) -> None:
    """Remove the folder *path* and all below it, never through a link or a mount; a missing one is fine.

    A tree may be deeper than calls or open files can nest: each folder found is moved to the top and emptied
    there.  Others may remove the same tree meanwhile.

    Raises:
        OSError: something can't be removed; EBUSY: a file system is mounted in it.
    """
    _remove(path)


if sys.platform != "win32":

    def _remove(path: str) -> None:
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            top = _open_folder(path, None)
        except FileNotFoundError:
            return
        try:
            if os.fstat(top).st_dev != os.stat(os.path.dirname(path) or ".").st_dev:
                raise OSError(errno.EBUSY, "a file system is mounted there", path)
            folders = _empty(top, top, moved=False)
            while folders:
                name = folders.pop()
                try:
                    fd = _open_folder(name, top)
                except FileNotFoundError:
                    continue
                try:
                    if os.fstat(fd).st_dev != os.fstat(top).st_dev:
                        raise OSError(errno.EBUSY, "a file system is mounted in it", os.path.join(path, name))
                    folders += _empty(fd, top, moved=True)
                finally:
                    os.close(fd)
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)

    def _open_folder(name: str, parent: int | None) -> int:
        """Open a folder to empty it; one that its owner may not read or write to is made so."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=parent)
        except PermissionError:
            os.chmod(name, 0o700, dir_fd=parent)
            return os.open(name, flags, dir_fd=parent)
        if os.fstat(fd).st_mode & 0o700 != 0o700:
            try:
                os.fchmod(fd, 0o700)
            except OSError:
                pass  # what follows fails for a better reason
        return fd

    def _empty(fd: int, top: int, *, moved: bool) -> list[str]:
        """Remove the files in the open folder; the names in *top* of the folders that were in it."""
        folders = []
        for name in os.listdir(fd):
            try:
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=fd)
                    continue
                if moved:
                    fresh = f".{secrets.token_hex(8)}"
                    _move_up(name, fd, fresh, top)
                    name = fresh
            except FileNotFoundError:
                continue
            folders.append(name)
        return folders

    def _move_up(name: str, fd: int, fresh: str, top: int) -> None:
        try:
            os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=top)
        except PermissionError:
            os.chmod(name, 0o700, dir_fd=fd)  # ".." is in it, so it must be writable to be moved
            os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=top)

else:

    def _remove(path: str) -> None:
        def writable_again(function: Callable[..., object], name: str, info: object) -> None:
            error = info[1] if isinstance(info, tuple) else info
            if isinstance(error, FileNotFoundError):
                return
            if isinstance(error, PermissionError) and not os.path.isdir(name):
                os.chmod(name, 0o600)  # a file with the read-only attribute can't be deleted on Windows
                os.unlink(name)
                return
            if isinstance(error, BaseException):
                raise error

        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path, onerror=writable_again)
