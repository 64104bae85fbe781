"""Putting a tar stream together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO, Protocol, cast

from winlayers.errors import TarError, TarSplitError
from winlayers.tar.crc64 import crc64
from winlayers.tar.sparse import SparseMap
from winlayers.tar.tarsplit.entries import Entry, FileEntry, Segment, read_entries
from winlayers.tar.tarsplit.names import SeenNames
from winlayers.tar.tarsplit.scanner import Member, Scanner

READ_SIZE = 1 << 20


class Content(Protocol):
    """What a file's content is read from."""

    def read(self, size: int, /) -> bytes:
        """1 to *size* bytes, or none at the end."""

    def close(self) -> None:
        """It isn't needed any more."""


class Output(Protocol):
    """Where the stream goes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of *data*."""


FileGetter = Callable[[str], Content]
"""Opens the content of the member of a name."""


def reassemble(metadata: IO[bytes] | Iterable[Entry], file_getter: FileGetter, out: Output) -> int:
    """Write the stream that *metadata* was taken from to *out*, and return its length in bytes.

    The reference's tool copies a file's content for each entry whose size is not 0.  That is not what was
    in the tar where a directory or link claims a size (it has no content), and where a member is sparse
    (only its fragments are in the tar): the headers among the segments tell, so that here these come out
    exact as well.

    Args:
        metadata: a ``tar-data.json.gz``, its lines, or entries.
        file_getter: is asked once for each member with content, in the order of the stream, under the very
            name in the tar (``FileEntry.name``).  What it returns is closed.  A sparse file is read whole,
            with its holes.
        out: gets the stream as it is produced: after an error it has received a part.

    Raises:
        TarSplitError: the metadata are malformed; two entries have one name; a file's content does not have
            the size or checksum recorded; or exactness is impossible, since a sparse map was lost.
    """
    readable = hasattr(metadata, "read")
    entries = read_entries(cast("IO[bytes]", metadata)) if readable else cast("Iterable[Entry]", metadata)
    return _Reassembler(file_getter, out).run(entries)


class _Reassembler:
    def __init__(self, file_getter: FileGetter, out: Output) -> None:
        self._get = file_getter
        self._out = out
        self._written = 0
        self._member: Member | None = None
        # Follows the headers among the segments.  Entries made by others need not make a tar: then there is
        # no telling, and each file's content is copied as it is.
        self._scanner: Scanner | None = Scanner(_ignore, self._on_member, None, _ignore, lambda: None)

    def run(self, entries: Iterable[Entry]) -> int:
        names = SeenNames()
        for entry in entries:
            if isinstance(entry, Segment):
                self._write(entry.payload)
                self._follow(entry.payload)
            else:
                names.add(entry.name)
                self._file(entry)
        return self._written

    def _write(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self._written += len(data)

    def _follow(self, payload: bytes) -> None:
        if self._scanner is None:
            return
        if self._member is not None:  # a header whose file entry is missing
            self._scanner = None
            return
        try:
            self._scanner.feed(payload)
        except TarError:
            self._scanner = None

    def _on_member(self, member: Member) -> None:
        self._member = member

    def _file(self, entry: FileEntry) -> None:
        member, self._member = self._member, None
        if member is None or (member.name, member.size) != (entry.name, entry.size):
            self._scanner = member = None
        if entry.size == 0:
            return
        if member is not None and not member.has_data:
            if entry.size > 0 and entry.checksum != bytes(8):
                raise TarSplitError(
                    "a link or directory has a checksum as if it had content", path=entry.name
                )
            return
        content = self._get(entry.name)
        try:
            self._copy(entry, content, None if member is None else member.sparse)
        finally:
            content.close()

    def _copy(self, entry: FileEntry, content: Content, sparse: SparseMap | None) -> None:
        """Write the content of *entry*, of a sparse member the fragments of *sparse* only."""
        position = checksum = 0
        fragments = iter([(0, entry.size)] if sparse is None else sparse)
        start, end = _next_fragment(fragments)
        # One byte more than is due shows a file that is too long without reading it to its end.
        while data := content.read(min(READ_SIZE, max(entry.size - position, 0) + 1)):
            view = memoryview(data)
            if position + len(view) > entry.size:
                raise TarSplitError(
                    f"the content is longer than the {entry.size} bytes recorded", path=entry.name
                )
            checksum = crc64(view, checksum)
            data_end = position + len(view)
            while start < data_end:
                self._write(view[max(start - position, 0) : end - position])
                if end > data_end:
                    break
                start, end = _next_fragment(fragments)
            position = data_end
        if position != entry.size:
            raise TarSplitError(f"the content has {position} bytes, not {entry.size}", path=entry.name)
        if checksum.to_bytes(8, "big") != entry.checksum:
            raise TarSplitError("the content's checksum is not the one recorded", path=entry.name)


def _next_fragment(fragments: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Start and end of the next one; after the last: where no file reaches."""
    for offset, size in fragments:
        return offset, offset + size
    return 1 << 64, 1 << 64


def _ignore(_: object) -> None:
    """Nothing is to be done."""
