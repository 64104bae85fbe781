"""Locks between processes and threads, and on work that is under way."""

from __future__ import annotations

import errno
import os
import sys
import time
from types import TracebackType
from typing import Self

from winlayers.errors import StoreError, StoreReadOnlyError

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says of files that it only lets be read."""


class Held:
    """An open file with a lock on it; None in its place where the system locks no folders."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def hold(path: str, *, alone: bool = False, wait: bool = False) -> Held | None:
    """Hold the hidden file or folder *path*: its maker shared, whoever sweeps it *alone*.

    Who holds it *alone* and may *wait* does so while others hold it.

    Processes in other name spaces or containers, whose ids mean nothing here, are told apart by this.

    Returns:
        None where it is gone; if *alone* was asked for, also where somebody else holds it, or may, as it
        can't be opened.
    """
    if sys.platform != "win32":
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError:
            return None if alone else Held(None)
        except OSError:
            return Held(None)  # a link or the like: the name alone must do
        try:
            if not try_lock(fd, shared=not alone, block=wait or not alone) or not is_still(fd, path):
                os.close(fd)
                return None
        except OSError:
            pass  # a file system without locks
        return Held(fd)
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return Held(None)  # an open file can't be removed there, which says as much


def is_still(fd: int, path: str) -> bool:
    """Whether *path* names the open file."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


class FileLock:
    """A lock on a file, shared or exclusive, between processes and between threads.

    It goes with the process, however that ends.  The file stays, unless the lock is transient.

    Where the file can't be written or made, but read, what it guards can only be read: it can then be locked
    shared, if it is there, but not exclusively.
    """

    def __init__(
        self, path: str, *, shared: bool = False, timeout: float | None = None, transient: bool = False
    ) -> None:
        """Prepare the lock on *path*; it is taken by ``with``.

        Args:
            shared: many may hold it shared, one exclusively.
            timeout: seconds to wait, 0 to only try; None: for ever.
            transient: the file goes when the lock is released; for a lock that nobody ever takes shared.
        """
        assert not (shared and transient), "others would hold a file that is nobody's lock any more"
        self.path = path
        self.shared = shared
        self.timeout = timeout
        self.transient = transient
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False where the time ran out.

        Raises:
            StoreReadOnlyError: it is not there to be written, and so can't be locked exclusively.
            StoreError: the file can't be opened or locked.
        """
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        pause = 0.001
        while True:
            fd = self._open()
            try:
                taken = try_lock(fd, self.shared, block=deadline is None)
            except OSError as error:
                os.close(fd)
                raise StoreError(f"can't lock: {error.strerror}", path=self.path) from error
            except BaseException:
                os.close(fd)
                raise
            if taken and (sys.platform == "win32" or is_still(fd, self.path)):
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
            return os.open(self.path, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o644)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise StoreError(f"can't open the lock file: {error.strerror}", path=self.path) from error
            return self._open_to_read(error)

    def _open_to_read(self, refused: OSError) -> int:
        """Open the file, which is *refused* to be written, for a shared lock."""
        try:
            fd = os.open(self.path, os.O_RDONLY | _CLOEXEC)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"can't open the lock file: {error.strerror}", path=self.path) from error
        else:
            if self.shared:
                return fd
            os.close(fd)
        raise StoreReadOnlyError(
            f"the store can only be read: {refused.strerror}", path=self.path
        ) from refused

    def release(self) -> None:
        """Let go of the lock; harmless when it is not held."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        if self.transient and sys.platform != "win32":
            # While it is held: whoever waits for it sees that it is gone, and takes the next one.
            self._unlink()
        os.close(fd)
        if self.transient and sys.platform == "win32":
            self._unlink()  # refused while others have it open

    def _unlink(self) -> None:
        try:
            os.unlink(self.path)
        except OSError:
            pass  # an empty file that stays does no harm

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

    def try_lock(fd: int, shared: bool, *, block: bool = True) -> bool:
        """Lock the open file; False where somebody else has it."""
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

    def try_lock(fd: int, shared: bool, *, block: bool = True) -> bool:
        """Lock the open file; False where somebody else has it (and *block* is false)."""
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, operation if block else operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
