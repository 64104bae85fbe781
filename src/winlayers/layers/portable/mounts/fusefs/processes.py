"""Processes told apart for good: by their number and when they began."""

from __future__ import annotations

import os
import select
import sys
import time

assert sys.platform != "win32"

import fcntl

from winlayers.durable import start_time

LOCK = "fuse.lock"
"""Held, in a scratch layer's folder, by the process that serves it."""

_POLL = 0.01


def take_lock(folder: str) -> int | None:
    """The lock of the scratch layer in *folder*, as a descriptor; None: another process has it.

    Whoever is given the descriptor holds the lock with this process, and keeps it when this one ends.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def mark_start(folder: str) -> int | None:
    """Mark that a process is being started to serve a view in *folder*; a descriptor to close once it serves.

    Several may be at a time.  None: it can't be opened, or has no locks, so nothing can be marked.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    except OSError:
        os.close(fd)
        return None
    return fd


def wait_for_starts(folder: str, timeout: float) -> bool:
    """Wait until nothing in *folder* is marked by `mark_start`; False: not within *timeout* seconds."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or not to be opened: nobody can have marked it
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL)
            except OSError:
                return True  # no locks, no marks
    finally:
        os.close(fd)


def is_alive(pid: int, start: str) -> bool:
    """Whether that very process lives."""
    return bool(start) and start_time(pid) == start


def wait_to_read(fd: int, timeout: float) -> bool:
    """Wait until the descriptor can be read; False: not within *timeout* seconds.

    ``poll`` takes any descriptor, where ``select`` ends at 1,023.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, timeout) * 1000))


def wait_for_end(pid: int, start: str, timeout: float) -> bool:
    """Wait until the process is gone; False: it is still there after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # gone, or a kernel before 5.3
        fd = -1
    try:
        while is_alive(pid, start):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if fd >= 0:
                wait_to_read(fd, left)
            else:
                time.sleep(min(_POLL, left))
    finally:
        if fd >= 0:
            os.close(fd)
    return True
