"""What one layer's tar holds, and where: ``index.db``, beside ``layer.tar``.

The index is derived from the tar and can be made again from it at any time.  It has the tar's entries in the
tar's order, as Windows would understand them, and says where in the tar each one's data is.

Schema (version 3)::

    meta(key, value)         schema version, number of entries, the tar's digest, sizes of tar, data, streams
    security(id, data)       deduplicated self-relative security descriptors
    entries(seq, path, code, header, source, offset, size, attributes,
            btime, atime, mtime, ctime, security, reparse, eas, link)
    streams(seq, name, source, offset, size)    alternate data streams of the entry seq

``path`` and ``link`` are WTF-8, ``/``-separated, from the layer's root.  ``header`` is where the member's
first header begins in the tar.  An entry that a later one of the same layer replaces is still there.
"""

from __future__ import annotations

import dataclasses
import enum
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable import disk
from winlayers.layers.portable.frozen import begin_frozen, connect_frozen, structural_damage
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.names import decode_wtf8, encode_wtf8, fold_key

SCHEMA_VERSION = 3
"""Raised with every change of the schema or of how tars are understood; older indexes are made again."""

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE security(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE entries(
    seq INTEGER PRIMARY KEY, path BLOB NOT NULL, code INTEGER NOT NULL, header INTEGER NOT NULL,
    source INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, attributes INTEGER NOT NULL,
    btime INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    security INTEGER, reparse BLOB, eas BLOB, link BLOB);
CREATE TABLE streams(
    seq INTEGER NOT NULL, name BLOB NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL,
    size INTEGER NOT NULL);
"""

_BATCH = 2000
_MOST_DESCRIPTORS = 16 << 20


class EntryCode(enum.IntEnum):
    """The kinds of entries, as numbers that the schema holds."""

    FILE = 0
    DIRECTORY = 1
    LINK = 2
    WHITEOUT = 3
    OPAQUE = 4


class StreamRow(NamedTuple):
    """An alternate data stream and where it is."""

    name: str
    source: int
    offset: int
    size: int


class EntryRow(NamedTuple):
    """An entry of the index.

    ``security`` is the descriptor's number, ``descriptor`` its bytes, given only by :meth:`Index.lookup`.
    """

    seq: int
    path: str
    code: int
    header: int
    source: int
    offset: int
    size: int
    attributes: int
    btime: int
    atime: int
    mtime: int
    ctime: int
    security: int | None
    reparse: bytes | None
    eas: bytes | None
    link: str | None
    descriptor: bytes | None = None

    def metadata(self, descriptor: bytes | None) -> FileMetadata:
        """The entry's metadata, with the descriptor's bytes given."""
        return FileMetadata(
            FileAttributes(self.attributes),
            self.btime,
            self.atime,
            self.mtime,
            self.ctime,
            descriptor,
            unpack_eas(self.eas),
            self.reparse,
        )


_EA = struct.Struct("<BHI")


def pack_eas(eas: Iterable[ExtendedAttribute]) -> bytes | None:
    """Extended attributes as the store keeps them: what the tar had, also beyond NTFS's limits."""
    parts = []
    for ea in eas:
        name = encode_wtf8(ea.name) if not _is_escaped(ea.name) else ea.name.encode("utf-8", "surrogatepass")
        parts += [_EA.pack(ea.flags, len(name), len(ea.value)), name, ea.value]
    return b"".join(parts) or None


def _is_escaped(name: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in name)


def unpack_eas(data: bytes | None) -> tuple[ExtendedAttribute, ...]:
    """The inverse of :func:`pack_eas`."""
    eas = []
    position = 0
    while data is not None and position < len(data):
        flags, name_size, value_size = _EA.unpack_from(data, position)
        position += _EA.size
        name = data[position : position + name_size].decode("utf-8", "surrogatepass")
        position += name_size
        eas.append(ExtendedAttribute(name, data[position : position + value_size], flags))
        position += value_size
    return tuple(eas)


@dataclasses.dataclass(frozen=True, slots=True)
class IndexSummary:
    """What an index says of its tar as a whole.

    Attributes:
        digest: ``sha256:...`` of the tar as it came: the diff id.
        tar_size: bytes of the tar as it came.
        data_size: bytes in all unnamed data streams.
        stream_size: bytes in all alternate streams.
        entries: number of entries, deletions included.
    """

    digest: str
    tar_size: int
    data_size: int
    stream_size: int
    entries: int


class IndexWriter:
    """Writes an index; it is whole only after :meth:`finish`."""

    @disk.writing()
    def __init__(self, path: str) -> None:
        """Make the file *path*, which must not exist."""
        self._db = begin_frozen(path, _SCHEMA)
        self._descriptors: dict[bytes, int] = {}
        self._known_size = 0
        self._last_descriptor = 0
        self._entries: list[tuple[object, ...]] = []
        self._streams: list[tuple[object, ...]] = []
        self._seq = 0
        self._data_size = 0
        self._stream_size = 0

    def add(
        self,
        path: str,
        code: EntryCode,
        *,
        header: int,
        metadata: FileMetadata | None = None,
        source: int = 0,
        offset: int = 0,
        size: int = 0,
        link: str | None = None,
    ) -> None:
        """Add an entry."""
        self._seq += 1
        self._data_size += size
        place = (header, source, offset, size)
        target = None if link is None else encode_wtf8(link)
        if metadata is None:
            row: tuple[object, ...] = (
                self._seq,
                encode_wtf8(path),
                int(code),
                *place,
                0,
                0,
                0,
                0,
                0,
                None,
                None,
                None,
                target,
            )
        else:
            m = metadata
            row = (
                self._seq,
                encode_wtf8(path),
                int(code),
                *place,
                int(m.attributes),
                m.creation_time,
                m.access_time,
                m.write_time,
                m.change_time,
                None if m.security is None else self._descriptor(m.security),
                m.reparse,
                pack_eas(m.eas) if m.eas else None,
                target,
            )
        self._entries.append(row)
        if len(self._entries) >= _BATCH:
            self._flush()

    def add_stream(self, name: str, *, source: int, offset: int, size: int) -> None:
        """Add an alternate stream to the entry that was added last."""
        if len(self._streams) >= _BATCH:
            self._flush()
        self._streams.append((self._seq, encode_wtf8(name), source, offset, size))
        self._stream_size += size

    def _descriptor(self, data: bytes) -> int:
        number = self._descriptors.get(data)
        if number is None:
            self._known_size += len(data)
            if self._known_size > _MOST_DESCRIPTORS:
                # A layer has some hundreds; one that has another for each file is not kept in memory.
                self._descriptors.clear()
                self._known_size = len(data)
            self._last_descriptor = number = self._last_descriptor + 1
            self._descriptors[data] = number
            with disk.writing():
                self._db.execute("INSERT INTO security VALUES (?, ?)", (number, data))
        return number

    @disk.writing()
    def _flush(self) -> None:
        self._db.executemany(f"INSERT INTO entries VALUES ({','.join('?' * 16)})", self._entries)
        self._db.executemany("INSERT INTO streams VALUES (?, ?, ?, ?, ?)", self._streams)
        self._entries.clear()
        self._streams.clear()

    @disk.writing()
    def finish(self, digest: str, tar_size: int) -> IndexSummary:
        """Write what is left and close the file.  The caller makes it durable."""
        self._flush()
        summary = IndexSummary(digest, tar_size, self._data_size, self._stream_size, self._seq)
        self._db.execute("CREATE INDEX streams_by_entry ON streams(seq)")
        self._db.execute("CREATE INDEX entries_by_path ON entries(path)")
        self._db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("version", SCHEMA_VERSION), *dataclasses.asdict(summary).items()],
        )
        self._db.execute("COMMIT")
        self._db.close()
        return summary

    def close(self) -> None:
        """Close the file as it is; harmless after :meth:`finish`."""
        self._db.close()


_COLUMNS = (
    "seq, path, code, header, source, offset, size, attributes, btime, atime, mtime, ctime, security,"
    " reparse, eas, link"
)


class Index:
    """A layer's index, to be read."""

    def __init__(self, path: str, layer: str) -> None:
        """Open the index file *path* of *layer* (its name for messages).

        Raises:
            LayerCorruptError: there is none, or it is of another version.
        """
        self.layer = layer
        self._by_path: dict[bytes, int] | None = None
        try:
            self._db = connect_frozen(path)
            meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        except sqlite3.Error as error:
            raise LayerCorruptError(f"the index can't be read: {error}", layer=layer, hint=_HINT) from error
        if meta.get("version") != SCHEMA_VERSION:
            self._db.close()
            raise LayerCorruptError("the index is of another version", layer=layer, hint=_HINT)
        try:
            self.summary = IndexSummary(*(meta[field.name] for field in dataclasses.fields(IndexSummary)))
        except KeyError as error:
            self._db.close()
            raise LayerCorruptError(
                f"the index does not tell its {error}", layer=layer, hint=_HINT
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def damage(self) -> str | None:
        """What SQLite finds wrong with the file; None: nothing."""
        return structural_damage(self._db)

    def entries(self) -> Iterator[EntryRow]:
        """All entries in the tar's order."""
        return self._select("ORDER BY seq")

    def content(self) -> Iterator[EntryRow]:
        """Files and directories, in the tar's order."""
        return self._select("WHERE code <= 1 ORDER BY seq")

    def names(self) -> Iterator[tuple[int, str, int, int]]:
        """Files, directories and links as (number, path, code, size), in the tar's order."""
        for seq, path, code, size in self._db.execute(
            "SELECT seq, path, code, size FROM entries WHERE code <= 2 ORDER BY seq"
        ):
            yield seq, decode_wtf8(path), code, size

    def stream_sizes(self) -> dict[int, int]:
        """The bytes in the alternate streams of each entry that has some."""
        return dict(self._db.execute("SELECT seq, sum(size) FROM streams GROUP BY seq"))

    def links(self) -> Iterator[tuple[str, str]]:
        """Hard links as (path, target), in the tar's order."""
        for path, link in self._db.execute("SELECT path, link FROM entries WHERE code = 2 ORDER BY seq"):
            yield decode_wtf8(path), decode_wtf8(link)

    def deletions(self) -> Iterator[tuple[str, int]]:
        """Whiteouts and opaque directories as (path, code), in the tar's order."""
        for path, code in self._db.execute("SELECT path, code FROM entries WHERE code >= 3 ORDER BY seq"):
            yield decode_wtf8(path), code

    def descriptors(self) -> Iterator[tuple[int, bytes]]:
        """The security descriptors with their numbers."""
        return iter(self._db.execute("SELECT id, data FROM security"))

    def descriptor(self, number: int) -> bytes:
        """The security descriptor of that number."""
        row = self._db.execute("SELECT data FROM security WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise LayerCorruptError(f"the index has no descriptor {number}", layer=self.layer, hint=_HINT)
        return bytes(row[0])

    def streams_by_entry(self) -> dict[int, list[StreamRow]]:
        """The alternate streams of all entries that have some."""
        found: dict[int, list[StreamRow]] = {}
        for seq, name, source, offset, size in self._db.execute(
            "SELECT seq, name, source, offset, size FROM streams ORDER BY rowid"
        ):
            found.setdefault(seq, []).append(StreamRow(decode_wtf8(name), source, offset, size))
        return found

    def streams_of(self, seq: int) -> list[StreamRow]:
        """The alternate streams of one entry."""
        rows = self._db.execute(
            "SELECT name, source, offset, size FROM streams WHERE seq = ? ORDER BY rowid", (seq,)
        )
        return [StreamRow(decode_wtf8(row[0]), *row[1:]) for row in rows]

    def lookup(self, path: str) -> EntryRow | None:
        """The last file, directory or link at *path*, as NTFS compares, with its descriptor.

        Reads all entries once, where one is asked for that has not just this spelling.
        """
        if self._by_path is None:
            found = list(self._select("WHERE path = ? AND code <= 2 ORDER BY seq", encode_wtf8(path)))
            if found:
                return self._described(found[-1])
            self._by_path = {
                _folded(decode_wtf8(other)): seq
                for seq, other in self._db.execute(
                    "SELECT seq, path FROM entries WHERE code <= 2 ORDER BY seq"
                )
            }
        seq = self._by_path.get(_folded(path))
        if seq is None:
            return None
        return self._described(next(self._select("WHERE seq = ?", seq)))

    def _described(self, found: EntryRow | None) -> EntryRow | None:
        if found is None or found.security is None:
            return found
        (data,) = self._db.execute("SELECT data FROM security WHERE id = ?", (found.security,)).fetchone()
        return found._replace(descriptor=data)

    def _select(self, rest: str, *values: object) -> Iterator[EntryRow]:
        # The cursor is left to its own end: a reader that stops early may have closed the index before it.
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM entries {rest}", values):
            path, link = decode_wtf8(row[1]), None if row[15] is None else decode_wtf8(row[15])
            yield EntryRow._make((row[0], path, *row[2:15], link, None))


_HINT = "run `winlayers check --repair`"


def _folded(path: str) -> bytes:
    return b"/".join(fold_key(part) for part in path.split("/"))
