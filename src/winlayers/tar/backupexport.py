"""Tar members from Win32 backup streams, from sources that can be read twice and from those that can't.

Source: go-winio ``backuptar/tar.go``.  Unlike there, nothing is lost on the way: streams of directories and
reparse points, streams before the data, descriptors behind it and sparse blocks are kept; what a source that
is read once tells too late is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from winlayers.errors import BackupStreamError
from winlayers.tar.backuptar import write_entry
from winlayers.tar.writer import TarWriter
from winlayers.win32.backupstream import (
    CHUNK_SIZE,
    BackupStreamReader,
    ByteSource,
    StreamHeader,
    StreamId,
    stream_name,
)
from winlayers.win32.ea import parse_eas
from winlayers.win32.filestreams import (
    IGNORED_STREAMS,
    MAX_METADATA_SIZE,
    SeekableSource,
    StreamNames,
    alternate_stream_name,
    read_file_streams,
)
from winlayers.win32.metadata import DataStream, FileMetadata

EARLY_STREAMS_LIMIT = 16 << 20
"""How many bytes of alternate streams before the data are kept in memory for a source that is read once."""

_ZEROES = memoryview(bytes(CHUNK_SIZE))


def write_from_backup_stream(
    writer: TarWriter, path: str, source: SeekableSource, metadata: FileMetadata, *, size: int | None = None
) -> None:
    """Write a file's members from a backup stream that can be read twice.

    Args:
        writer: where to.
        path: the file's path in the layer, ``/``-separated.
        source: the backup stream, from where it stands to its end.
        metadata: attributes and times; the rest comes from the stream.
        size: the size that the file must have.  None takes the stream's word for it: then a few bytes of a
            hostile stream can make a sparse file of any size.

    Raises:
        BackupStreamError: the stream is malformed or has another size.
        TarError, ReparseError, ExtendedAttributeError: the file can't be held by a tar.
    """
    file_size = None if metadata.is_directory else size
    content = read_file_streams(source, metadata=metadata, file_size=file_size, path=path)
    write_entry(writer, path, content.metadata, content.streams)


def write_from_backup_stream_once(
    writer: TarWriter, path: str, source: ByteSource, metadata: FileMetadata, *, size: int | None = None
) -> None:
    """Write a file's members from a backup stream that can be read but once.

    Args: as :func:`write_from_backup_stream`; *size* must be told for a sparse file of several ranges, whose
        size only its last block tells.

    Raises:
        BackupStreamError: moreover, a descriptor, extended attributes or reparse data come after the file's
            data, when the header has been written; or too much of alternate streams comes before.
    """
    once = _Once(source, path, metadata, size)
    once.read_head()
    write_entry(writer, path, once.metadata, once.streams())


class _Once:
    def __init__(self, source: ByteSource, path: str, metadata: FileMetadata, size: int | None) -> None:
        self.metadata = metadata
        self._reader = BackupStreamReader(source, path=path)
        self._path = path
        self._size = size
        self._early: list[tuple[str, bytes]] = []
        self._names = StreamNames(self._reader)
        self._data: StreamHeader | None = None

    def read_head(self) -> None:
        """Take all that comes before the data."""
        room, early_room = MAX_METADATA_SIZE, EARLY_STREAMS_LIMIT
        for header in self._reader:
            if header.id == StreamId.DATA:
                self._data = header
                break
            if header.id == StreamId.ALTERNATE_DATA:
                self._early.append((self._alternate_name(header), self._reader.read_all(early_room)))
                early_room -= header.size
            elif header.id in (StreamId.SECURITY_DATA, StreamId.EA_DATA, StreamId.REPARSE_DATA):
                self._take(header, self._reader.read_all(room))
                room -= header.size
            elif header.id not in IGNORED_STREAMS:
                raise self._reader.error(f"unknown stream id {stream_name(header.id)}")

    def _take(self, header: StreamHeader, data: bytes) -> None:
        if header.id == StreamId.SECURITY_DATA:
            self.metadata = dataclasses.replace(self.metadata, security=data or None)
        elif header.id == StreamId.REPARSE_DATA:
            self.metadata = dataclasses.replace(self.metadata, reparse=data or None)
        else:
            self.metadata = dataclasses.replace(self.metadata, eas=self.metadata.eas + parse_eas(data))

    def _alternate_name(self, header: StreamHeader) -> str:
        if header.is_sparse:
            raise self._reader.error(
                f"the alternate stream {header.name!a} is sparse, so its size is unknown"
            )
        name = alternate_stream_name(header.name, path=self._path)
        self._names.add(name)
        return name

    def streams(self) -> Iterator[DataStream]:
        """The unnamed stream, then the alternate ones."""
        if self._data is not None:
            yield self._data_stream(self._data)
        elif self._size and self.metadata.reparse is None and not self.metadata.is_directory:
            raise self._reader.error(f"there is no data where {self._size} bytes were told")
        for name, data in self._early:
            yield DataStream(name, len(data), (data,))
        for header in self._reader:
            if header.id == StreamId.ALTERNATE_DATA:
                yield DataStream(self._alternate_name(header), header.size, self._reader.chunks())
            elif header.id not in IGNORED_STREAMS:
                raise self._too_late(header)

    def _too_late(self, header: StreamHeader) -> BackupStreamError:
        if header.id in (StreamId.SECURITY_DATA, StreamId.EA_DATA, StreamId.REPARSE_DATA):
            return self._reader.error(
                f"{stream_name(header.id)} comes after the data, too late for a source that is read once"
            )
        return self._reader.error(f"unknown stream id {stream_name(header.id)} after data")

    def _data_stream(self, header: StreamHeader) -> DataStream:
        sparse = header.is_sparse and not header.size
        size = self._size
        if sparse and size is None:
            following = self._reader.peek()
            if following is not None and following.id == StreamId.SPARSE_BLOCK:
                raise self._reader.error("a sparse file's size must be told where its source is read once")
        if sparse and size:
            return DataStream("", size, self._sparse_chunks(size))
        if size is not None and size != header.size:
            raise self._reader.error(f"the data has {header.size} bytes where {size} were told")
        return DataStream("", header.size, self._reader.chunks())

    def _sparse_chunks(self, size: int) -> Iterator[bytes | memoryview]:
        position = 0
        while True:
            block = self._reader.next()
            if block is None or block.id != StreamId.SPARSE_BLOCK:
                raise self._reader.error("a sparse file is cut off before its last block")
            if block.offset < position:
                raise self._reader.error(f"a sparse block goes back from {position} to {block.offset}")
            if block.offset + block.size > size or (not block.size and block.offset != size):
                raise self._reader.error(
                    f"a sparse block ends at {block.offset + block.size} in a file of {size} bytes"
                )
            while position < block.offset:
                chunk = _ZEROES[: block.offset - position]
                position += len(chunk)
                yield chunk
            if not block.size:
                return
            yield from self._reader.chunks()
            position += block.size
