"""Fuzz tar-split: taking apart, putting together, and the metadata.

The first byte chooses: even, the rest is a tar; odd, the rest is metadata (and the file contents are empty).
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import TarError, TarSplitError
    from winlayers.tar.tarsplit import Disassembler, Entry, EntryWriter, read_entries, reassemble

from common import fuzz, vector_files

HOLE_LIMIT = 1 << 20


class Files:
    """Keeps what it is given, but for the zeroes of large holes."""

    def __init__(self) -> None:
        self.contents: dict[str, bytearray] = {}
        self.cut = False
        self._content = bytearray()

    def begin(self, name: str, size: int, /) -> None:
        self._content = self.contents[name] = bytearray()

    def write(self, data: memoryview, /) -> None:
        self._content += data

    def hole(self, size: int, /) -> None:
        self.cut |= size > HOLE_LIMIT
        self._content += bytes(min(size, HOLE_LIMIT))

    def end(self) -> None:
        """Nothing is to be done."""

    def get(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.contents.get(name, b""))


def _stream(data: bytes, chunk_size: int) -> None:
    files = Files()
    entries: list[Entry] = []
    machine = Disassembler(entries.append, files)
    try:
        for start in range(0, len(data), chunk_size):
            machine.feed(data[start : start + chunk_size])
        result = machine.finish()
    except (TarError, TarSplitError):
        return
    assert result.size == len(data)
    disk = io.BytesIO()
    for entry in entries:
        EntryWriter(disk, compress=False).add(entry)
    disk.seek(0)
    assert list(read_entries(disk)) == entries
    out = io.BytesIO()
    try:
        reassemble(entries, files.get, out)
    except TarSplitError:
        assert files.cut or not result.exact
    else:
        assert out.getvalue() == data


def test_one(data: bytes) -> None:
    """One input."""
    if not data:
        return
    if data[0] % 2 == 0:
        _stream(data[1:], (1 << 20, 512, 100, 3)[data[0] // 2 % 4])
        return
    out = io.BytesIO()
    try:
        reassemble(io.BytesIO(data[1:]), Files().get, out)
    except TarSplitError:
        return
    assert data[1:3] == b"\x1f\x8b" or len(out.getvalue()) <= len(data)


def seeds() -> Iterator[bytes]:
    """Recorded tars and metadata."""
    for pattern in ("tarsplit/*/in.tar", "backuptar/*/in.tar"):
        yield from (b"\0" + data for data in vector_files(pattern))
    for pattern in ("tarsplit/*/tar-data.json", "tarsplit/*/tar-data.json.gz"):
        yield from (b"\1" + data for data in vector_files(pattern))


if __name__ == "__main__":
    fuzz(test_one, seeds())
