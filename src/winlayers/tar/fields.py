"""The encodings inside a tar header: octal and base-256 numbers, PAX records and PAX times.

What is accepted and how things are written follows Go's ``archive/tar`` (go1.27 ``strconv.go``).
"""

from __future__ import annotations

import re

from winlayers.errors import TarError
from winlayers.tar.header import INT64_MAX, Time

PAX_STRING_KEYS = frozenset(("path", "linkpath", "uname", "gname"))
"""The records that stand for NUL-terminated fields, so that their values may hold no NUL."""

SPARSE_OFFSET = "GNU.sparse.offset"
SPARSE_NUMBYTES = "GNU.sparse.numbytes"
SPARSE_MAP = "GNU.sparse.map"

_OCTAL = re.compile(rb"[0-7]+")
_INTEGER = re.compile(r"([+-]?)(?=[0-9])0*([0-9]*)")
_COMMON_TIME = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?").fullmatch
_POWERS = [10 ** (9 - digits) for digits in range(10)]
_NUMBERS = [str(number) for number in range(1024)]
_INT64_DIGITS = 19
_NANO_DIGITS = 9


def c_string(field: bytes) -> str:
    """The text of a NUL-terminated field (the whole field where there is no NUL)."""
    end = field.find(0)
    return (field if end < 0 else field[:end]).decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The bytes that *text* stands for (the inverse of decoding with ``surrogateescape``).

    A surrogate that stands for no byte (a Windows name's lone surrogate) is written in three bytes, as WTF-8
    does and as Go does on Windows.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b"".join(
            c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")
            for c in text
        )


def parse_octal(field: bytes) -> int:
    """An octal field: padded with blanks and NULs on either side; empty is 0.

    Raises:
        TarError: a character that is no octal digit.
    """
    digits = field.strip(b" \0")
    if not digits:
        return 0
    end = digits.find(0)
    if end >= 0:
        digits = digits[:end]
    if _OCTAL.fullmatch(digits) is None:
        raise TarError("invalid tar header: a numeric field is not octal")
    return int(digits, 8)


def parse_numeric(field: bytes) -> int:
    """A numeric field: octal, or GNU's base-256 (top bit set; two's complement, big endian).

    Raises:
        TarError: not octal, or beyond a signed 64-bit integer.
    """
    first = field[0]
    if first < 0x80:
        return parse_octal(field)
    negative = bool(first & 0x40)
    if negative:
        field = bytes(byte ^ 0xFF for byte in field)
    value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    if value > INT64_MAX:
        raise TarError("invalid tar header: a base-256 field passes 64 bits")
    return ~value if negative else value


def fits_octal(width: int, value: int) -> bool:
    """Whether *value* fits in *width* bytes as octal digits and a NUL."""
    return 0 <= value < 1 << (width - 1) * 3


def fits_base256(width: int, value: int) -> bool:
    """Whether *value* fits in *width* bytes where the first byte is the sign alone (0x80 or 0xff)."""
    bits = (width - 1) * 8
    return width >= 9 or -(1 << bits) <= value < 1 << bits


def parse_integer(text: str) -> int:
    """A decimal, signed 64-bit integer, as Go's ``strconv.ParseInt`` takes it.

    Raises:
        TarError: anything else.
    """
    match = _INTEGER.fullmatch(text)
    if match is None or not text.isascii():
        raise TarError("invalid tar header: a PAX record is not an integer")
    digits = match[2]
    value = int(digits) if 0 < len(digits) <= _INT64_DIGITS else 0
    if match[1] == "-":
        value = -value
    if len(digits) > _INT64_DIGITS or not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise TarError("invalid tar header: a PAX record passes 64 bits")
    return value


def parse_pax_time(text: str) -> Time:
    """A PAX time, ``[-]seconds[.fraction]``; digits below a nanosecond are cut off.

    Raises:
        TarError: anything else.
    """
    common = _COMMON_TIME(text)
    if common is not None:
        whole, fraction = common.groups("")
        return int(whole), int(fraction) * _POWERS[len(fraction)] if fraction else 0
    whole, _, fraction = text.partition(".")
    if fraction and not (fraction.isascii() and fraction.isdigit()):
        raise TarError("invalid tar header: a PAX time's fraction is not made of digits")
    seconds = parse_integer(whole)
    if not fraction:
        return seconds, 0
    nanoseconds = int(fraction[:_NANO_DIGITS].ljust(_NANO_DIGITS, "0"))
    if nanoseconds and whole[0] == "-":
        return seconds - 1, 1_000_000_000 - nanoseconds
    return seconds, nanoseconds


def format_pax_time(time: Time) -> str:
    """*time* as a PAX record's value: no more digits than needed."""
    seconds, nanoseconds = time
    if not nanoseconds:
        return str(seconds)
    sign = ""
    if seconds < 0:
        sign, seconds, nanoseconds = "-", -(seconds + 1), 1_000_000_000 - nanoseconds
    return f"{sign}{seconds}.{nanoseconds:09d}".rstrip("0")


def valid_pax_record(key: str, value: str) -> bool:
    """Whether a record may be stored: a key without ``=`` and NUL; no NUL in the value of a string field."""
    if not key or "=" in key:
        return False
    return "\0" not in (value if key in PAX_STRING_KEYS else key)


def format_pax_record(key: str, value: str) -> bytes:
    """``"%d %s=%s\\n"``, where the number counts the whole record in bytes, itself included."""
    body = to_bytes(f" {key}={value}\n")
    size = len(body)
    size += len(str(size))
    record = str(size).encode() + body
    if len(record) != size:  # the number grew by a digit when it counted itself
        record = str(len(record)).encode() + body
    return record


def format_pax_records(records: dict[str, str]) -> bytes:
    """The data of a PAX header: *records* in the order of their keys' bytes."""
    keys = sorted(records)
    text = "".join(keys)
    if not text.isascii():
        keys.sort(key=to_bytes)
        return b"".join([format_pax_record(key, records[key]) for key in keys])
    parts: list[str] = []
    for key in keys:
        body = f" {key}={records[key]}\n"
        size = len(body)
        size += len(str(size))
        digits = str(size)
        if len(digits) + len(body) != size:
            digits = str(len(digits) + len(body))
        parts.append(digits + body)
    text = "".join(parts)
    if text.isascii():
        return text.encode("ascii")
    return b"".join([format_pax_record(key, records[key]) for key in keys])


def parse_pax_records(data: bytes) -> dict[str, str]:
    """The records of a PAX header, in order; a later one replaces an earlier one of the same key.

    The repeated ``GNU.sparse.offset`` and ``.numbytes`` of sparse format 0.0 become the one
    ``GNU.sparse.map`` of format 0.1.

    Raises:
        TarError: a record that is malformed, or sparse records out of order.
    """
    # Nearly always each line is a record whose number counts that line: then nothing needs to be measured.
    # A number that counts on past the first newline belongs to a value with newlines in it: the slow path.
    if data.isascii() and data[-1:] == b"\n" and 0 not in data:
        records: dict[str, str] = {}
        lines = data.decode("ascii").split("\n")
        lines.pop()
        for line in lines:
            key, equals, value = line.partition("=")
            size, _, key = key.partition(" ")
            length = len(line) + 1
            if not key or not equals or size != (_NUMBERS[length] if length < 1024 else str(length)):
                break
            records[key] = value
        else:
            if SPARSE_OFFSET not in records and SPARSE_NUMBYTES not in records:
                return records
    return _parse_pax_records_slowly(data)


def _parse_pax_records_slowly(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    sparse_map: list[str] = []
    position, end = 0, len(data)
    while position < end:
        key, value, position = _parse_pax_record(data, position)
        if key in (SPARSE_OFFSET, SPARSE_NUMBYTES):
            expected = SPARSE_NUMBYTES if len(sparse_map) % 2 else SPARSE_OFFSET
            if key != expected or "," in value:
                raise TarError("invalid tar header: sparse records are out of order")
            sparse_map.append(value)
        else:
            records[key] = value
    if sparse_map:
        records[SPARSE_MAP] = ",".join(sparse_map)
    return records


def _parse_pax_record(data: bytes, start: int) -> tuple[str, str, int]:
    """The record at *start*: its key, its value and where the next one begins."""
    invalid = TarError("invalid tar header: a PAX record is malformed")
    space = data.find(b" ", start)
    if space < 0:
        raise invalid
    number = data[start:space].decode("latin-1")
    try:
        size = parse_integer(number)
    except TarError:
        raise invalid from None
    if size < 5 or size > len(data) - start or size <= space + 1 - start:
        raise invalid
    end = start + size
    if data[end - 1] != 0x0A:
        raise invalid
    key_bytes, equals, value_bytes = data[space + 1 : end - 1].partition(b"=")
    key, value = key_bytes.decode("utf-8", "surrogateescape"), value_bytes.decode("utf-8", "surrogateescape")
    if not equals or not valid_pax_record(key, value):
        raise invalid
    return key, value, end
