"""Taking a tar stream apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

from winlayers.errors import TarError, TarSplitError
from winlayers.tar.crc64 import crc64, crc64_zeros
from winlayers.tar.reader import Source
from winlayers.tar.tarsplit.entries import Entry, FileEntry, Segment
from winlayers.tar.tarsplit.names import SeenNames
from winlayers.tar.tarsplit.scanner import Chunk, Member, Scanner

READ_SIZE = 1 << 20
TRAILER_SIZE = 1 << 20
"""What follows the archive becomes segments of this size (tar-split ``tar/asm/disassemble.go``)."""
MAX_SEGMENT_SIZE = 16 << 20
"""Where a header, with all that belongs to it, is larger, it becomes several segments."""
_MAX_NAMES = 20


class PayloadSink(Protocol):
    """Gets the content of each member that has some."""

    def begin(self, name: str, size: int, /) -> None:
        """A file of *size* bytes (more than none) follows."""

    def write(self, data: memoryview, /) -> None:
        """The next bytes; *data* is valid during the call only."""

    def hole(self, size: int, /) -> None:
        """The next *size* bytes are zeroes (of a sparse member; there may be exabytes of them)."""

    def end(self) -> None:
        """The file is complete."""


@dataclasses.dataclass(frozen=True, slots=True)
class Disassembly:
    """What came of taking a stream apart.

    Attributes:
        size: the stream's length in bytes.
        entries: the number of entries.
        inexact: how many members can't be put together again from the entries and the files (sparse members
            of PAX format 1.0, whose maps tar-split's format has no place for).
        inexact_names: the first of these.
    """

    size: int
    entries: int
    inexact: int
    inexact_names: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether :func:`~winlayers.tar.tarsplit.reassemble` can give the stream back."""
        return not self.inexact


class Disassembler:
    """Takes apart the tar stream that is pushed into it.

    Args:
        metadata_sink: gets each entry (``EntryWriter.add``, ``list.append``).
        payload_sink: gets the files' contents.
        require_exact: raise, rather than report, where the stream can't be reassembled.

    The entries are those of the reference, with these exceptions: bytes of padding before the end of a stream
    that is cut there are kept, and what would be a segment over 16 MiB becomes several.
    """

    def __init__(
        self,
        metadata_sink: Callable[[Entry], object],
        payload_sink: PayloadSink | None = None,
        *,
        require_exact: bool = False,
    ) -> None:
        self._sink = metadata_sink
        self._payload_sink = payload_sink
        self._require_exact = require_exact
        self._names = SeenNames()
        self._entries = 0
        self._inexact = 0
        self._inexact_names: list[str] = []
        self._raw: list[bytes] = []
        self._raw_size = 0
        self._in_trailer = False
        self._crc = 0
        self._offset = 0  # in the current member's content
        self._scanner = Scanner(
            self._on_raw, self._on_member, self._on_data, self._on_end, self._on_archive_end
        )

    @property
    def consumed(self) -> int:
        """The number of bytes of the stream that have been dealt with; after an error: up to where."""
        return self._scanner.consumed

    def feed(self, data: Chunk) -> None:
        """Take the next bytes of the stream.

        Raises:
            TarTruncatedError, TarError: it is not a tar.  The entries so far stand.
            TarSplitError: two members of one name; or *require_exact* and a member that gets lost.
        """
        self._scanner.feed(data)

    def finish(self) -> Disassembly:
        """The stream has ended.

        Raises:
            TarTruncatedError: in the middle of a member.
        """
        self._scanner.finish()
        self._flush()
        return Disassembly(self.consumed, self._entries, self._inexact, tuple(self._inexact_names))

    def _emit(self, entry: Entry) -> None:
        self._entries += 1
        self._sink(entry)

    def _flush(self) -> None:
        if self._raw:
            payload = self._raw[0] if len(self._raw) == 1 else b"".join(self._raw)
            self._raw, self._raw_size = [], 0
            self._emit(Segment(payload, self._entries))

    def _on_raw(self, data: bytes) -> None:
        limit = TRAILER_SIZE if self._in_trailer else MAX_SEGMENT_SIZE
        while self._raw_size + len(data) >= limit:
            head, data = data[: limit - self._raw_size], data[limit - self._raw_size :]
            self._raw.append(head)
            self._flush()
        if data:
            self._raw.append(data)
            self._raw_size += len(data)

    def _on_member(self, member: Member) -> None:
        self._flush()
        if member.lost_map:
            if self._require_exact:
                raise TarSplitError(
                    "the map of a sparse member of PAX format 1.0 gets lost in tar-split's format",
                    path=member.name,
                )
            self._inexact += 1
            if len(self._inexact_names) < _MAX_NAMES:
                self._inexact_names.append(member.name)
        self._crc = self._offset = 0
        if self._payload_sink is not None and member.has_data and member.size > 0:
            self._payload_sink.begin(member.name, member.size)

    def _on_data(self, data: memoryview, offset: int) -> None:
        if offset > self._offset:
            self._on_hole(offset - self._offset)
        self._crc = crc64(data, self._crc)
        self._offset = offset + len(data)
        if self._payload_sink is not None:
            self._payload_sink.write(data)

    def _on_hole(self, size: int) -> None:
        self._crc = crc64_zeros(size, self._crc)
        if self._payload_sink is not None:
            self._payload_sink.hole(size)

    def _on_end(self, member: Member) -> None:
        checksum = None
        if member.size > 0:
            if member.has_data:
                if self._offset < member.size:
                    self._on_hole(member.size - self._offset)
                if self._payload_sink is not None:
                    self._payload_sink.end()
            checksum = self._crc.to_bytes(8, "big")
        self._names.add(member.name)
        self._emit(FileEntry(member.name, member.size, checksum, self._entries))

    def _on_archive_end(self) -> None:
        self._flush()
        self._in_trailer = True


def disassemble(
    source: Source,
    metadata_sink: Callable[[Entry], object],
    payload_sink: PayloadSink | None = None,
    *,
    require_exact: bool = False,
) -> Iterator[Chunk]:
    """Take apart the tar stream read from *source*, and pass it through: yields all of it, chunk by chunk.

    Nothing happens but as far as the result is iterated over.  A chunk is valid until the next.  Where the
    stream is not a tar, everything up to there is yielded before the error is raised.

    Args:
        source: a binary file, or anything with its ``read``.
        metadata_sink, payload_sink, require_exact: as for :class:`Disassembler`.

    Raises:
        TarTruncatedError, TarError, TarSplitError: as :class:`Disassembler` does.
    """
    machine = Disassembler(metadata_sink, payload_sink, require_exact=require_exact)
    while chunk := source.read(READ_SIZE):
        start = machine.consumed
        try:
            machine.feed(chunk)
        except (TarError, TarSplitError):
            yield memoryview(chunk)[: machine.consumed - start]
            raise
        yield chunk
    machine.finish()
