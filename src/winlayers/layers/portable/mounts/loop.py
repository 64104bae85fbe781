"""Loop devices, for kernels that can't mount plain files (EROFS before 6.12, ext4 at all times).

Devices are configured to go away with their last user, so nothing is left after an unmount or a crash.
Source: Linux ``include/uapi/linux/loop.h``; LOOP_CONFIGURE is of 5.8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers.errors import MountError

if sys.platform != "win32":
    import fcntl

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY = 1
_AUTOCLEAR = 4

# struct loop_config: fd, block size, struct loop_info64 (device, inode, rdevice, offset, size limit, number,
# encryption type, key size, flags, names and key of 64 + 64 + 32 bytes, init of 16), 64 reserved
_CONFIG = struct.Struct("<IIQQQQQIIII64s64s32s16s64x")
_ATTEMPTS = 64


def unavailable() -> str | None:
    """Why loop devices can't be used; None: they can."""
    if not os.path.exists("/dev/loop-control"):
        return "there is no /dev/loop-control"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "/dev/loop-control can't be opened"
    return None


def attach(path: str, *, read_only: bool = True, unique: bool = False) -> tuple[str, int]:
    """A loop device over the file *path*.

    Args:
        read_only: nothing is to be written through it.
        unique: take the device that is there already, if any: two over one file would not see each other's
            writes.  Waits while another process attaches the file so, or holds it `alone`.

    Returns:
        The device's path and an open descriptor of it.  It is free again when that is closed and nothing
        is mounted from it.

    Raises:
        MountError: there is none to be had.
    """
    try:
        backing = os.open(path, os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR))
    except OSError as error:
        raise MountError(f"can't be opened for a loop device: {error.strerror}", path=path) from error
    try:
        if not unique:
            return _attach(backing, path, read_only)
        with alone(path):
            return _open_found(path) or _attach(backing, path, read_only)
    except OSError as error:
        raise MountError(f"no loop device can be had: {error.strerror}", path=path) from error
    finally:
        os.close(backing)


@contextlib.contextmanager
def alone(path: str) -> Iterator[int]:
    """Hold the file or folder *path* while the block runs, or whoever is given its descriptor.

    Nobody attaches a file uniquely meanwhile.  Where the file system has no locks, nothing is held.

    Raises:
        OSError: it can't be opened.
    """
    fd = os.open(path, os.O_CLOEXEC | os.O_RDONLY)  # another than the device gets, which would keep the lock
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def find(path: str, *, writable: bool = False) -> str | None:
    """The loop device that is over the file *path*; it may be free again at once, unless it is in use.

    Args:
        writable: pass over those that nothing can be written to.
    """
    real = os.path.realpath(path)
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop") or _backing_file(name) != real:
            continue
        if not writable or _attribute(name, "ro") == "0":
            return f"/dev/{name}"
    return None


def _backing_file(name: str) -> str | None:
    """The file that the loop device is over; None: it is not in use."""
    return _attribute(name, "loop/backing_file")


def _attribute(name: str, attribute: str) -> str | None:
    try:
        with open(f"/sys/block/{name}/{attribute}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def _open_found(path: str) -> tuple[str, int] | None:
    """The loop device to write through that is over the file *path*, and an open descriptor of it."""
    device = find(path, writable=True)
    if device is None:
        return None
    try:
        fd = os.open(device, os.O_CLOEXEC | os.O_RDWR)
    except OSError as error:
        if error.errno == errno.ENXIO:  # its last user has just gone
            return None
        raise
    # It keeps its file from now on; until now it may have become free, and another file's.
    if _backing_file(os.path.basename(device)) == os.path.realpath(path):
        return device, fd
    os.close(fd)
    return None


def _attach(backing: int, path: str, read_only: bool) -> tuple[str, int]:
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0)
    name = os.fsencode(path)[:63]
    config = _CONFIG.pack(backing, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", b"")
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = f"/dev/loop{number}"
            fd = os.open(device, os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR))
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # EBUSY: another process was faster
                    raise
                continue
            return device, fd
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "other processes take them all")
