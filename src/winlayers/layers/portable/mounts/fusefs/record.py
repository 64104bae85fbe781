"""The record of what a scratch layer changes: names and files over a view's, in SQLite.

The server keeps all of it in memory and writes each change through before it answers the kernel, so a server
that is killed loses nothing but the size of what was being written to a file that nobody closed or synced.
Commits reach the disk itself with :meth:`Record.sync`, as ``fsync`` of any file demands it.

Schema (version 1)::

    meta(key, value)      version; view: which view file inode numbers are of; boot: since which boot it is
                          used, "" if it was left well
    inodes(id, kind, parent, name, nlink, size, base, held, synced, marks, attributes, btime, atime, mtime,
           ctime, security, eas, reparse, target, origin, file)
    names(parent, key, name, inode, seq)     inode 0: the view's name is deleted
    streams(inode, key, name, data)          data NULL: the view's stream is deleted

Numbers of the view's files are only good for the view file that they were taken from; ``origin``, the path
that the file has in the view, finds it in another.  Names are WTF-8, as in the view.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import sqlite3
import sys
from typing import Any, NamedTuple

assert sys.platform != "win32"

from winlayers.durable import can_write, fsync_dir
from winlayers.errors import LayerCorruptError, LayerInUseError
from winlayers.layers.portable.frozen import connect_frozen, connect_read_only
from winlayers.layers.portable.index import pack_eas, unpack_eas
from winlayers.layers.portable.mounts.fusefs.lower import FIRST_NEW, Lower
from winlayers.layers.portable.mounts.fusefs.protocol import ROOT_ID
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.names import decode_wtf8, encode_wtf8

RECORD = "record.db"
_VERSION = 1
_PAGES_BEFORE_CHECKPOINT = 4000

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE inodes(
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL,
    nlink INTEGER NOT NULL, size INTEGER NOT NULL, base INTEGER NOT NULL, held BLOB, synced BLOB,
    marks INTEGER NOT NULL, attributes INTEGER NOT NULL, btime INTEGER NOT NULL, atime INTEGER NOT NULL,
    mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, security BLOB, eas BLOB, reparse BLOB, target BLOB,
    origin BLOB, file INTEGER NOT NULL);
CREATE TABLE names(
    parent INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL,
    seq INTEGER NOT NULL, PRIMARY KEY(parent, key)) WITHOUT ROWID;
CREATE TABLE streams(
    inode INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, data BLOB,
    PRIMARY KEY(inode, key)) WITHOUT ROWID;
"""


class Kind(enum.IntEnum):
    """What a file is shown as; the numbers are stored."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


class Mark(enum.IntFlag):
    """What of a file is not as the view has it; the numbers are stored."""

    DATA = 1
    METADATA = 2
    LINKS = 4
    """It has names that the view does not have."""
    ATTRIBUTES = 8
    SECURITY = 16
    EAS = 32
    REPARSE = 64
    STREAMS = 128
    EXECUTABLE = 256
    """Programs of this system may run it.  That is nothing that a layer could hold, and so no change."""


NO_MARK = Mark(0)


@dataclasses.dataclass(slots=True)
class Inode:
    """A file, directory or symbolic link that is new or not quite as the view has it.

    Attributes:
        id: the node id; the view's own inode number (`ROOT_ID` for the root) or from `FIRST_NEW`.
        parent, name: a directory that it is in, and its name there.
        size: of the unnamed stream.
        base: how many bytes of the view's data still show through where the data file has none.
        lent: how many bytes really do.
        held: a bit for each block below *base* that the data file has.
        synced: the same, as far as it is sure to be on disk.
        streams: alternate streams set or (None) removed, by folded name.
        target: a symbolic link's, as it was written; None also for the view's own links.
        origin: the path that the view has it at.
        file: the number of its data file; 0: it has none.
    """

    id: int
    kind: Kind
    parent: int
    name: str
    attributes: int = 0
    creation_time: int = 0
    access_time: int = 0
    write_time: int = 0
    change_time: int = 0
    security: bytes | None = None
    eas: tuple[ExtendedAttribute, ...] = ()
    reparse: bytes | None = None
    nlink: int = 1
    size: int = 0
    base: int = 0
    lent: int = 0
    held: bytearray = dataclasses.field(default_factory=bytearray)
    synced: bytes = b""
    marks: Mark = NO_MARK
    streams: dict[bytes, tuple[str, bytes | None]] = dataclasses.field(default_factory=dict)
    target: str | None = None
    origin: str | None = None
    file: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the view has no such file."""
        return self.id >= FIRST_NEW

    def metadata(self) -> FileMetadata:
        """Its metadata."""
        return FileMetadata(
            FileAttributes(self.attributes),
            self.creation_time,
            self.access_time,
            self.write_time,
            self.change_time,
            self.security,
            self.eas,
            self.reparse,
        )


class Name(NamedTuple):
    """A name that the view does not have so; ``inode`` 0: it is deleted."""

    name: str
    inode: int
    seq: int


class Record:
    """The record in *folder*, in memory and on disk.  For use by one thread."""

    def __init__(self, folder: str, lower: Lower, boot: str, *, read_only: bool = False) -> None:
        """Open the record, or make it.

        Args:
            boot: this boot's id.
            read_only: change nothing on disk; another process may be writing.

        Raises:
            LayerCorruptError: it can't be read, or the view does not have what it builds on.
            LayerInUseError: it was changed by another process while it was read.
        """
        self.inodes: dict[int, Inode] = {}
        self.names: dict[int, dict[bytes, Name]] = {}
        self._lower = lower
        self._path = os.path.join(folder, RECORD)
        self._dirty: dict[int, Inode | None] = {}
        self._dirty_names: dict[tuple[int, bytes], Name | None] = {}
        self._dirty_streams: set[int] = set()
        about = os.stat(lower.view.path)
        self._view = f"{about.st_size} {about.st_mtime_ns} {about.st_ino}"
        try:
            self._open(folder, boot, read_only)
        except sqlite3.DatabaseError as error:
            raise LayerCorruptError(
                f"the record of changes can't be read: {error}", path=self._path
            ) from error

    # -- opening --

    def _open(self, folder: str, boot: str, read_only: bool) -> None:
        if not read_only and not os.path.exists(self._path):
            self._make(folder)
        frozen = None
        if read_only and not can_write(folder):
            self._db, frozen = self._connect_to_read()
        else:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BEFORE_CHECKPOINT}")
        self._db.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
        meta = dict(self._db.execute("SELECT key, value FROM meta"))
        if meta.get("version") != _VERSION:
            raise LayerCorruptError("the record of changes is of another version", path=self._path)
        self._load(lost=meta["boot"] not in ("", boot))
        if meta["view"] != self._view:
            self._renumber()
        if not read_only:
            if meta["view"] != self._view:
                self._rewrite()
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'boot'", (boot,))
        self._db.execute("COMMIT")
        if frozen is not None and self._state() != frozen:
            raise LayerInUseError("the layer was changed while it was read", path=self._path)
        if not read_only:
            self._wal = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            self.sync()
            fsync_dir(folder)

    def _connect_to_read(self) -> tuple[sqlite3.Connection, tuple[int, int, int] | None]:
        """Open the record in a folder that can't be written to, where SQLite can't make a log's index.

        With a log there must be the index that the server made.  Without, the file is as its server left it,
        and read as one that stays so: its state is given, too, to see afterwards whether it did.
        """
        with open(self._path, "rb"):
            pass  # what SQLite says of a file that may not be read is less clear
        state = self._state()
        if state[-1]:
            return connect_read_only(self._path), None
        return connect_frozen(self._path), state

    def _state(self) -> tuple[int, int, int]:
        """What changes with the record: size and time of its file, size of the log."""
        about = os.stat(self._path)
        log = f"{self._path}-wal"
        return about.st_size, about.st_mtime_ns, os.stat(log).st_size if os.path.exists(log) else 0

    def _make(self, folder: str) -> None:
        """Make it under another name: whoever finds the record, at any moment, finds it whole."""
        new = f"{self._path}.new"
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new + suffix)
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            values = [("version", _VERSION), ("view", self._view), ("boot", "")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", values)
            db.execute("COMMIT")
            # Only now: the mode is kept in the file, and a log beside it would bear the wrong name.
            db.execute("PRAGMA journal_mode = WAL")
        os.rename(new, self._path)
        fsync_dir(folder)

    def _load(self, *, lost: bool) -> None:
        for row in self._db.execute("SELECT * FROM inodes"):
            inode = _inode_of_row(row)
            if lost:
                # After a loss of power only what was synced is sure to be in the data file.
                inode.held = bytearray(inode.synced.ljust(len(inode.held), b"\0"))
            self.inodes[inode.id] = inode
        for number, key, name, data in self._db.execute("SELECT * FROM streams"):
            if number in self.inodes:
                self.inodes[number].streams[key] = (decode_wtf8(name), data)
        for parent, key, name, number, seq in self._db.execute("SELECT * FROM names ORDER BY seq"):
            self.names.setdefault(parent, {})[key] = Name(decode_wtf8(name), number, seq)

    def _renumber(self) -> None:
        """Find the view's files by path: the view was made again since their numbers were taken."""
        new: dict[int, int] = {0: 0, ROOT_ID: ROOT_ID}
        drive = self._lower.drive
        for number, inode in self.inodes.items():
            if inode.is_new or number == ROOT_ID:
                new[number] = number
                continue
            node = None
            if drive is not None and inode.origin is not None:
                node = self._lower.view.resolve(inode.origin, drive.id)
            if node is None:
                raise LayerCorruptError(
                    "the layers below no longer have what the scratch layer changes", path=inode.origin
                )
            new[number] = node.inode
        for inode in self.inodes.values():
            inode.id = new[inode.id]
            inode.parent = new.get(inode.parent, inode.parent)
        self.inodes = {inode.id: inode for inode in self.inodes.values()}
        self.names = {
            new[parent]: {key: name._replace(inode=new[name.inode]) for key, name in names.items()}
            for parent, names in self.names.items()
        }

    def _rewrite(self) -> None:
        for table in ("inodes", "names", "streams"):
            self._db.execute(f"DELETE FROM {table}")
        self._dirty.update(self.inodes)
        self._dirty_streams.update(number for number, inode in self.inodes.items() if inode.streams)
        for parent, names in self.names.items():
            self._dirty_names.update({(parent, key): name for key, name in names.items()})
        self._write()
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'view'", (self._view,))

    # -- changing --

    def next_id(self) -> int:
        """A number that no file has."""
        return max(FIRST_NEW, max(self.inodes, default=0) + 1)

    def next_file(self) -> int:
        """A number that no data file has."""
        return 1 + max((inode.file for inode in self.inodes.values()), default=0)

    def next_seq(self) -> int:
        """A number that no name has."""
        return 1 + max((n.seq for names in self.names.values() for n in names.values()), default=0)

    def put(self, inode: Inode) -> None:
        """Note that the file is new or changed; one without a name is only kept in memory."""
        self.inodes[inode.id] = inode
        self._dirty[inode.id] = inode if inode.nlink else None

    def put_streams(self, inode: Inode) -> None:
        """Note that the file's alternate streams are changed."""
        self.put(inode)
        self._dirty_streams.add(inode.id)

    def put_name(self, parent: int, key: bytes, name: Name) -> None:
        """Set what the directory has under the folded name *key*; the names stay in order."""
        names = self.names.setdefault(parent, {})
        names.pop(key, None)
        names[key] = name
        self._dirty_names[parent, key] = name

    def drop_name(self, parent: int, key: bytes) -> None:
        """Let the directory have under *key* what the view has there, if anything."""
        del self.names[parent][key]
        if not self.names[parent]:
            del self.names[parent]
        self._dirty_names[parent, key] = None

    def commit(self) -> None:
        """Write what was noted: from now on it survives this process.

        Raises:
            sqlite3.Error: it can't be written; it stays noted.
        """
        if not self._dirty and not self._dirty_names:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write()
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._dirty.clear()
        self._dirty_names.clear()
        self._dirty_streams.clear()

    def _write(self) -> None:
        execute = self._db.execute
        for number, inode in self._dirty.items():
            if inode is None:
                execute("DELETE FROM inodes WHERE id = ?", (number,))
                execute("DELETE FROM streams WHERE inode = ?", (number,))
            else:
                execute(f"INSERT OR REPLACE INTO inodes VALUES ({_INODE_MARKS})", _row_of_inode(inode))
        for number in self._dirty_streams:
            inode = self._dirty.get(number)
            if inode is not None:
                execute("DELETE FROM streams WHERE inode = ?", (number,))
                rows = [(number, key, encode_wtf8(n), data) for key, (n, data) in inode.streams.items()]
                self._db.executemany("INSERT INTO streams VALUES (?, ?, ?, ?)", rows)
        for (parent, key), name in self._dirty_names.items():
            if name is None:
                execute("DELETE FROM names WHERE parent = ? AND key = ?", (parent, key))
            else:
                row = (parent, key, encode_wtf8(name.name), name.inode, name.seq)
                execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?)", row)

    def log_descriptor(self) -> int:
        """A new descriptor of the log; when it is synced, what was committed is on disk."""
        return os.dup(self._wal)

    def sync(self) -> None:
        """Bring what was committed to the disk."""
        os.fsync(self._wal)

    def close(self) -> None:
        """Leave the record well: all committed, synced, one file."""
        self.commit()
        self._db.execute("UPDATE meta SET value = '' WHERE key = 'boot'")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.close(self._wal)
        self._db.close()

    def abandon(self) -> None:
        """Close it as it is."""
        self._db.close()


_INODE_MARKS = ", ".join("?" * 21)


def _row_of_inode(inode: Inode) -> tuple[object, ...]:
    return (
        inode.id,
        int(inode.kind),
        inode.parent,
        encode_wtf8(inode.name),
        inode.nlink,
        inode.size,
        inode.base,
        bytes(inode.held),
        inode.synced,
        int(inode.marks),
        inode.attributes,
        inode.creation_time,
        inode.access_time,
        inode.write_time,
        inode.change_time,
        inode.security,
        pack_eas(inode.eas),
        inode.reparse,
        None if inode.target is None else encode_wtf8(inode.target),
        None if inode.origin is None else encode_wtf8(inode.origin),
        inode.file,
    )


def _inode_of_row(row: tuple[Any, ...]) -> Inode:
    (number, kind, parent, name, nlink, size, base, held, synced, marks, attributes) = row[:11]
    (btime, atime, mtime, ctime, security, eas, reparse, target, origin, file) = row[11:]
    return Inode(
        id=number,
        kind=Kind(kind),
        parent=parent,
        name=decode_wtf8(name),
        attributes=attributes,
        creation_time=btime,
        access_time=atime,
        write_time=mtime,
        change_time=ctime,
        security=security,
        eas=unpack_eas(eas),
        reparse=reparse,
        nlink=nlink,
        size=size,
        base=base,
        held=bytearray(held),
        synced=synced,
        marks=Mark(marks),
        target=None if target is None else decode_wtf8(target),
        origin=None if origin is None else decode_wtf8(origin),
        file=file,
    )
