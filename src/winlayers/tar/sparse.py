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

OLD_MAP = slice(386, 483)
"""Where the old GNU format's header block has its part of the map."""
EXTENSION_MAP = slice(0, 505)
"""Where its extension blocks have theirs."""
MAX_EXTENSIONS = (MAX_SPECIAL_SIZE - OLD_MAP.stop + OLD_MAP.start) // BLOCK_SIZE

_ENTRY_SIZE = 24


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


def parse_map_area(area: bytes) -> tuple[SparseMap, bool]:
    """A part of the old GNU format's map: its entries, and whether an extension block follows.

    Args:
        area: pairs of numeric fields of 12 bytes, 4 pairs in a header block, 21 in an extension block; then a
            byte that is not 0 where more follows.

    Raises:
        TarError: a number is malformed.
    """
    entries: SparseMap = []
    end = len(area) - 1
    for start in range(0, end, _ENTRY_SIZE):
        if area[start] == 0:
            break
        offset = parse_numeric(area[start : start + 12])
        entries.append((offset, parse_numeric(area[start + 12 : start + _ENTRY_SIZE])))
    return entries, area[end] != 0


def read_map_old(block: bytes, read_block: Callable[[], bytes]) -> SparseMap:
    """The map of the old GNU format: four entries in the header, 21 in each extension block behind it.

    Args:
        block: the header block (already known to be GNU's).
        read_block: gives the next raw block of the stream.

    Raises:
        TarError: malformed, or more than a mebibyte of map.
    """
    entries, more = parse_map_area(block[OLD_MAP])
    extensions = 0
    while more:
        extensions += 1
        if extensions > MAX_EXTENSIONS:
            raise TarError("sparse map too long")
        found, more = parse_map_area(read_block()[EXTENSION_MAP])
        entries += found
    return entries


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
