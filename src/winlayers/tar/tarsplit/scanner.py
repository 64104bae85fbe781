"""Finds the members of a tar stream that is pushed in, and gives back every byte as raw or as stored data.

Which streams are accepted, and which bytes count as raw, is what tar-split's copy of Go's ``archive/tar``
says (``archive/tar/reader.go`` of tar-split 0.12.3, with its ``RawAccounting``): the rules of
:class:`winlayers.tar.reader.TarReader`, except that a global PAX header with a malformed number is refused,
and that the map at the head of a GNU sparse member of PAX format 1.0 counts neither as raw nor as content:
it gets lost.

The reader pulls and so can't stand in the middle of somebody else's stream; this machine is driven by
whoever has the next bytes.  It also has to give up all raw bytes, in order, where the reader passes over
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import TypeVar

from winlayers.errors import TarError, TarSplitError, TarTruncatedError
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
    TarHeader,
)
from winlayers.tar.sparse import (
    EXTENSION_MAP,
    MAX_EXTENSIONS,
    OLD_MAP,
    SparseMap,
    check_map,
    parse_map_0,
    parse_map_area,
    pax_sparse_version,
    read_map_1,
)

Chunk = bytes | bytearray | memoryview
OnData = Callable[[memoryview, int], None]
T = TypeVar("T")
Steps = Generator[None, None, T]
"""A part of the machine: yields when it needs more of the stream, and returns what it is for."""


@dataclasses.dataclass(slots=True)
class Member:
    """What a header says that matters here.

    Attributes:
        name: as in :class:`~winlayers.tar.tarsplit.entries.FileEntry`.
        size: the size in bytes that it claims; may be negative for types without data.
        has_data: whether this type has data at all.
        stored: the number of bytes in the stream that are its content (of a sparse member: its fragments).
        sparse: offset and size of each fragment, none of them empty; None: not sparse.
        lost_map: whether a sparse map of PAX format 1.0 came before the content.
    """

    name: str
    size: int
    has_data: bool
    stored: int
    sparse: SparseMap | None = None
    lost_map: bool = False


class Scanner:
    """The machine.  Push with :meth:`feed`, end with :meth:`finish`.

    Args:
        on_raw: gets raw bytes, in pieces.
        on_member: gets each member as soon as its header has been read (its raw bytes have been given by
            then).
        on_data: gets the member's stored data in pieces that are valid only during the call, each with its
            offset in the file; None: the members' stored data are not in the stream that is pushed.
        on_end: called at the end of each member's data.
        on_archive_end: called at the end of the archive; all that follows is given to *on_raw*.

    Attributes:
        consumed: how much of the stream has been dealt with.
    """

    def __init__(
        self,
        on_raw: Callable[[bytes], None],
        on_member: Callable[[Member], None],
        on_data: OnData | None,
        on_end: Callable[[Member], None],
        on_archive_end: Callable[[], None],
    ) -> None:
        self._on_raw = on_raw
        self._on_member = on_member
        self._on_data = on_data
        self._on_end = on_end
        self._on_archive_end = on_archive_end
        self._parse_block = BlockParser().parse
        self._chunk = memoryview(b"")
        self._position = 0
        self._base = 0  # stream offset of the chunk
        self._ended = False
        self._failed = False
        self._remaining = 0  # bytes of the current header's data that are still to come
        self._padding = 0
        self._steps = self._run()
        next(self._steps)

    @property
    def consumed(self) -> int:
        """The number of bytes of the stream that have been dealt with."""
        return self._base + self._position

    def feed(self, data: Chunk) -> None:
        """Take the next bytes of the stream.

        Raises:
            TarTruncatedError, TarError: a header is malformed.  What follows can't be taken any more.
        """
        if self._ended:
            raise TarSplitError("more of a tar stream after its end")
        self._advance(data)

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            TarTruncatedError: in the middle of a header or of data.
        """
        self._ended = True
        self._advance(b"")

    def _advance(self, data: Chunk) -> None:
        if self._failed:
            raise TarSplitError("the tar stream was given up at an earlier error")
        self._base += len(self._chunk)
        self._chunk, self._position = memoryview(data), 0
        self._failed = True  # until the machine, or what it calls, has got through
        next(self._steps, None)
        self._failed = False

    # -- the stream: generators that yield when they need more of it -----------------------------------

    def _some(self, limit: int) -> memoryview:
        """What is at hand, up to *limit* bytes."""
        view = self._chunk[self._position : self._position + limit]
        self._position += len(view)
        return view

    def _take(self, size: int) -> Steps[bytes]:
        """*size* bytes, or fewer at the end of the stream."""
        view = self._some(size)
        if len(view) == size:
            return bytes(view)
        parts = [bytes(view)]
        missing = size - len(view)
        while missing and not self._ended:
            yield
            view = self._some(missing)
            parts.append(bytes(view))
            missing -= len(view)
        return b"".join(parts)

    def _pass_raw(self, size: int) -> Steps[int]:
        """Give *size* bytes as raw; the number that is missing at the end of the stream."""
        while size:
            view = self._some(size)
            size -= len(view)
            if view:
                self._on_raw(bytes(view))
            elif self._ended:
                break
            else:
                yield
        return size

    # -- headers ----------------------------------------------------------------------------------------

    def _run(self) -> Steps[None]:
        yield
        while member := (yield from self._next_member()):
            self._on_member(member)
            if member.size > 0:
                if self._on_data is not None:
                    yield from self._pass_data(member, self._on_data)
                else:
                    self._remaining = 0
            self._on_end(member)
        self._on_archive_end()
        yield from self._pass_raw(1 << 64)

    def _next_member(self) -> Steps[Member | None]:
        """The next member; None at the end of the archive."""
        pax: dict[str, str] = {}
        long_name = ""
        while True:
            if (self._remaining or self._padding) and not (yield from self._finish_data()):
                return None
            block = yield from self._take(BLOCK_SIZE)
            if len(block) < BLOCK_SIZE or block == ZERO_BLOCK:
                yield from self._end_of_archive(block)
                return None
            self._on_raw(block)
            header, _ = self._parse_block(block)
            self._start_data(header)
            typeflag = header.typeflag
            if typeflag == PAX_LOCAL:
                pax = parse_pax_records((yield from self._take_special()))
            elif typeflag == GNU_LONG_NAME:
                long_name = c_string((yield from self._take_special()))
            elif typeflag == GNU_LONG_LINK:
                yield from self._take_special()
            elif typeflag == PAX_GLOBAL:
                _merge_pax(header, parse_pax_records((yield from self._take_special())))
                return Member(header.name, 0, False, 0)
            else:
                break
        _merge_pax(header, pax)
        header.name = long_name or header.name
        if header.typeflag == REGULAR_OLD:
            header.typeflag = DIRECTORY if header.name.endswith("/") else REGULAR
        self._start_data(header)
        return (yield from self._finish_header(header, block, pax))

    def _end_of_archive(self, block: bytes) -> Steps[None]:
        if not block:
            return
        second = ZERO_BLOCK if len(block) < BLOCK_SIZE else (yield from self._take(BLOCK_SIZE))
        if len(block) < BLOCK_SIZE or 0 < len(second) < BLOCK_SIZE:
            raise TarTruncatedError("the tar stream ends inside a header")
        if second and second != ZERO_BLOCK:
            raise TarError("invalid tar header: one zero block, then something else")
        self._on_raw(block + second)

    def _start_data(self, header: TarHeader) -> None:
        size = 0 if header.typeflag in HEADER_ONLY_TYPES else header.size
        if size < 0:
            raise TarError("invalid tar header: negative size", path=header.name)
        self._remaining = size
        self._padding = -size % BLOCK_SIZE

    def _finish_data(self) -> Steps[bool]:
        """Pass over data that nobody asked for, and padding; false where the stream ends in the latter."""
        remaining, padding = self._remaining, self._padding
        self._remaining = self._padding = 0
        if (yield from self._pass_raw(remaining)):
            raise TarTruncatedError("the tar stream ends inside a member's data")
        return not (yield from self._pass_raw(padding))

    def _take_special(self) -> Steps[bytes]:
        """The content of a PAX header or long name."""
        size, self._remaining = self._remaining, 0
        content = yield from self._take(min(size, MAX_SPECIAL_SIZE + 1))
        if len(content) > MAX_SPECIAL_SIZE:
            raise TarError(f"tar header field too long: {size} bytes")
        if len(content) < size:
            raise TarTruncatedError("the tar stream ends inside an extended header")
        if content:
            self._on_raw(content)
        return content

    def _finish_header(self, header: TarHeader, block: bytes, pax: dict[str, str]) -> Steps[Member]:
        """The member of *header*, after its sparse map if it has one."""
        member = Member(header.name, header.size, header.typeflag not in HEADER_ONLY_TYPES, 0)
        version = None if header.typeflag == GNU_SPARSE else pax_sparse_version(pax)
        if header.typeflag == GNU_SPARSE:
            if not is_gnu(block):
                raise TarError("invalid tar header: a sparse member not in GNU's format", path=header.name)
            member.size = parse_numeric(block[483:495])
            member.sparse = yield from self._old_map(block)
        elif version is not None:
            member.name = pax.get("GNU.sparse.name") or header.name
            size = pax.get("GNU.sparse.size") or pax.get("GNU.sparse.realsize")
            if size:
                member.size = parse_integer(size)
            if version == "1":
                member.lost_map = True
                member.sparse = yield from self._map_1(member.name)
            else:
                member.sparse = parse_map_0(pax)
        if member.sparse is not None:
            if not member.has_data:
                raise TarError("invalid tar header: a sparse member of a type without data", path=header.name)
            check_map(member.sparse, member.size)
            member.sparse = [fragment for fragment in member.sparse if fragment[1]]
        member.stored = self._remaining
        return member

    def _old_map(self, block: bytes) -> Steps[SparseMap]:
        """Old GNU format: the map is in the header and in extension blocks behind it."""
        entries, more = parse_map_area(block[OLD_MAP])
        extensions = 0
        while more:
            extension = yield from self._take(BLOCK_SIZE)
            if len(extension) < BLOCK_SIZE:
                raise TarTruncatedError("the tar stream ends inside a header")
            self._on_raw(extension)
            extensions += 1
            if extensions > MAX_EXTENSIONS:
                raise TarError("sparse map too long")
            found, more = parse_map_area(extension[EXTENSION_MAP])
            entries += found
        return entries

    def _map_1(self, name: str) -> Steps[SparseMap]:
        """PAX format 1.0: the map is lines at the head of the data, filled up to whole blocks."""
        if self._on_data is None:
            raise TarSplitError(
                "can't be put together exactly: tar-split's metadata hold no sparse map of PAX format 1.0",
                path=name,
                hint="keep the tar itself",
            )
        blocks: list[bytes] = []
        newlines, wanted = 0, 1
        while newlines < wanted and len(blocks) * BLOCK_SIZE < MAX_SPECIAL_SIZE:
            block = yield from self._take(min(BLOCK_SIZE, self._remaining))
            if len(block) < BLOCK_SIZE:
                raise TarTruncatedError("a sparse map ends early", path=name)
            self._remaining -= BLOCK_SIZE
            blocks.append(block)
            newlines += block.count(b"\n")
            if wanted == 1 and newlines:
                count = b"".join(blocks).partition(b"\n")[0].decode("latin-1")
                wanted += 2 * max(0, parse_integer(count))
        return read_map_1(iter(blocks).__next__)

    # -- data -------------------------------------------------------------------------------------------

    def _pass_data(self, member: Member, on_data: OnData) -> Steps[None]:
        if member.sparse is None:
            yield from self._pass_fragment(0, self._remaining, on_data)
            return
        for offset, size in member.sparse:
            if size > self._remaining:
                yield from self._pass_fragment(offset, self._remaining, on_data)
                raise TarError("sparse file references data that is not there", path=member.name)
            yield from self._pass_fragment(offset, size, on_data)
        if self._remaining:
            raise TarError("sparse file has data that nothing refers to", path=member.name)

    def _pass_fragment(self, offset: int, size: int, on_data: OnData) -> Steps[None]:
        self._remaining -= size
        while size:
            view = self._some(size)
            if view:
                on_data(view, offset)
                offset += len(view)
                size -= len(view)
            elif self._ended:
                raise TarTruncatedError("the tar stream ends inside a member's data")
            else:
                yield


def _merge_pax(header: TarHeader, pax: dict[str, str]) -> None:
    """Take name and size from *pax*, and check the other numbers as Go does."""
    if not pax:
        return
    header.name = pax.get("path") or header.name
    for key in ("atime", "mtime", "ctime"):
        if value := pax.get(key):
            parse_pax_time(value)
    for key in ("uid", "gid"):
        if value := pax.get(key):
            parse_integer(value)
    if value := pax.get("size"):
        header.size = parse_integer(value)
