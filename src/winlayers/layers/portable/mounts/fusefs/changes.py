"""The record of a FUSE mount, told as what a scratch layer changes."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

assert sys.platform != "win32"

from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.contract import UpperEntry, UpperKind
from winlayers.layers.portable.mounts.fusefs.attributes import streams_of
from winlayers.layers.portable.mounts.fusefs.cowfile import MergedFile, data_path
from winlayers.layers.portable.mounts.fusefs.lower import FIRST_NEW, Lower, Owner, Row
from winlayers.layers.portable.mounts.fusefs.protocol import ROOT_ID
from winlayers.layers.portable.mounts.fusefs.record import RECORD, Inode, Kind, Mark, Record
from winlayers.layers.portable.mounts.fusefs.tree import Tree
from winlayers.layers.portable.view import View, ViewNode
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import decode_wtf8, fold_key

_KINDS = {
    Kind.FILE: UpperKind.FILE,
    Kind.DIRECTORY: UpperKind.DIRECTORY,
    Kind.SYMLINK: UpperKind.SYMLINK,
}
_FIELDS = {
    Mark.ATTRIBUTES: "attributes",
    Mark.SECURITY: "security",
    Mark.EAS: "eas",
    Mark.REPARSE: "reparse",
}


def record_changes(view: View, state_dir: str) -> Iterator[UpperEntry]:
    """What the record in *state_dir* changes in *view*'s drive, parents before children."""
    if not os.path.exists(os.path.join(state_dir, RECORD)):
        return
    lower = Lower(view, Owner(0, 0))
    try:
        record = Record(state_dir, lower, mountinfo.boot_id(), read_only=True)
        record.abandon()
        yield from _Walk(view, Tree(lower, record), state_dir).changes()
    finally:
        lower.close()


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A directory on the way.

    Attributes:
        path: where it is now.
        origin: the path of the view's directory that it is; None: it is new.
        here: the view's directory at *path*, whatever became of it.
        whole: whether all in it must be told, since it is not where the view has it.
    """

    id: int
    path: str
    origin: str | None
    here: ViewNode | None
    whole: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Child:
    """A name in a directory; ``id`` 0: a deletion.  ``row`` is set if the view has the name so."""

    key: bytes
    name: str
    id: int
    row: Row | None


class _Walk:
    def __init__(self, view: View, tree: Tree, state_dir: str) -> None:
        self.view = view
        self.tree = tree
        self.lower = tree.lower
        self.state_dir = state_dir
        self.wanted: dict[int, set[bytes]] = {}
        """By directory: the folded names of the view's that lead to changes."""

    def changes(self) -> Iterator[UpperEntry]:
        self._find_wanted()
        if self._has_moved_directories():
            # What moved with a directory may have names elsewhere: all must be told, to stay one file.
            for linked in {entry.identity for entry in self._walk()}:
                if isinstance(linked, int) and linked < FIRST_NEW:
                    self._want_names(linked)
        yield from self._walk()

    def _walk(self) -> Iterator[UpperEntry]:
        stack = [_Place(ROOT_ID, "", "", self.lower.drive, False)]
        while stack:
            place = stack.pop()
            below: list[_Place] = []
            for child in self._children(place):
                here = None
                if place.here is not None and place.here.is_directory:
                    here = self.view.lookup(place.here.id, child.name) if child.id else None
                if child.id:
                    yield self._entry(place, child, here, below)
                elif place.here is not None and not place.whole:
                    yield from self._whiteout(place, child)
            stack += reversed(below)

    # -- what to look at --

    def _find_wanted(self) -> None:
        for directory in self.tree.names:
            self._want_directory(directory)
        for inode in self.tree.inodes.values():
            if not inode.is_new and inode.id != ROOT_ID and self._is_changed(inode):
                self._want_names(inode.id)

    def _has_moved_directories(self) -> bool:
        inodes = self.tree.inodes
        moved = (name.inode for names in self.tree.names.values() for name in names.values() if name.inode)
        return any(not inodes[i].is_new and inodes[i].kind is Kind.DIRECTORY for i in moved)

    def _want_names(self, node_id: int) -> None:
        """See to it that the walk comes by all names of the view that the file still has."""
        for node in self.view.links(node_id):
            parent = self._parent_of(node)
            key = fold_key(node.name)
            if parent is not None and key not in self.tree.names.get(parent, ()):
                self.wanted.setdefault(parent, set()).add(key)
                self._want_directory(parent)

    def _is_changed(self, inode: Inode) -> bool:
        if inode.marks & ~Mark.EXECUTABLE:
            return True
        return inode.kind is Kind.DIRECTORY and inode.write_time != self.lower.row(inode.id).write_time

    def _parent_of(self, node: ViewNode) -> int | None:
        parent = self.view.node(node.parent)
        return None if parent is None else self.lower.node_id_of(parent.inode)

    def _want_directory(self, directory: int) -> None:
        """See to it that the walk comes by the directory."""
        while directory != ROOT_ID:
            inode = self.tree.inodes.get(directory)
            if inode is not None:
                parent, name = inode.parent, inode.name
            else:
                parent, name = self.lower.parent_of(directory)
            key = fold_key(name)
            if key not in self.tree.names.get(parent, ()):
                known = self.wanted.setdefault(parent, set())
                if key in known:
                    return
                known.add(key)
            directory = parent

    def _children(self, place: _Place) -> list[_Child]:
        changed = self.tree.names.get(place.id, {})
        node = self.lower.directory_node(place.id)
        rows: list[Row] = []
        if node and place.whole:
            rows = [row for row in self.lower.listing(node) if row.key not in changed]
        elif node:
            found = [
                self.lower.find(node, key) for key in self.wanted.get(place.id, ()) if key not in changed
            ]
            rows = [row for row in found if row is not None]
        children = [_Child(row.key, decode_wtf8(row.name), row.inode, row) for row in rows]
        children += [_Child(key, name.name, name.inode, None) for key, name in changed.items()]
        return sorted(children, key=lambda child: child.key)

    # -- entries --

    def _whiteout(self, place: _Place, child: _Child) -> Iterator[UpperEntry]:
        row = self.lower.find(self.lower.directory_node(place.id), child.key)
        if row is not None:
            yield UpperEntry(
                path=_join(place.path, decode_wtf8(row.name)),
                kind=UpperKind.WHITEOUT,
                data_changed=False,
                metadata_changed=False,
            )

    def _entry(self, place: _Place, child: _Child, here: ViewNode | None, below: list[_Place]) -> UpperEntry:
        path = _join(place.path, child.name)
        inode = self.tree.inodes.get(child.id)
        in_place = not place.whole and here is not None and here.inode == child.id and here.name == child.name
        origin = None
        if not in_place and (inode is None or not inode.is_new):
            if child.row is not None and place.origin is not None:
                origin = _join(place.origin, child.name)
            else:
                origin = inode.origin if inode is not None else self.lower.origin_of(child.id)
        replaced = here is not None and not in_place
        if inode is None:
            entry = self._untouched(path, child.row or self.lower.row(child.id), origin)
        else:
            entry = self._touched(path, inode, origin)
        if entry.kind is UpperKind.DIRECTORY:
            came_from = path if in_place else origin
            below.append(_Place(child.id, path, came_from, here, not in_place))
        opaque = replaced and here is not None and here.is_directory and entry.kind is UpperKind.DIRECTORY
        return dataclasses.replace(entry, replaced=replaced, opaque=opaque)

    def _untouched(self, path: str, row: Row, origin: str | None) -> UpperEntry:
        """A file that is as the view has it, at another place."""
        mode = self.lower.mode(row)
        kind = UpperKind.DIRECTORY if stat.S_ISDIR(mode) else UpperKind.FILE
        target = self.lower.link(row) if stat.S_ISLNK(mode) else None
        m = self.lower.inode(row.inode).metadata
        return UpperEntry(
            path=path,
            kind=UpperKind.SYMLINK if target is not None else kind,
            data_changed=False,
            metadata_changed=False,
            size=row.size if row.kind == 0 else 0,
            creation_time=m.creation_time,
            access_time=m.access_time,
            write_time=m.write_time,
            change_time=m.change_time,
            posix_target=None if target is None else target.decode("utf-8"),
            origin=origin,
            identity=row.inode if row.nlink > 1 and kind is UpperKind.FILE else None,
        )

    def _touched(self, path: str, inode: Inode, origin: str | None) -> UpperEntry:
        metadata = inode.metadata()
        below = None if inode.is_new else self.lower.inode(inode.id).metadata
        data_changed = inode.kind is Kind.FILE and bool(inode.marks & Mark.DATA)
        streams = None
        if inode.marks & Mark.STREAMS:
            streams = tuple((source.name, source.read()) for source in streams_of(self.tree, inode.id))
        target = None
        if inode.kind is Kind.SYMLINK:
            target = self.tree.target(inode.id).decode("utf-8")
        overridden = _overridden(inode, below)
        return UpperEntry(
            path=path,
            kind=_KINDS[inode.kind],
            data_changed=data_changed,
            metadata_changed=self._metadata_changed(inode, below),
            size=inode.size if inode.kind is Kind.FILE else 0,
            creation_time=inode.creation_time,
            access_time=inode.access_time,
            write_time=inode.write_time,
            change_time=inode.change_time,
            posix_target=target,
            overrides=metadata if overridden else None,
            overridden=overridden,
            streams=streams,
            origin=origin,
            identity=inode.id if inode.nlink > 1 and inode.kind is not Kind.DIRECTORY else None,
            open=functools.partial(self._open, inode) if data_changed else None,
        )

    def _metadata_changed(self, inode: Inode, below: FileMetadata | None) -> bool:
        if below is None or inode.marks & Mark.METADATA:
            return True
        # A directory's time goes with its content; without any change in it, that is news itself.
        touched = inode.write_time != below.write_time
        if inode.kind is Kind.DIRECTORY:
            return touched and not self.tree.names.get(inode.id) and inode.id not in self.wanted
        return touched

    def _open(self, inode: Inode) -> BinaryIO:
        extent = None if inode.is_new else self.view.inode(inode.id).extent
        raw = MergedFile(self.view, extent, inode, data_path(self.state_dir, inode.file))
        return io.BufferedReader(raw, 1 << 20)


def _overridden(inode: Inode, below: FileMetadata | None) -> frozenset[str]:
    """The fields of metadata that are not what the chain, or a new file's defaults, would give."""
    fields = {field for mark, field in _FIELDS.items() if inode.marks & mark}
    if below is None:
        fields.add("security")
        if inode.kind is not Kind.SYMLINK:
            fields.add("attributes")
    elif inode.attributes != int(below.attributes):
        fields.add("attributes")
    return frozenset(fields)


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name
