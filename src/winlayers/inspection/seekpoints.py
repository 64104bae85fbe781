"""Random access into a compressed layer: points from which it can be read, found while it is read once.

A *point* is a place in the blob where a decoder can begin: the start of a gzip member or zstd frame, or of
a block inside, together with what the decoder knows there: for deflate the 32 KiB of plain data before it (as
in zlib's ``examples/zran.c``), for zstd a dictionary (:mod:`winlayers.inspection.zstdstate`).  From a
point to the next is a *span*, whose CRC-32 is known.  Points are kept in an SQLite file, so that opening a
blob costs little and reading one span needs one window.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from typing import NamedTuple

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable import disk
from winlayers.layers.portable.frozen import begin_frozen, connect_frozen

VERSION = 2
"""Raised with every change of the file's schema; files of other versions are made again."""

SPACING = 4 << 20
"""Plain bytes between points, where the compressed data has a place to begin at."""

_SMALL_WINDOW = 64 << 10
"""What is larger is kept as zstd, which is ten times as fast."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE points(
    id INTEGER PRIMARY KEY, plain INTEGER NOT NULL, bit INTEGER NOT NULL, crc INTEGER, window BLOB);
"""


class Point(NamedTuple):
    """A place to begin at.

    Attributes:
        plain: how many plain bytes come before it.
        bit: where it is in the blob, in bits (deflate blocks begin inside bytes).
        window: what a decoder needs to begin at a block: for deflate the plain bytes just before it, up to 32
            KiB; for zstd see :mod:`winlayers.inspection.seekzstd`.  None: a member or frame begins here and
            nothing before it is needed.
    """

    plain: int
    bit: int
    window: bytes | None = None


class Span(NamedTuple):
    """From one point to the next: *size* plain bytes with the CRC-32 *crc*."""

    point: Point
    size: int
    crc: int


def crc32_function() -> Callable[[bytes, int], int]:
    """The fastest CRC-32 at hand (that of gzip): data and the value so far."""
    try:
        from isal import isal_zlib
    except ImportError:  # not built for this processor
        return zlib.crc32
    return isal_zlib.crc32


def _pack(window: bytes) -> bytes:
    if len(window) <= _SMALL_WINDOW:
        return zlib.compress(window, 1)
    import zstandard

    return zstandard.ZstdCompressor(level=1).compress(window)


def _unpack(packed: bytes) -> bytes:
    if not packed.startswith(_ZSTD_MAGIC):
        return zlib.decompress(packed)
    import zstandard

    return zstandard.ZstdDecompressor().decompress(packed)


class PointWriter:
    """Collects the points of one blob in a file.

    Calls come in the order of the data: :meth:`add` a point, :meth:`feed` the plain data behind it.  A point
    may lie in data that was fed already (it takes some to be sure of one), within what *held* bytes says.
    """

    @disk.writing()
    def __init__(self, path: str) -> None:
        """Make the file *path*, which must not exist.

        Raises:
            StoreError: it can't be written; so do the other methods.
        """
        # One thread decompresses and adds points, another finishes.
        self._db = begin_frozen(path, _SCHEMA)
        self._update = crc32_function()
        self._crc = 0
        self._count = 0
        self.size = 0

    @disk.writing()
    def add(self, point: Point) -> None:
        """A point at the end of what was fed."""
        if point.plain != self.size:
            raise ValueError(f"a point at {point.plain}, but {self.size} bytes were fed")
        self._end_span()
        window = None if point.window is None else _pack(point.window)
        self._count += 1
        self._db.execute(
            "INSERT INTO points VALUES (?, ?, ?, NULL, ?)", (self._count, point.plain, point.bit, window)
        )

    def feed(self, data: bytes) -> None:
        """Plain data behind the last point."""
        self._crc = self._update(data, self._crc)
        self.size += len(data)

    def _end_span(self) -> None:
        if self._count:
            self._db.execute("UPDATE points SET crc = ? WHERE id = ?", (self._crc, self._count))
        self._crc = 0

    @disk.writing()
    def finish(self, kind: str) -> None:
        """Write what is left and close the file; *kind* is what the blob is compressed with."""
        self._end_span()
        self._db.executemany(
            "INSERT INTO meta VALUES (?, ?)", [("version", VERSION), ("kind", kind), ("size", self.size)]
        )
        self._db.execute("COMMIT")
        self._db.close()

    def close(self) -> None:
        """Close the file as it is; harmless after :meth:`finish`."""
        self._db.close()


class Points:
    """The points of one blob, to be read.

    Attributes:
        kind: ``gzip``, ``zstd`` or ``none``.
        size: plain bytes in all.
    """

    def __init__(self, path: str, layer: str) -> None:
        """Open the file *path*; *layer* names the blob in messages.

        Raises:
            LayerCorruptError: it is missing, damaged or of another version.
        """
        try:
            self._db = connect_frozen(path)
            meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        except sqlite3.Error as error:
            raise LayerCorruptError(f"the seek points can't be read: {error}", layer=layer) from error
        if meta.get("version") != VERSION:
            self._db.close()
            raise LayerCorruptError("the seek points are of another version", layer=layer)
        self.kind = str(meta["kind"])
        self.size = int(meta["size"])
        self._layer = layer

    def __len__(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM points").fetchone()
        return int(count)

    def span(self, plain: int) -> Span:
        """The span that holds the plain byte at *plain*.

        Raises:
            LayerCorruptError: there is none.
        """
        rows = self._db.execute(
            "SELECT id, plain, bit, crc, window FROM points WHERE id >="
            " (SELECT max(id) FROM points WHERE plain <= ?) ORDER BY id LIMIT 2",
            (plain,),
        ).fetchall()
        if not rows or plain >= self.size:
            raise LayerCorruptError(f"no data at offset {plain}", layer=self._layer)
        _, start, bit, crc, packed = rows[0]
        end = rows[1][1] if len(rows) > 1 else self.size
        window = None if packed is None else _unpack(packed)
        return Span(Point(start, bit, window), end - start, crc)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
