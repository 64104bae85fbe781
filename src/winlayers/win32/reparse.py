r"""Reparse points: the buffers that make a file a symbolic link, a junction, or something else again.

All numbers are little endian; the header is::

    offset  size  field
    0       4     ReparseTag (bit 31: a tag of Microsoft's; else a GUID of 16 bytes follows the header)
    4       2     ReparseDataLength: bytes after the header (and after the GUID)
    6       2     Reserved

The data of a symbolic link (0xA000000C) and of a mount point, or junction (0xA0000003)::

    0       2     SubstituteNameOffset, in bytes, into the path buffer
    2       2     SubstituteNameLength, in bytes
    4       2     PrintNameOffset
    6       2     PrintNameLength
    8       4     Flags, symbolic links only: 1 SYMLINK_FLAG_RELATIVE
    8/12    ...   path buffer, UTF-16LE

The substitute name is what the system follows, a path of the NT namespace (``\??\C:\x``) or a relative one;
the print name is what it shows.  Junctions made by PowerShell have an empty print name.

Sources: [MS-FSCC] 2.1.2.1 to 2.1.2.5; go-winio, ``reparse.go``, for how a target becomes a substitute name
and in which order the names are laid out (substitute name, NUL, print name, NUL).
"""

from __future__ import annotations

import dataclasses
import enum
import re
import struct
from typing import ClassVar

from winlayers.errors import ReparseError
from winlayers.win32.names import decode_utf16, encode_utf16, fold_key, host_safe

HEADER_SIZE = 8
GUID_SIZE = 16
MAX_BUFFER_SIZE = 16 * 1024
"""``MAXIMUM_REPARSE_DATA_BUFFER_SIZE``: the largest buffer that Windows stores.  Not enforced here."""

SYMLINK_FLAG_RELATIVE = 1

_MICROSOFT_TAG = 0x8000_0000
_HEADER = struct.Struct("<IHH")
_NAMES = struct.Struct("<HHHH")
_NAMES_AND_FLAGS = struct.Struct("<HHHHI")

_NT_PREFIX = "\\??\\"
_WIN32_PREFIX = "\\\\?\\"
_DRIVE = re.compile(r"([A-Za-z]):")
_SEPARATORS = re.compile(r"[\\/]+")


class ReparseTag(enum.IntEnum):
    """The tags that occur on real volumes ([MS-FSCC] 2.1.2.1)."""

    MOUNT_POINT = 0xA0000003
    HSM = 0xC0000004
    HSM2 = 0x80000006
    SIS = 0x80000007
    WIM = 0x80000008
    CSV = 0x80000009
    DFS = 0x8000000A
    SYMLINK = 0xA000000C
    DFSR = 0x80000012
    DEDUP = 0x80000013
    NFS = 0x80000014
    FILE_PLACEHOLDER = 0x80000015
    WOF = 0x80000017
    WCI = 0x80000018
    WCI_1 = 0x90001018
    GLOBAL_REPARSE = 0xA0000019
    CLOUD = 0x9000001A
    APPEXECLINK = 0x8000001B
    PROJFS = 0x9000001C
    LX_SYMLINK = 0xA000001D
    STORAGE_SYNC = 0x8000001E
    WCI_TOMBSTONE = 0xA000001F
    UNHANDLED = 0x80000020
    ONEDRIVE = 0x80000021
    PROJFS_TOMBSTONE = 0xA0000022
    AF_UNIX = 0x80000023
    LX_FIFO = 0x80000024
    LX_CHR = 0x80000025
    LX_BLK = 0x80000026
    WCI_LINK = 0xA0000027
    WCI_LINK_1 = 0xA0001027


def tag_name(tag: int) -> str:
    """The name of *tag* (``AF_UNIX``), or its number in hexadecimal where it has none here."""
    try:
        return ReparseTag(tag).name
    except ValueError:
        return f"0x{tag:08X}"


# -- targets ----------------------------------------------------------------------------------------


def substitute_name_for(target: str) -> tuple[str, bool]:
    r"""The substitute name for a link to *target*, and whether it is relative; go-winio's rules.

    ==================  =========================  ========
    target              substitute name            relative
    ==================  =========================  ========
    ``\\?\anything``    ``\??\anything``           no
    ``\\server\share``  ``\??\UNC\server\share``   no
    ``C:\x``, ``c:``    ``\??\C:\x``, ``\??\c:``   no
    anything else       itself                     yes
    ==================  =========================  ========
    """
    if target.startswith(_WIN32_PREFIX):
        return _NT_PREFIX + target[len(_WIN32_PREFIX) :], False
    if target.startswith("\\\\"):
        return f"{_NT_PREFIX}UNC\\{target[2:]}", False
    if _DRIVE.match(target):
        return _NT_PREFIX + target, False
    return target, True


def target_of_substitute_name(name: str) -> str:
    r"""The Win32 form of a substitute name: `substitute_name_for` backwards.

    ``\??\C:\x`` is ``C:\x``, ``\??\UNC\server\share`` is ``\\server\share``, any other ``\??\x`` (a volume
    GUID) is ``\\?\x``, and what has no such prefix is itself.
    """
    if not name.startswith(_NT_PREFIX):
        return name
    rest = name[len(_NT_PREFIX) :]
    if _DRIVE.match(rest):
        return rest
    if rest[:4].upper() == "UNC\\":
        return f"\\\\{rest[4:]}"
    return _WIN32_PREFIX + rest


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    """What symbolic links and mount points share."""

    TAG: ClassVar[ReparseTag]
    FIXED: ClassVar[struct.Struct]

    substitute_name: str
    print_name: str

    @property
    def tag(self) -> int:
        """The reparse tag."""
        return self.TAG

    @property
    def target(self) -> str:
        """Where the link leads, as a user would write it: the print name, else what the other one says."""
        return self.print_name or target_of_substitute_name(self.substitute_name)

    def _fixed(self, *offsets_and_lengths: int) -> bytes:
        return self.FIXED.pack(*offsets_and_lengths)

    def to_bytes(self) -> bytes:
        """The whole buffer, laid out as go-winio does.

        Raises:
            ReparseError: the names are too long for the 16-bit length.
        """
        substitute = encode_utf16(self.substitute_name)
        printed = encode_utf16(self.print_name)
        paths = substitute + b"\0\0" + printed + b"\0\0"
        if len(paths) > 0xFFFF - self.FIXED.size:
            raise ReparseError(f"a link's target of {len(self.target)} characters is too long")
        data = self._fixed(0, len(substitute), len(substitute) + 2, len(printed)) + paths
        return _HEADER.pack(self.tag, len(data), 0) + data


@dataclasses.dataclass(frozen=True, slots=True)
class SymbolicLink(_Link):
    """A symbolic link.

    Attributes:
        substitute_name: what the system follows.
        print_name: what it shows; may be empty.
        flags: 1 where the substitute name is relative; other bits are kept.
    """

    TAG = ReparseTag.SYMLINK
    FIXED = _NAMES_AND_FLAGS

    flags: int = 0

    @classmethod
    def to(cls, target: str) -> SymbolicLink:
        """The link to *target* as go-winio makes it; the separator is the backslash."""
        substitute, relative = substitute_name_for(target)
        return cls(substitute, target, SYMLINK_FLAG_RELATIVE if relative else 0)

    @property
    def is_relative(self) -> bool:
        """Whether the substitute name is relative to the link's directory (or to its drive's root)."""
        return bool(self.flags & SYMLINK_FLAG_RELATIVE)

    def _fixed(self, *offsets_and_lengths: int) -> bytes:
        return self.FIXED.pack(*offsets_and_lengths, self.flags)


@dataclasses.dataclass(frozen=True, slots=True)
class MountPoint(_Link):
    """A mount point: a junction to a directory, or a volume's mount folder."""

    TAG = ReparseTag.MOUNT_POINT
    FIXED = _NAMES

    @classmethod
    def to(cls, target: str) -> MountPoint:
        """The junction to *target* as go-winio makes it."""
        return cls(substitute_name_for(target)[0], target)


@dataclasses.dataclass(frozen=True, slots=True)
class RawReparse:
    """A reparse point of any other tag, as it is.

    Attributes:
        tag: the reparse tag.
        data: what follows the header (and the GUID).
        guid: the 16 bytes that stand between header and data where the tag is not Microsoft's, else b"".
        reserved: the header's reserved word.
    """

    tag: int
    data: bytes
    guid: bytes = b""
    reserved: int = 0

    def to_bytes(self) -> bytes:
        """The whole buffer, exactly as it was parsed.

        Raises:
            ReparseError: the data is too long, or the GUID is missing or too much.
        """
        expected = 0 if self.tag & _MICROSOFT_TAG else GUID_SIZE
        if len(self.guid) != expected:
            raise ReparseError(f"reparse tag {tag_name(self.tag)} needs a GUID of {expected} bytes")
        if len(self.data) > 0xFFFF:
            raise ReparseError(f"reparse data of {len(self.data)} bytes is too long")
        return _HEADER.pack(self.tag, len(self.data), self.reserved) + self.guid + self.data


ReparsePoint = SymbolicLink | MountPoint | RawReparse


# -- buffers ----------------------------------------------------------------------------------------


def reparse_tag(buffer: bytes) -> int:
    """The tag of a whole reparse buffer.

    Raises:
        ReparseError: *buffer* is shorter than a header.
    """
    if len(buffer) < HEADER_SIZE:
        raise ReparseError(f"a reparse buffer of {len(buffer)} bytes is shorter than its header")
    return int.from_bytes(buffer[:4], "little")


def parse_reparse(buffer: bytes, *, strict: bool = True) -> ReparsePoint:
    """Read a whole reparse buffer.

    ``parse_reparse(b).to_bytes() == b`` for a `RawReparse` always, for links where `is_canonical` says so.

    Args:
        buffer: from the tag on.
        strict: everything in it must be right.  Else a link needs no more than its print name, as in
            go-winio: the header's length is not looked at, the substitute name only if the other is empty.

    Raises:
        ReparseError: the buffer does not end where its length says, or a name lies outside of it.
    """
    tag = reparse_tag(buffer)
    _, length, reserved = _HEADER.unpack_from(buffer)
    start = HEADER_SIZE if tag & _MICROSOFT_TAG else HEADER_SIZE + GUID_SIZE
    if not strict and tag in (ReparseTag.SYMLINK, ReparseTag.MOUNT_POINT):
        return _parse_print_name(tag, buffer[start:])
    if len(buffer) != start + length:
        raise ReparseError(
            f"a reparse buffer ({tag_name(tag)}) has {len(buffer)} bytes, but {start + length} by its header"
        )
    data = buffer[start:]
    if tag == ReparseTag.SYMLINK:
        substitute, printed = _parse_names(data, _NAMES_AND_FLAGS.size)
        return SymbolicLink(substitute, printed, int.from_bytes(data[8:12], "little"))
    if tag == ReparseTag.MOUNT_POINT:
        return MountPoint(*_parse_names(data, _NAMES.size))
    return RawReparse(tag, data, buffer[HEADER_SIZE:start], reserved)


def _parse_names(data: bytes, paths_start: int) -> tuple[str, str]:
    if len(data) < paths_start:
        raise ReparseError(f"a link's reparse data of {len(data)} bytes is shorter than its fixed part")
    offsets = _NAMES.unpack_from(data)
    names: list[str] = []
    for offset, length in (offsets[:2], offsets[2:]):
        if length % 2:
            raise ReparseError(f"a link's name of {length} bytes is not UTF-16")
        names.append(_name(data, paths_start, offset, length))
    return names[0], names[1]


def _name(data: bytes, paths_start: int, offset: int, length: int) -> str:
    begin = paths_start + offset
    if begin + length > len(data):
        raise ReparseError(
            f"a link's name at {offset}, {length} bytes long, lies outside of its path buffer"
            f" of {len(data) - paths_start} bytes"
        )
    return decode_utf16(data[begin : begin + (length & ~1)])


def _parse_print_name(tag: int, data: bytes) -> SymbolicLink | MountPoint:
    """A link by its print name, whatever else is wrong with it; by the other name where that is empty."""
    kind = SymbolicLink if tag == ReparseTag.SYMLINK else MountPoint
    paths_start = kind.FIXED.size
    if len(data) < paths_start:
        raise ReparseError(f"a link's reparse data of {len(data)} bytes is shorter than its fixed part")
    substitute_at, substitute_length, print_at, print_length = _NAMES.unpack_from(data)
    printed = _name(data, paths_start, print_at, print_length)
    try:
        substitute = _name(data, paths_start, substitute_at, substitute_length)
    except ReparseError:
        if not printed:
            raise ReparseError("a link has neither a print name nor a substitute name") from None
        substitute = ""
    return kind(substitute, printed)


def is_canonical(buffer: bytes) -> bool:
    """Whether a link's target and kind alone give back *buffer*, byte for byte, as a tar header must.

    False for any tag that is neither a symbolic link nor a mount point, and for what is malformed.
    """
    try:
        point = parse_reparse(buffer)
        return not isinstance(point, RawReparse) and type(point).to(point.target).to_bytes() == buffer
    except ReparseError:
        return False


# -- POSIX ------------------------------------------------------------------------------------------


def drive_path(point: ReparsePoint, link_path: str, *, drive: str = "C") -> str | None:
    r"""Where a link on *drive* leads to, as a clean ``/``-separated path on that drive ("" is its root).

    ``..`` is resolved in the text, as Windows does, and never leads above the root.

    Args:
        point: the parsed reparse point.
        link_path: the link's own path on the drive (``Documents and Settings``; a leading slash is let pass).
        drive: the letter of the drive that the link is on.

    Returns:
        None where it leads elsewhere: another drive, a share, a volume GUID, an NT device, another tag.
    """
    if isinstance(point, RawReparse):
        return None
    name = point.substitute_name
    if "\0" in name:
        return None
    if name.startswith((_NT_PREFIX, _WIN32_PREFIX)):
        name = name[len(_NT_PREFIX) :]
    found = _DRIVE.match(name)
    if found is not None:
        rest = name[found.end() :]
        if found.group(1).upper() != drive.upper() or rest[:1] not in ("", "\\", "/"):
            return None
        return "/".join(_resolve([], rest))
    if name != point.substitute_name or not isinstance(point, SymbolicLink) or not point.is_relative:
        return None
    if not name or name.startswith(("\\\\", "//")):
        return None
    base = [] if name[0] in "\\/" else link_path.strip("/").split("/")[:-1]
    return "/".join(_resolve(base, name))


def _resolve(base: list[str], path: str) -> list[str]:
    resolved = list(base)
    for component in _SEPARATORS.split(path):
        if component == "..":
            del resolved[-1:]
        elif component not in ("", "."):
            resolved.append(component)
    return resolved


def posix_target(point: ReparsePoint, link_path: str, *, drive: str = "C") -> str | None:
    r"""The target of the POSIX link that stands for *point* in a mount of *drive*: always relative.

    ``C:\Users`` seen from ``Documents and Settings`` is ``Users``; ``C:\Data`` seen from ``Users/All Users``
    is ``../Data``.  It can't lead out of the mount.  Names are those of `host_safe`, and their letter
    case is the link's, not that of the file it leads to.

    Args, Returns: as for `drive_path`, but the root of the drive is ``.`` or a chain of ``..``.
    """
    path = drive_path(point, link_path, drive=drive)
    if path is None:
        return None
    target = path.split("/") if path else []
    parent = link_path.strip("/").split("/")[:-1]
    common = 0
    for ours, theirs in zip(parent, target, strict=False):
        if fold_key(ours) != fold_key(theirs):
            break
        common += 1
    parts = [".."] * (len(parent) - common) + [host_safe(part) for part in target[common:]]
    return "/".join(parts) or "."
