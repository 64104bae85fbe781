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
_SUMS_LIMIT = 8192


def _ascii_sum(field: bytes) -> int:
    """What the low half of a block's Adler-32 is where *field*, its checksum, is right.

    That is the sum of all bytes plus one, modulo 65,521, and so exact where all bytes are below 128.  (The
    checksum counts itself as eight blanks.)
    """
    return parse_octal(field) - 8 * 0x20 + sum(field) + 1


def _checksum_ok(block: bytes) -> bool:
    """Whether the checksum field holds the sum of the block's bytes, unsigned or signed."""
    stored = parse_octal(block[148:156])
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
        self._sums: dict[bytes, int] = {}

    def parse(self, block: bytes) -> tuple[TarHeader, int]:
        """The header in *block*, offsets not set, and the formats (bits of Format) that it may count as.

        Raises:
            TarError: wrong checksum or malformed numbers.
        """
        ascii_only = block.isascii()
        if ascii_only:
            key = block[148:156]
            expected = self._sums.get(key)
            if expected is None:
                expected = self._sums[key] = _ascii_sum(key)
                if len(self._sums) > _SUMS_LIMIT:
                    self._sums.clear()
            valid = zlib.adler32(block) & 0xFFFF == expected
        else:
            valid = _checksum_ok(block)
        if not valid:
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
        mode, uid, gid, terminated = owner
        # Two numbers of eleven digits, each with its NUL, are what nearly everyone writes.
        size_digits, mtime_digits = block[124:135], block[136:147]
        if block[135] or block[147] or not (size_digits + mtime_digits).isdigit():
            size, mtime = parse_numeric(block[124:136]), parse_numeric(block[136:148])
            terminated = terminated and not (block[135] or block[147])
        else:
            try:
                size, mtime = int(size_digits, 8), int(mtime_digits, 8)
            except ValueError:
                raise TarError("invalid tar header: a numeric field is not octal") from None
        if kind == _USTAR_OR_PAX and not (terminated and ascii_only):
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
