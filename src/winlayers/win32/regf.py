"""Registry hives (regf files): the smallest valid one, and a check of the header of any.

A base layer needs five hives, and Windows Server 2025 refuses one whose hives are not valid; a layer made
elsewhere gets empty ones from here.  All numbers are little endian.

The base block, the first 4,096 bytes::

    offset  size  field
    0       4     "regf"
    4       4     primary sequence number      } equal unless the last write was cut short
    8       4     secondary sequence number    }
    12      8     last written, FILETIME
    20      4     major version, 1
    24      4     minor version, 3 to 6 (2 and less: betas of Windows NT)
    28      4     file type, 0: primary (others are logs)
    32      4     file format, 1
    36      4     offset of the root key's cell, from the end of the base block
    40      4     size of the bins in bytes, a multiple of 4,096
    44      4     clustering factor, 1
    48      64    the last of the file's name, UTF-16LE
    144     4     flags
    508     4     checksum: exclusive or of the 127 words before; 0 becomes 1, 0xFFFFFFFF becomes 0xFFFFFFFE

Then bins: "hbin", u32 offset from the end of the base block, u32 size (a multiple of 4,096), 8 bytes
reserved, FILETIME, u32 spare; in them cells: i32 size, negative while the cell is in use, a multiple of 8.  A
key is a cell "nk", its security a cell "sk" in a ring of all of the hive's.

Source: M. Suhanov, "Windows registry file format specification".
"""

from __future__ import annotations

import dataclasses
import struct

from winlayers.errors import RegistryHiveError
from winlayers.win32.filetime import MAX_FILETIME
from winlayers.win32.names import decode_utf16, encode_utf16

BASE_BLOCK_SIZE = 4096
BIN_ALIGNMENT = 4096
MAX_KEY_NAME_UNITS = 255

_BASE_BLOCK = struct.Struct("<4sIIQIIIIIII64s")
_CHECKSUM_OFFSET = 508
_WORDS = struct.Struct("<127I")
_BIN_HEADER = struct.Struct("<4sIIQQI")
_KEY = struct.Struct("<2sHQIIIIIIIIIIIIIIIHH")
_SECURITY = struct.Struct("<2sHIIII")
_NONE = 0xFFFF_FFFF

_KEY_HIVE_ENTRY = 0x04
_KEY_NO_DELETE = 0x08
_KEY_COMP_NAME = 0x20

_ALL_ACCESS = 0xF003F
_READ = 0x20019
_CONTAINER_INHERIT = 2
_SYSTEM = struct.pack(">BBHII", 1, 1, 0, 5, 18 << 24)
_ADMINISTRATORS = struct.pack(">BBHI", 1, 2, 0, 5) + struct.pack("<II", 32, 544)
_USERS = struct.pack(">BBHI", 1, 2, 0, 5) + struct.pack("<II", 32, 545)


def _default_security() -> bytes:
    """``O:BAG:SYD:(A;CI;KA;;;SY)(A;CI;KA;;;BA)(A;CI;KR;;;BU)``, self-relative."""
    entries = b"".join(
        struct.pack("<BBHI", 0, _CONTAINER_INHERIT, 8 + len(sid), mask) + sid
        for sid, mask in ((_SYSTEM, _ALL_ACCESS), (_ADMINISTRATORS, _ALL_ACCESS), (_USERS, _READ))
    )
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 3, 0) + entries
    owner = 20
    group = owner + len(_ADMINISTRATORS)
    dacl = group + len(_SYSTEM)
    control = 0x8004  # self-relative, with a DACL
    return struct.pack("<BBHIIII", 1, 0, control, owner, group, 0, dacl) + _ADMINISTRATORS + _SYSTEM + acl


DEFAULT_SECURITY = _default_security()
"""The root key's descriptor: full control for SYSTEM and Administrators, reading for Users."""


@dataclasses.dataclass(frozen=True, slots=True)
class HiveHeader:
    """A hive's base block.

    Attributes:
        primary_sequence, secondary_sequence: equal in a clean hive.
        last_written: FILETIME.
        version: (major, minor).
        root_offset: of the root key's cell, from the end of the base block.
        bins_size: bytes in all bins.
        file_name: the end of the path that the hive was written to.
        flags: 0x2 marks a differencing hive.
    """

    primary_sequence: int
    secondary_sequence: int
    last_written: int
    version: tuple[int, int]
    root_offset: int
    bins_size: int
    file_name: str
    flags: int

    @property
    def is_dirty(self) -> bool:
        """Whether the last write was cut short, so that the logs must be replayed."""
        return self.primary_sequence != self.secondary_sequence


def hive_checksum(base_block: bytes) -> int:
    """The checksum of a base block, over its first 508 bytes."""
    total = 0
    for word in _WORDS.unpack_from(base_block):
        total ^= word
    return {0: 1, _NONE: _NONE - 1}.get(total, total)


def validate_hive_header(data: bytes) -> HiveHeader:
    """Check a hive's base block, and the first bin's signature where *data* reaches that far.

    Args:
        data: the hive, or its first 4,096 bytes or more.

    Raises:
        RegistryHiveError: it is not a primary hive file that Windows would try to load.
    """
    if len(data) < BASE_BLOCK_SIZE:
        raise RegistryHiveError(f"a hive of {len(data)} bytes is shorter than its base block")
    fields = _BASE_BLOCK.unpack_from(data)
    signature, primary, secondary, written, major, minor, kind, form, root, size, _, name = fields
    (checksum,) = struct.unpack_from("<I", data, _CHECKSUM_OFFSET)
    (flags,) = struct.unpack_from("<I", data, 144)
    if signature != b"regf":
        raise RegistryHiveError(f"a hive begins with {signature!r}, not with b'regf'")
    if checksum != hive_checksum(data):
        raise RegistryHiveError(
            f"a hive's checksum is {hive_checksum(data):#010x}, not {checksum:#010x} as it says"
        )
    if major != 1 or not 2 <= minor <= 6:
        raise RegistryHiveError(f"a hive has the version {major}.{minor}")
    if kind != 0 or form != 1:
        raise RegistryHiveError(f"a hive has the file type {kind} and the format {form}: not a primary file")
    if size == 0 or size % BIN_ALIGNMENT:
        raise RegistryHiveError(f"a hive has bins of {size} bytes, not a multiple of {BIN_ALIGNMENT}")
    if not _BIN_HEADER.size <= root < size or root % 8:
        raise RegistryHiveError(f"a hive has its root key at {root}, outside of its bins of {size} bytes")
    if len(data) >= BASE_BLOCK_SIZE + 4 and data[BASE_BLOCK_SIZE : BASE_BLOCK_SIZE + 4] != b"hbin":
        raise RegistryHiveError("a hive's first bin does not begin with b'hbin'")
    text = decode_utf16(name).split("\0", 1)[0]
    return HiveHeader(primary, secondary, written, (major, minor), root, size, text, flags)


def minimal_hive(
    root_name: str = "ROOT",
    *,
    file_name: str = "",
    last_written: int = 0,
    security: bytes = DEFAULT_SECURITY,
) -> bytes:
    """A hive with a root key and nothing in it; the same bytes for the same arguments.

    Args:
        root_name: the root key's name, 1 to 255 UTF-16 units, no backslash.
        file_name: for the header; the last 31 units are kept.
        last_written: FILETIME of hive, bin and key.
        security: the root key's self-relative security descriptor.

    Raises:
        RegistryHiveError: the name or the time can't stand in a hive.
    """
    wide = encode_utf16(root_name)
    if not 2 <= len(wide) <= 2 * MAX_KEY_NAME_UNITS or "\\" in root_name or "\0" in root_name:
        raise RegistryHiveError(f"{root_name!a} can't be the name of a key")
    if not 0 <= last_written <= MAX_FILETIME:
        raise RegistryHiveError(f"{last_written} can't be the time of a hive")
    name, compressed = (root_name.encode("ascii"), _KEY_COMP_NAME) if root_name.isascii() else (wide, 0)
    root = _BIN_HEADER.size
    key_size = 4 + _KEY.size + len(name)
    security_offset = root + key_size + -key_size % 8
    flags = _KEY_HIVE_ENTRY | _KEY_NO_DELETE | compressed
    no_values = (0, 0, _NONE, _NONE, 0, _NONE)
    key = _KEY.pack(
        b"nk", flags, last_written, 0, _NONE, *no_values, security_offset, _NONE, 0, 0, 0, 0, 0, len(name), 0
    )
    ring = (security_offset, security_offset)
    cells = _cell(key + name) + _cell(_SECURITY.pack(b"sk", 0, *ring, 1, len(security)) + security)
    used = _BIN_HEADER.size + len(cells)
    size = used + -used % BIN_ALIGNMENT
    if size > used:
        cells += struct.pack("<i", size - used) + bytes(size - used - 4)
    bins = _BIN_HEADER.pack(b"hbin", 0, size, 0, last_written, 0) + cells
    return _base_block(root, size, file_name, last_written) + bins


def _cell(data: bytes) -> bytes:
    """A cell in use."""
    size = 4 + len(data)
    padding = -size % 8
    return struct.pack("<i", -(size + padding)) + data + bytes(padding)


def _base_block(root: int, size: int, file_name: str, last_written: int) -> bytes:
    name = encode_utf16(file_name)[-62:].ljust(64, b"\0")
    fixed = _BASE_BLOCK.pack(b"regf", 1, 1, last_written, 1, 5, 0, 1, root, size, 1, name)
    covered = fixed.ljust(_CHECKSUM_OFFSET, b"\0")
    return (covered + struct.pack("<I", hive_checksum(covered))).ljust(BASE_BLOCK_SIZE, b"\0")
