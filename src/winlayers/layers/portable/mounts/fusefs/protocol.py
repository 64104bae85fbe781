"""The messages between the kernel and a FUSE server.

Source: Linux, ``include/uapi/linux/fuse.h`` (protocol 7.31 to 7.45).  All numbers have the machine's byte
order.  A request is a header of 40 bytes and a body; a reply is a header of 16 bytes and a body; a
notification is a reply to no request.
"""

from __future__ import annotations

import enum
import struct
import sys

assert sys.platform != "win32"


MAJOR = 7
MINOR = 45
MIN_MINOR = 31
"""What this server needs: Linux 5.4."""

ROOT_ID = 1


class Op(enum.IntEnum):
    """``enum fuse_opcode``, as far as it is answered."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Init(enum.IntFlag):
    """``FUSE_*`` flags of INIT; those from 32 on are in ``flags2``."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30


class Valid(enum.IntFlag):
    """``FATTR_*``: what SETATTR sets."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class Notify(enum.IntEnum):
    """``enum fuse_notify_code``."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    INC_EPOCH = 8


EPOCH_MINOR = 44
"""The protocol that brought ``FUSE_NOTIFY_INC_EPOCH`` (Linux 6.16)."""

FOPEN_KEEP_CACHE = 1 << 1

STATX_BASIC = 0x7FF
STATX_BTIME = 0x800

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""length, opcode, unique, node id, uid, gid, pid, length of extensions / 8, padding."""

OUT_HEADER = struct.Struct("=IiQ")
"""length, error (0 or a negative errno), unique."""

ATTR = struct.Struct("=QQQqqqIIIIIIIIII")
"""inode, size, blocks, access, write and change time; their nanoseconds; mode, links, uid, gid, rdev,
block size, flags."""

ENTRY_PREFIX = struct.Struct("=QQQQII")
"""node id, generation, how long the entry and the attributes are valid: seconds, nanoseconds."""

ENTRY = struct.Struct(ENTRY_PREFIX.format + ATTR.format[1:])
ATTR_PREFIX = struct.Struct("=QII")
INIT_IN = struct.Struct("=IIII")
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
"""major, minor, read-ahead, flags, background, congestion, largest write, time granularity in ns, largest
number of pages in a request, map alignment, flags2, stack depth."""

SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
READ_IN = struct.Struct("=QQIIQII")
WRITE_IN = struct.Struct("=QQIIQII")
WRITE_OUT = struct.Struct("=I4x")
XATTR_IN = struct.Struct("=II")
XATTR_OUT = struct.Struct("=II")
MKNOD_IN = struct.Struct("=IIII")
MKDIR_IN = struct.Struct("=II")
RENAME_IN = struct.Struct("=Q")
RENAME2_IN = struct.Struct("=QII")
LINK_IN = struct.Struct("=Q")
CREATE_IN = struct.Struct("=IIII")
OPEN_OUT = struct.Struct("=QIi")
FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")
FORGET_ONE = struct.Struct("=QQ")
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
DIRENT = struct.Struct("=QQII")
FALLOCATE_IN = struct.Struct("=QQQII")
LSEEK_IN = struct.Struct("=QQII")
LSEEK_OUT = struct.Struct("=Q")
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
"""handle, offset; node id, handle and offset of the target; size, flags."""
COPY_FILE_RANGE_OUT = struct.Struct("=Q")
STATX_IN = struct.Struct("=IIQII")
STATX_PREFIX = struct.Struct("=QII16x")
STATX = struct.Struct("=IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
INVAL_INODE = struct.Struct("=Qqq")
INVAL_ENTRY = struct.Struct("=QII")


def align8(size: int) -> int:
    """*size* rounded up to a multiple of 8, as directory entries are."""
    return size + 7 & ~7


def name_of(body: memoryview) -> bytes:
    """The NUL-terminated name that *body* is."""
    return bytes(body[: len(body) - 1])


def two_names(body: memoryview) -> tuple[bytes, bytes]:
    """The two NUL-terminated names that *body* is."""
    first, second, _ = bytes(body).split(b"\0", 2)
    return first, second
