"""Fuzz the readers of backup streams: what is read must be written again and read the same."""

from __future__ import annotations

import io

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import FormatError
    from winlayers.win32.backupstream import BackupStreamReader, BackupStreamWriter
    from winlayers.win32.filestreams import read_file_streams, write_file_streams
    from winlayers.win32.metadata import DataStream

from common import backup_streams, fuzz

MOST = 1 << 20


def single_streams(data: bytes) -> None:
    """Streams one by one: exactly the same bytes."""
    reader = BackupStreamReader(io.BytesIO(data))
    sink = io.BytesIO()
    writer = BackupStreamWriter(sink)
    for header in reader:
        writer.write_header(header)
        for chunk in reader.chunks(7):
            writer.write(chunk)
    assert sink.getvalue() == data


def whole_file(data: bytes) -> None:
    """A file: the same metadata and the same content."""
    content = read_file_streams(io.BytesIO(data))
    if sum(stream.size for stream in content.streams) > MOST:
        return
    streams = {stream.name: b"".join(stream.chunks) for stream in content.streams}
    assert [len(streams[stream.name]) for stream in content.streams] == [s.size for s in content.streams]
    sink = io.BytesIO()
    write_file_streams(content.metadata, (DataStream(n, len(d), [d]) for n, d in streams.items()), sink)
    sink.seek(0)
    again = read_file_streams(sink)
    assert again.metadata == content.metadata
    assert {stream.name: b"".join(stream.chunks) for stream in again.streams} == streams


def test_one(data: bytes) -> None:
    """One input."""
    for check in (single_streams, whole_file):
        try:
            check(data)
        except FormatError:
            pass


if __name__ == "__main__":
    fuzz(test_one, backup_streams())
