"""Taking a tar in: stored as it comes, digested and indexed in the same pass.

The caller's thread parses and indexes; a second one hashes and writes the same buffers (both let go of the
interpreter lock while they do).
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO

from winlayers import durable
from winlayers.errors import (
    FormatError,
    LayerContentError,
    LayerCorruptError,
    StoreError,
    WinlayersError,
)
from winlayers.layers.portable import disk
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.digests import file_digest, side_digest
from winlayers.layers.portable.index import EntryCode, IndexSummary, IndexWriter
from winlayers.layers.portable.store import BLOCK, LayerRecord
from winlayers.layers.portable.view import Source as Where
from winlayers.layers.section import Section
from winlayers.layers.service import TarStream
from winlayers.tar.backuptar import EntryKind
from winlayers.tar.layertar import LayerTarEntry, TarDataStream, entries_from_tar
from winlayers.tar.reader import Source as TarSource
from winlayers.tar.reader import TarReader
from winlayers.win32.names import normalize_layer_path, utf16_length

_CHUNK = 1 << 20
_QUEUED = 8
_SIDE_ALIGNMENT = 4096
_TOMBSTONES = "TOMBSTONES.TXT"
MAX_PATH_UNITS = 32767
"""The most that Windows takes as a path (UNICODE_STRING's length is 16 bits of bytes)."""


def ingest_tar(folder: str, source: BinaryIO | TarStream, layer: str) -> LayerRecord:
    """Store the tar read from *source* in *folder* with its index.

    Nothing is made durable yet, and nothing is checked against parents.

    Args:
        folder: an existing empty folder.
        layer: the layer's name for messages.

    Returns:
        The record to publish the layer with.

    Raises:
        TarError, LayerContentError, InvalidNameError: the tar is not a layer.
    """
    path = os.path.join(folder, folders.TAR)
    with disk.writing():
        stored = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by the next block
    with stored as file:
        tee = _Tee(source, _Storer(file))
        try:
            indexer = _Indexer(folder, layer)
            try:
                indexer.run(tee)
                # What follows the archive's end belongs to the tar, too.
                while tee.read(_CHUNK):
                    pass
                digest, size = tee.finish()
                summary = indexer.finish(digest, size)
            finally:
                indexer.close()
        finally:
            tee.abandon()
        # The last block must be whole for a mount that maps it; the record has the true length.
        with disk.writing():
            file.truncate(-(-size // BLOCK) * BLOCK)
    return _record(summary, folder, indexer.side_size)


def index_tar(folder: str, layer: str, target: str, tar_size: int | None = None) -> LayerRecord:
    """Index the tar that lies in *folder*, of which *tar_size* bytes count; the index goes to *target*."""
    path = os.path.join(folder, folders.TAR)
    with disk.reading(), open(path, "rb") as file:
        source = _Hashing(file, os.fstat(file.fileno()).st_size if tar_size is None else tar_size)
        summary, side_size = index_stream(source, layer, target, lambda: f"sha256:{source.hash.hexdigest()}")
    return _record(summary, target, side_size)


def index_stream(
    source: TarSource, layer: str, target: str, digest: Callable[[], str]
) -> tuple[IndexSummary, int]:
    """Index the tar read from *source* without storing it; the index, and a side file, go to *target*.

    Args:
        source: read to its end.
        layer: the layer's name for messages.
        target: an existing folder without either file.
        digest: gives the tar's digest once all has been read.

    Returns:
        What the index says of the tar, and the size of the side file; 0: there is none.

    Raises:
        TarError, LayerContentError, InvalidNameError: the tar is not a layer.
    """
    counted = _Counting(source)
    indexer = _Indexer(target, layer)
    try:
        indexer.run(counted)
        while counted.read(_CHUNK):
            pass
        summary = indexer.finish(digest(), counted.size)
    finally:
        indexer.close()
    return summary, indexer.side_size


def make_index(folder: str, layer: str, old: LayerRecord, path: str) -> None:
    """Make an index of the layer's stored tar at *path*, atomically; the layer's folder is only read.

    Args:
        old: the layer's record.

    Raises:
        LayerCorruptError: the tar can't be read, is not the one that the record tells of, or needs another
            side file than the layer has.
    """
    try:
        with durable.hidden_folder(os.path.dirname(path), "-index") as hidden:
            record = _index_again(folder, layer, old, hidden)
            side = os.path.join(folder, folders.SIDE)
            if record.side_digest is not None and side_digest(side) != record.side_digest:
                raise LayerCorruptError("the side file is of another version", layer=layer)
            os.replace(os.path.join(hidden, folders.INDEX), path)
    except (OSError, FormatError, LayerContentError, StoreError) as error:
        raise LayerCorruptError(f"the index can't be made again: {error}", layer=layer) from error


def _index_again(folder: str, layer: str, old: LayerRecord, target: str) -> LayerRecord:
    """Index the layer's stored tar, which must be the one that its record tells of, to *target*."""
    record = index_tar(folder, layer, target, old.tar_size)
    if record.digest != old.digest:
        raise LayerCorruptError(
            f"the tar has changed: its digest is {record.digest}, not {old.digest}", layer=layer
        )
    return record


def rebuild_index(folder: str, layer: str, old: LayerRecord, keep: Callable[[LayerRecord], None]) -> None:
    """Make the layer's index again from its stored tar, in place of what is there.

    Args:
        old: the layer's record.
        keep: stores the new record, which is of the new index, just before that takes its place.

    Raises:
        LayerCorruptError: the tar can't be read, or is not the one that the record tells of.
    """
    try:
        with durable.hidden_folder(folder, "-index") as hidden:
            record = _index_again(folder, layer, old, hidden)
            keep(record)
            for name in (folders.SIDE, folders.INDEX):
                path = os.path.join(hidden, name)
                if os.path.exists(path):
                    durable.fsync_file(path)
                    os.replace(path, os.path.join(folder, name))
            durable.fsync_dir(folder)
    except (OSError, FormatError, LayerContentError, StoreError) as error:
        raise LayerCorruptError(f"the index can't be made again: {error}", layer=layer) from error


def open_extent(folder: str, source: int, offset: int, size: int) -> BinaryIO:
    """A run of bytes of a layer's files as a file of its own."""
    name = folders.SIDE if source == Where.SIDE else folders.TAR
    file = open(os.path.join(folder, name), "rb", buffering=0)  # noqa: SIM115 - the section closes it

    def read_at(position: int, count: int) -> bytes:
        file.seek(offset + position)
        return file.read(count)

    return io.BufferedReader(Section(size if source else 0, read_at, file.close))


@disk.reading()
def _record(summary: IndexSummary, folder: str, side_size: int) -> LayerRecord:
    """The record of the tar that was indexed to *folder*."""
    return LayerRecord(
        "layer",
        committed=True,
        digest=summary.digest,
        tar_size=summary.tar_size,
        data_size=summary.data_size,
        stream_size=summary.stream_size,
        entries=summary.entries,
        side_size=side_size,
        index_digest=file_digest(os.path.join(folder, folders.INDEX)),
        side_digest=side_digest(os.path.join(folder, folders.SIDE)) if side_size else None,
    )


class _Storer:
    """A thread that hashes and writes what it is given, in order."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._hash = hashlib.sha256()
        self._error: OSError | None = None
        self.size = 0
        self._thread = threading.Thread(target=self._run, name="winlayers-store", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        self._raise()
        self._queue.put(data)

    def finish(self) -> str:
        """Wait for all to be written; return the digest."""
        self.stop()
        self._raise()
        return f"sha256:{self._hash.hexdigest()}"

    def _raise(self) -> None:
        if self._error is not None:
            raise disk.disk_error(self._error, "written") from self._error

    def stop(self) -> None:
        """End the thread; harmless when called twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is not None:
                continue  # what is still queued must be taken, or the other side waits for ever
            try:
                self._hash.update(data)
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) or 0 :]
                self.size += len(data)
            except OSError as error:
                self._error = error


class _Tee:
    """A source that stores what it gives."""

    def __init__(self, source: BinaryIO | TarStream, storer: _Storer) -> None:
        self._source = source
        self._storer = storer
        self._size = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(max(size, _CHUNK) if size > 0 else _CHUNK)
        if data:
            self._size += len(data)
            self._storer.put(data)
        return data

    def finish(self) -> tuple[str, int]:
        digest = self._storer.finish()
        if self._storer.size != self._size:
            raise LayerCorruptError(f"{self._storer.size} of {self._size} bytes were stored")
        return digest, self._size

    def abandon(self) -> None:
        self._storer.stop()


class _Counting:
    """A source whose bytes are counted."""

    def __init__(self, source: TarSource) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int, /) -> bytes | bytearray | memoryview:
        data = self._source.read(max(size, _CHUNK))
        self.size += len(data)
        return data


class _Hashing:
    """A source that is hashed as it is read, up to *limit* bytes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = limit
        self.hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._file.read(min(max(size, _CHUNK), self._left))
        self._left -= len(data)
        self.hash.update(data)
        return data


class _Indexer:
    """Makes the index of a tar, and the side file where one is needed."""

    def __init__(self, folder: str, layer: str) -> None:
        self._layer = layer
        self._index = IndexWriter(os.path.join(folder, folders.INDEX))
        self._side_path = os.path.join(folder, folders.SIDE)
        self._side: BinaryIO | None = None
        self.side_size = 0

    def run(self, source: TarSource) -> None:
        reader = TarReader(source, buffer_size=_CHUNK)
        entries = entries_from_tar(reader)
        while True:
            try:
                entry = next(entries, None)
                if entry is None:
                    return
                self._add(reader, entry)
            except WinlayersError as error:
                if error.layer is None:
                    error.layer = self._layer
                raise

    def _add(self, reader: TarReader, entry: LayerTarEntry) -> None:
        path = normalize_layer_path(entry.path)
        if len(path) > MAX_PATH_UNITS // 2 and utf16_length(path) > MAX_PATH_UNITS:
            raise LayerContentError(
                f"a path is longer than the {MAX_PATH_UNITS} UTF-16 units of Windows", path=f"{path[:64]}..."
            )
        if ":" in path:
            raise LayerContentError("a stream that does not follow its file, or a colon in a name", path=path)
        code = _CODES[entry.kind]
        if path.upper() == _TOMBSTONES or (not path and code != EntryCode.DIRECTORY):
            return
        if code >= EntryCode.WHITEOUT:
            self._index.add(path, code, header=entry.header.header_offset)
            return
        streams = iter(entry.streams)
        place: tuple[int, int, int] = (Where.NONE, 0, 0)
        first = next(streams, None)
        if first is not None and not first.name:
            place = self._place(reader, first)
            first = next(streams, None)
        link = None if entry.link_target is None else normalize_layer_path(entry.link_target)
        self._index.add(
            path,
            code,
            header=entry.header.header_offset,
            metadata=entry.metadata if code != EntryCode.LINK else None,
            source=place[0],
            offset=place[1],
            size=place[2],
            link=link,
        )
        while first is not None:
            source, offset, size = self._place(reader, first)
            self._index.add_stream(first.name, source=source, offset=offset, size=size)
            first = next(streams, None)

    def _place(self, reader: TarReader, stream: TarDataStream) -> tuple[int, int, int]:
        """Where the stream's data can be pointed to: source, offset, size."""
        header = stream.header
        if header.size == 0:
            return Where.NONE, 0, 0
        if header.sparse is None:
            return Where.TAR, header.data_offset, header.size
        with disk.writing():
            if self._side is None:
                self._side = open(self._side_path, "xb")  # noqa: SIM115 - closed by finish or close
        offset = -(-self.side_size // _SIDE_ALIGNMENT) * _SIDE_ALIGNMENT
        self.side_size = offset + header.size
        try:
            with disk.writing():
                self._side.flush()  # so that what follows can only fail for the size
            self._side.truncate(-(-self.side_size // _SIDE_ALIGNMENT) * _SIDE_ALIGNMENT)
        except (OSError, OverflowError) as error:  # more than the file system holds, or than 63 bits
            raise LayerContentError(
                f"a sparse file of {header.size} bytes is larger than the store's file system holds",
                path=header.name,
            ) from error
        for position, chunk in reader.runs(_CHUNK):
            with disk.writing():
                self._side.seek(offset + position)  # holes stay holes
                self._side.write(chunk)
        return Where.SIDE, offset, header.size

    def finish(self, digest: str, size: int) -> IndexSummary:
        if self._side is not None:
            with disk.writing():
                self._side.close()
        return self._index.finish(digest, size)

    def close(self) -> None:
        if self._side is not None:
            try:
                self._side.close()
            except OSError:
                pass  # what it could not write any more is of an import that failed already
        self._index.close()


_CODES: dict[EntryKind, EntryCode] = {
    EntryKind.FILE: EntryCode.FILE,
    EntryKind.DIRECTORY: EntryCode.DIRECTORY,
    EntryKind.LINK: EntryCode.LINK,
    EntryKind.WHITEOUT: EntryCode.WHITEOUT,
    EntryKind.OPAQUE: EntryCode.OPAQUE,
}
