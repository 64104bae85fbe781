"""Linux's mount system calls through ctypes: no ``mount(8)``, whose option strings are cut at a page.

Sources: Linux ``include/uapi/linux/mount.h``, ``stat.h`` and ``falloc.h``; ``fsopen(2)`` and its kin, which
came with 5.2 under the same numbers on x86, ARM, RISC-V, POWER and s390.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

assert sys.platform != "win32"


FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOATIME = 0x10

MOVE_MOUNT_F_EMPTY_PATH = 0x4

UMOUNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

MAX_OPTION = 255
"""fsconfig takes strings of 256 bytes with their NUL."""

FALLOC_KEEP_SIZE = 0x1
FALLOC_PUNCH_HOLE = 0x2
FALLOC_ZERO_RANGE = 0x10

_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_AT_FDCWD = -100
_LOG_LEVELS = ("e ", "w ", "i ")

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class MountCallError(OSError):
    """A mount system call failed; ``filename`` is the call, ``strerror`` includes what the kernel logged."""


def _call(name: str, number: int, *arguments: int | bytes | None, log: int | None = None) -> int:
    if _libc is None:
        raise MountCallError(errno.ENOSYS, "these are Linux's calls", name)
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        text = os.strerror(code)
        if log is not None:
            said = kernel_log(log)
            if said:
                text = f"{text}; the kernel says: {said}"
        raise MountCallError(code, text, name)
    return int(result)


def kernel_log(context: int) -> str:
    """What the kernel wrote to the log of a file system context, in one line."""
    lines = []
    while True:
        try:
            data = os.read(context, 4096)
        except OSError:  # ENODATA: no more, and contexts of old kernels have no log
            break
        if not data:
            break
        text = data.decode("utf-8", "replace").strip()
        lines.append(text[2:] if text[:2] in _LOG_LEVELS else text)
    return "; ".join(lines)


class Context:
    """A file system being configured (``fsopen``)."""

    def __init__(self, kind: str) -> None:
        """Open a context for the file system type *kind*.

        Raises:
            MountCallError: the kernel has no such file system (ENODEV), no new mount calls (ENOSYS), or
                refuses (EPERM).
        """
        self._fd = _call("fsopen", _SYS_FSOPEN, kind.encode("ascii"), FSOPEN_CLOEXEC)

    def flag(self, name: str) -> None:
        """Set an option without a value."""
        arguments = (name.encode("ascii"), None, 0)
        _call("fsconfig", _SYS_FSCONFIG, self._fd, FSCONFIG_SET_FLAG, *arguments, log=self._fd)

    def string(self, name: str, value: str) -> None:
        """Set an option to a text of up to `MAX_OPTION` bytes."""
        arguments = (name.encode("ascii"), os.fsencode(value), 0)
        _call("fsconfig", _SYS_FSCONFIG, self._fd, FSCONFIG_SET_STRING, *arguments, log=self._fd)

    def create(self) -> None:
        """Make the superblock."""
        _call("fsconfig", _SYS_FSCONFIG, self._fd, FSCONFIG_CMD_CREATE, None, None, 0, log=self._fd)

    def mount(self, attributes: int) -> int:
        """A detached mount of it, as a file descriptor that the caller closes."""
        return _call("fsmount", _SYS_FSMOUNT, self._fd, FSMOUNT_CLOEXEC, attributes)

    def close(self) -> None:
        """Let go of the context; mounts made from it stay."""
        os.close(self._fd)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def move_mount(mount: int, target: str) -> None:
    """Attach the detached mount to the folder *target*."""
    _call(
        "move_mount",
        _SYS_MOVE_MOUNT,
        mount,
        b"",
        _AT_FDCWD,
        os.fsencode(target),
        MOVE_MOUNT_F_EMPTY_PATH,
    )


def unmount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Take down the mount on top at *target* (``umount2``)."""
    if _libc is None:
        raise MountCallError(errno.ENOSYS, "these are Linux's calls", "umount2")
    if _libc.umount2(ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(flags)) < 0:
        code = ctypes.get_errno()
        raise MountCallError(code, os.strerror(code), "umount2")


def allocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Reserve space for a range of an open file, or take it away (``fallocate``; `FALLOC_KEEP_SIZE`, ...).

    Raises:
        OSError: ENOSPC; EOPNOTSUPP or ENOSYS: the file system, or this system, can't.
    """
    if _libc is None:
        raise OSError(errno.ENOSYS, "fallocate is Linux's", "fallocate")
    # The GNU C library's plain one has offsets of 32 bits on 32-bit machines; others have no other.
    call = getattr(_libc, "fallocate64", None) or _libc.fallocate
    while call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size)) < 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), "fallocate")


def sync_file_system(path: str) -> None:
    """Write what the file system at *path* has not written yet (``syncfs``)."""
    if _libc is None:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(ctypes.c_int(fd)) < 0:
            code = ctypes.get_errno()
            raise MountCallError(code, os.strerror(code), "syncfs")
    finally:
        os.close(fd)


class _Timestamp(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
    )


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("links", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare0", ctypes.c_uint16),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("access_time", _Timestamp),
        ("birth_time", _Timestamp),
        ("rest", ctypes.c_uint8 * 160),
    )


_STATX_BTIME = 0x800
_AT_SYMLINK_NOFOLLOW = 0x100


def birth_time(directory: int, name: bytes) -> int | None:
    """When the file *name* in the open directory was made, in nanoseconds since 1970; None: not recorded."""
    if _libc is None or not hasattr(_libc, "statx"):
        return None
    about = _Statx()
    result = _libc.statx(
        ctypes.c_int(directory),
        ctypes.c_char_p(name),
        ctypes.c_int(_AT_SYMLINK_NOFOLLOW),
        ctypes.c_uint(_STATX_BTIME),
        ctypes.byref(about),
    )
    if result < 0 or not about.mask & _STATX_BTIME:
        return None
    return int(about.birth_time.seconds) * 1_000_000_000 + int(about.birth_time.nanoseconds)
