"""A compressed layer blob that can be read from anywhere, checked span by span.

What gives the blob's bytes is an :data:`OpenAt`: a file, a part of an archive, or a registry asked for a
range.  Small spans are decompressed whole, compared with their CRC-32 and kept a while; large ones (zstd with
an unusually large window) are streamed.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from winlayers.errors import ImageError, LayerCorruptError
from winlayers.images.compression import BUFFER, Prefixed, Reader, read_some, sniff
from winlayers.inspection.seekgzip import GzipScanner, resume_gzip
from winlayers.inspection.seekpoints import SPACING, Point, Points, PointWriter, Span, crc32_function
from winlayers.inspection.seekzstd import ZstdScanner, resume_zstd

OpenAt = Callable[[int], BinaryIO]
"""Opens the blob to be read from that byte on; the caller closes it."""

_WHOLE = 20 << 20
"""The largest span that is decompressed whole: that of zstd with the usual window, and all of gzip."""
_KEPT = 2


class Scanner(Protocol):
    """Decompresses a blob from its start and records points."""

    def chunks(self) -> Iterator[bytes]: ...


def scan(source: Reader, points: PointWriter, spacing: int = SPACING) -> Iterator[bytes]:
    """The plain data of the blob *source*, once; *points* is complete at the end.

    Raises:
        ImageError: the compressed data is malformed.
    """
    prefix = read_some(source, 6)
    kind = sniff(prefix)
    whole = Prefixed(prefix, source)
    if kind == "gzip":
        yield from GzipScanner(whole, points, spacing).chunks()
    elif kind == "zstd":
        yield from ZstdScanner(whole, points, spacing).chunks()
    else:
        yield from _scan_plain(whole, points, spacing)
    points.finish(kind)


def _scan_plain(source: Reader, points: PointWriter, spacing: int) -> Iterator[bytes]:
    due = 0
    while chunk := read_some(source, BUFFER):
        if points.size >= due:
            points.add(Point(points.size, points.size * 8))
            due = points.size + spacing
        points.feed(chunk)
        yield chunk


def _resume_plain(source: Reader, point: Point) -> Iterator[bytes]:
    while chunk := source.read(BUFFER):
        yield chunk


_RESUME: dict[str, Callable[[Reader, Point], Iterator[bytes]]] = {
    "gzip": resume_gzip,
    "zstd": resume_zstd,
    "none": _resume_plain,
}


class SeekableBlob:
    """The plain data of a blob, from anywhere.  Not for several threads at once."""

    def __init__(self, points: Points, open_at: OpenAt, name: str) -> None:
        """Read the blob *name* that *open_at* opens, whose *points* are known."""
        self.name = name
        self.size = points.size
        self.bytes_inflated = 0
        """Plain bytes decompressed so far."""
        self._points = points
        self._open_at = open_at
        self._kept: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._stream: _Stream | None = None

    def read(self, offset: int, size: int) -> bytes:
        """*size* bytes from *offset*.

        Raises:
            LayerCorruptError: the blob is not what it was when it was indexed, or shorter.
            ImageError: it can't be had any more.
        """
        parts = []
        while size > 0:
            span = self._points.span(offset)
            at = offset - span.point.plain
            part = self._from_span(span, at, min(size, span.size - at))
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _from_span(self, span: Span, at: int, size: int) -> bytes:
        if span.size <= _WHOLE:
            return self._whole(span)[at : at + size]
        stream = self._stream
        if stream is None or stream.start != span.point.plain or stream.position > at:
            self._drop_stream()
            stream = self._stream = _Stream(self, span)
        return stream.read(at, size)

    def _whole(self, span: Span) -> bytes:
        key = span.point.plain
        data = self._kept.get(key)
        if data is None:
            with contextlib.closing(_Stream(self, span)) as stream:
                data = stream.read(0, span.size)
            self._kept[key] = data
            while len(self._kept) > 1 and (
                len(self._kept) > _KEPT or sum(map(len, self._kept.values())) > _WHOLE
            ):
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return data

    def resume(self, point: Point) -> tuple[BinaryIO, Iterator[bytes]]:
        """The open blob and the plain data from *point* on."""
        file = self._open_at(point.bit >> 3)
        return file, _RESUME[self._points.kind](file, point)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Close what is open."""
        self._drop_stream()
        self._kept.clear()
        self._points.close()


class _Stream:
    """One span read forwards, checked when its end is reached."""

    def __init__(self, blob: SeekableBlob, span: Span) -> None:
        self.start = span.point.plain
        self.position = 0  # of the rest, in the span
        self._blob = blob
        self._span = span
        self._update = crc32_function()
        self._crc = 0
        self._taken = 0
        self._rest = b""
        self._file, self._chunks = blob.resume(span.point)

    def read(self, at: int, size: int) -> bytes:
        """*size* bytes from *at*, which lies at or behind the position."""
        parts = []
        while size > 0:
            if not self._rest:
                self._rest = self._next()
            if at >= self.position + len(self._rest):
                self.position += len(self._rest)
                self._rest = b""
                continue
            skip = at - self.position
            part = self._rest[skip : skip + size]
            parts.append(part)
            self._rest = self._rest[skip + len(part) :]
            at += len(part)
            size -= len(part)
            self.position = at
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next(self) -> bytes:
        try:
            chunk = next(self._chunks, b"")[: self._span.size - self._taken]
        except ImageError as error:
            raise LayerCorruptError(
                f"the blob is not what it was when it was first read: {error}", layer=self._blob.name
            ) from error
        if not chunk:
            raise LayerCorruptError("the blob is shorter than when it was first read", layer=self._blob.name)
        self._taken += len(chunk)
        self._blob.bytes_inflated += len(chunk)
        self._crc = self._update(chunk, self._crc)
        if self._taken == self._span.size and self._crc != self._span.crc:
            raise LayerCorruptError(
                "the blob is not what it was when it was first read", layer=self._blob.name
            )
        return chunk

    def close(self) -> None:
        self._file.close()
