"""What differs between two trees: files, their data, metadata and security."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

from winlayers.inspection.accessdiff import same_access
from winlayers.inspection.tree import Entry, Tree
from winlayers.layers.portable.view import Extent
from winlayers.layers.service import ChangeKind
from winlayers.win32.names import sort_key, upcase

ASPECTS = (
    "type",
    "name",
    "data",
    "streams",
    "attributes",
    "times",
    "security",
    "reparse",
    "eas",
)
"""What may differ: what kind of thing it is, the letter case of its name, its data and alternate streams,
attribute bits, creation and write times, the descriptor, the reparse buffer, extended attributes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in both trees.

    Attributes:
        path: ``/``-separated, from the layers' root, as the newer tree has it.
        kind: added, deleted, modified.
        before, after: the entry in either tree; None where there is none.
        aspects: of a modification: what differs, in the order of :data:`ASPECTS`.
    """

    path: str
    kind: ChangeKind
    before: Entry | None
    after: Entry | None
    aspects: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """The entry as it is now, else as it was."""
        entry = self.after if self.after is not None else self.before
        assert entry is not None
        return entry

    @property
    def size_before(self) -> int:
        """Bytes in all streams before."""
        return self.before.total_size if self.before is not None else 0

    @property
    def size_after(self) -> int:
        """Bytes in all streams after."""
        return self.after.total_size if self.after is not None else 0


def diff_trees(
    before: Tree,
    after: Tree,
    *,
    layer_root: bool = True,
    data: bool = True,
    ignore: Iterable[str] = (),
) -> list[Difference]:
    """All that differs, in the order of a walk through both.

    Of what is added or deleted every file and directory is listed.  Files whose data lies at the same place
    of the same layer are equal; others of equal size are read and compared by their digests, each blob
    forwards.

    Args:
        layer_root: compare all, ``Hives`` and ``UtilityVM`` too; else drive C: alone.
        data: read files to compare; else files of equal size and write time are taken to be equal.
        ignore: aspects that don't count.
    """
    comparison = _Comparison(before, after, data, frozenset(ignore))
    comparison.directories(before.root(layer_root=layer_root), after.root(layer_root=layer_root))
    return comparison.result()


@dataclasses.dataclass(slots=True)
class _Pair:
    """Two entries of one path, and which of their streams must be read to be told apart."""

    before: Entry
    after: Entry
    aspects: set[str]
    unsure: list[tuple[str, Extent, Extent]]


class _Comparison:
    def __init__(self, before: Tree, after: Tree, data: bool, ignore: frozenset[str]) -> None:
        self._before = before
        self._after = after
        self._data = data
        self._ignore = ignore
        self._found: list[Difference | _Pair] = []

    # -- the walk --

    def directories(self, old: Entry, new: Entry) -> None:
        """Compare two directories and all below them, in the order of a walk."""
        stack = [self._names(old, new)]
        while stack:
            left, right = next(stack[-1], (None, None))
            if left is None and right is None:
                stack.pop()
            elif left is None and right is not None:
                self._whole(self._after, right, ChangeKind.ADD)
            elif right is None and left is not None:
                self._whole(self._before, left, ChangeKind.DELETE)
            elif left is not None and right is not None:
                self._pair(left, right)
                if left.is_directory and right.is_directory:
                    stack.append(self._names(left, right))
                elif left.is_directory:
                    self._below(self._before, left, ChangeKind.DELETE)
                elif right.is_directory:
                    self._below(self._after, right, ChangeKind.ADD)

    def _names(self, old: Entry, new: Entry) -> Iterator[tuple[Entry | None, Entry | None]]:
        """What is in either directory, matched by name."""
        olds = {upcase(entry.name): entry for entry in self._before.children(old)}
        news = {upcase(entry.name): entry for entry in self._after.children(new)}
        for name in sorted({*olds, *news}, key=sort_key):
            yield olds.get(name), news.get(name)

    def _whole(self, tree: Tree, entry: Entry, kind: ChangeKind) -> None:
        self._found.append(_one_sided(entry, kind))
        if entry.is_directory:
            self._below(tree, entry, kind)

    def _below(self, tree: Tree, entry: Entry, kind: ChangeKind) -> None:
        self._found += [_one_sided(found, kind) for found in tree.walk(entry)]

    # -- one path --

    def _pair(self, old: Entry, new: Entry) -> None:
        aspects: set[str] = set()
        unsure: list[tuple[str, Extent, Extent]] = []
        was, now = old.metadata, new.metadata
        if old.type is not new.type:
            aspects.add("type")
        elif not old.inode.is_directory:
            self._streams("data", {"": old.inode.extent}, {"": new.inode.extent}, old, new, aspects, unsure)
        self._streams("streams", _named(old), _named(new), old, new, aspects, unsure)
        for name, differs in (
            ("name", old.name != new.name),
            ("attributes", was.attributes != now.attributes),
            ("times", (was.creation_time, was.write_time) != (now.creation_time, now.write_time)),
            ("security", not same_access(was.security, now.security)),
            ("reparse", was.reparse != now.reparse),
            ("eas", was.eas != now.eas),
        ):
            if differs:
                aspects.add(name)
        aspects -= self._ignore
        unsure = [item for item in unsure if item[0] not in self._ignore]
        if aspects or unsure:
            self._found.append(_Pair(old, new, aspects, unsure))

    def _streams(
        self,
        aspect: str,
        olds: dict[str, Extent],
        news: dict[str, Extent],
        old: Entry,
        new: Entry,
        aspects: set[str],
        unsure: list[tuple[str, Extent, Extent]],
    ) -> None:
        if olds.keys() != news.keys():
            aspects.add(aspect)
            return
        for name, left in olds.items():
            right = news[name]
            if left.size != right.size:
                aspects.add(aspect)
            elif left.size and self._place(self._before, left) != self._place(self._after, right):
                if self._data:
                    unsure.append((aspect, left, right))
                elif old.metadata.write_time != new.metadata.write_time:
                    aspects.add(aspect)

    @staticmethod
    def _place(tree: Tree, extent: Extent) -> object:
        """Names the bytes, whichever tree looks at them."""
        layer = tree.layers[extent.layer]
        if not layer.diff_id:
            return (layer.id, id(tree), extent.source, extent.offset)
        return (layer.diff_id, extent.source, extent.offset)

    # -- data --

    def result(self) -> list[Difference]:
        """The differences, once what must be read has been read."""
        pairs = [found for found in self._found if isinstance(found, _Pair)]
        olds = _digests(self._before, {left for pair in pairs for _, left, _ in pair.unsure})
        news = _digests(self._after, {right for pair in pairs for _, _, right in pair.unsure})
        for pair in pairs:
            pair.aspects |= {aspect for aspect, left, right in pair.unsure if olds[left] != news[right]}
        return [difference for found in self._found for difference in _finished(found)]


def _finished(found: Difference | _Pair) -> Iterator[Difference]:
    if isinstance(found, Difference):
        yield found
    elif found.aspects:
        ordered = tuple(aspect for aspect in ASPECTS if aspect in found.aspects)
        yield Difference(found.after.path, ChangeKind.MODIFY, found.before, found.after, ordered)


def _digests(tree: Tree, extents: set[Extent]) -> dict[Extent, bytes]:
    """Digests of extents, read in the order in which they lie in their layers."""
    digests = {}
    for extent in sorted(extents, key=lambda e: (e.layer, e.source, e.offset)):
        hasher = hashlib.sha256()
        for chunk in tree.view.chunks(extent):
            hasher.update(chunk)
        digests[extent] = hasher.digest()
    return digests


def _named(entry: Entry) -> dict[str, Extent]:
    return {upcase(stream.name): stream.extent for stream in entry.inode.streams}


def _one_sided(entry: Entry, kind: ChangeKind) -> Difference:
    if kind is ChangeKind.ADD:
        return Difference(entry.path, kind, None, entry)
    return Difference(entry.path, kind, entry, None)


def collapse(differences: Iterable[Difference]) -> Iterator[tuple[Difference, int, int]]:
    """Differences with whole added or deleted directories as one, each with the entries and bytes in it."""
    top: Difference | None = None
    count = size = 0
    for difference in differences:
        if top is not None and difference.kind is top.kind and difference.path.startswith(f"{top.path}/"):
            count += 1
            size += _bytes_of(difference)
            continue
        if top is not None:
            yield top, count, size
            top = None
        if difference.kind is not ChangeKind.MODIFY and difference.entry.is_directory:
            top, count, size = difference, 1, 0
            continue
        yield difference, 1, _bytes_of(difference)
    if top is not None:
        yield top, count, size


def _bytes_of(difference: Difference) -> int:
    if difference.kind is ChangeKind.DELETE:
        return difference.size_before
    return difference.size_after
