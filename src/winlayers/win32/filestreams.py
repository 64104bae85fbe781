"""Files as backup streams: metadata and data of one file, to and from the serialised form.

The order that is written: SECURITY_DATA, EA_DATA, REPARSE_DATA, DATA (for every regular file, even an empty
one), then one ALTERNATE_DATA for each named stream.  Any order is read.  Reading takes two passes over the
source, since what describes a file may follow its data, and a sparse file's size is only known at its end:

- `read_file_streams` does both on a source that can seek;
- `scan_file_streams` and `iter_data_streams` are the passes, for a source that has to be opened twice.

A sparse file occurs in four forms: no data stream at all (empty); a DATA stream of size 0 alone (empty); a
DATA stream with all of the content; a DATA stream of size 0, SPARSE_BLOCKs in rising order, and a last block
of size 0 whose offset is the file's size.  They all become plain data here, with zeroes in between.

The transport format (what ExportLayer writes and ImportLayer reads) puts the file's attributes, a u32, in
front: `read_transport_file` and `write_transport_file`.

Sources: BackupRead in the Win32 documentation; go-winio, ``backuptar/tar.go`` (the four forms and the order);
hcsshim, ``internal/wclayer/legacy.go`` (the transport format).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from winlayers.errors import BackupStreamError
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.backupstream import (
    CHUNK_SIZE,
    BackupStreamReader,
    BackupStreamWriter,
    ByteSink,
    ByteSource,
    StreamHeader,
    StreamId,
    stream_name,
)
from winlayers.win32.ea import build_eas, parse_eas
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.names import fold_key

MAX_METADATA_SIZE = 4 << 20
"""How much of descriptors, extended attributes and reparse data is read into memory; NTFS holds far less."""

MAX_STREAMS = 1 << 16
"""How many data streams a file may have; NTFS holds fewer."""

MAX_STREAM_NAMES = 16 << 20
"""How many characters their names may have in all; those of NTFS have up to 255 each."""

IGNORED_STREAMS = frozenset({StreamId.LINK, StreamId.PROPERTY_DATA, StreamId.OBJECT_ID, StreamId.TXFS_DATA})
"""Streams that say nothing about a file in a layer."""

_TYPE_SUFFIX = ":$DATA"
_CHANGED = "a backup stream has changed between two passes"
_ZEROES = memoryview(bytes(CHUNK_SIZE))


class SeekableSource(ByteSource, Protocol):
    """A source that can be read twice."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to *offset*."""

    def tell(self) -> int:
        """The present offset."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamInfo:
    """A data stream that a scan found.

    Attributes:
        name: "" for the unnamed one, else the bare name.
        size: bytes of content, holes included.
        position: where its header begins, in bytes from where the scan began.
    """

    name: str
    size: int
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class FileStreams:
    """What one pass over a file's streams tells.

    Attributes:
        security: the security descriptor, or None.
        eas: the extended attributes in their order.
        reparse: the reparse buffer, or None.
        streams: the data streams in the order in which they come.
        ignored: ids of streams that were left out.
    """

    security: bytes | None = None
    eas: tuple[ExtendedAttribute, ...] = ()
    reparse: bytes | None = None
    streams: tuple[StreamInfo, ...] = ()
    ignored: tuple[StreamId, ...] = ()

    def apply_to(self, metadata: FileMetadata) -> FileMetadata:
        """*metadata* with the descriptor, extended attributes and reparse buffer that were found."""
        return dataclasses.replace(metadata, security=self.security, eas=self.eas, reparse=self.reparse)


@dataclasses.dataclass(frozen=True, slots=True)
class FileContent:
    """A file read from its backup stream.

    Attributes:
        metadata: what the streams (and the transport format's attributes) tell.
        streams: the unnamed stream first, if there is one, then the named ones in their order.  They can be
            read in any order, one at a time, as long as the source is open.
        ignored: ids of streams that were left out.
    """

    metadata: FileMetadata
    streams: tuple[DataStream, ...]
    ignored: tuple[StreamId, ...] = ()


# -- reading ----------------------------------------------------------------------------------------


def alternate_stream_name(name: str, *, path: str | None = None) -> str:
    """The bare name in an ALTERNATE_DATA stream's ``:name:$DATA``; what follows a null character is padding.

    Raises:
        BackupStreamError: it has another form, or another type than ``$DATA``.
    """
    name = name.partition("\0")[0]
    bare = name[1:]
    if bare[-len(_TYPE_SUFFIX) :].upper() == _TYPE_SUFFIX:
        bare = bare[: -len(_TYPE_SUFFIX)]
    if not name.startswith(":") or not bare or any(c in bare for c in ":/\\"):
        raise BackupStreamError(f"{name!a} does not name an alternate data stream", path=path)
    return bare


class StreamNames:
    """The names of a file's data streams so far: none comes twice, and they take no more than bounded memory.

    Args:
        reader: what they are read by.
    """

    def __init__(self, reader: BackupStreamReader) -> None:
        self._reader = reader
        self._keys: set[bytes] = set()
        self._room = MAX_STREAM_NAMES

    def add(self, name: str) -> None:
        """Note *name*.

        Raises:
            BackupStreamError: it is there already, or there are too many.
        """
        if len(self._keys) == MAX_STREAMS:
            raise self._reader.error(f"a file has more than {MAX_STREAMS} data streams")
        self._room -= len(name)
        if self._room < 0:
            raise self._reader.error(
                f"a file's data streams have names of over {MAX_STREAM_NAMES} characters"
            )
        key = fold_key(name)
        if key in self._keys:
            raise self._reader.error(f"there are two data streams called {name[:255]!a}")
        self._keys.add(key)


class _Scan:
    """The first pass."""

    def __init__(self, source: ByteSource, path: str | None, seek: Callable[[int, int], int] | None) -> None:
        self.reader = BackupStreamReader(source, path=path, seek=seek)
        self.path = path
        self.security: bytes | None = None
        self.eas: list[ExtendedAttribute] = []
        self.reparse: bytes | None = None
        self.streams: list[StreamInfo] = []
        self.ignored: dict[StreamId, None] = {}
        self._names = StreamNames(self.reader)
        self._room = MAX_METADATA_SIZE

    def run(self) -> None:
        reader = self.reader
        for header in reader:
            if header.id == StreamId.DATA:
                self._add_stream("", header)
            elif header.id == StreamId.ALTERNATE_DATA:
                if header.is_sparse:
                    raise reader.error(
                        f"the alternate stream {header.name!a} is sparse, so its size is unknown"
                    )
                self._add_stream(alternate_stream_name(header.name, path=self.path), header)
            elif header.id == StreamId.SECURITY_DATA:
                self.security = self._read_metadata(header) or None
            elif header.id == StreamId.EA_DATA:
                self.eas += parse_eas(self._read_metadata(header))
            elif header.id == StreamId.REPARSE_DATA:
                self.reparse = self._read_metadata(header) or None
            elif header.id == StreamId.SPARSE_BLOCK:
                raise reader.error("a sparse block does not follow an empty, sparse data stream")
            elif header.id in IGNORED_STREAMS:
                self.ignored[StreamId(header.id)] = None
            else:
                raise reader.error(f"unknown stream id {stream_name(header.id)}")

    def _read_metadata(self, header: StreamHeader) -> bytes:
        data = self.reader.read_all(self._room)
        self._room -= header.size
        return data

    def _add_stream(self, name: str, header: StreamHeader) -> None:
        self._names.add(name)
        position = self.reader.header_position
        size = header.size
        if _has_blocks(self.reader, header):
            for offset, length in _sparse_blocks(self.reader):
                size = offset + length
        self.streams.append(StreamInfo(name, size, position))


def _has_blocks(reader: BackupStreamReader, header: StreamHeader) -> bool:
    """Whether the current stream, *header*, is of the fourth sparse form."""
    if header.id != StreamId.DATA or not header.is_sparse or header.size:
        return False
    following = reader.peek()
    return following is not None and following.id == StreamId.SPARSE_BLOCK


def _sparse_blocks(reader: BackupStreamReader) -> Iterator[tuple[int, int]]:
    """(offset, size) of each block up to the last, of size 0; the reader stands in it, to be read or not."""
    end = 0
    while True:
        block = reader.next()
        if block is None:
            raise reader.error("a sparse file is cut off before its last block")
        if block.id != StreamId.SPARSE_BLOCK:
            raise reader.error(f"a {stream_name(block.id)} stream stands between sparse blocks")
        if block.offset < end:
            raise reader.error(f"a sparse block goes back from {end} to {block.offset}")
        yield block.offset, block.size
        if block.size == 0:
            return
        end = block.offset + block.size


def scan_file_streams(
    source: ByteSource,
    *,
    file_size: int | None = None,
    path: str | None = None,
    seek: Callable[[int, int], int] | None = None,
) -> FileStreams:
    """The first pass: go through all of *source* and tell what is in it.

    Where a descriptor or a reparse buffer comes twice the last one holds, as it does in go-winio; extended
    attributes add up.

    Args:
        source: the backup stream of one file, from its beginning.
        file_size: the size that the unnamed stream must have, where it is known from elsewhere.
        path: the file, for messages.
        seek: the source's ``seek``, if data may be skipped by it rather than read.

    Raises:
        BackupStreamError: the stream is malformed, has an unknown id, goes backwards, has a sparse alternate
            stream or two data streams of one name, or does not have the size told.
        ExtendedAttributeError: the extended attributes are malformed.
    """
    scan = _Scan(source, path, seek)
    scan.run()
    found = FileStreams(
        scan.security, tuple(scan.eas), scan.reparse, tuple(scan.streams), tuple(scan.ignored)
    )
    if file_size is not None:
        size = next((info.size for info in found.streams if not info.name), None)
        if size is None and found.reparse is None:
            size = 0
        if size is not None and size != file_size:
            raise scan.reader.error(f"the data has {size} bytes where {file_size} were told")
    return found


def iter_data_streams(
    source: ByteSource, found: FileStreams, *, path: str | None = None
) -> Iterator[DataStream]:
    """The second pass: the data streams in the order in which they come, each to be read before the next.

    Args:
        source: the same backup stream, from its beginning again.
        found: what the first pass found.
        path: the file, for messages.

    Raises:
        BackupStreamError: the stream is not the one that was scanned.
    """
    reader = BackupStreamReader(source, path=path)
    for info in found.streams:
        header = reader.next()
        while header is not None and reader.header_position < info.position:
            header = reader.next()
        if header is None or reader.header_position != info.position:
            raise reader.error(_CHANGED)
        yield DataStream(info.name, info.size, _content(reader, header, info.size))


def _content(reader: BackupStreamReader, header: StreamHeader, size: int) -> Iterator[bytes | memoryview]:
    """The content of the stream of *header*, holes filled, *size* bytes in all."""
    if reader.current is not header:
        raise reader.error("a stream was read after the reader had gone to the next one")
    end = header.size
    if _has_blocks(reader, header):
        for offset, length in _sparse_blocks(reader):
            if offset + length > size:
                break
            yield from _zeroes(offset - end)
            yield from reader.chunks()
            end = offset + length
    elif end == size:
        yield from reader.chunks()
    if end != size:
        raise reader.error(_CHANGED)


def _zeroes(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _ZEROES[:count]
        count -= CHUNK_SIZE


class _Replay:
    """The content of one stream of a source that can seek; read each time that it is iterated."""

    def __init__(self, source: SeekableSource, position: int, size: int, path: str | None) -> None:
        self._source = source
        self._position = position
        self._size = size
        self._path = path

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self._source.seek(self._position)
        reader = BackupStreamReader(self._source, path=self._path)
        header = reader.next()
        if header is None:
            raise reader.error(_CHANGED)
        yield from _content(reader, header, self._size)


def read_file_streams(
    source: SeekableSource,
    *,
    metadata: FileMetadata | None = None,
    file_size: int | None = None,
    path: str | None = None,
) -> FileContent:
    """Read the backup stream of one file, from where *source* stands to its end.

    Args:
        source: a source that can seek.
        metadata: what is known already; descriptor, extended attributes and reparse buffer are filled in.
        file_size, path: as for `scan_file_streams`, whose errors are raised.
    """
    start = source.tell()
    found = scan_file_streams(source, file_size=file_size, path=path, seek=source.seek)
    streams = [
        DataStream(info.name, info.size, _Replay(source, start + info.position, info.size, path))
        for info in found.streams
    ]
    streams.sort(key=lambda stream: stream.name != "")
    return FileContent(found.apply_to(metadata or FileMetadata()), tuple(streams), found.ignored)


def read_transport_file(source: SeekableSource, *, path: str | None = None) -> FileContent:
    """Read a file of the transport format: a u32 of attributes, then the backup stream.

    Raises:
        BackupStreamError: it is too short; and as `scan_file_streams`.
    """
    fixed = b""
    while len(fixed) < 4:
        more = source.read(4 - len(fixed))
        if not more:
            raise BackupStreamError(f"a transport file of {len(fixed)} bytes has no attributes", path=path)
        fixed += more
    attributes = FileAttributes(int.from_bytes(fixed, "little"))
    return read_file_streams(source, metadata=FileMetadata(attributes), path=path)


# -- writing ----------------------------------------------------------------------------------------


def write_file_streams(
    metadata: FileMetadata, streams: Iterable[DataStream], sink: ByteSink, *, path: str | None = None
) -> None:
    """Write the backup stream of one file.

    Args:
        metadata: descriptor, extended attributes and reparse buffer are written where they are not empty.
        streams: the unnamed stream first, then the named ones.  A regular file has an unnamed stream even if
            it is empty; a directory has none; nothing is added here.
        sink: where the bytes go.
        path: the file, for messages.

    Raises:
        BackupStreamError: a stream has more or less data than it says, or the unnamed one is not the first.
        ExtendedAttributeError: the extended attributes can't be written.
    """
    writer = BackupStreamWriter(sink, path=path)
    if metadata.security:
        writer.write_stream(StreamId.SECURITY_DATA, metadata.security)
    if metadata.eas:
        writer.write_stream(StreamId.EA_DATA, build_eas(metadata.eas))
    if metadata.reparse:
        writer.write_stream(StreamId.REPARSE_DATA, metadata.reparse)
    for number, stream in enumerate(streams):
        if stream.name:
            header = StreamHeader(StreamId.ALTERNATE_DATA, stream.size, name=f":{stream.name}{_TYPE_SUFFIX}")
        elif number:
            raise writer.error("the unnamed data stream must come first")
        else:
            header = StreamHeader(StreamId.DATA, stream.size)
        writer.write_header(header)
        for chunk in stream.chunks:
            writer.write(chunk)
    writer.finish()


def write_transport_file(
    metadata: FileMetadata, streams: Iterable[DataStream], sink: ByteSink, *, path: str | None = None
) -> None:
    """Write a file of the transport format; see `write_file_streams`."""
    sink.write((int(metadata.attributes) & 0xFFFF_FFFF).to_bytes(4, "little"))
    write_file_streams(metadata, streams, sink, path=path)
