"""Choosing the format of a header, and its bytes: what Go's ``archive/tar`` writes, to the last byte.

Source: go1.27 ``Header.allowedFormats`` (which format a header gets, which PAX records it needs) and
``writer.go`` (how USTAR, PAX and GNU headers are laid out).
"""

from __future__ import annotations

import functools
import posixpath
import struct
import zlib
from collections.abc import Callable

from winlayers.errors import TarError
from winlayers.tar.fields import (
    fits_base256,
    fits_octal,
    format_pax_records,
    format_pax_time,
    to_bytes,
    valid_pax_record,
)
from winlayers.tar.header import (
    BLOCK as BLOCK_DEVICE,
)
from winlayers.tar.header import (
    BLOCK_SIZE,
    CHAR,
    DIRECTORY,
    FIFO,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    GNU_SPARSE,
    GO_ZERO_SECONDS,
    HEADER_ONLY_TYPES,
    MAX_SPECIAL_SIZE,
    NAME_SIZE,
    PAX_GLOBAL,
    PAX_LOCAL,
    PREFIX_SIZE,
    REGULAR,
    REGULAR_OLD,
    Format,
    TarHeader,
    Time,
)

_USTAR, _PAX, _GNU = int(Format.USTAR), int(Format.PAX), int(Format.GNU)
_BLOCK = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_USTAR_MAGIC, _GNU_MAGIC = b"ustar\x0000", b"ustar  \0"
_BLANK_CHECKSUM = b" " * 8
_NO_SLASH_TYPES = frozenset((REGULAR, CHAR, BLOCK_DEVICE, FIFO, GNU_SPARSE))
_INTERNAL_TYPES = frozenset((PAX_LOCAL, GNU_LONG_NAME, GNU_LONG_LINK))
_BASIC_KEYS = frozenset(
    ("path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime")
)
_NOT_ASCII = bytes((0, *range(128, 256)))

_Number = Callable[[int, int], bytes]


def _is_no_time(time: Time | None) -> bool:
    return time is None or time == (GO_ZERO_SECONDS, 0)


def split_ustar_path(name: bytes) -> tuple[bytes, bytes] | None:
    """*name* as USTAR's prefix and name; None where it is short enough, or can't be split."""
    length = len(name)
    if length <= NAME_SIZE or not name.isascii() or b"\0" in name:
        return None
    if length > PREFIX_SIZE + 1:
        length = PREFIX_SIZE + 1
    elif name.endswith(b"/"):
        length -= 1
    cut = name.rfind(b"/", 0, length)
    rest = len(name) - cut - 1
    if cut <= 0 or rest > NAME_SIZE or rest == 0 or cut > PREFIX_SIZE:
        return None
    return name[:cut], name[cut + 1 :]


class _Plan:
    """The formats that a header can have, and the PAX records that it then needs."""

    __slots__ = ("formats", "prefer_pax", "reasons", "records", "wanted")

    def __init__(self, wanted: dict[str, str]) -> None:
        self.formats = _USTAR | _PAX | _GNU
        self.records: dict[str, str] = {}
        self.reasons: dict[int, str] = {}
        self.prefer_pax = False
        self.wanted = wanted

    def exclude(self, formats: int, reason: str) -> None:
        self.formats &= ~formats
        for one in (_USTAR, _PAX, _GNU):
            if formats & one:
                self.reasons[one] = reason

    def string(self, text: str, width: int, key: str) -> None:
        if len(text) > width or not text.isascii() or "\0" in text:
            raw = to_bytes(text)
            too_long = len(raw) > width
            if b"\0" in raw or (too_long and key not in ("path", "linkpath")):
                self.exclude(_GNU, f"GNU cannot hold this {key}")
            if too_long or not raw.isascii() or b"\0" in raw:
                if key != "path" or split_ustar_path(raw) is None:
                    self.exclude(_USTAR, f"USTAR cannot hold this {key}")
                self.records[key] = text
        if self.wanted and self.wanted.get(key) == text:
            self.records[key] = text

    def number(self, value: int, width: int, name: str, key: str = "") -> None:
        if not value and key not in self.wanted:
            return  # as nearly always
        if not fits_octal(width, value):
            if not fits_base256(width, value):
                self.exclude(_GNU, f"GNU cannot hold {name} {value}")
            self.exclude(_USTAR if key else _USTAR | _PAX, f"the format cannot hold {name} {value}")
            if key:
                self.records[key] = str(value)
        if self.wanted and self.wanted.get(key) == str(value):
            self.records[key] = str(value)

    def time(self, time: Time | None, key: str) -> None:
        if time is None or time == (GO_ZERO_SECONDS, 0):
            return
        seconds, nanoseconds = time
        if not 0 <= nanoseconds < 1_000_000_000:
            raise TarError(f"cannot encode header: {key} has {nanoseconds} nanoseconds")
        in_field = key == "mtime" and fits_octal(12, seconds)
        if not in_field:
            self.exclude(_USTAR, f"USTAR cannot hold this {key}")
        if not in_field or nanoseconds:
            self.prefer_pax = True
            self.records[key] = format_pax_time(time)
        elif self.wanted and self.wanted.get(key) == str(seconds):
            self.records[key] = str(seconds)


def plan_header(header: TarHeader) -> tuple[int, dict[str, str]]:
    """The one format (a bit of Format) that *header* is written in, and its PAX records.

    Raises:
        TarError: it fits no format, or not the one that it asks for.
    """
    plan = _Plan(header.pax)
    _check_range(header)
    plan.string(header.name, NAME_SIZE, "path")
    plan.string(header.linkname, 100, "linkpath")
    plan.string(header.uname, 32, "uname")
    plan.string(header.gname, 32, "gname")
    plan.number(header.mode, 8, "mode")
    plan.number(header.uid, 8, "uid", "uid")
    plan.number(header.gid, 8, "gid", "gid")
    plan.number(header.size, 12, "size", "size")
    plan.number(header.devmajor, 8, "devmajor")
    plan.number(header.devminor, 8, "devminor")
    plan.time(header.mtime, "mtime")
    plan.time(header.atime, "atime")
    plan.time(header.ctime, "ctime")
    _check_type(header, plan)
    if header.pax:
        records = plan.records
        for key, value in header.pax.items():
            if key not in records and (
                header.typeflag == PAX_GLOBAL or not (key in _BASIC_KEYS or key.startswith("GNU.sparse."))
            ):
                records[key] = value
        plan.exclude(_USTAR | _GNU, "only PAX can hold PAX records")
    for key, value in plan.records.items():
        if not valid_pax_record(key, value):
            raise _refused(header, f"invalid PAX record {key!r}")
    formats = plan.formats
    if header.format:
        wanted = int(header.format)
        if wanted & _PAX and not plan.prefer_pax:
            wanted |= _USTAR
        formats &= wanted
    for one in (_USTAR, _PAX, _GNU):
        if formats & one:
            return one, plan.records
    raise _refused(header, "; ".join(dict.fromkeys(plan.reasons.values())) or "no such format")


def _refused(header: TarHeader, reason: str) -> TarError:
    return TarError(f"cannot encode tar header: {reason}", path=header.name)


_INT64 = range(-(1 << 63), 1 << 63)


def _check_range(header: TarHeader) -> None:
    for value in (header.size, header.mode, header.uid, header.gid, header.devmajor, header.devminor):
        if value not in _INT64:
            raise _refused(header, f"{value} passes 64 bits")


def _check_type(header: TarHeader, plan: _Plan) -> None:
    typeflag = header.typeflag
    if len(typeflag) != 1 or typeflag > "\xff":
        raise _refused(header, f"no type {typeflag!r}")
    if typeflag in _NO_SLASH_TYPES and header.name.endswith("/"):
        raise _refused(header, "the name of a file may not end in a slash")
    if typeflag in _INTERNAL_TYPES:
        raise _refused(header, "extended headers are written as needed, not by hand")
    if typeflag == PAX_GLOBAL:
        rest = (header.linkname, header.size, header.mode, header.uid, header.gid, header.uname, header.gname)
        times = (header.mtime, header.atime, header.ctime)
        if any(rest) or header.devmajor or header.devminor or not all(map(_is_no_time, times)):
            raise _refused(header, "a global header has nothing but name and records")
        plan.exclude(_USTAR | _GNU, "only PAX has global headers")
    if header.size < 0 and typeflag not in HEADER_ONLY_TYPES:
        raise _refused(header, "negative size")


def normalise(header: TarHeader) -> TarHeader:
    """*header* as it will be written: type settled; times rounded to seconds where no format is asked for."""
    typeflag, mtime, atime, ctime = header.typeflag, header.mtime, header.atime, header.ctime
    if typeflag == REGULAR_OLD:
        typeflag = DIRECTORY if header.name.endswith("/") else REGULAR
    if not header.format:
        atime = ctime = None
        if mtime is not None and mtime[1]:
            mtime = mtime[0] + (mtime[1] >= 500_000_000), 0
    elif typeflag == header.typeflag:
        return header
    return TarHeader(
        header.name, typeflag, header.size, header.mode, header.uid, header.gid, mtime, header.linkname,
        header.uname, header.gname, header.devmajor, header.devminor, atime, ctime, header.format, header.pax,
    )  # fmt: skip


# -- bytes ------------------------------------------------------------------------------------------


def encode_header(header: TarHeader) -> bytes:
    """All that comes before the data of *header*'s member: whole blocks, but for a global header's records.

    Raises:
        TarError: it can't be encoded.
    """
    header = normalise(header)
    form, records = plan_header(header)
    name = to_bytes(header.name)
    if form == _USTAR:
        split = split_ustar_path(name)
        prefix, name = split if split is not None else (b"", name)
        return _main_block(header, name, prefix, _octal, _USTAR_MAGIC)
    if form == _GNU:
        parts = [
            _padded(_raw_file(b"././@LongLink", text + b"\0", typeflag, _GNU_MAGIC))
            for text, typeflag in ((name, b"L"), (to_bytes(header.linkname), b"K"))
            if len(text) > NAME_SIZE
        ]
        parts.append(_main_block(header, name, _gnu_times(header), _numeric, _GNU_MAGIC))
        return b"".join(parts)
    extended = b""
    is_global = header.typeflag == PAX_GLOBAL
    if records or is_global:
        data = format_pax_records(records)
        if len(data) > MAX_SPECIAL_SIZE:
            raise TarError("tar header field too long", path=header.name)
        if is_global:
            return _raw_file(name or b"GlobalHead.0.0", data, b"g", _USTAR_MAGIC)
        extended = _padded(_raw_file(_pax_name(name), data, b"x", _USTAR_MAGIC))
    return extended + _main_block(header, _ascii(name), b"", _octal, _USTAR_MAGIC)


def _pax_name(name: bytes) -> bytes:
    """The name of the PAX header of *name*: ``PaxHeaders.0`` before the last part, the path cleaned."""
    cut = name.rfind(b"/") + 1
    path = name[:cut] + b"PaxHeaders.0/" + name[cut:]
    if b"//" in path or b"/." in path or path[0] == 0x2E or path.endswith(b"/"):
        path = posixpath.normpath(path)
        if path.startswith(b"//"):  # which POSIX keeps and Go does not
            path = path[1:]
    return path


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() and b"\0" not in text else text.translate(None, _NOT_ASCII)


def _string(text: bytes, width: int) -> bytes:
    """A string field: cut to its width; a slash that the cut leaves at the end is ended before."""
    if len(text) > width and text[width - 1] == 0x2F:
        kept = len(text[: width - 1].rstrip(b"/"))
        return text[:kept] + b"\0" + text[kept + 1 : width]
    return text


@functools.lru_cache(maxsize=4096)
def _octal(value: int, width: int) -> bytes:
    """Octal digits and a NUL; zero where it doesn't fit (PAX records then hold the value)."""
    if not 0 <= value < 1 << (width - 1) * 3:
        value = 0
    return b"%0*o\0" % (width - 1, value)


def _numeric(value: int, width: int) -> bytes:
    """Octal, or GNU's base-256 where that doesn't fit."""
    if fits_octal(width, value) or not fits_base256(width, value):
        return _octal(value, width)
    field = bytearray((value & ((1 << 8 * width) - 1)).to_bytes(width, "big"))
    field[0] |= 0x80
    return bytes(field)


def _gnu_times(header: TarHeader) -> bytes:
    atime, ctime = header.atime, header.ctime
    return (bytes(12) if atime is None or _is_no_time(atime) else _numeric(atime[0], 12)) + (
        b"" if ctime is None or _is_no_time(ctime) else _numeric(ctime[0], 12)
    )


def _with_checksum(block: bytes) -> bytes:
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    return b"%b%06o\0 %b" % (block[:148], total, block[156:])


def _main_block(header: TarHeader, name: bytes, prefix: bytes, number: _Number, magic: bytes) -> bytes:
    mtime = header.mtime
    seconds = 0 if mtime is None or _is_no_time(mtime) else mtime[0]
    link, uname, gname = to_bytes(header.linkname), to_bytes(header.uname), to_bytes(header.gname)
    if magic is _USTAR_MAGIC:
        link, uname, gname = _ascii(link), _ascii(uname), _ascii(gname)
    return _with_checksum(
        _BLOCK.pack(
            _string(name, NAME_SIZE),
            number(header.mode, 8),
            number(header.uid, 8),
            number(header.gid, 8),
            number(header.size, 12),
            number(seconds, 12),
            _BLANK_CHECKSUM,
            header.typeflag.encode("latin-1"),
            _string(link, 100),
            magic,
            _string(uname, 32),
            _string(gname, 32),
            number(header.devmajor, 8),
            number(header.devminor, 8),
            prefix,
        )
    )


def _raw_file(name: bytes, data: bytes, typeflag: bytes, magic: bytes) -> bytes:
    """A member made by the writer itself: header and data."""
    size = b"%011o\0" % len(data)
    block = _BLOCK.pack(
        _ascii(name)[:NAME_SIZE].rstrip(b"/"), _octal(0, 8), _octal(0, 8), _octal(0, 8), size, _octal(0, 12),
        _BLANK_CHECKSUM, typeflag, b"", magic, b"", b"", b"", b"", b"",
    )  # fmt: skip
    return _with_checksum(block) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK_SIZE)
