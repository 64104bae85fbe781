"""The changes that a committed layer makes, from its index and its parents' view: no tree is walked."""

from __future__ import annotations

from collections.abc import Container, Iterator

from winlayers.layers.portable.index import EntryCode, Index
from winlayers.layers.portable.view import ROOT, View, ViewNode
from winlayers.layers.service import ChangeKind, LayerChange
from winlayers.win32.names import upcase


def index_changes(index: Index, below: View | None) -> Iterator[LayerChange]:
    """What the layer of *index* changes over the view *below* (None: it is a base layer).

    In the tar's order, deletions first.  A whiteout of what no parent has is no change; one of a path that
    the layer makes anew is part of that path's modification.
    """
    finder = _Finder(below)
    last = {upcase(path): seq for seq, path, _, _ in index.names()}
    for path, code in index.deletions():
        node = finder.find(path)
        if node is None or below is None:
            continue
        if code == EntryCode.WHITEOUT and upcase(path) not in last:
            yield LayerChange(path, ChangeKind.DELETE, 0, node.is_directory)
        elif code == EntryCode.OPAQUE or node.is_directory:
            yield from _hidden_children(path, node, below, last)
    streams = index.stream_sizes()
    for seq, path, code, size in index.names():
        if path and last[upcase(path)] == seq:
            kind = ChangeKind.ADD if finder.find(path) is None else ChangeKind.MODIFY
            is_directory = code == EntryCode.DIRECTORY
            yield LayerChange(path, kind, size, is_directory, stream_size=streams.get(seq, 0))


def _hidden_children(path: str, node: ViewNode, below: View, own: Container[str]) -> Iterator[LayerChange]:
    """Deletions of what an opaque directory hides and does not make anew."""
    for child in below.children(node.id):
        where = f"{path}/{child.name}"
        if upcase(where) not in own:
            yield LayerChange(where, ChangeKind.DELETE, 0, child.is_directory)


class _Finder:
    """Looks paths up in a view, remembering the directory that it came by last: entries come in order."""

    def __init__(self, view: View | None) -> None:
        self._view = view
        self._path = ""
        self._directory: int | None = ROOT

    def find(self, path: str) -> ViewNode | None:
        if self._view is None:
            return None
        parent, _, name = path.rpartition("/")
        if parent != self._path:
            node = self._view.resolve(parent)
            self._path, self._directory = parent, None if node is None else node.id
        return None if self._directory is None else self._view.lookup(self._directory, name)
