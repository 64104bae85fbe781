"""Fuzz the tar reader and writer.

The first byte chooses how the source gives its bytes, and whether the checksums of header blocks are set
right first, so that what lies behind them is reached.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import TarError
    from winlayers.tar.header import TarHeader
    from winlayers.tar.reader import TarReader
    from winlayers.tar.writer import TarWriter

from common import fuzz, vector_files

BLOCK = 512
DATA_LIMIT = 1 << 18

Found = list[tuple[TarHeader, bytes]]


class Source:
    """Gives at most *limit* bytes at a time, all in one buffer that it uses again."""

    def __init__(self, data: bytes, limit: int) -> None:
        self._file = io.BytesIO(data)
        self._buffer = memoryview(bytearray(min(limit, 1 << 16)))

    def read(self, size: int, /) -> memoryview:
        view = self._buffer[:size]
        return view[: self._file.readinto(view)]


def with_checksums(data: bytes) -> bytes:
    """*data* with the checksum of each block that looks like a header set right."""
    out = bytearray(data)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if data[start + 257 : start + 262] == b"ustar":
            block = out[start : start + BLOCK]
            block[148:156] = b" " * 8
            out[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(out)


def read(data: bytes, limit: int) -> tuple[Found, str]:
    """The members, with the beginning of their data, and the error that ended it, with its place."""
    found: Found = []
    reader = TarReader(Source(data, limit), buffer_size=1 << 15)
    place = "header"
    try:
        for header in reader:
            found.append((header, b""))
            place = "data"
            found[-1] = header, reader.read(DATA_LIMIT)
            place = "header"
    except TarError as error:
        return found, f"{type(error).__name__} in {place}"
    return found, ""


def check_offsets(found: Found, data: bytes, error: str) -> None:
    """Members lie end to end, and their data are where they say."""
    position = 0
    for number, (header, content) in enumerate(found):
        assert header.header_offset == position <= header.data_offset <= header.end_offset
        position = header.end_offset
        stored = data[header.data_offset : header.data_offset + header.stored_size]
        if error.endswith("data") and number == len(found) - 1:
            assert header.sparse is not None or len(stored) < header.stored_size
            continue
        if header.typeflag == "g":
            continue
        if header.sparse is None:
            assert content == stored[:DATA_LIMIT]
        else:
            assert len(content) == min(header.size, DATA_LIMIT)


def check_writing(header: TarHeader) -> None:
    """What can be written is read again as it was."""
    sink = io.BytesIO()
    writer = TarWriter(sink)
    try:
        writer.write_header(header)
    except TarError:
        return
    ((again, _), *rest), _ = read(sink.getvalue(), 1 << 16)
    assert not rest
    if header.typeflag == "g":
        assert again.pax.items() <= header.pax.items() | again.pax.items()
    else:
        assert (again.name, again.size, again.mode, again.uid) == (
            header.name,
            header.size,
            header.mode,
            header.uid,
        )


def test_one(data: bytes) -> None:
    """One input."""
    if not data:
        return
    stream = with_checksums(data[1:]) if data[0] & 1 else data[1:]
    found, error = read(stream, 1 << 16)
    again, same = read(stream, (1, 100, BLOCK, 777)[data[0] >> 1 & 3])
    assert (len(again), same) == (len(found), error)
    assert again[:-1] == found[:-1]
    check_offsets(found, stream, error)
    for header, _ in found[:20]:
        if header.sparse is None:
            check_writing(header)


def seeds() -> Iterator[bytes]:
    """Recorded tars."""
    for pattern in ("tarsplit/*/in.tar", "backuptar/*/in.tar"):
        yield from (b"\1" + data for data in vector_files(pattern))


if __name__ == "__main__":
    fuzz(test_one, seeds())
