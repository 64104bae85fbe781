"""Where an image's bytes are: what each layer brings, what of it later layers waste, and what is left to see.

*Data* is all bytes in a layer's streams.  *Visible* are those that some path of the finished tree leads to,
counted once however many hard links do.  The rest is *wasted*: it is shipped and stored, and a later layer
(or a later entry of the same one) has replaced or deleted it.
"""

from __future__ import annotations

import dataclasses

from winlayers.inspection.tree import Layer, Tree
from winlayers.layers.portable.index import EntryCode, EntryRow, Index
from winlayers.layers.portable.view import ROOT, Extent, ViewNode
from winlayers.win32.names import fold_key

_Place = tuple[int, int, int]
_Key = tuple[bytes, ...]


@dataclasses.dataclass(slots=True)
class LayerUsage:
    """One layer's part.

    Attributes:
        layer: the layer.
        files, directories, links, deletions: its entries by kind.
        data: bytes in all its streams.
        visible: bytes of it that the finished tree shows.
        wasted: the rest.
        replaces, deletes: bytes of lower layers (and of its own) that it replaces or deletes.
    """

    layer: Layer
    files: int = 0
    directories: int = 0
    links: int = 0
    deletions: int = 0
    data: int = 0
    visible: int = 0
    replaces: int = 0
    deletes: int = 0

    @property
    def wasted(self) -> int:
        return self.data - self.visible


@dataclasses.dataclass(frozen=True, slots=True)
class Wasted:
    """A file whose data nobody can see any more.

    Attributes:
        path: from the layers' root.
        size: bytes.
        layer: the layer that ships them (an index of :attr:`Tree.layers`).
        by: the layer that hides them.
        how: ``replaced``, ``deleted``, or ``repeated`` within its layer.
    """

    path: str
    size: int
    layer: int
    by: int
    how: str


@dataclasses.dataclass(slots=True)
class Usage:
    """The whole account.

    Attributes:
        layers: base first.
        wasted: the largest first.
        visible: bytes in the finished tree, hard links counted once.
        entries: names in the finished tree.
    """

    layers: list[LayerUsage]
    wasted: list[Wasted]
    visible: int
    entries: int

    @property
    def data(self) -> int:
        """Bytes in all layers."""
        return sum(layer.data for layer in self.layers)

    @property
    def efficiency(self) -> float:
        """The part of the shipped bytes that can be seen, from 0 to 1."""
        return self.visible / self.data if self.data else 1.0


def measure(tree: Tree) -> Usage:
    """Account for all bytes of *tree*.  Only indexes are read."""
    visible, entries = _visible(tree)
    hiders = [_Hider(layer) for layer in tree.layers]
    usage = [LayerUsage(layer) for layer in tree.layers]
    wasted: list[Wasted] = []
    for number, layer in enumerate(tree.layers):
        with layer.open_index() as index:
            _count(index, number, usage, visible, hiders, wasted)
    wasted.sort(key=lambda w: (-w.size, w.path))
    return Usage(usage, wasted, sum(visible.values()), entries)


def _visible(tree: Tree) -> tuple[dict[_Place, int], int]:
    """The places of all data that the tree shows, with their sizes, and the number of names."""
    places: dict[_Place, int] = {}
    entries = 0
    stack: list[ViewNode] = [node for node in (tree.view.node(ROOT),) if node is not None]
    while stack:
        for node, inode in tree.view.entries(stack.pop().id):
            entries += 1
            for extent in (inode.extent, *(stream.extent for stream in inode.streams)):
                if extent.size:
                    places[_place(extent)] = extent.size
            if inode.is_directory:
                stack.append(node)
    return places, entries


def _place(extent: Extent) -> _Place:
    return extent.layer, int(extent.source), extent.offset


def _count(
    index: Index,
    number: int,
    usage: list[LayerUsage],
    visible: dict[_Place, int],
    hiders: list[_Hider],
    wasted: list[Wasted],
) -> None:
    own = usage[number]
    streams = index.streams_by_entry()
    for row in index.entries():
        if row.code == EntryCode.DIRECTORY:
            own.directories += 1
        elif row.code == EntryCode.FILE:
            own.files += 1
        elif row.code == EntryCode.LINK:
            own.links += 1
        else:
            own.deletions += 1
        hidden = 0
        for part in (row, *streams.get(row.seq, ())):
            if part.size:
                own.data += part.size
                if (number, part.source, part.offset) in visible:
                    own.visible += part.size
                else:
                    hidden += part.size
        if hidden:
            wasted.append(_blame(row, hidden, number, usage, hiders))


def _blame(row: EntryRow, size: int, number: int, usage: list[LayerUsage], hiders: list[_Hider]) -> Wasted:
    """Who hides the row's data: the first later layer that says something about its path."""
    key = _key(row.path)
    for by in range(number + 1, len(hiders)):
        how = hiders[by].verdict(key)
        if how is not None:
            if how == "deleted":
                usage[by].deletes += size
            else:
                usage[by].replaces += size
            return Wasted(row.path, size, number, by, how)
    usage[number].replaces += size
    return Wasted(row.path, size, number, number, "repeated")


class _Hider:
    """What a layer does to those below it, read when first asked."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._content: set[_Key] | None = None
        self._files: set[_Key] = set()
        self._whiteouts: set[_Key] = set()
        self._opaque: set[_Key] = set()

    def _read(self) -> set[_Key]:
        content: set[_Key] = set()
        with self._layer.open_index() as index:
            for row in index.entries():
                key = _key(row.path)
                if row.code == EntryCode.WHITEOUT:
                    self._whiteouts.add(key)
                elif row.code == EntryCode.OPAQUE:
                    self._opaque.add(key)
                else:
                    content.add(key)
                    if row.code != EntryCode.DIRECTORY:
                        self._files.add(key)
        return content

    def verdict(self, key: _Key) -> str | None:
        """``replaced``, ``deleted`` or None: the layer leaves the file alone."""
        if self._content is None:
            self._content = self._read()
        if key in self._content:
            return "replaced"
        if key in self._whiteouts:
            return "deleted"
        for length in range(1, len(key)):
            above = key[:length]
            if above in self._whiteouts or above in self._opaque or above in self._files:
                return "deleted"
        return None


def _key(path: str) -> _Key:
    return tuple(fold_key(part) for part in path.split("/"))
