"""GNU's sparse maps: the old format's, inside headers, and PAX formats 0.0, 0.1 and 1.0.

Source: GNU tar's manual ("Storing Sparse Files"); limits and checks: Go's ``archive/tar`` (go1.27).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from winlayers.errors import TarError
from winlayers.tar.fields import SPARSE_MAP, parse_integer, parse_numeric
from winlayers.tar.header import BLOCK_SIZE, INT64_MAX, MAX_SPECIAL_SIZE

SparseMap = list[tuple[int, int]]
"""(offset, size) of each fragment of data."""

_ENTRY_SIZE = 24
_OLD_ENTRIES = 4
_EXTENSION_ENTRIES = 21


def pax_sparse_version(pax: Mapping[str, str]) -> str | None:
    """``"0"`` (formats 0.0 and 0.1), ``"1"`` (1.0); None where the records tell of no sparse format known."""
    major, minor = pax.get("GNU.sparse.major", ""), pax.get("GNU.sparse.minor", "")
    if major == "0" and minor in ("0", "1"):
        return "0"
    if major == "1" and minor == "0":
        return "1"
    if major or minor:
        return None
    return "0" if pax.get(SPARSE_MAP) else None


def parse_map_0(pax: Mapping[str, str]) -> SparseMap:
    """The map of format 0.1 (a record of numbers with commas between).

    Raises:
        TarError: not that.
    """
    count = parse_integer(pax.get("GNU.sparse.numblocks", ""))
    text = pax.get(SPARSE_MAP, "")
    numbers = text.split(",") if text else []
    if count < 0 or len(numbers) != 2 * count:
        raise TarError("invalid tar header: the sparse map has not as many entries as it says")
    values = [parse_integer(number) for number in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def read_map_1(read_block: Callable[[], bytes]) -> SparseMap:
    """The map of format 1.0, from the first blocks of the member's data (decimal numbers, a line each).

    Args:
        read_block: gives the next 512 bytes of the member.

    Raises:
        TarError: malformed, or more than a mebibyte of map.
    """
    lines: list[bytes] = []
    tail = b""
    blocks = 0

    def feed(wanted: int) -> None:
        nonlocal tail, blocks
        while len(lines) < wanted:
            blocks += 1
            if blocks * BLOCK_SIZE > MAX_SPECIAL_SIZE:
                raise TarError("sparse map too long")
            *whole, tail = (tail + read_block()).split(b"\n")
            lines.extend(whole)

    feed(1)
    count = parse_integer(lines[0].decode("latin-1"))
    if count < 0 or count > INT64_MAX // 2:
        raise TarError("invalid tar header: the sparse map's count is out of range")
    feed(1 + 2 * count)
    values = [parse_integer(line.decode("latin-1")) for line in lines[1 : 1 + 2 * count]]
    return list(zip(values[::2], values[1::2], strict=True))


def read_map_old(block: bytes, read_block: Callable[[], bytes]) -> SparseMap:
    """The map of the old GNU format: four entries in the header, 21 in each extension block behind it.

    Args:
        block: the header block (already known to be GNU's).
        read_block: gives the next raw block of the stream.

    Raises:
        TarError: malformed, or more than a mebibyte of map.
    """
    entries: SparseMap = []
    area, count = block[386:483], _OLD_ENTRIES
    total = len(area)
    while total < MAX_SPECIAL_SIZE:
        for start in range(0, count * _ENTRY_SIZE, _ENTRY_SIZE):
            if area[start] == 0:
                break
            offset = parse_numeric(area[start : start + 12])
            entries.append((offset, parse_numeric(area[start + 12 : start + 24])))
        if not area[count * _ENTRY_SIZE]:
            return entries
        area, count = read_block(), _EXTENSION_ENTRIES
        total += BLOCK_SIZE
    raise TarError("sparse map too long")


def check_map(entries: SparseMap, size: int) -> None:
    """Raise TarError unless *entries* are in order, apart, and inside *size*."""
    previous_end = 0
    valid = size >= 0
    for offset, length in entries:
        if offset < previous_end or length < 0 or offset + length > size:
            valid = False
            break
        previous_end = offset + length
    if not valid:
        raise TarError("invalid tar header: the sparse map does not fit the file")
