"""Atomic, durable changes to folders, and locks between processes: what every store here is built from.

The discipline: write under a hidden name, ``fsync`` the file, rename it into place, ``fsync`` the folder.
What a reader sees is then always whole, and what a caller was told is done survives power loss.

Hidden names start with ``.tmp-``; :func:`sweep` removes those that no live process owns.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Self

from winlayers.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"


def fsync_dir(path: str) -> None:
    """Make the names in the folder *path* durable."""
    if sys.platform != "win32":  # NTFS journals names; a handle to flush would need administrator rights
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def fsync_file(path: str) -> None:
    """Make the content of the file *path* durable."""
    fd = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_name(folder: str, label: str = "") -> str:
    """A fresh hidden path in *folder*, with this process's id in it so that :func:`sweep` can tell."""
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{label}")


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of *path*, wholly and durably, when the block ends well."""
    folder = os.path.dirname(path) or "."
    hidden = temporary_name(folder)
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        raise
    fsync_dir(folder)


def write_bytes(path: str, data: bytes, mode: int = 0o644) -> None:
    """Give the file *path* the content *data*, wholly and durably."""
    with replacing(path, mode) as file:
        file.write(data)


def write_json(path: str, value: object, mode: int = 0o644) -> None:
    """Give the file *path* the value as JSON, wholly and durably."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n", mode)


def rename_dir(source: str, target: str) -> None:
    """Rename a folder whose content is durable already, and make the new name durable."""
    os.rename(source, target)
    fsync_dir(os.path.dirname(target))
    if os.path.dirname(source) != os.path.dirname(target):
        fsync_dir(os.path.dirname(source))


def fsync_tree(folder: str) -> None:
    """Make every file and folder below *folder*, and itself, durable."""
    for root, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(root, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                fsync_file(path)
        fsync_dir(root)


def remove_tree(path: str) -> None:
    """Remove the folder *path* and all below it, never through a link; a missing one is fine."""
    if not shutil.rmtree.avoids_symlink_attacks and sys.platform != "win32":
        raise StoreError("this platform can't remove folders safely", path=path)

    def writable_again(function: Callable[..., object], name: str, info: object) -> None:
        error = info[1] if isinstance(info, tuple) else info
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, PermissionError):
            # A read-only folder (a scratch layer may hold some) lets nothing in it be removed.
            parent = os.path.dirname(name)
            os.chmod(parent, 0o700)
            if os.path.isdir(name) and not os.path.islink(name):
                os.chmod(name, 0o700)
                shutil.rmtree(name)
            else:
                if sys.platform == "win32":
                    os.chmod(name, 0o600)  # a file with the read-only attribute can't be deleted there
                os.unlink(name)
            return
        if isinstance(error, BaseException):
            raise error

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path, onerror=writable_again)


def sweep(folder: str) -> list[str]:
    """Remove from *folder* the hidden leftovers of processes that are gone; return their names."""
    swept = []
    for name in os.listdir(folder):
        if not is_leftover(name):
            continue
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        swept.append(name)
    return swept


def is_leftover(name: str) -> bool:
    """Whether *name* is one that :func:`temporary_name` gave to a process that is gone."""
    if not name.startswith(TEMPORARY_PREFIX):
        return False
    owner = name[len(TEMPORARY_PREFIX) :].split("-", 1)[0]
    return not (owner.isdigit() and is_alive(int(owner)))


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs (on Windows: never; there an open file guards itself)."""
    if sys.platform != "win32":  # an open file can't be removed there, so trying is the test
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return False


class FileLock:
    """A lock on a file, shared or exclusive, between processes and between threads.

    It goes with the process, however that ends.  The file stays; removing it would let two hold "the" lock.
    """

    def __init__(self, path: str, *, shared: bool = False, timeout: float | None = None) -> None:
        """Prepare the lock on *path*; it is taken by ``with``.

        Args:
            shared: many may hold it shared, one exclusively.
            timeout: seconds to wait, 0 to only try; None: for ever.
        """
        self.path = path
        self.shared = shared
        self.timeout = timeout
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False where the time ran out.

        Raises:
            StoreError: the file can't be opened or locked.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise StoreError(f"can't open the lock file: {error.strerror}", path=self.path) from error
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            pause = 0.001
            while not _try_lock(fd, self.shared, block=deadline is None):
                if deadline is not None and time.monotonic() >= deadline:
                    os.close(fd)
                    return False
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Let go of the lock; harmless when it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        if not self.acquire():
            raise StoreError("another process holds the lock", path=self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int, shared: bool, *, block: bool) -> bool:
        # The C runtime has exclusive locks only; for readers that is slower, never wrong.
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

else:
    import fcntl

    def _try_lock(fd: int, shared: bool, *, block: bool) -> bool:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, operation if block else operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
