"""Win32 backup streams: what BackupRead yields and BackupWrite takes, one stream after the other.

Each stream is a WIN32_STREAM_ID, its name, and its data; all numbers are little endian::

    offset  size  field
    0       4     dwStreamId, see `StreamId`
    4       4     dwStreamAttributes, see `StreamAttributes`
    8       8     Size of the data, in bytes
    16      4     dwStreamNameSize, in bytes
    20      n     cStreamName, UTF-16LE, no NUL (ALTERNATE_DATA: ":name:$DATA")
    20 + n  ...   the data

A SPARSE_BLOCK's data begins with its offset in the file (i64), which Size counts.  There is no end mark: the
streams end where the source ends between two of them.

This module reads and writes single streams, in order, on sources that need not seek;
:mod:`winlayers.win32.filestreams` makes files of them.  Sources: WIN32_STREAM_ID in the Win32 documentation
(winbase.h); go-winio, ``backup.go``.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from winlayers.errors import BackupStreamError
from winlayers.win32.names import decode_utf16, encode_utf16

CHUNK_SIZE = 1 << 20
"""How much data is read at once."""

MAX_NAME_BYTES = 0xFFFE
"""The longest name that is read: more than any counted Windows string holds is not a name."""

_HEADER = struct.Struct("<IIQI")
_OFFSET = struct.Struct("<q")
_MAX_SIZE = 2**63 - 1


class StreamId(enum.IntEnum):
    """What a stream holds (``BACKUP_*``)."""

    DATA = 1
    EA_DATA = 2
    SECURITY_DATA = 3
    ALTERNATE_DATA = 4
    LINK = 5
    PROPERTY_DATA = 6
    OBJECT_ID = 7
    REPARSE_DATA = 8
    SPARSE_BLOCK = 9
    TXFS_DATA = 10


class StreamAttributes(enum.IntFlag, boundary=enum.KEEP):
    """``STREAM_*_ATTRIBUTE``; bits without a name are kept."""

    MODIFIED_WHEN_READ = 1
    CONTAINS_SECURITY = 2
    CONTAINS_PROPERTIES = 4
    SPARSE = 8


class ByteSource(Protocol):
    """What is read from: ``read(n)`` gives at most *n* bytes, fewer at will, none at the end."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; none at the end."""


class ByteSink(Protocol):
    """What is written to: ``write`` takes all that it is given."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of *data*."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamHeader:
    """The header of one stream.

    Attributes:
        id: a `StreamId`, or the number of one that is not known.
        size: bytes of data; for a SPARSE_BLOCK without the eight of its offset.
        attributes: the stream's attributes.
        name: the name as it stands (``:name:$DATA`` for an alternate stream), else "".
        offset: where in the file a SPARSE_BLOCK belongs, else 0.
    """

    id: int
    size: int
    attributes: int = 0
    name: str = ""
    offset: int = 0

    @property
    def is_sparse(self) -> bool:
        """Whether the stream carries the sparse attribute."""
        return bool(self.attributes & StreamAttributes.SPARSE)


def stream_name(stream_id: int) -> str:
    """The name of a stream id for messages: ``EA_DATA``, or the number."""
    try:
        return StreamId(stream_id).name
    except ValueError:
        return str(stream_id)


class BackupStreamReader:
    """Reads streams one after the other::

        reader = BackupStreamReader(source)
        for header in reader:
            for chunk in reader.chunks():
                ...

    Unknown ids are handed out like all others: whoever reads decides.  What is not read of a stream is
    skipped.

    Args:
        source: where the bytes come from.
        path: the file that they belong to, for messages.
        seek: the source's ``seek``, if data that is not wanted may be skipped by it rather than read.

    Every method raises `BackupStreamError` where a header or its data is cut off, a size is beyond 63 bits, a
    name is odd or absurdly long, or a sparse block has no offset or a negative one.
    """

    def __init__(
        self, source: ByteSource, *, path: str | None = None, seek: Callable[[int, int], int] | None = None
    ) -> None:
        self._source = source
        self._path = path
        self._seek = seek
        self._left = 0
        self._current: StreamHeader | None = None
        self._peeked: StreamHeader | None = None
        self._at_peeked = False
        self._position = 0
        self._header_position = 0

    @property
    def current(self) -> StreamHeader | None:
        """The header that `next` returned last."""
        return self._current

    @property
    def header_position(self) -> int:
        """Where the last header that was read begins, in bytes from where the reader began."""
        return self._header_position

    def error(self, message: str) -> BackupStreamError:
        """An error about the file that is being read."""
        return BackupStreamError(message, path=self._path)

    def next(self) -> StreamHeader | None:
        """Go to the next stream, or None at the end."""
        header = self.peek()
        self._at_peeked = False
        self._peeked = None
        self._current = header
        self._left = header.size if header is not None else 0
        return header

    def peek(self) -> StreamHeader | None:
        """The header that `next` will return; skips what is left of the current stream."""
        if not self._at_peeked:
            self._skip()
            self._peeked = self._read_header()
            self._at_peeked = True
        return self._peeked

    def __iter__(self) -> Iterator[StreamHeader]:
        while (header := self.next()) is not None:
            yield header

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Up to *size* bytes of the current stream; b"" at its end."""
        wanted = min(size, self._left)
        if wanted <= 0:
            return b""
        data = self._source.read(wanted)
        if not data:
            raise self._cut_off(self._left)
        if len(data) > wanted:
            raise self.error(f"a source gave {len(data)} bytes when asked for {wanted}")
        self._left -= len(data)
        self._position += len(data)
        return data

    def read_all(self, limit: int) -> bytes:
        """All that is left of the current stream, which must not be more than *limit* bytes."""
        if self._left > limit:
            name = stream_name(self._current.id) if self._current is not None else "?"
            raise self.error(f"a {name} stream of {self._left} bytes is over the limit of {limit}")
        return b"".join(self.chunks())

    def chunks(self, size: int = CHUNK_SIZE) -> Iterator[bytes]:
        """What is left of the current stream, in pieces of at most *size* bytes."""
        current = self._current
        while self._left:
            data = self.read(size)
            yield data
            if self._current is not current:
                raise self.error("a stream was read on after the reader had gone to the next one")

    def _skip(self) -> None:
        if self._seek is not None and self._left > CHUNK_SIZE:
            # Nothing tells of a seek beyond the end (or it fails, if far beyond), so look where the end is.
            start = self._seek(0, io.SEEK_CUR)
            left = self._seek(0, io.SEEK_END) - start
            if left < self._left:
                raise self._cut_off(self._left - left)
            self._seek(start + self._left, io.SEEK_SET)
            self._position += self._left
            self._left = 0
        while self._left:
            self.read()

    def _cut_off(self, missing: int) -> BackupStreamError:
        name = stream_name(self._current.id) if self._current is not None else "?"
        return self.error(f"a {name} stream is cut off, {missing} bytes before its end")

    def _exactly(self, size: int, what: str, data: bytes = b"") -> bytes:
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                raise self.error(f"a backup stream is cut off in a stream's {what}")
            data += more
        if len(data) > size:
            raise self.error(f"a source gave {len(data)} bytes when asked for {size}")
        self._position += size
        return data

    def _read_header(self) -> StreamHeader | None:
        start = self._position
        first = self._source.read(_HEADER.size)
        if not first:
            return None
        fixed = self._exactly(_HEADER.size, "header", first)
        stream_id, attributes, size, name_size = _HEADER.unpack(fixed)
        if size > _MAX_SIZE:
            raise self.error(f"a {stream_name(stream_id)} stream has a size beyond 63 bits")
        if name_size > MAX_NAME_BYTES or name_size % 2:
            raise self.error(f"a {stream_name(stream_id)} stream has a name of {name_size} bytes")
        name = decode_utf16(self._exactly(name_size, "name")) if name_size else ""
        offset = 0
        if stream_id == StreamId.SPARSE_BLOCK:
            if size < _OFFSET.size:
                raise self.error("a sparse block has no room for its offset")
            size -= _OFFSET.size
            (offset,) = _OFFSET.unpack(self._exactly(_OFFSET.size, "offset"))
            if offset < 0 or offset + size > _MAX_SIZE:
                raise self.error(f"a sparse block lies at offset {offset}")
        self._header_position = start
        return StreamHeader(stream_id, size, attributes, name, offset)


class BackupStreamWriter:
    """Writes streams one after the other: `write_header`, then `write` for all of its data, at last `finish`.

    Args:
        sink: where the bytes go.
        path: the file that they belong to, for messages.

    Every method raises `BackupStreamError` where data and header do not agree.
    """

    def __init__(self, sink: ByteSink, *, path: str | None = None) -> None:
        self._sink = sink
        self._path = path
        self._left = 0

    def error(self, message: str) -> BackupStreamError:
        """An error about the file that is being written."""
        return BackupStreamError(message, path=self._path)

    def write_header(self, header: StreamHeader) -> None:
        """Begin the next stream; the one before it must be complete."""
        self.finish()
        name = encode_utf16(header.name)
        if len(name) > MAX_NAME_BYTES:
            raise self.error(f"a stream's name has {len(name)} bytes, over the limit of {MAX_NAME_BYTES}")
        is_block = header.id == StreamId.SPARSE_BLOCK
        size = header.size + _OFFSET.size if is_block else header.size
        if header.size < 0 or size > _MAX_SIZE or header.offset < 0 or header.offset + size > _MAX_SIZE:
            raise self.error(f"a {stream_name(header.id)} stream can't have {header.size} bytes")
        fixed = _HEADER.pack(header.id, header.attributes, size, len(name))
        self._sink.write(fixed + name + (_OFFSET.pack(header.offset) if is_block else b""))
        self._left = header.size

    def write(self, data: bytes | memoryview) -> None:
        """Write data of the current stream."""
        size = memoryview(data).nbytes
        if size > self._left:
            raise self.error(f"a stream has at least {size - self._left} bytes more than announced")
        self._sink.write(data)
        self._left -= size

    def write_stream(self, stream_id: int, data: bytes) -> None:
        """Write a whole stream without a name."""
        self.write_header(StreamHeader(stream_id, len(data)))
        self.write(data)

    def finish(self) -> None:
        """Make sure that the last stream is complete."""
        if self._left:
            raise self.error(f"a stream has {self._left} bytes less than announced")
