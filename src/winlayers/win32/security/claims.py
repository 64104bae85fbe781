"""The claim of a resource attribute ACE: CLAIM_SECURITY_ATTRIBUTE_RELATIVE_V1 ([MS-DTYP] 2.4.10.1).

Layout, little-endian, offsets from the start of the claim::

    u32 offset of the name
    u16 type
    u16 reserved
    u32 flags
    u32 count of values
    u32 offset[count] of each value
    name: UTF-16LE, zero-terminated
    values: i64 or u64 (integers, booleans); UTF-16LE, zero-terminated (strings);
            u32 length and bytes (SIDs, octet strings)

Nothing is aligned: Windows puts name and values one right behind the other, then pads the ACE.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Final, TypeAlias

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.sid import Sid

__all__ = ["Claim", "ClaimType", "ClaimValue"]

_HEADER: Final = struct.Struct("<IHHII")
_U32: Final = struct.Struct("<I")
ClaimValue: TypeAlias = int | str | bytes | Sid


class ClaimType(enum.IntEnum):
    """Types of values.  FQBN (4) exists, but has neither a text form nor a use in descriptors."""

    INT64 = 1
    UINT64 = 2
    STRING = 3
    SID = 5
    BOOLEAN = 6
    OCTET_STRING = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A claim: a name with typed values.

    Attributes:
        name: without zero characters.
        type: of all values.
        values: int (integers, booleans as 0 or 1), str, Sid or bytes, as the type says.
        flags: CLAIM_SECURITY_ATTRIBUTE_* in the lower half, free in the upper.
        reserved: should be zero.
    """

    name: str
    type: ClaimType
    values: tuple[ClaimValue, ...] = ()
    flags: int = 0
    reserved: int = 0

    def to_bytes(self) -> bytes:
        """The binary form as Windows lays it out, padded to a multiple of four."""
        contents = [_encode_string(self.name), *(self._encode(value) for value in self.values)]
        offsets = []
        at = _HEADER.size + 4 * len(self.values)
        for content in contents:
            offsets.append(at)
            at += len(content)
        head = _HEADER.pack(offsets[0], self.type, self.reserved, self.flags, len(self.values))
        data = b"".join([head, struct.pack(f"<{len(self.values)}I", *offsets[1:]), *contents])
        return data + bytes(-len(data) % 4)

    def _encode(self, value: ClaimValue) -> bytes:
        try:
            match self.type:
                case ClaimType.INT64 if isinstance(value, int):
                    return struct.pack("<q", value)
                case ClaimType.UINT64 | ClaimType.BOOLEAN if isinstance(value, int):
                    return struct.pack("<Q", value)
                case ClaimType.STRING if isinstance(value, str):
                    return _encode_string(value)
                case ClaimType.SID if isinstance(value, Sid):
                    return _U32.pack(value.size) + value.to_bytes()
                case ClaimType.OCTET_STRING if isinstance(value, bytes):
                    return _U32.pack(len(value)) + value
                case _:
                    raise SecurityDescriptorError(
                        f"claim {self.name!r}: a value of type {type(value).__name__} is not {self.type.name}"
                    )
        except struct.error as error:
            raise SecurityDescriptorError(
                f"claim {self.name!r}: {value!r} does not fit {self.type.name}"
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Claim:
        """The claim that a resource attribute ACE's application data is.

        Raises:
            SecurityDescriptorError: cut off, of an unknown type, or with values that overlap each other.
        """
        if len(data) < _HEADER.size:
            raise SecurityDescriptorError(f"resource attribute: {len(data)} bytes are fewer than its header")
        at_name, kind, reserved, flags, count = _HEADER.unpack_from(data)
        if kind not in frozenset(ClaimType):
            raise SecurityDescriptorError(f"resource attribute: values of type {kind} are not known")
        claim_type = ClaimType(kind)
        if _HEADER.size + 4 * count > len(data):
            raise SecurityDescriptorError(
                f"resource attribute: {count} values do not fit in {len(data)} bytes"
            )
        offsets = struct.unpack_from(f"<{count}I", data, _HEADER.size)
        name, _ = _decode_string(data, at_name)
        values = []
        total = 0
        for offset in offsets:
            value, size = _decode(data, offset, claim_type)
            values.append(value)
            # Values that share their bytes could make a small claim decode to a huge one.
            total += size
            if total > len(data):
                raise SecurityDescriptorError("resource attribute: its values overlap each other")
        return cls(name, claim_type, tuple(values), flags, reserved)


def _encode_string(text: str) -> bytes:
    if "\0" in text:
        raise SecurityDescriptorError(f"resource attribute: a zero character in {text[:100]!r}")
    return (text + "\0").encode("utf-16-le", "surrogatepass")


def _decode_string(data: bytes, offset: int) -> tuple[str, int]:
    end = offset
    while True:
        end = data.find(b"\0\0", end)
        if end < 0:
            raise SecurityDescriptorError(f"resource attribute: the string at offset {offset} does not end")
        if (end - offset) % 2 == 0:
            break
        end += 1
    return data[offset:end].decode("utf-16-le", "surrogatepass"), end + 2 - offset


def _decode(data: bytes, offset: int, kind: ClaimType) -> tuple[ClaimValue, int]:
    if kind is ClaimType.STRING:
        return _decode_string(data, offset)
    size = 8 if kind in (ClaimType.INT64, ClaimType.UINT64, ClaimType.BOOLEAN) else 4
    if offset + size > len(data):
        raise SecurityDescriptorError(f"resource attribute: the value at offset {offset} is cut off")
    if size == 8:
        (number,) = struct.unpack_from("<q" if kind is ClaimType.INT64 else "<Q", data, offset)
        return int(number), size
    (length,) = _U32.unpack_from(data, offset)
    start, stop = offset + 4, offset + 4 + length
    if stop > len(data):
        raise SecurityDescriptorError(f"resource attribute: the value at offset {offset} is cut off")
    if kind is ClaimType.OCTET_STRING:
        return data[start:stop], 4 + length
    sid = Sid.from_bytes(data, start, stop)
    if sid.size != length:
        raise SecurityDescriptorError(
            f"resource attribute: the SID at offset {offset} is shorter than its value"
        )
    return sid, 4 + length
