"""Fuzz layers' tars as entries, and tar members from backup streams.

The first byte chooses: even, the rest is a layer's tar (the checksums of header blocks are set right first);
odd, it is a backup stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import WinlayersError
    from winlayers.tar.backupexport import write_from_backup_stream, write_from_backup_stream_once
    from winlayers.tar.layertar import TarLayerWriter, entries_from_tar, write_backup_stream
    from winlayers.tar.reader import TarReader
    from winlayers.tar.writer import TarWriter
    from winlayers.win32.attributes import FileAttributes
    from winlayers.win32.metadata import FileMetadata

from common import backup_streams, fuzz, vector_files
from fuzz_tar import with_checksums

SIZE_LIMIT = 1 << 18

FILE = FileMetadata(FileAttributes.ARCHIVE, 1 << 57, 1 << 57, 1 << 57, 1 << 57)


def copy(data: bytes) -> bytes | None:
    """The layer written again; None where it is refused or has holes too large to fill."""
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    try:
        for entry in entries_from_tar(TarReader(io.BytesIO(data))):
            if entry.header.sparse is not None and entry.size > SIZE_LIMIT:
                return None
            writer.add_entry(entry)
        writer.close()
    except WinlayersError:
        return None
    return sink.getvalue()


def check_layer(data: bytes) -> None:
    """A layer that was written is written the same again, once every file has a data stream."""
    first = copy(data)
    if first is None:
        return
    second = copy(first)
    assert second is not None
    assert len(second) == len(first)
    assert copy(second) == second
    for entry in entries_from_tar(TarReader(io.BytesIO(first))):
        if entry.metadata is None or entry.kind.value not in ("file", "directory"):
            continue
        stream = io.BytesIO()
        try:
            write_backup_stream(entry, stream)
        except WinlayersError:
            continue
        stream.seek(0)
        check_stream(stream.getvalue(), entry.metadata)


def check_stream(data: bytes, metadata: FileMetadata) -> None:
    """A source that is read once gives what one that is read twice gives, or refuses."""
    results = []
    for write in (write_from_backup_stream, write_from_backup_stream_once):
        sink = io.BytesIO()
        writer = TarWriter(sink)
        try:
            write(writer, "Files/f", io.BytesIO(data), metadata, size=None if len(data) < 4096 else 4096)
            writer.close()
        except WinlayersError:
            results.append(None)
        else:
            results.append(sink.getvalue())
    twice, once = results
    assert once is None or twice is None or once == twice


def has_blocks(data: bytes) -> bool:
    """Whether a sparse block's header could be in *data* (its offset would be the size of a hole)."""
    return b"\x09\0\0\0" in data


def test_one(data: bytes) -> None:
    """One input."""
    if not data:
        return
    if data[0] % 2 == 0:
        check_layer(with_checksums(data[1:]))
    elif not has_blocks(data[1:]):
        check_stream(data[1:], FILE)


def seeds() -> Iterator[bytes]:
    """Recorded layers and backup streams."""
    yield from (b"\0" + data for data in vector_files("backuptar/*/in.tar"))
    yield from (b"\1" + data for data in backup_streams())


if __name__ == "__main__":
    fuzz(test_one, seeds())
