"""The layer that makes one merged view of another: what squash writes.

The rules by which a layer is laid over its parents (:mod:`winlayers.layers.portable.merge`), turned round:

- what is the very same file or directory in both views, under the same name, is not written, but for the
  directories above something that is;
- what has gone is a whiteout; what lies below a directory that is gone goes with it;
- a directory that can't become the new one by an entry over it (its name has another letter case, or it
  must lose its descriptor) is deleted, and all that is still in it is written again;
- a new name of a file of the parents is a hard link to it, by a name of which the layer makes nothing else;
  only where there is none, the file is written anew;
- of the names of a new file the first is the file, the others are links.

Links come last: their targets must be there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from winlayers.errors import LayerContentError, LayerCorruptError
from winlayers.layers.portable.view import ROOT, View, ViewInode, ViewNode
from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar.backuptar import WHITEOUT_PREFIX
from winlayers.win32.metadata import DataStream
from winlayers.win32.names import fold_key

Item = tuple[LayerEntry, Iterable[DataStream]]
_Found = tuple[ViewNode, ViewInode]


@dataclasses.dataclass(slots=True)
class _Pair:
    """One name in a directory: what it is in the full view and in the lower one."""

    path: str
    now: _Found | None
    before: _Found | None


@dataclasses.dataclass(slots=True)
class _Directory:
    """A directory on the way down; *found* is None for the root."""

    path: str
    found: _Found | None
    written: bool
    pairs: Iterator[_Pair]


class ViewDelta:
    """The entries of the layer that makes *full* of *below*, parents first, links last."""

    def __init__(self, full: View, below: View | None) -> None:
        """Compare the views.

        Args:
            full: the view of a chain.
            below: the view of the chain's lower part; None: there is none.

        Raises:
            LayerCorruptError: *below* is not of the lower layers of *full*.
        """
        if below is not None and full.layers[: len(below.layers)] != below.layers:
            raise LayerCorruptError("the views are not of one chain", layer=full.path)
        self._full = full
        self._below = below
        self._own = 0 if below is None else len(below.layers)
        self._stack: list[_Directory] = []
        self._names: dict[int, str] = {}  # of the files written that have more than one name
        self._targets: dict[int, str | None] = {}  # the lower view's files that are linked to
        self._links: list[tuple[str, str]] = []

    def __iter__(self) -> Iterator[Item]:
        self._enter("", None, ROOT, None if self._below is None else ROOT, written=True)
        while self._stack:
            pair = next(self._stack[-1].pairs, None)
            if pair is None:
                self._stack.pop()
            elif pair.now is None:
                yield from self._whiteout(pair.path)
            elif pair.now[1].is_directory:
                yield from self._directory(pair.path, pair.now, pair.before)
            else:
                yield from self._file(pair.path, pair.now, pair.before)
        for path, target in self._links:
            yield LayerEntry(path, EntryKind.LINK, link_target=target), ()

    def _enter(self, path: str, found: _Found | None, now: int, before: int | None, *, written: bool) -> None:
        self._stack.append(_Directory(path, found, written, self._pairs(path, now, before)))

    def _pairs(self, path: str, now: int, before: int | None) -> Iterator[_Pair]:
        prefix = f"{path}/" if path else ""
        old: dict[bytes, _Found] = {}
        if before is not None and self._below is not None:
            old = {fold_key(found[0].name): found for found in self._below.entries(before)}
        current = list(self._full.entries(now))
        kept = {fold_key(node.name) for node, _ in current}
        for key, (node, inode) in old.items():
            if key not in kept:
                yield _Pair(prefix + node.name, None, (node, inode))
        for node, inode in current:
            yield _Pair(prefix + node.name, (node, inode), old.get(fold_key(node.name)))

    # -- entries --

    def _announce(self) -> Iterator[Item]:
        """The directories above the entry to come, those that are not written yet."""
        for directory in self._stack:
            if not directory.written and directory.found is not None:
                directory.written = True
                yield self._entry(directory.path, directory.found[1])

    def _entry(self, path: str, inode: ViewInode) -> Item:
        if path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            raise LayerContentError("a name that a tar would take for a deletion", path=path)
        kind = EntryKind.DIRECTORY if inode.is_directory else EntryKind.FILE
        return LayerEntry(path, kind, inode.metadata, inode.size), self._streams(inode)

    def _streams(self, inode: ViewInode) -> Iterator[DataStream]:
        if not inode.is_directory and inode.metadata.reparse is None:
            yield DataStream("", inode.size, self._full.chunks(inode.extent))
        for stream in inode.streams:
            yield DataStream(stream.name, stream.extent.size, self._full.chunks(stream.extent))

    def _whiteout(self, path: str) -> Iterator[Item]:
        yield from self._announce()
        yield LayerEntry(path, EntryKind.WHITEOUT), ()

    def _directory(self, path: str, now: _Found, before: _Found | None) -> Iterator[Item]:
        node, inode = now
        lower = before[0].id if before is not None and before[1].is_directory else None
        same = before is not None and self._is_old(inode) and before[0].inode == inode.id
        if before is not None and _must_go(now, before):
            yield from self._whiteout(path)
            lower, same = None, False
        self._enter(path, now, node.id, lower, written=False)
        if not same:
            yield from self._announce()

    def _file(self, path: str, now: _Found, before: _Found | None) -> Iterator[Item]:
        node, inode = now
        is_old = self._is_old(inode)
        if before is not None and is_old and before[0].inode == inode.id and before[0].name == node.name:
            return
        if before is not None and _must_go(now, before):
            yield from self._whiteout(path)
        yield from self._announce()
        target = self._target(inode.id) if is_old else None
        if target is None:
            target = self._names.get(inode.id)
        if target is not None:
            self._links.append((path, target))
            return
        if inode.nlink > 1:
            self._names[inode.id] = path
        yield self._entry(path, inode)

    # -- what the lower view has --

    def _is_old(self, inode: ViewInode) -> bool:
        """Whether it is a file or directory of the lower view, unchanged.

        A view is made of its parent's view, so inodes keep their numbers.
        """
        if self._below is None or inode.layer >= self._own:
            return False
        try:
            lower = self._below.inode(inode.id)
        except LayerCorruptError:
            return False  # brought back from behind a deletion: the lower view does not show it
        return dataclasses.replace(lower, nlink=inode.nlink) == inode

    def _target(self, inode_id: int) -> str | None:
        """A name of the lower view's file that nothing else of the full view has; None: there is none."""
        if inode_id not in self._targets:
            self._targets[inode_id] = self._find_target(inode_id)
        return self._targets[inode_id]

    def _find_target(self, inode_id: int) -> str | None:
        assert self._below is not None
        gone = None
        for node in self._below.links(inode_id):
            path = self._below.path_of(node)
            there = self._full.resolve(path)
            if there is None:
                gone = gone or path
            elif there.inode == inode_id:
                return path
        return gone


def _must_go(now: _Found, before: _Found) -> bool:
    """Whether *before* has to be deleted, since an entry over it would not become *now*."""
    (node, inode), (old_node, old_inode) = now, before
    if node.name != old_node.name:
        return True  # a name keeps its letter case when something else is put there
    if not old_inode.is_directory:
        return False
    if not inode.is_directory:
        return True
    loses_descriptor = inode.metadata.security is None and old_inode.metadata.security is not None
    return loses_descriptor and old_inode.metadata.reparse is None
