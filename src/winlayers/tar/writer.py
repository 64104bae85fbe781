"""A streaming writer of tar, which produces what Go's ``archive/tar`` produces, byte for byte."""

from __future__ import annotations

from typing import Protocol

from winlayers.errors import TarError
from winlayers.tar.encode import encode_header, normalise
from winlayers.tar.header import BLOCK_SIZE, HEADER_ONLY_TYPES, ZERO_BLOCK, TarHeader

Buffer = bytes | bytearray | memoryview


class Sink(Protocol):
    """Where a tar stream goes: an ordinary (buffered) binary file will do."""

    def write(self, data: Buffer, /) -> object:
        """Take all of *data*; it may change after the call."""


class TarWriter:
    """Writes members one after the other: a header, then exactly as many bytes as it says.

    The format of each is what the header's ``format`` asks for; where it asks for none, the first of USTAR,
    PAX and GNU that can hold it (times are then rounded to seconds, access and change times left out).  A
    header that asks for PAX gets USTAR where nothing would need a record.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._remaining = 0
        self._padding = 0
        self._offset = 0
        self._closed = False

    @property
    def offset(self) -> int:
        """The number of bytes written so far."""
        return self._offset

    def write_header(self, header: TarHeader) -> None:
        """Begin a member.  Offsets, stored size and sparse map of *header* are not looked at.

        Raises:
            TarError: the last member is not complete, the header can't be encoded (then nothing of it has
                been written and another may follow), or the writer is closed.
        """
        self._check_complete()
        try:
            encoded = encode_header(header)
        except TarError:
            self.flush_padding()
            raise
        size = 0 if normalise(header).typeflag in HEADER_ONLY_TYPES else header.size
        padding = -(len(encoded) + size) % BLOCK_SIZE
        self._put(bytes(self._padding) + encoded if self._padding else encoded)
        self._remaining, self._padding = size, padding

    def write(self, data: Buffer) -> None:
        """Write some of the current member's data.

        Raises:
            TarError: more than the header said (what fits has then been written).
        """
        if self._closed:
            raise TarError("write to a tar stream that is closed")
        size = len(data)
        if size > self._remaining:
            if self._remaining:
                data = data[: self._remaining]
                self._remaining = 0
                self._put(data)
            raise TarError("write too long: more data than the tar header says")
        if size:
            self._remaining -= size
            self._put(data)

    def flush_padding(self) -> None:
        """Complete the current member with its padding (the next header or :meth:`close` does so, too).

        Raises:
            TarError: the member is not complete.
        """
        self._check_complete()
        if self._padding:
            padding, self._padding = self._padding, 0
            self._put(bytes(padding))

    def close(self) -> None:
        """Write what ends the archive: padding and two zero blocks.  Closing twice is harmless.

        The sink stays open.

        Raises:
            TarError: the last member is not complete; nothing can be written any more.
        """
        if self._closed:
            return
        try:
            self._check_complete()
        finally:
            self._closed = True
        padding, self._padding = self._padding, 0
        self._put(bytes(padding) + ZERO_BLOCK * 2)

    def _check_complete(self) -> None:
        if self._closed:
            raise TarError("write to a tar stream that is closed")
        if self._remaining:
            raise TarError(f"missed writing {self._remaining} bytes of the current tar member")

    def _put(self, data: Buffer) -> None:
        self._sink.write(data)
        self._offset += len(data)
