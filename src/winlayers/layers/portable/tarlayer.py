"""Layers entry by entry: reading a stored one, writing a new one as a tar."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable import disk
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.index import EntryCode, EntryRow, Index, StreamRow
from winlayers.layers.portable.ingest import index_tar
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.view import Source
from winlayers.layers.service import EntryKind, LayerEntry, LayerReader, LayerWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import TarWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import validate_path

_CHUNK = 1 << 20
_SHORT = 256

_KINDS = {
    EntryCode.FILE: EntryKind.FILE,
    EntryCode.DIRECTORY: EntryKind.DIRECTORY,
    EntryCode.LINK: EntryKind.LINK,
    EntryCode.WHITEOUT: EntryKind.WHITEOUT,
    EntryCode.OPAQUE: EntryKind.OPAQUE,
}


class TarLayerReader(LayerReader):
    """Reads a committed layer by its index."""

    def __init__(self, folder: str, layer: str, index: Index | None) -> None:
        """Read the layer in *folder* by *index*, which the reader closes; None: a layer without content."""
        self._layer = layer
        self._index = index
        # Open from the beginning: the layer may be removed while it is read.
        self._files: dict[int, BinaryIO] = {}
        try:
            with disk.reading():
                self._open(folder)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: str) -> None:
        for source, name in ((Source.TAR, folders.TAR), (Source.SIDE, folders.SIDE)):
            try:
                self._files[source] = open(os.path.join(folder, name), "rb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:  # said to be missing when it is needed
                continue

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._index is not None:
            self._index.close()
            self._index = None

    def __iter__(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        if self._index is None:
            return
        with disk.reading():
            yield from self._entries(self._index)

    def _entries(self, index: Index) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        descriptor = functools.lru_cache(maxsize=1024)(index.descriptor)
        streams = index.streams_by_entry()
        made: set[str | bytes] = set()
        for row in index.entries():
            if not row.path:
                continue
            yield from _missing_parents(row.path, made)
            kind = _KINDS[EntryCode(row.code)]
            metadata = None
            if kind in (EntryKind.FILE, EntryKind.DIRECTORY):
                metadata = row.metadata(None if row.security is None else descriptor(row.security))
            if kind is EntryKind.DIRECTORY:
                made.add(_short(row.path))
            entry = LayerEntry(row.path, kind, metadata, row.size, row.link)
            yield entry, self._streams(row, streams.get(row.seq, ()), metadata)

    def _streams(
        self, row: EntryRow, streams: Iterable[StreamRow], metadata: FileMetadata | None
    ) -> Iterator[DataStream]:
        if row.code == EntryCode.FILE and metadata is not None and metadata.reparse is None:
            yield DataStream("", row.size, self._chunks(row.source, row.offset, row.size))
        for stream in streams:
            yield DataStream(
                stream.name, stream.size, self._chunks(stream.source, stream.offset, stream.size)
            )

    def _chunks(self, source: int, offset: int, size: int) -> Iterator[bytes]:
        while size:
            if source not in self._files:
                raise LayerCorruptError("the layer's data is missing", layer=self._layer)
            with disk.reading():
                self._files[source].seek(offset)
                chunk = self._files[source].read(min(size, _CHUNK))
            if not chunk:
                raise LayerCorruptError("the layer's data is cut short", layer=self._layer)
            offset += len(chunk)
            size -= len(chunk)
            yield chunk


def _missing_parents(path: str, made: set[str | bytes]) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
    """Entries for the parents of *path* that the tar does not describe, so that parents come first."""
    cuts = []
    cut = path.rfind("/")
    while cut > 0 and _short(path[:cut]) not in made:
        cuts.append(cut)
        cut = path.rfind("/", 0, cut)
    for cut in reversed(cuts):
        parent = path[:cut]
        made.add(_short(parent))
        yield LayerEntry(parent, EntryKind.DIRECTORY, FileMetadata(FileAttributes.DIRECTORY)), ()


def _short(path: str) -> str | bytes:
    """*path*, or the digest of a long one: one path can have thousands of such parents."""
    if len(path) <= _SHORT:
        return path
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=32).digest()


class _Sink:
    """The new tar's file."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "xb", buffering=_CHUNK)  # noqa: SIM115 - closed by close or abandon

    @disk.writing()
    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return self._file.write(data)

    @disk.writing()
    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what it could not write any more is not wanted any more


class TarLayerWriter(LayerWriter):
    """Writes a new layer as a tar in a hidden folder of the store."""

    def __init__(self, store: LayerStore, layer: str, publish: Callable[[str, LayerRecord], None]) -> None:
        """Write the layer *layer*; *publish* takes the hidden folder and the record on :meth:`commit`."""
        self._layer = layer
        self._publish = publish
        self._stack = contextlib.ExitStack()
        self._hidden = self._stack.enter_context(store.hidden())
        path = os.path.join(self._hidden, folders.TAR)
        with disk.writing():
            self._sink = _Sink(path)
        self._stack.callback(self._sink.abandon)
        self._writer = TarWriter(self._sink)
        self._links: list[tuple[str, str]] = []
        self._open = True

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        kind = EntryKind.DIRECTORY if metadata.is_directory else EntryKind.FILE
        self._write(LayerEntry(path, kind, metadata), streams)

    def add_link(self, path: str, target: str) -> None:
        # Links come last: their targets may be added later, and readers of the tar want them before.
        self._links.append((validate_path(path), validate_path(target)))

    def remove(self, path: str) -> None:
        self._write(LayerEntry(path, EntryKind.WHITEOUT))

    def hide(self, path: str) -> None:
        self._write(LayerEntry(path, EntryKind.OPAQUE))

    def _write(self, entry: LayerEntry, streams: Iterable[DataStream] = ()) -> None:
        validate_path(entry.path)
        for _ in write_layer_entry(self._writer, entry, streams):
            pass

    def commit(self) -> int:
        if not self._open:
            return 0
        self._open = False
        with self._stack:
            for path, target in self._links:
                self._write(LayerEntry(path, EntryKind.LINK, link_target=target))
            self._writer.close()
            self._sink.close()
            record = index_tar(self._hidden, self._layer, self._hidden)
            self._publish(self._hidden, record)
        return record.data_size

    def abort(self) -> None:
        self._open = False
        self._stack.close()
