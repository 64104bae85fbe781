"""A streaming reader of tar: accepts and refuses what Go's ``archive/tar`` does; no seeking, no buffering.

The rules are those of ``Reader.Next`` and ``Reader.Read`` of go1.27, among them: checksums may be of signed
or unsigned bytes; the end is two zero blocks, or one and the end of the stream, or just the end of the stream
at a header or inside padding; what follows two zero blocks is not looked at; links, directories and devices
have no data whatever their size says; a type of NUL becomes ``5`` if the name ends in a slash, else ``0``;
global PAX headers are members of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from winlayers.errors import TarError, TarTruncatedError
from winlayers.tar.block import BlockParser, is_gnu
from winlayers.tar.fields import c_string, parse_integer, parse_numeric, parse_pax_records, parse_pax_time
from winlayers.tar.header import (
    BLOCK_SIZE,
    DIRECTORY,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    GNU_SPARSE,
    HEADER_ONLY_TYPES,
    MAX_SPECIAL_SIZE,
    PAX_GLOBAL,
    PAX_LOCAL,
    REGULAR,
    REGULAR_OLD,
    ZERO_BLOCK,
    Format,
    TarHeader,
)
from winlayers.tar.sparse import (
    SparseMap,
    check_map,
    parse_map_0,
    pax_sparse_version,
    read_map_1,
    read_map_old,
)

DEFAULT_BUFFER_SIZE = 1 << 18

_PAX, _GNU = int(Format.PAX), int(Format.GNU)
_USTAR_AND_PAX = int(Format.USTAR | Format.PAX)
_ANY = _USTAR_AND_PAX | _GNU
_FORMATS = [Format(value) for value in range(32)]
_ZERO_CHUNK = bytes(1 << 16)

Chunk = bytes | bytearray | memoryview


@runtime_checkable
class Source(Protocol):
    """Where a tar stream comes from."""

    def read(self, size: int, /) -> Chunk:
        """1 to *size* bytes, or none at the end.

        The buffer returned must keep its content until the next call.
        """


@runtime_checkable
class SkippingSource(Source, Protocol):
    """A source that can pass over bytes without giving them."""

    def skip(self, size: int, /) -> int:
        """Pass over up to *size* bytes; return how many there were (fewer only at the end)."""


class TarReader:
    """Iterates over the members of a tar stream; the current member's data can be read, or is passed over.

    Args:
        source: the stream (an ordinary binary file will do); chunks may be of any size.
        buffer_size: how much is asked of the source at once.  The reader may have taken up to this much more
            than it has used: :meth:`drain` reads the rest of the stream.

    Raises (from every method that reads):
        TarTruncatedError: the stream ends in a header or in data.
        TarError: a header is invalid.  The reader then stays at this error.
    """

    def __init__(self, source: Source, *, buffer_size: int = DEFAULT_BUFFER_SIZE) -> None:
        self._source = source
        self._skip_source = source.skip if isinstance(source, SkippingSource) else None
        self._buffer_size = buffer_size
        self._buffer: Chunk = b""
        self._length = 0
        self._position = 0
        self._base = 0  # the stream offset of the buffer's first byte
        self._error: TarError | None = None
        self._ended = False
        self._remaining = 0  # stored bytes of the current member that are unread
        self._padding = 0
        self._sparse: _SparseState | None = None
        self._parse_block = BlockParser().parse

    @property
    def offset(self) -> int:
        """The number of bytes of the stream used so far; after the last member: where the archive ends."""
        return self._base + self._position

    def __iter__(self) -> Iterator[TarHeader]:
        return self

    def __next__(self) -> TarHeader:
        header = self.next()
        if header is None:
            raise StopIteration
        return header

    def next(self) -> TarHeader | None:
        """The next member's header; None at the end."""
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        try:
            header = self._next()
        except TarError as error:
            self._error = error
            raise
        self._ended = header is None
        return header

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes (all that is left if negative) of the current member; none at its end.

        Fewer than *size* come only at the member's end.
        """
        if size < 0:
            return b"".join(self.chunks())
        parts: list[bytes] = []
        while size:
            chunk = self._read_some(size)
            if not chunk:
                break
            parts.append(bytes(chunk))
            size -= len(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self, size: int = DEFAULT_BUFFER_SIZE) -> Iterator[bytes | memoryview]:
        """What is left of the current member, in pieces of up to *size* bytes, each valid until the next."""
        while chunk := self._read_some(size):
            yield chunk

    def runs(self, size: int = DEFAULT_BUFFER_SIZE) -> Iterator[tuple[int, bytes | memoryview]]:
        """What is left of the current member as (offset in it, data); the holes of a sparse one are left out.

        A member of terabytes with a few bytes of data costs those few bytes.
        """
        state = self._sparse
        position = 0
        while True:
            if state is not None:
                state.position = min(max(state.position, state.fragment()[0]), state.size)
                position = state.position
            chunk = self._read_some(size)
            if not chunk:
                return
            yield position, chunk
            position += len(chunk)

    def drain(self) -> int:
        """Read the source to its end, past the archive's; return the length of the whole stream in bytes."""
        self._remaining = self._padding = 0
        self._sparse = None
        self._ended = True
        self._base += self._length
        self._buffer, self._length, self._position = b"", 0, 0
        while chunk := self._source.read(self._buffer_size):
            self._base += len(chunk)
        return self._base

    # -- the stream ---------------------------------------------------------------------------------

    def _refill(self, wanted: int) -> int:
        """Buffer at least *wanted* bytes at the position, if there are as many; return how many there are."""
        have = self._length - self._position
        if have >= wanted:
            return have
        self._base += self._position
        parts: list[Chunk] = [bytes(self._buffer[self._position :])] if have else []
        while have < wanted:
            chunk = self._source.read(self._buffer_size)
            if not chunk:
                break
            parts.append(chunk if not parts and len(chunk) >= wanted else bytes(chunk))
            have += len(chunk)
        self._buffer = parts[0] if len(parts) == 1 else b"".join(parts)
        self._length, self._position = have, 0
        return have

    def _skip(self, size: int) -> int:
        """Pass over *size* bytes; return how many there were (fewer at the stream's end)."""
        have = self._length - self._position
        if size <= have:
            self._position += size
            return size
        self._base += self._length
        self._buffer, self._length, self._position = b"", 0, 0
        skipped = have
        if self._skip_source is not None:
            count = self._skip_source(size - skipped)
            self._base += count
            return skipped + count
        while skipped < size:
            chunk = self._source.read(self._buffer_size)
            length = len(chunk)
            if not length:
                break
            if skipped + length > size:
                self._buffer, self._length, self._position = chunk, length, size - skipped
                return size
            self._base += length
            skipped += length
        return skipped

    def _take_block(self) -> bytes:
        """The next raw block, in the middle of something."""
        if self._refill(BLOCK_SIZE) < BLOCK_SIZE:
            raise TarTruncatedError("unexpected end of the tar stream")
        position = self._position
        self._position = position + BLOCK_SIZE
        return bytes(self._buffer[position : position + BLOCK_SIZE])

    def _take_data_block(self) -> bytes:
        """The next block of the current member's data."""
        block = self._take_block() if self._remaining >= BLOCK_SIZE else b""
        if not block:
            raise TarTruncatedError("a sparse map ends early")
        self._remaining -= BLOCK_SIZE
        return block

    def _take_header_block(self) -> bytes | None:
        """The next header block; None at the end of the archive."""
        position = self._position
        if self._length - position < BLOCK_SIZE:
            have = self._refill(BLOCK_SIZE)
            if not have:
                return None
            if have < BLOCK_SIZE:
                raise TarTruncatedError("the tar stream ends inside a header")
            position = self._position
        block = bytes(self._buffer[position : position + BLOCK_SIZE])
        self._position = position + BLOCK_SIZE
        if block[0] or block != ZERO_BLOCK:
            return block
        have = self._refill(BLOCK_SIZE)
        if not have:
            return None
        if self._take_block() != ZERO_BLOCK:
            raise TarError("invalid tar header: one zero block, then something else")
        return None

    def _finish_member(self) -> bool:
        """Pass over what is left of the current member; false where the stream ends in its padding."""
        remaining, total = self._remaining, self._remaining + self._padding
        self._remaining = self._padding = 0
        if not total:
            return True
        skipped = self._skip(total)
        if skipped < remaining:
            raise TarTruncatedError("the tar stream ends inside a member's data")
        return skipped == total

    def _take_special(self) -> bytes:
        """The data of a PAX header or long name, which must be of bounded size."""
        size = self._remaining
        wanted = min(size, MAX_SPECIAL_SIZE + 1)
        if self._refill(wanted) < wanted:
            raise TarTruncatedError("the tar stream ends inside an extended header")
        if size > MAX_SPECIAL_SIZE:
            raise TarError("tar header field too long")
        position = self._position
        self._position = position + size
        self._remaining = 0
        return bytes(self._buffer[position : position + size])

    # -- members ------------------------------------------------------------------------------------

    def _start_member(self, header: TarHeader) -> None:
        size = 0 if header.typeflag in HEADER_ONLY_TYPES else header.size
        if size < 0:
            raise TarError("invalid tar header: negative size")
        self._remaining = size
        self._padding = -size % BLOCK_SIZE

    def _next(self) -> TarHeader | None:
        pax: dict[str, str] | None = None
        long_name = long_link = ""
        formats = _ANY
        start = -1
        self._sparse = None
        while True:
            total = self._remaining + self._padding
            if total and self._length - self._position >= total:
                self._position += total
                self._remaining = self._padding = 0
            elif total and not self._finish_member():
                return None
            block = self._take_header_block()
            if block is None:
                return None
            header, kept_formats = self._parse_block(block)
            if start < 0:
                start = self._base + self._position - BLOCK_SIZE
            typeflag = header.typeflag
            size = header.size
            if typeflag in HEADER_ONLY_TYPES or size < 0:
                self._start_member(header)
            else:
                self._remaining = size
                self._padding = -size % BLOCK_SIZE
            formats &= kept_formats
            if typeflag == PAX_LOCAL:
                formats &= _PAX
                pax = parse_pax_records(self._take_special())
            elif typeflag == GNU_LONG_NAME:
                formats &= _GNU
                long_name = c_string(self._take_special())
            elif typeflag == GNU_LONG_LINK:
                formats &= _GNU
                long_link = c_string(self._take_special())
            elif typeflag == PAX_GLOBAL:
                return self._global_header(header, formats & _PAX, start)
            else:
                break
        header.header_offset = start
        if pax:
            _merge_pax(header, pax)
        if long_name:
            header.name = long_name
        if long_link:
            header.linkname = long_link
        if header.typeflag == REGULAR_OLD:
            header.typeflag = DIRECTORY if header.name.endswith("/") else REGULAR
        if pax or header.typeflag in HEADER_ONLY_TYPES:  # size or type may have become another
            self._start_member(header)
        if header.typeflag == GNU_SPARSE or (pax and ("GNU.sparse.map" in pax or "GNU.sparse.major" in pax)):
            self._start_sparse(header, block)
        header.format = _FORMATS[formats & ~_PAX if formats & _USTAR_AND_PAX == _USTAR_AND_PAX else formats]
        header.data_offset = position = self._base + self._position
        header.stored_size = remaining = self._remaining
        header.end_offset = position + remaining + self._padding
        return header

    def _global_header(self, header: TarHeader, formats: int, start: int) -> TarHeader:
        """A global PAX header as a member: name and records are all that it has."""
        size = self._remaining
        records = parse_pax_records(self._take_special())
        name = records.get("path") or header.name
        try:
            _merge_pax(TarHeader(), records)
        except TarError:
            records = {}  # so does Go: a bad value costs the records, not the stream
        position = self._base + self._position
        return TarHeader(
            name,
            PAX_GLOBAL,
            format=_FORMATS[formats],
            pax=records,
            header_offset=start,
            data_offset=position - size,
            stored_size=size,
            end_offset=position + self._padding,
        )

    def _start_sparse(self, header: TarHeader, block: bytes) -> None:
        entries: SparseMap
        if header.typeflag == GNU_SPARSE:
            if not is_gnu(block):
                raise TarError("invalid tar header: a sparse member that is not in GNU's format")
            header.size = parse_numeric(block[483:495])
            entries = read_map_old(block, self._take_block)
        else:
            pax = header.pax
            version = pax_sparse_version(pax)
            if version is None:
                return
            header.name = pax.get("GNU.sparse.name") or header.name
            size = pax.get("GNU.sparse.size") or pax.get("GNU.sparse.realsize")
            if size:
                header.size = parse_integer(size)
            entries = read_map_1(self._take_data_block) if version == "1" else parse_map_0(pax)
        if header.typeflag in HEADER_ONLY_TYPES:
            raise TarError("invalid tar header: a sparse member of a type that has no data")
        check_map(entries, header.size)
        header.sparse = tuple(entries)
        self._sparse = _SparseState([entry for entry in entries if entry[1]], header.size)

    # -- data ---------------------------------------------------------------------------------------

    def _read_some(self, size: int) -> bytes | memoryview:
        """Some of the current member's data, at most *size* bytes; none at its end."""
        if self._error is not None:
            raise self._error
        try:
            if self._sparse is not None:
                return self._read_sparse(self._sparse, size)
            return self._read_stored(size) if self._remaining else b""
        except TarError as error:
            self._error = error
            raise

    def _read_stored(self, size: int) -> memoryview:
        have = self._length - self._position
        if not have:
            have = self._refill(1)
            if not have:
                raise TarTruncatedError("the tar stream ends inside a member's data")
        start = self._position
        end = self._position = start + min(size, have, self._remaining)
        self._remaining -= end - start
        return memoryview(self._buffer)[start:end]

    def _read_sparse(self, state: _SparseState, size: int) -> bytes | memoryview:
        chunk: bytes | memoryview = b""
        if state.position < state.size:
            start, end = state.fragment()
            if state.position < start:
                chunk = memoryview(_ZERO_CHUNK)[: min(size, start - state.position)]
            elif not self._remaining:
                raise TarError("sparse file references data that is not there")
            else:
                chunk = self._read_stored(min(size, end - state.position))
            state.position += len(chunk)
        if state.position == state.size and self._remaining:
            raise TarError("sparse file has data that nothing refers to")
        return chunk


class _SparseState:
    """How far a sparse member has been read."""

    __slots__ = ("_fragments", "_index", "position", "size")

    def __init__(self, fragments: SparseMap, size: int) -> None:
        self._fragments = fragments
        self._index = 0
        self.position = 0
        self.size = size

    def fragment(self) -> tuple[int, int]:
        """Start and end of the data fragment at or after the position; both the file's end after the last."""
        while self._index < len(self._fragments):
            offset, length = self._fragments[self._index]
            if self.position < offset + length:
                return offset, offset + length
            self._index += 1
        return self.size, self.size


def _merge_pax(header: TarHeader, pax: dict[str, str]) -> None:
    """Let the records of *pax* override the fields of *header*; empty ones leave the field as it is.

    Raises:
        TarError: a number or time that is malformed.
    """
    get = pax.get
    if value := get("mtime"):
        header.mtime = parse_pax_time(value)
    if value := get("atime"):
        header.atime = parse_pax_time(value)
    if value := get("ctime"):
        header.ctime = parse_pax_time(value)
    if value := get("path"):
        header.name = value
    if value := get("linkpath"):
        header.linkname = value
    if value := get("size"):
        header.size = parse_integer(value)
    if value := get("uid"):
        header.uid = parse_integer(value)
    if value := get("gid"):
        header.gid = parse_integer(value)
    if value := get("uname"):
        header.uname = value
    if value := get("gname"):
        header.gname = value
    header.pax = pax
