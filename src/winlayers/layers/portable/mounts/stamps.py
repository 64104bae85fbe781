"""What extracted files were when they were written, and what has become of them.

``stamps.db`` has one row for each name: its path, the view's inode, and the status that any change leaves a
mark on.  A file is known again wherever it is by its number and its time of birth (where the file system
records that), so renamed files and directories are told from new ones.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

assert sys.platform != "win32"

from winlayers.errors import LayerContentError, LayerCorruptError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts import anchored, syscalls
from winlayers.layers.portable.mounts.compare import Found, compare, same_data, shown_in_writable
from winlayers.layers.portable.mounts.contract import UpperEntry, UpperKind
from winlayers.layers.portable.posix import find_host_name, path_on_drive
from winlayers.layers.portable.view import View, ViewInode, ViewNode
from winlayers.win32.names import fold_key, host_original, host_safe

_SCHEMA = """
CREATE TABLE stamps(
    path BLOB PRIMARY KEY, inode INTEGER NOT NULL, number INTEGER NOT NULL, birth INTEGER,
    mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE hidden(inode INTEGER NOT NULL, name BLOB NOT NULL);
"""
_BATCH = 1000

Parts = tuple[bytes, ...]


class Stamp(NamedTuple):
    """One row; times are marks (see `_mark`)."""

    path: bytes
    inode: int
    number: int
    birth: int | None
    mtime: int
    ctime: int
    size: int

    def is_same_file(self, about: os.stat_result, birth: int | None) -> bool:
        """Whether it is the file that was written, changed or not."""
        return self.number == _mark(about.st_ino) and self.birth == birth

    def is_untouched(self, about: os.stat_result) -> bool:
        """Whether nothing about it has changed since."""
        times = (_mark(about.st_mtime_ns), _mark(about.st_ctime_ns))
        return (self.mtime, self.ctime, self.size) == (*times, about.st_size)


def _mark(number: int) -> int:
    """*number*, which is only ever compared, within what SQLite holds: nanoseconds may be before 1678."""
    return number & 0x7FFFFFFFFFFFFFFF


class Stamps:
    """An open ``stamps.db``."""

    def __init__(self, path: str) -> None:
        """Open the file *path*."""
        self._db = sqlite3.connect(path, isolation_level=None)

    @classmethod
    def create(cls, path: str) -> Stamps:
        """Make the file *path* anew."""
        if os.path.exists(path):
            os.unlink(path)
        stamps = cls(path)
        stamps._db.execute("PRAGMA journal_mode = OFF")
        stamps._db.executescript(_SCHEMA)
        stamps._db.execute("BEGIN")
        return stamps

    def close(self) -> None:
        """Close the file, with all that was noted in it."""
        if self._db.in_transaction:
            self._db.execute("CREATE INDEX stamps_by_number ON stamps(number)")
            self._db.execute("COMMIT")
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def note_hidden(self, inode: int, name: bytes) -> None:
        """Note that the view's inode could not be given the attribute *name*."""
        self._db.execute("INSERT INTO hidden VALUES (?, ?)", (inode, name))

    def note_tree(self, root: int, written: Iterable[tuple[Parts, int]]) -> None:
        """Note the status of all that was *written* below the open folder."""
        rows: list[Stamp] = []
        directory, parent = -1, None
        try:
            for parts, inode in written:
                if parts[:-1] != parent:
                    if directory >= 0:
                        os.close(directory)
                    parent = parts[:-1]
                    directory = anchored.open_directory(root, parent)
                about = os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
                rows.append(_stamp(parts, inode, about, syscalls.birth_time(directory, parts[-1])))
                if len(rows) >= _BATCH:
                    self._write(rows)
        finally:
            if directory >= 0:
                os.close(directory)
        self._write(rows)

    def _write(self, rows: list[Stamp]) -> None:
        self._db.executemany("INSERT INTO stamps VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        rows.clear()

    def at(self, path: bytes) -> Stamp | None:
        """What was written at *path*."""
        row = self._db.execute("SELECT * FROM stamps WHERE path = ?", (path,)).fetchone()
        return None if row is None else Stamp._make(row)

    def by_number(self, number: int) -> list[Stamp]:
        """All names that the file of that number was written with."""
        rows = self._db.execute("SELECT * FROM stamps WHERE number = ? ORDER BY path", (_mark(number),))
        return [Stamp._make(row) for row in rows]

    def hidden(self, inode: int) -> set[bytes]:
        """The attributes that the view's inode could not be given."""
        rows = self._db.execute("SELECT name FROM hidden WHERE inode = ?", (inode,))
        return {bytes(row[0]) for row in rows}

    def note_without_attributes(self) -> None:
        """Note that the file system has no extended attributes."""
        self.note_hidden(0, b"")

    @property
    def has_attributes(self) -> bool:
        """Whether files were given extended attributes."""
        return not self.hidden(0)


def _stamp(parts: Parts, inode: int, about: os.stat_result, birth: int | None) -> Stamp:
    times = (_mark(about.st_mtime_ns), _mark(about.st_ctime_ns))
    return Stamp(b"/".join(parts), inode, _mark(about.st_ino), birth, *times, about.st_size)


def extract_changes(view: View, tree: str, stamps: Stamps) -> Iterator[UpperEntry]:
    """What differs between the *tree* and what was written there, parents before children.

    Raises:
        LayerContentError: it holds what no Windows layer can.
    """
    yield from _Tree(view, anchored.Anchor(os.path.realpath(tree)), stamps).changes()


class _Place(NamedTuple):
    """A directory of the tree.

    Its path there and by NTFS's names, the view's node at that path, and the entries of it and of its parents
    that no child has needed yet.
    """

    parts: Parts
    path: str
    here: ViewNode | None
    pending: tuple[UpperEntry, ...]


class _Tree:
    """The walk over an extracted tree."""

    def __init__(self, view: View, root: anchored.Anchor, stamps: Stamps) -> None:
        self.view = view
        self.root = root
        self.stamps = stamps
        self.reported: set[str] = set()
        self.has_attributes = stamps.has_attributes

    def changes(self) -> Iterator[UpperEntry]:
        stack = [_Place((), "", self.view.drive, ())]
        while stack:
            place = stack.pop()
            below: list[_Place] = []
            for entry in self._directory(place, below):
                for parent in place.pending:
                    if parent.path not in self.reported:
                        self.reported.add(parent.path)
                        yield parent
                yield entry
            stack += reversed(below)

    def _directory(self, place: _Place, below: list[_Place]) -> Iterator[UpperEntry]:
        fd = self.root.directory(place.parts)
        try:
            names = [(raw, *self._name(place, raw)) for raw in anchored.names(fd)]
            present = {fold_key(name) for _, name, _ in names}
            if place.here is not None:
                for node in self.view.children(place.here.id):
                    if fold_key(node.name) not in present:
                        yield UpperEntry(
                            path=_join(place, node.name),
                            kind=UpperKind.WHITEOUT,
                            data_changed=False,
                            metadata_changed=False,
                        )
            listed = {raw for raw, _, _ in names}
            for raw, name, here in names:
                # As on Windows there can be but one: a name that differs in case alone from one that is
                # there hides nothing of it.
                other = None if here is None else host_safe(here.name).encode("utf-8")
                twin = other != raw and other in listed
                yield from self._child(place, fd, raw, name, None if twin else here, below)
        finally:
            os.close(fd)

    def _name(self, place: _Place, raw: bytes) -> tuple[str, ViewNode | None]:
        """The name by NTFS, and the view's node of that name."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise LayerContentError(
                f"the name {raw!r} is not UTF-8", path=place.path, hint="rename or remove it"
            ) from None
        name = host_original(text)
        if place.here is None:
            return text if name is None else name, None
        if name is None:
            node = find_host_name(self.view, place.here.id, text)
            return (text if node is None else node.name), node
        return name, self.view.lookup(place.here.id, name)

    def _child(
        self, place: _Place, fd: int, raw: bytes, name: str, here: ViewNode | None, below: list[_Place]
    ) -> Iterator[UpperEntry]:
        parts = (*place.parts, raw)
        about = os.stat(raw, dir_fd=fd, follow_symlinks=False)
        birth = syscalls.birth_time(fd, raw)
        is_directory = stat.S_ISDIR(about.st_mode)
        stamp = self._known_as(parts, about, birth)
        inode = self._inode(stamp)
        in_place = inode is not None and here is not None and here.inode == inode.id
        if stamp is not None and in_place and not is_directory and stamp.is_untouched(about):
            return
        origin = None
        if stamp is not None and not in_place:
            origin = self._origin(stamp)
            if origin is None:
                inode = None
        path = _join(place, name)
        found = self._found(fd, parts, path, about, birth)
        hides = here is not None and not in_place
        entry = compare(
            self.view,
            found,
            inode,
            shown=None if inode is None else self._shown(inode),
            data_changed=self._data_changed(found, inode, stamp, about),
            content_changed=is_directory and (here is None or not self._has_same_names(parts, here)),
            opaque=hides and is_directory and here is not None and here.is_directory,
            replaced=hides,
            origin=origin,
        )
        if entry.differs:
            self.reported.add(path)
            yield entry
        if is_directory:
            inside = here if in_place else None
            pending = () if entry.differs else (entry,)
            below.append(_Place(parts, path, inside, (*place.pending, *pending)))

    def _known_as(self, parts: Parts, about: os.stat_result, birth: int | None) -> Stamp | None:
        """What the file was written as; None: it is new."""
        stamp = self.stamps.at(b"/".join(parts))
        if stamp is not None and stamp.is_same_file(about, birth):
            return stamp
        for other in self.stamps.by_number(about.st_ino):
            # Without a time of birth a number alone may be another file's by now.
            if other.is_same_file(about, birth) and (
                birth is not None or other.mtime == _mark(about.st_mtime_ns)
            ):
                return other
        return None

    def _inode(self, stamp: Stamp | None) -> ViewInode | None:
        if stamp is None:
            return None
        try:
            return self.view.inode(stamp.inode)
        except LayerCorruptError:  # the view was made again, and its numbers mean something else
            return None

    def _origin(self, stamp: Stamp) -> str | None:
        drive = self.view.drive
        node = drive
        for part in stamp.path.split(b"/"):
            if node is not None:
                node = find_host_name(self.view, node.id, part.decode("utf-8", "replace"))
        return None if node is None or node is drive else path_on_drive(self.view, node)

    def _found(self, fd: int, parts: Parts, path: str, about: os.stat_result, birth: int | None) -> Found:
        target = None
        attributes: dict[bytes, bytes] | None = None
        if stat.S_ISLNK(about.st_mode):
            target = os.readlink(parts[-1], dir_fd=fd).decode("utf-8", "surrogateescape")
        elif self.has_attributes:
            listed = anchored.attributes_of(fd, parts[-1])
            if listed is not None:
                attributes = {
                    os.fsencode(name[len(xattrs.USER) :]): value
                    for name, value in listed.items()
                    if name.startswith(xattrs.USER)
                }
        reader = functools.partial(self.root.file, parts)
        return Found(path, about, attributes, birth, target, reader)

    def _has_same_names(self, parts: Parts, node: ViewNode) -> bool:
        fd = self.root.directory(parts)
        try:
            names = anchored.names(fd)
        finally:
            os.close(fd)
        return names == sorted(host_safe(child.name).encode("utf-8") for child in self.view.children(node.id))

    def _shown(self, inode: ViewInode) -> dict[bytes, bytes]:
        """The attributes that the file was written with."""
        shown = shown_in_writable(self.view, inode)
        for name in self.stamps.hidden(inode.id):
            shown.pop(name, None)
        return shown

    def _data_changed(
        self, found: Found, inode: ViewInode | None, stamp: Stamp | None, about: os.stat_result
    ) -> bool:
        if inode is None or found.kind is not UpperKind.FILE or found.open is None:
            return True
        if stamp is not None and stamp.is_untouched(about):
            return False
        if inode.size != about.st_size:
            return True
        with found.open() as file:
            return not same_data(self.view, inode, file)


def _join(place: _Place, name: str) -> str:
    return f"{place.path}/{name}" if place.path else name
