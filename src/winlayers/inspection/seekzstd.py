"""Zstandard read once, with the starts of its frames as points.

Inside a frame there is no place to begin at: a decoder carries entropy tables and offsets from block to
block.  Layers made of many frames (zstd:chunked, the seekable format, pzstd) can so be read from anywhere,
others from their start, at the speed of zstd.

Where frames end is told from their headers and those of their blocks, without decompressing.  Source: RFC
8878, 3.1.1 (frames), 3.1.1.2 (blocks), 3.1.2 (skippable frames).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from winlayers.errors import ImageError
from winlayers.images.compression import BUFFER, Reader, decompress, read_some
from winlayers.inspection.seekpoints import SPACING, Point, PointWriter

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
_INPUT = 1 << 18
_RAW_BLOCK, _RLE_BLOCK, _RESERVED = 0, 1, 3


def resume_zstd(source: Reader, point: Point) -> Iterator[bytes]:
    """The plain data from *point* on; *source* gives the blob from the frame on that begins there.

    Raises:
        ImageError: the data is malformed or cut short.
    """
    return decompress(source)


class _Input:
    """The blob, with its position."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._data = b""
        self._at = 0
        self.position = 0

    def take(self, size: int) -> bytes:
        """Up to *size* bytes, b"" at the end."""
        if self._at == len(self._data):
            self._data, self._at = self._source.read(_INPUT), 0
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        self.position += len(piece)
        return piece

    def read(self, size: int, /) -> bytes:
        return self.take(size)

    def exactly(self, size: int) -> bytes:
        data = read_some(self, size)
        if len(data) != size:
            raise ImageError("the zstd data is cut short")
        return data


class _Frame:
    """The bytes of one frame, and none behind it."""

    def __init__(self, source: _Input, magic: bytes) -> None:
        self._source = source
        descriptor = source.exactly(1)[0]
        single_segment = descriptor >> 5 & 1
        size = (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
        size += (single_segment, 2, 4, 8)[descriptor >> 6]
        self._ready = magic + bytes([descriptor]) + source.exactly(size)
        self._checksum = 4 if descriptor >> 2 & 1 else 0
        self._left = 0  # of the block under way
        self._last = False

    def read(self, size: int = -1) -> bytes:
        """What zstandard asks for."""
        while not self._ready:
            if self._left:
                self._ready = self._source.take(self._left)
                if not self._ready:
                    raise ImageError("the zstd data is cut short")
                self._left -= len(self._ready)
            elif not self._last:
                self._begin_block()
            elif self._checksum:
                self._ready, self._checksum = self._source.exactly(self._checksum), 0
            else:
                return b""
        size = size if size > 0 else len(self._ready)
        piece, self._ready = self._ready[:size], self._ready[size:]
        return piece

    def _begin_block(self) -> None:
        self._ready = self._source.exactly(3)
        header = int.from_bytes(self._ready, "little")
        kind = header >> 1 & 3
        if kind == _RESERVED:
            raise ImageError("the zstd data is malformed: a block of a reserved kind")
        self._last = bool(header & 1)
        self._left = 1 if kind == _RLE_BLOCK else header >> 3


class ZstdScanner:
    """Decompresses zstd and tells a :class:`PointWriter` where its frames begin."""

    def __init__(self, source: Reader, points: PointWriter, spacing: int = SPACING) -> None:
        """Read *source*; points are *spacing* plain bytes apart at least."""
        self._source = _Input(source)
        self._points = points
        self._spacing = spacing

    def chunks(self) -> Iterator[bytes]:
        """The plain data in pieces of up to 1 MiB, all frames one after another.

        Raises:
            ImageError: the data is malformed or cut short.
        """
        due = 0
        while True:
            start = self._source.position
            magic = read_some(self._source, 4)
            if not magic:
                return
            if magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5:
                self._skip(int.from_bytes(self._source.exactly(4), "little"))
                continue
            if magic != _MAGIC:
                raise ImageError("the zstd data is malformed: there is something else between the frames")
            if self._points.size >= due:
                self._points.add(Point(self._points.size, start * 8))
                due = self._points.size + self._spacing
            for chunk in self._frame(magic):
                self._points.feed(chunk)
                yield chunk

    def _skip(self, size: int) -> None:
        while size:
            piece = self._source.take(size)
            if not piece:
                raise ImageError("the zstd data is cut short")
            size -= len(piece)

    def _frame(self, magic: bytes) -> Iterator[bytes]:
        import zstandard

        frame = _Frame(self._source, magic)
        readable: IO[bytes] = frame  # type: ignore[assignment]  # only read() is ever called
        reader = zstandard.ZstdDecompressor().stream_reader(readable, read_across_frames=False)
        while True:
            try:
                chunk = reader.read(BUFFER)
            except zstandard.ZstdError as error:
                raise ImageError(f"the zstd data is malformed: {error}") from error
            if not chunk:
                break
            yield chunk
        if frame.read(1):
            raise ImageError("the zstd data is malformed: a frame ends early")
