"""The condition of a callback ACE in binary form ([MS-DTYP] 2.4.4.17).

Layout: ``artx``, then tokens in postfix order, then zeros up to a multiple of four::

    u8 code
    0x01-0x04 integer literal    i64 value, u8 sign (1 plus, 2 minus, 3 none),
                                 u8 base (1 octal, 2 decimal, 3 hexadecimal)
    0x10 string literal          u32 length in bytes, UTF-16LE
    0x18 octet string literal    u32 length, bytes
    0x50 composite literal       u32 length in bytes, literal tokens
    0x51 SID literal             u32 length, SID
    0xf8-0xfb attribute name     u32 length in bytes, UTF-16LE (local, user, resource, device)
    0x80-0x93, 0xa0-0xa2         operators, nothing more
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, TypeAlias

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.sid import Sid

__all__ = [
    "ATTRIBUTE_PREFIXES",
    "BINARY_OPERATORS",
    "COMPOSITE",
    "INT64",
    "LOCAL_ATTRIBUTE",
    "LOGICAL_OPERATORS",
    "MAGIC",
    "NOT",
    "OCTET_STRING",
    "SID",
    "STRING",
    "UNARY_OPERATORS",
    "Integer",
    "Token",
    "condition_to_bytes",
    "parse_condition",
]

MAGIC: Final = b"artx"
INT64: Final = 0x04
INTEGERS: Final = range(0x01, 0x05)
STRING: Final = 0x10
OCTET_STRING: Final = 0x18
COMPOSITE: Final = 0x50
SID: Final = 0x51
LOCAL_ATTRIBUTE: Final = 0xF8
ATTRIBUTE_PREFIXES: Final = MappingProxyType(
    {LOCAL_ATTRIBUTE: "", 0xF9: "@USER.", 0xFA: "@RESOURCE.", 0xFB: "@DEVICE."}
)
BINARY_OPERATORS: Final = MappingProxyType(
    {
        0x80: "==",
        0x81: "!=",
        0x82: "<",
        0x83: "<=",
        0x84: ">",
        0x85: ">=",
        0x86: "Contains",
        0x88: "Any_of",
        0x8E: "Not_Contains",
        0x8F: "Not_Any_of",
    }
)
# Spelt as Windows writes them, which is not always as the specification does.
UNARY_OPERATORS: Final = MappingProxyType(
    {
        0x87: "Exists",
        0x89: "Member_of",
        0x8A: "Device_Member_of",
        0x8B: "Member_of_any",
        0x8C: "Device_Member_of_Any",
        0x8D: "Not_Exists",
        0x90: "Not_Member_of",
        0x91: "Not_Device_Member_of",
        0x92: "Not_Member_of_Any",
        0x93: "Not_Device_Member_of_Any",
    }
)
LOGICAL_OPERATORS: Final = MappingProxyType({0xA0: "&&", 0xA1: "||"})
NOT: Final = 0xA2
_OPERATORS: Final = frozenset({*BINARY_OPERATORS, *UNARY_OPERATORS, *LOGICAL_OPERATORS, NOT})

_U32: Final = struct.Struct("<I")
_INTEGER: Final = struct.Struct("<qBB")


@dataclasses.dataclass(frozen=True, slots=True)
class Integer:
    """An integer literal.

    Attributes:
        value: a signed 64-bit number.
        sign: 1 written with a plus, 2 with a minus, 3 with none.
        base: 1 octal, 2 decimal, 3 hexadecimal.
    """

    value: int
    sign: int = 3
    base: int = 2


Value: TypeAlias = "str | bytes | Integer | Sid | tuple[Token, ...] | None"


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token of a condition.

    Attributes:
        code: the token's code.
        value: None for an operator, else what the literal or the attribute name is; names and strings may
            have lone surrogates.
    """

    code: int
    value: Value = None

    def to_bytes(self) -> bytes:
        """The binary form."""
        value = self.value
        if value is None:
            return bytes((self.code,))
        if isinstance(value, Integer):
            return bytes((self.code,)) + _INTEGER.pack(value.value, value.sign, value.base)
        if isinstance(value, str):
            content = value.encode("utf-16-le", "surrogatepass")
        elif isinstance(value, bytes):
            content = value
        elif isinstance(value, Sid):
            content = value.to_bytes()
        else:
            content = b"".join([token.to_bytes() for token in value])
        return bytes((self.code,)) + _U32.pack(len(content)) + content


def condition_to_bytes(tokens: Iterable[Token]) -> bytes:
    """The application data of a callback ACE with that condition, padded to a multiple of four."""
    data = MAGIC + b"".join([token.to_bytes() for token in tokens])
    return data + bytes(-len(data) % 4)


def parse_condition(data: bytes) -> tuple[Token, ...]:
    """The tokens of a callback ACE's application data.

    Raises:
        SecurityDescriptorError: no condition at all, a token that does not exist, or one that is cut off.
    """
    if data[:4] != MAGIC:
        raise SecurityDescriptorError(
            f"callback ACE: application data starts with {data[:4].hex()!r}, not 'artx'"
        )
    tokens = []
    at = 4
    while at < len(data):
        if data[at] == 0:
            if any(data[at:]):
                raise SecurityDescriptorError(f"conditional ACE: token 0 at offset {at} is not padding")
            break
        token, at = _read_token(data, at, len(data), inside_composite=False)
        tokens.append(token)
    return tuple(tokens)


def _read_token(data: bytes, at: int, end: int, *, inside_composite: bool) -> tuple[Token, int]:
    code = data[at]
    at += 1
    if code in INTEGERS:
        if at + _INTEGER.size > end:
            raise SecurityDescriptorError(f"conditional ACE: token at offset {at - 1} is cut off")
        return Token(code, Integer(*_INTEGER.unpack_from(data, at))), at + _INTEGER.size
    if code in _OPERATORS and not inside_composite:
        return Token(code), at
    is_literal = code in (STRING, OCTET_STRING, SID)
    is_outer = code == COMPOSITE or code in ATTRIBUTE_PREFIXES
    if not is_literal and (inside_composite or not is_outer):
        # Windows has no composites inside composites either.
        where = " inside a composite" if inside_composite else ""
        raise SecurityDescriptorError(
            f"conditional ACE: token {code:#04x} at offset {at - 1}{where} is not known"
        )
    if at + 4 > end:
        raise SecurityDescriptorError(f"conditional ACE: token at offset {at - 1} is cut off")
    (length,) = _U32.unpack_from(data, at)
    start, stop = at + 4, at + 4 + length
    if stop > end:
        raise SecurityDescriptorError(f"conditional ACE: token at offset {at - 1} is cut off")
    return Token(code, _content(data, code, start, stop)), stop


def _content(data: bytes, code: int, start: int, stop: int) -> Value:
    if code == OCTET_STRING:
        return data[start:stop]
    if code == SID:
        sid = Sid.from_bytes(data, start, stop)
        if sid.size != stop - start:
            raise SecurityDescriptorError(f"conditional ACE: SID at offset {start} is shorter than its token")
        return sid
    if code == COMPOSITE:
        members = []
        while start < stop:
            member, start = _read_token(data, start, stop, inside_composite=True)
            members.append(member)
        return tuple(members)
    if (stop - start) % 2:
        raise SecurityDescriptorError(f"conditional ACE: string at offset {start} has an odd number of bytes")
    return data[start:stop].decode("utf-16-le", "surrogatepass")
