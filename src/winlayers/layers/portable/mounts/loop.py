"""Loop devices, for kernels that can't mount plain files (EROFS before 6.12, ext4 at all times).

Devices are configured to go away with their last user, so nothing is left after an unmount or a crash.
Source: Linux ``include/uapi/linux/loop.h``; LOOP_CONFIGURE is of 5.8.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

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
            writes.

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
        if unique:
            device = find(path)
            if device is not None:
                return device, os.open(device, os.O_CLOEXEC | os.O_RDWR)
        return _attach(backing, path, read_only)
    except OSError as error:
        raise MountError(f"no loop device can be had: {error.strerror}", path=path) from error
    finally:
        os.close(backing)


def find(path: str) -> str | None:
    """The loop device that is over the file *path*."""
    real = os.path.realpath(path)
    for name in os.listdir("/sys/block"):
        if name.startswith("loop"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file:
                    if file.read().rstrip("\n") == real:
                        return f"/dev/{name}"
            except OSError:  # not in use, or gone in the meantime
                continue
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
