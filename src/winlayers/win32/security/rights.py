"""Access masks and their names in SDDL.

Values are those of winnt.h and iads.h; names those of sddl.h and [MS-DTYP] 2.5.1.1.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from winlayers.errors import SddlError
from winlayers.win32.security.ace import AceType

__all__ = [
    "FILE_ALL_ACCESS",
    "FILE_GENERIC_EXECUTE",
    "FILE_GENERIC_READ",
    "FILE_GENERIC_WRITE",
    "GENERIC_ALL",
    "GENERIC_EXECUTE",
    "GENERIC_READ",
    "GENERIC_RIGHTS",
    "GENERIC_WRITE",
    "format_rights",
    "map_generic_file_rights",
    "parse_rights",
]

GENERIC_READ: Final = 0x80000000
GENERIC_WRITE: Final = 0x40000000
GENERIC_EXECUTE: Final = 0x20000000
GENERIC_ALL: Final = 0x10000000
GENERIC_RIGHTS: Final = GENERIC_READ | GENERIC_WRITE | GENERIC_EXECUTE | GENERIC_ALL
FILE_ALL_ACCESS: Final = 0x001F01FF
FILE_GENERIC_READ: Final = 0x00120089
FILE_GENERIC_WRITE: Final = 0x00120116
FILE_GENERIC_EXECUTE: Final = 0x001200A0

# Single bits, in the order in which Windows writes them.
_BITS: Final = MappingProxyType(
    {
        "CC": 0x00000001,
        "DC": 0x00000002,
        "LC": 0x00000004,
        "SW": 0x00000008,
        "RP": 0x00000010,
        "WP": 0x00000020,
        "DT": 0x00000040,
        "LO": 0x00000080,
        "CR": 0x00000100,
        "SD": 0x00010000,
        "RC": 0x00020000,
        "WD": 0x00040000,
        "WO": 0x00080000,
        "GA": GENERIC_ALL,
        "GX": GENERIC_EXECUTE,
        "GW": GENERIC_WRITE,
        "GR": GENERIC_READ,
    }
)
# Names of whole masks, written where the mask is exactly that; a key's execute right is its read right.
_WHOLE: Final = MappingProxyType(
    {
        "FA": FILE_ALL_ACCESS,
        "FR": FILE_GENERIC_READ,
        "FW": FILE_GENERIC_WRITE,
        "FX": FILE_GENERIC_EXECUTE,
        "KA": 0x000F003F,
        "KR": 0x00020019,
        "KW": 0x00020006,
        "KX": 0x00020019,
    }
)
_LABEL_POLICY: Final = MappingProxyType({"NW": 1, "NR": 2, "NX": 4})
_NAMES: Final = MappingProxyType({**_BITS, **_WHOLE, **_LABEL_POLICY})
_WHOLE_BY_MASK: Final = MappingProxyType({mask: name for name, mask in reversed(list(_WHOLE.items()))})
_WORD: Final = re.compile(r" *([A-Za-z]{2})")
_NUMBER: Final = re.compile(r" *(0[xX][0-9A-Fa-f]+|[0-9]+)")


def parse_rights(text: str) -> int:
    """The access mask that *text* says: names, in any case, with spaces before them; or one number.

    Numbers are as C writes them: ``0x`` hexadecimal, a leading 0 octal, else decimal.

    Raises:
        SddlError: an unknown name, or a number of more than 32 bits (Windows clamps it to all bits).
    """
    match = _NUMBER.fullmatch(text)
    if match is not None:
        return _number(match[1])
    if not text.strip(" "):
        return 0  # blanks alone are no rights at all
    mask = at = 0
    while at < len(text):
        found = _WORD.match(text, at)
        right = None if found is None else _NAMES.get(found[1].upper())
        if found is None or right is None:
            raise SddlError(f"unknown access right {text[at : at + 20].strip(' ')[:2]!r} in {text[:100]!r}")
        mask |= right
        at = found.end()
    return mask


def _number(digits: str) -> int:
    if len(digits) > 64:
        raise SddlError(f"access mask {digits[:20]}... does not fit in 32 bits")
    try:
        if digits[:2] in ("0x", "0X"):
            value = int(digits, 16)
        elif digits.startswith("0") and len(digits) > 1:
            value = int(digits, 8)
        else:
            value = int(digits, 10)
    except ValueError as error:
        raise SddlError(f"malformed access mask {digits!r}") from error
    if value > 0xFFFFFFFF:
        raise SddlError(f"access mask {digits} does not fit in 32 bits")
    return value


def format_rights(mask: int, ace_type: int) -> str:
    """*mask* as Windows writes it in an entry of *ace_type*."""
    if ace_type == AceType.SYSTEM_MANDATORY_LABEL and 0 < mask < 8:
        return "".join(name for name, bit in _LABEL_POLICY.items() if mask & bit)
    if mask in _WHOLE_BY_MASK:
        return _WHOLE_BY_MASK[mask]
    names = []
    rest = mask
    for name, bit in _BITS.items():
        if rest & bit:
            names.append(name)
            rest &= ~bit
    return "".join(names) if not rest else f"{mask:#x}"


def map_generic_file_rights(mask: int) -> int:
    """*mask* with its generic rights replaced by what they mean for files and directories."""
    if not mask & GENERIC_RIGHTS:
        return mask
    mapped = mask & ~GENERIC_RIGHTS
    for generic, meaning in (
        (GENERIC_READ, FILE_GENERIC_READ),
        (GENERIC_WRITE, FILE_GENERIC_WRITE),
        (GENERIC_EXECUTE, FILE_GENERIC_EXECUTE),
        (GENERIC_ALL, FILE_ALL_ACCESS),
    ):
        if mask & generic:
            mapped |= meaning
    return mapped
