"""The changes that a committed layer makes, from its index and its parents' view: no tree is walked."""

from __future__ import annotations

from collections.abc import Iterator

from winlayers.layers.portable.index import EntryCode, Index
from winlayers.layers.portable.view import ROOT, View, ViewNode
from winlayers.layers.service import ChangeKind, LayerChange
from winlayers.win32.names import fold_key

_Key = tuple[bytes, ...]


def index_changes(index: Index, below: View | None) -> Iterator[LayerChange]:
    """What the layer of *index* changes over the view *below* (None: it is a base layer).

    In the tar's order, deletions first.  A whiteout of what no parent has is no change; one of a path that
    the layer makes anew is part of that path's modification.
    """
    finder = _Finder(below)
    own = {_key(row.path) for row in index.entries() if row.code <= EntryCode.LINK}
    for path, code in index.deletions():
        node = finder.find(path)
        if node is None:
            continue
        if code == EntryCode.WHITEOUT:
            if _key(path) not in own:
                yield LayerChange(path, ChangeKind.DELETE, 0, node.is_directory)
            elif node.is_directory and below is not None:
                yield from _hidden_children(path, node, below, own)
        elif below is not None:
            yield from _hidden_children(path, node, below, own)
    streams = index.streams_by_entry()
    last = {_key(row.path): row.seq for row in index.entries() if row.code <= EntryCode.LINK}
    for row in index.entries():
        if row.code > EntryCode.LINK or not row.path or last[_key(row.path)] != row.seq:
            continue
        kind = ChangeKind.ADD if finder.find(row.path) is None else ChangeKind.MODIFY
        size = row.size + sum(stream.size for stream in streams.get(row.seq, ()))
        yield LayerChange(row.path, kind, size, row.code == EntryCode.DIRECTORY)


def _hidden_children(path: str, node: ViewNode, below: View, own: set[_Key]) -> Iterator[LayerChange]:
    """Deletions of what an opaque directory hides and does not make anew."""
    for child in below.children(node.id):
        where = f"{path}/{child.name}"
        if _key(where) not in own:
            yield LayerChange(where, ChangeKind.DELETE, 0, child.is_directory)


class _Finder:
    """Looks paths up in a view, remembering the directories that it came by."""

    def __init__(self, view: View | None) -> None:
        self._view = view
        self._directories: dict[str, int | None] = {"": ROOT}

    def find(self, path: str) -> ViewNode | None:
        if self._view is None:
            return None
        parent_path, _, name = path.rpartition("/")
        parent = self._directory(parent_path)
        return None if parent is None else self._view.lookup(parent, name)

    def _directory(self, path: str) -> int | None:
        if path not in self._directories:
            node = self.find(path)
            self._directories[path] = None if node is None else node.id
        return self._directories[path]


def _key(path: str) -> _Key:
    return tuple(fold_key(part) for part in path.split("/"))
