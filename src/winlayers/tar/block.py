"""Parsing one 512-byte header block, quickly: most blocks of an archive share most of their bytes.

Layout: :mod:`winlayers.tar.header`.  Acceptance is that of Go's ``archive/tar`` (go1.27 ``readHeader``,
``getFormat``).
"""

from __future__ import annotations

import zlib

from winlayers.errors import TarError
from winlayers.tar.fields import c_string, parse_numeric, parse_octal
from winlayers.tar.header import Format, TarHeader, Time

_V7, _GNU, _STAR = int(Format.V7), int(Format.GNU), int(Format.STAR)
_USTAR_OR_PAX = int(Format.USTAR | Format.PAX)
_TYPES = [chr(value) for value in range(256)]
_CACHE_LIMIT = 256


def _checksum_ok(block: bytes, ascii_only: bool) -> bool:
    """Whether the checksum field holds the sum of the block's bytes, unsigned or signed, itself being blanks.

    The low half of Adler-32 is the sum plus one, modulo 65,521: exact where all bytes are below 128.
    """
    field = block[148:156]
    stored = parse_octal(field)
    if ascii_only:
        return stored == (zlib.adler32(block) & 0xFFFF) - 1 - sum(field) + 256
    outside = block[:148] + block[156:]
    unsigned = sum(outside) + 256
    return stored in (unsigned, unsigned - 256 * sum(byte >= 0x80 for byte in outside))


def is_gnu(block: bytes) -> bool:
    """Whether a block whose checksum is right is in GNU's format."""
    return block[257:265] == b"ustar  \0"


_Tail = tuple[int, int, str, str, int, int, str, Time | None, Time | None]
"""A block from byte 257 on, parsed: its format, the formats that it may count as, uname, gname, devmajor,
devminor, prefix with its slash, atime, ctime."""


def _parse_tail(tail: bytes) -> _Tail:
    magic = tail[:6]
    atime: Time | None = None
    ctime: Time | None = None
    kept = 0
    prefix = ""
    if magic == b"ustar\0" and tail[251:255] == b"tar\0":
        kind = _STAR
        prefix = c_string(tail[88:219])
        atime, ctime = (parse_numeric(tail[219:231]), 0), (parse_numeric(tail[231:243]), 0)
    elif magic == b"ustar\0":
        kind = _USTAR_OR_PAX
        prefix = c_string(tail[88:243])
        if tail[79] == 0 and tail[87] == 0 and tail.isascii():
            kept = kind
    elif tail[:8] == b"ustar  \0":
        kind = kept = _GNU
        try:
            if tail[88]:
                atime = parse_numeric(tail[88:100]), 0
            if tail[100]:
                ctime = parse_numeric(tail[100:112]), 0
        except TarError:
            # Go before 1.8 wrote USTAR's prefix where this format has atime and ctime.
            atime = ctime = None
            kept = 0
            text = tail[88:243].partition(b"\0")[0]
            prefix = text.decode("ascii") if text.isascii() else ""
    else:
        return _V7, 0, "", "", 0, 0, "", None, None
    major, minor = parse_numeric(tail[72:80]), parse_numeric(tail[80:88])
    if prefix:
        prefix += "/"
    return kind, kept, c_string(tail[8:40]), c_string(tail[40:72]), major, minor, prefix, atime, ctime


class BlockParser:
    """Parses header blocks, remembering the parts that recur (a bounded number of them)."""

    def __init__(self) -> None:
        self._tails: dict[bytes, _Tail] = {}
        self._owners: dict[bytes, tuple[int, int, int, bool]] = {}
        self._numbers: dict[bytes, tuple[int, bool]] = {}

    def parse(self, block: bytes) -> tuple[TarHeader, int]:
        """The header in *block*, offsets not set, and the formats (bits of Format) that it may count as.

        Raises:
            TarError: wrong checksum or malformed numbers.
        """
        ascii_only = block.isascii()
        if not _checksum_ok(block, ascii_only):
            raise TarError("invalid tar header: wrong checksum")
        key = block[257:]
        tail = self._tails.get(key)
        if tail is None:
            tail = _parse_tail(key)
            if len(self._tails) >= _CACHE_LIMIT:
                self._tails.clear()
            self._tails[key] = tail
        kind, kept, uname, gname, major, minor, name, atime, ctime = tail
        key = block[100:124]
        owner = self._owners.get(key)
        if owner is None:
            owner = self._parse_owner(key)
        mode, uid, gid, owner_terminated = owner
        field = block[124:136]
        if field[:11].isdigit() and field[11] == 0:
            size, terminated = _octal_digits(field), owner_terminated
        else:
            size, terminated = parse_numeric(field), owner_terminated and field[11] == 0
        key = block[136:148]
        number = self._numbers.get(key)
        if number is None:
            number = self._parse_number(key)
        mtime, mtime_terminated = number
        if kind == _USTAR_OR_PAX and not (ascii_only and terminated and mtime_terminated):
            kept = 0
        end = block.find(0, 0, 100)
        name += block[: end if end >= 0 else 100].decode("utf-8", "surrogateescape")
        link = "" if block[157] == 0 else c_string(block[157:257])
        typeflag = _TYPES[block[156]]
        return (
            TarHeader(
                name,
                typeflag,
                size,
                mode,
                uid,
                gid,
                (mtime, 0),
                link,
                uname,
                gname,
                major,
                minor,
                atime,
                ctime,
            ),
            kept,
        )

    def _parse_owner(self, field: bytes) -> tuple[int, int, int, bool]:
        mode, uid, gid = parse_numeric(field[:8]), parse_numeric(field[8:16]), parse_numeric(field[16:])
        owner = mode, uid, gid, field[7] == 0 and field[15] == 0 and field[23] == 0
        if len(self._owners) >= _CACHE_LIMIT:
            self._owners.clear()
        self._owners[field] = owner
        return owner

    def _parse_number(self, field: bytes) -> tuple[int, bool]:
        number = parse_numeric(field), field[11] == 0
        if len(self._numbers) >= _CACHE_LIMIT:
            self._numbers.clear()
        self._numbers[field] = number
        return number


def _octal_digits(field: bytes) -> int:
    try:
        return int(field[:11], 8)
    except ValueError:
        raise TarError("invalid tar header: a numeric field is not octal") from None
