"""Atomic, durable changes to folders, and locks between processes: what every store here is built from.

The discipline: write under a hidden name, ``fsync`` the file, rename it into place, ``fsync`` the folder.
What a reader sees is then always whole, and what a caller was told is done survives power loss.

Hidden names start with ``.tmp-`` and name the process that works there, which where it can holds a lock on
them; :func:`sweep` removes those that no live process owns.  ``docs/durability.md`` tells the whole of it.
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
    """A fresh hidden path in *folder*, with this process in it so that :func:`sweep` can tell."""
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{owner()}-{secrets.token_hex(6)}{label}")


@contextlib.contextmanager
def hidden_folder(folder: str, label: str = "") -> Iterator[str]:
    """A fresh hidden folder in *folder*; what is left of it when the block ends is removed."""
    while True:
        path = temporary_name(folder, label)
        os.mkdir(path, 0o755)
        held = _hold(path)
        if held is not None:
            break
    try:
        yield path
    finally:
        remove_tree(path)
        held.close()


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of *path*, wholly and durably, when the block ends well."""
    folder = os.path.dirname(path) or "."
    fd, hidden = _new_file(folder, mode)
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


def _new_file(folder: str, mode: int) -> tuple[int, str]:
    """A fresh hidden file, open and held, and its path."""
    while True:
        hidden = temporary_name(folder)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        if sys.platform == "win32":  # an open file can't be removed there
            return fd, hidden
        try:
            _try_lock(fd, shared=True)
        except OSError:  # a file system without locks
            return fd, hidden
        if _is_still(fd, hidden):
            return fd, hidden
        os.close(fd)


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
    """Remove the folder *path* and all below it, never through a link or a mount; a missing one is fine.

    A tree may be deeper than calls or open files can nest: each folder found is moved to the top and emptied
    there.  Others may remove the same tree meanwhile.

    Raises:
        OSError: something can't be removed; EBUSY: a file system is mounted in it.
    """
    if sys.platform == "win32":
        _remove_tree_by_path(path)
        return
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
        os.chmod(name, 0o700, dir_fd=fd)  # a folder that can't be written to can't be moved: ".." is in it
        os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=top)


def _remove_tree_by_path(path: str) -> None:
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


def sweep(folder: str) -> list[str]:
    """Remove from *folder* the hidden leftovers of processes that are gone; return their names."""
    swept = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.startswith(TEMPORARY_PREFIX) or _owner_of(name):
            continue
        held = _hold(path, alone=True)
        if held is None:
            continue
        try:
            remove_any(path)
        finally:
            held.close()
        swept.append(name)
    return swept


def remove_any(path: str) -> None:
    """Remove the file, link or folder *path*; a missing one is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def is_leftover(path: str) -> bool:
    """Whether *path* is hidden work of a process that is gone."""
    name = os.path.basename(path)
    if not name.startswith(TEMPORARY_PREFIX) or _owner_of(name):
        return False
    held = _hold(path, alone=True)
    if held is not None:
        held.close()
    return held is not None


def _owner_of(name: str) -> bool:
    """Whether the process that a hidden name names is alive."""
    return owner_lives(name[len(TEMPORARY_PREFIX) :].split("-", 1)[0])


# -- who works ---------------------------------------------------------------------------------------


def owner() -> str:
    """This process, as a text that no other has: its id and, on Linux, when it was started."""
    pid = os.getpid()
    return f"{pid}.{_start_time(pid)}"


def owner_lives(text: str) -> bool:
    """Whether the process that called itself so is alive (on Windows never; there open files tell).

    One in another process name space can't be seen from here: what must hold there, too, takes a lock.
    """
    pid, _, started = text.partition(".")
    if not pid.isdigit() or not is_alive(int(pid)):
        return False
    return _start_time(int(pid)) == started


def _start_time(pid: int) -> str:
    """When the process was started, in clock ticks since boot; "" where that can't be told.

    Source: Linux, ``proc_pid_stat(5)``, field 22; the second field may hold blanks and parentheses.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs (on Windows: never; there an open file guards itself)."""
    if sys.platform != "win32":  # an open file can't be removed there, so trying is the test
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return False


class _Held:
    """An open file with a lock on it; None in its place where the system locks no folders."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _hold(path: str, *, alone: bool = False) -> _Held | None:
    """Hold the hidden file or folder *path*: its maker shared, whoever sweeps it *alone*.

    Processes in other name spaces or containers, whose ids mean nothing here, are told apart by this.

    Returns:
        None where it is gone, or, if *alone* was asked for, somebody else holds it.
    """
    if sys.platform == "win32":
        return _Held(None)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return _Held(None)  # a link, or what may not be opened: the name alone must do
    try:
        if not _try_lock(fd, shared=not alone, block=not alone):
            os.close(fd)
            return None
        if not _is_still(fd, path):
            os.close(fd)
            return None
    except OSError:
        pass  # a file system without locks
    return _Held(fd)


def _is_still(fd: int, path: str) -> bool:
    """Whether *path* names the open file."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


# -- locks -------------------------------------------------------------------------------------------


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
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        pause = 0.001
        while True:
            fd = self._open()
            try:
                taken = _try_lock(fd, self.shared, block=deadline is None)
            except OSError as error:
                os.close(fd)
                raise StoreError(f"can't lock: {error.strerror}", path=self.path) from error
            except BaseException:
                os.close(fd)
                raise
            if taken and (sys.platform == "win32" or _is_still(fd, self.path)):
                self._fd = fd
                return True
            os.close(fd)  # taken, but removed or renamed in the meantime: it is nobody's lock any more
            if not taken:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                time.sleep(pause)
                pause = min(pause * 2, 0.05)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise StoreError(f"can't open the lock file: {error.strerror}", path=self.path) from error

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

    def _try_lock(fd: int, shared: bool, *, block: bool = True) -> bool:
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

    def _try_lock(fd: int, shared: bool, *, block: bool = True) -> bool:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, operation if block else operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
