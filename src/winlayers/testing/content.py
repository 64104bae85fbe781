"""What the suites share: reading layers whole, and checking the contract while at it."""

from __future__ import annotations

import os

from winlayers.layers.service import EntryKind, LayerService, TarStream
from winlayers.testing.tars import (
    SECURITY,
)
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata

Content = dict[str, tuple[EntryKind, FileMetadata | None, str | None, tuple[tuple[str, bytes], ...]]]
"""What a reader gives: kind, metadata, link target and streams, by path."""

FILE = FileMetadata(
    attributes=FileAttributes.ARCHIVE,
    creation_time=133_444_736_001_234_567,
    access_time=133_444_736_001_234_568,
    write_time=133_444_736_001_234_569,
    change_time=133_444_736_001_234_570,
    security=SECURITY,
)
DIRECTORY = FileMetadata(
    attributes=FileAttributes.DIRECTORY,
    creation_time=133_444_736_001_234_567,
    access_time=133_444_736_001_234_568,
    write_time=133_444_736_001_234_569,
    change_time=133_444_736_001_234_570,
    security=SECURITY,
)


def read_all(stream: TarStream, size: int = 4096) -> bytes:
    """All that *stream* has, in pieces of up to *size* bytes; closes it twice, which must be harmless."""
    parts = []
    try:
        while part := stream.read(size):
            assert len(part) <= size
            parts.append(part)
        assert stream.read(size) == b""
    finally:
        stream.close()
        stream.close()
    return b"".join(parts)


def stream(name: str, data: bytes) -> DataStream:
    """A stream of *data* in two chunks."""
    half = len(data) // 2
    return DataStream(name, len(data), [data[:half], memoryview(data)[half:]])


def content(service: LayerService, layer_id: str, chain: list[str]) -> Content:
    """What the layer's reader gives, each entry checked against the contract on the way."""
    found: Content = {}
    with service.open_reader(layer_id, chain) as reader:
        for entry, streams in reader:
            assert not entry.path.startswith("/")
            assert not entry.path.endswith("/")
            data = []
            for part in streams:
                chunks = b"".join(part.chunks)
                assert len(chunks) == part.size, f"{entry.path}:{part.name} promised {part.size} bytes"
                data.append((part.name, chunks))
            if entry.kind is EntryKind.FILE and data:
                names = [name for name, _ in data]
                assert "" not in names[1:], "the unnamed stream comes first"
                if names[0] == "":
                    assert entry.size == len(data[0][1])
            if entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY):
                assert entry.metadata is not None
                assert entry.metadata.is_directory == (entry.kind is EntryKind.DIRECTORY)
            late = [path for path in found if path.rpartition("/")[0] == entry.path]
            assert not late, f"{entry.path} comes after what is in it"
            if entry.kind is not EntryKind.OPAQUE or entry.path not in found:
                found[entry.path] = (entry.kind, entry.metadata, entry.link_target, tuple(data))
    reader.close()
    return found


def leftovers(home: str) -> list[str]:
    """All that lies below the home, but for what services keep in hidden files at its top (locks)."""
    found = []
    for folder, folders, names in os.walk(home):
        for name in [*folders, *names]:
            path = os.path.relpath(os.path.join(folder, name), home)
            if not (folder == home and name in names and name.startswith(".")):
                found.append(path)
    return sorted(found)
