"""Where an application's layers and a new base get into each other's way.

The layers were made on the old base.  Wherever they replace, delete or link a file of it, they mean the file
that was there; if the new base has another one, the result is neither what was tested nor what the new base
promises.  Compared is what a file says, not when it was written: data, streams, attributes, descriptor,
extended attributes, reparse point.  A directory that is merely named, as a parent, is no change.

``Hives`` is left out: Windows lays registry deltas over those of the base key by key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from winlayers.images.editing.hives import ROOT as HIVES
from winlayers.layers.portable.index import EntryCode, EntryRow, Index
from winlayers.layers.portable.view import Extent, View, ViewInode, ViewNode
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import fold_key

_UTILITY_VM = "UTILITYVM/"
_Key = tuple[bytes, ...]


@dataclasses.dataclass(slots=True)
class Conflicts:
    """What was found.

    Attributes:
        changed: paths that the layers touch and that differ between the bases.
        missing: paths that the layers need of a base and that the new one has not.
    """

    changed: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)


def find_conflicts(layers: Sequence[Index], old: View, new: View) -> Conflicts:
    """Compare the bases wherever the layers touch them.

    Args:
        layers: the application's layers, lowest first.
        old, new: the bases' merged views.
    """
    return _Finder(old, new).run(layers)


class _Finder:
    def __init__(self, old: View, new: View) -> None:
        self._old = old
        self._new = new
        self._found = Conflicts()
        self._seen: set[_Key] = set()
        self._made: set[_Key] = set()  # what the layers so far bring themselves

    def run(self, layers: Sequence[Index]) -> Conflicts:
        for index in layers:
            own = {_key(row.path) for row in index.entries() if row.code in (EntryCode.FILE, EntryCode.LINK)}
            self._made |= own
            descriptors = dict(index.descriptors())
            for row in index.entries():
                if row.path and not row.path.upper().startswith(HIVES):
                    self._entry(row, None if row.security is None else descriptors[row.security])
        return self._found

    def _entry(self, row: EntryRow, security: bytes | None) -> None:
        if row.code == EntryCode.LINK and row.link is not None and _key(row.link) not in self._made:
            self._target(row.link)
        in_utility_vm = row.path.upper().startswith(_UTILITY_VM)
        if row.code == EntryCode.WHITEOUT and in_utility_vm and not self._is_there(row.path):
            self._found.missing.append(row.path)  # Windows refuses to delete there what is not there
            return
        self._touch(row, row.metadata(security))

    def _is_there(self, path: str) -> bool:
        return self._new.resolve(path) is not None or _key(path) in self._made

    def _target(self, path: str) -> None:
        """A hard link leads to a file of the base."""
        new = self._new.resolve(path)
        if new is None or new.is_directory:
            self._found.missing.append(path)
        else:
            self._compare(path)

    def _touch(self, row: EntryRow, metadata: FileMetadata) -> None:
        old = self._old.resolve(row.path)
        if row.code != EntryCode.DIRECTORY or (old is not None and not old.is_directory):
            self._compare(row.path)
            return
        new = self._new.resolve(row.path)
        if new is not None and not new.is_directory:
            self._note(row.path)
        elif old is not None and metadata.security is not None:
            before = self._old.inode(old.inode).metadata
            if _says(metadata) != _says(before):
                self._compare(row.path, inside=False)

    def _note(self, path: str) -> None:
        if _key(path) not in self._seen:
            self._seen.add(_key(path))
            self._found.changed.append(path)

    def _compare(self, path: str, *, inside: bool = True) -> None:
        """Compare what the bases have at *path*, *inside* directories too."""
        if _key(path) in self._seen:
            return
        old, new = self._old.resolve(path), self._new.resolve(path)
        if old is None and new is None:
            return
        if old is None or new is None or not self._same(old, new):
            self._note(path)
        elif old.is_directory and inside:
            for below in self._differences(old, new, path):
                self._note(below)

    def _differences(self, old: ViewNode, new: ViewNode, path: str) -> Iterator[str]:
        stack = [(old, new, path)]
        while stack:
            old, new, path = stack.pop()
            after = {fold_key(node.name): node for node in self._new.children(new.id)}
            for child in self._old.children(old.id):
                there = after.pop(fold_key(child.name), None)
                where = f"{path}/{child.name}"
                if there is None or not self._same(child, there):
                    yield where
                elif child.is_directory:
                    stack.append((child, there, where))
            for node in after.values():
                yield f"{path}/{node.name}"

    # -- whether two files are the same --

    def _same(self, old: ViewNode, new: ViewNode) -> bool:
        one, two = self._old.inode(old.inode), self._new.inode(new.inode)
        if one.is_directory != two.is_directory or _says(one.metadata) != _says(two.metadata):
            return False
        pairs = _extents(one), _extents(two)
        if pairs[0].keys() != pairs[1].keys():
            return False
        return all(self._same_data(extent, pairs[1][name]) for name, extent in pairs[0].items())

    def _same_data(self, old: Extent, new: Extent) -> bool:
        if old.size != new.size:
            return False
        if (self._old.layers[old.layer].name, old.source, old.offset) == (
            self._new.layers[new.layer].name,
            new.source,
            new.offset,
        ):
            return True  # in the very same layer
        return all(one == two for one, two in zip(self._old.chunks(old), self._new.chunks(new), strict=True))


def _extents(inode: ViewInode) -> dict[bytes, Extent]:
    found = {fold_key(stream.name): stream.extent for stream in inode.streams}
    if not inode.is_directory:
        found[b""] = inode.extent
    return found


def _says(metadata: FileMetadata) -> tuple[object, ...]:
    """The metadata without the times."""
    return (
        int(metadata.attributes),
        metadata.security,
        frozenset((ea.name.upper(), ea.value, ea.flags) for ea in metadata.eas),
        metadata.reparse,
    )


def _key(path: str) -> _Key:
    return tuple(fold_key(part) for part in path.split("/"))
