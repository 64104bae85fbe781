"""A layer's entries as a tar that is made while it is read."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from winlayers.layers.service import LayerReader
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import TarWriter

_CHUNK = 1 << 20


class GeneratedTar:
    """A tar that is made piece by piece as it is read."""

    def __init__(self, pieces: Iterator[bytes], reader: LayerReader | None) -> None:
        self._pieces = pieces
        self._reader = reader
        self._pending: collections.deque[bytes] = collections.deque()

    def read(self, n: int = -1, /) -> bytes:
        """Up to *n* bytes (all if negative); b"" at the end.  Raises what reading the layer raises."""
        if n < 0:
            parts = [*self._pending, *self._pieces]
            self._pending.clear()
            return b"".join(parts)
        while not self._pending:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            if piece:
                self._pending.append(piece)
        piece = self._pending.popleft()
        if len(piece) > n:
            self._pending.appendleft(piece[n:])
            piece = piece[:n]
        return piece

    def close(self) -> None:
        """Release what the source holds; harmless when called twice."""
        self._pieces = iter(())
        self._pending.clear()
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()


def archive_stream(reader: LayerReader | None) -> GeneratedTar:
    """The entries of *reader*, which the stream closes, as a tar; None: an empty one."""
    return GeneratedTar(_archive(reader), reader)


def _archive(reader: LayerReader | None) -> Iterator[bytes]:
    buffer = TarBuffer()
    writer = TarWriter(buffer)
    if reader is not None:
        for entry, streams in reader:
            for _ in write_layer_entry(writer, entry, streams):
                if buffer.size >= _CHUNK:
                    yield buffer.take()
    writer.close()
    yield buffer.take()


class TarBuffer:
    """A sink that keeps what it is given until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._parts.append(bytes(data))
        self.size += len(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return data
