"""Tar streams: a stored tar as it came, or one that is made while it is read."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator

from winlayers.errors import LayerCorruptError
from winlayers.layers.service import LayerReader
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import TarWriter

_CHUNK = 1 << 20


class TarFile:
    """A layer's stored tar, up to its true length."""

    def __init__(self, path: str, size: int, layer: str) -> None:
        """Open *path*, of which the first *size* bytes are the tar as it came."""
        self._layer = layer
        self._left = size
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close
        except OSError as error:
            raise LayerCorruptError(f"can't open the layer's tar: {error.strerror}", layer=layer) from error

    def read(self, n: int = -1, /) -> bytes:
        """Up to *n* bytes (all if negative); b"" at the end.

        Raises:
            LayerCorruptError: the file is shorter than it was when it came.
        """
        want = self._left if n < 0 else min(n, self._left)
        parts = []
        while want:
            data = self._file.read(min(want, _CHUNK) if n < 0 else want)
            if not data:
                raise LayerCorruptError(f"the tar is cut short by {self._left} bytes", layer=self._layer)
            parts.append(data)
            want -= len(data)
            self._left -= len(data)
            if n >= 0:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fileno(self) -> int:
        """The file descriptor, for copies within the kernel."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; harmless when called twice."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


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
    buffer = _Buffer()
    writer = TarWriter(buffer)
    if reader is not None:
        for entry, streams in reader:
            for _ in write_layer_entry(writer, entry, streams):
                if buffer.size >= _CHUNK:
                    yield buffer.take()
    writer.close()
    yield buffer.take()


class _Buffer:
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


def copy(source: TarFile | GeneratedTar, fd: int) -> int:
    """Write all of *source* to the file descriptor; return how much that was."""
    total = 0
    while data := source.read(_CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        total += len(data)
    return total
