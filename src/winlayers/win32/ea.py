"""NTFS extended attributes: FILE_FULL_EA_INFORMATION buffers.

Entries follow each other; all numbers are little endian, each entry starts on a multiple of four bytes::

    offset  size  field
    0       4     NextEntryOffset: from the start of this entry to the next; 0 in the last
    4       1     Flags: 0x80 FILE_NEED_EA
    5       1     EaNameLength: bytes in the name, without the NUL after it
    6       2     EaValueLength: bytes in the value
    8       n     EaName, then a NUL
    9 + n   m     EaValue, then zeroes up to the next multiple of four

Sources: [MS-FSCC] 2.4.16; go-winio, ``ea.go``, for the padding of the last entry (it is padded too) and for
the names that pass (empty ones, and up to 255 bytes; NTFS itself takes 1 to 254).

Names are bytes by nature, ASCII by rule.  As text they are UTF-8 with ``surrogateescape``, so that any bytes
survive: `name_from_bytes` and `name_to_bytes`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from winlayers.errors import ExtendedAttributeError
from winlayers.win32.metadata import ExtendedAttribute

FILE_NEED_EA = 0x80
MAX_NAME_BYTES = 0xFF
MAX_VALUE_BYTES = 0xFFFF

_ENTRY = struct.Struct("<IBBH")


def name_from_bytes(data: bytes) -> str:
    """The text of an attribute's name; bytes that are not UTF-8 become lone surrogates U+DC80 to U+DCFF."""
    return data.decode("utf-8", "surrogateescape")


def name_to_bytes(name: str) -> bytes:
    """The bytes of an attribute's name.

    Raises:
        ExtendedAttributeError: *name* holds a surrogate that stands for no byte.
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ExtendedAttributeError(f"the name of an extended attribute can't hold {name!a}") from None


def parse_eas(data: bytes | memoryview) -> tuple[ExtendedAttribute, ...]:
    """Read a buffer of extended attributes, in their order; an empty buffer holds none.

    What stands between entries, and after the last, is padding and is not looked at.

    Raises:
        ExtendedAttributeError: an entry ends beyond the buffer, or the next one begins inside it.
    """
    found: list[ExtendedAttribute] = []
    view = memoryview(data)
    start, total = 0, len(view)
    while start < total:
        if total - start < _ENTRY.size:
            raise ExtendedAttributeError(f"an extended attribute at offset {start} is cut off in its header")
        next_offset, flags, name_length, value_length = _ENTRY.unpack_from(view, start)
        name_start = start + _ENTRY.size
        value_start = name_start + name_length + 1
        end = value_start + value_length
        if end > total:
            raise ExtendedAttributeError(
                f"an extended attribute at offset {start} ends at {end}, beyond its buffer of {total} bytes"
            )
        name = name_from_bytes(bytes(view[name_start : value_start - 1]))
        found.append(ExtendedAttribute(name, bytes(view[value_start:end]), flags))
        if next_offset == 0:
            break
        if next_offset < end - start or next_offset > total - start:
            raise ExtendedAttributeError(
                f"an extended attribute at offset {start} has its successor at {start + next_offset}"
                f", not between its own end {end} and the buffer's end {total}"
            )
        start += next_offset
    return tuple(found)


def build_eas(attributes: Iterable[ExtendedAttribute]) -> bytes:
    """Write a buffer of extended attributes, in the order given; b"" for none.

    Raises:
        ExtendedAttributeError: a name is longer than 255 bytes, a value longer than 65,535, or flags are not
            one byte.
    """
    entries: list[tuple[bytes, ExtendedAttribute]] = [(name_to_bytes(ea.name), ea) for ea in attributes]
    parts: list[bytes] = []
    for number, (name, ea) in enumerate(entries, start=1):
        if len(name) > MAX_NAME_BYTES:
            raise ExtendedAttributeError(
                f"the name of an extended attribute has {len(name)} bytes, over the limit of {MAX_NAME_BYTES}"
            )
        if len(ea.value) > MAX_VALUE_BYTES:
            raise ExtendedAttributeError(
                f"the extended attribute {ea.name!a} has {len(ea.value)} bytes"
                f", over the limit of {MAX_VALUE_BYTES}"
            )
        if not 0 <= ea.flags <= 0xFF:
            raise ExtendedAttributeError(f"the extended attribute {ea.name!a} has flags {ea.flags:#x}")
        size = _ENTRY.size + len(name) + 1 + len(ea.value)
        padded = (size + 3) & ~3
        next_offset = 0 if number == len(entries) else padded
        parts.append(_ENTRY.pack(next_offset, ea.flags, len(name), len(ea.value)))
        parts += (name, b"\0", ea.value, bytes(padded - size))
    return b"".join(parts)
