"""A layer's chain as one view: made on first need, kept beside the chain's top layer."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from typing import Self

from winlayers import durable
from winlayers.errors import LayerContentError, LayerCorruptError, StoreReadOnlyError
from winlayers.layers.portable import disk
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.aside import Aside
from winlayers.layers.portable.index import EntryCode, EntryRow, Index, StreamRow
from winlayers.layers.portable.ingest import make_index, rebuild_index
from winlayers.layers.portable.merge import Hidden, build_view
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.view import View
from winlayers.win32.names import upcase

_UTILITY_VM = "UTILITYVM/"
_OF_INDEX = ("data_size", "stream_size", "entries", "side_size", "index_digest", "side_digest")
"""The fields of a layer's record that an index gives."""
_FIRST = "\0"
"""Comes before all characters that names can have."""


class _HiddenTargets:
    """Finds what links lead to by the parents' own indexes, nearest first: a layer between may delete it."""

    def __init__(self, views: ChainViews, parents: Sequence[str]) -> None:
        self._views = views
        self._parents = parents
        self._indexes: dict[str, Index | None] = {}

    def __call__(self, target: str) -> tuple[str, EntryRow, Sequence[StreamRow]] | None:
        position = 0
        while position < len(self._parents):
            layer_id = self._parents[position]
            index = self._index(layer_id)
            row = None if index is None else index.lookup(target)
            if index is None or row is None or row.code == EntryCode.DIRECTORY:
                position += 1
            elif row.code == EntryCode.LINK and row.link is not None and row.link != target:
                target = row.link  # circles are refused when a layer is made
            else:
                return layer_id, row, index.streams_of(row.seq)
        return None

    def _index(self, layer_id: str) -> Index | None:
        """The layer's index, opened once; None: it has no content."""
        if layer_id not in self._indexes:
            self._indexes[layer_id] = self._views.index_of(layer_id)
        return self._indexes[layer_id]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for index in self._indexes.values():
            if index is not None:
                index.close()


class ChainViews:
    """Opens indexes and views, making what is missing or of another version.

    What is made stays in the store, for all; where that can only be read, in a folder of this process's own.
    """

    def __init__(self, store: LayerStore) -> None:
        self._store = store
        self._aside = Aside()

    def index(self, layer_id: str) -> Index:
        """The layer's index.

        Raises:
            LayerCorruptError: there is none and the tar it is made from is damaged.
        """
        record = self._store.record(layer_id)
        path = os.path.join(self._store.folder(layer_id), folders.INDEX)
        if not record.committed:
            raise LayerCorruptError("the layer has no content yet", layer=layer_id)
        with self._store.staying(layer_id):
            try:
                return Index(path, layer_id)
            except LayerCorruptError:
                if not durable.can_write(self._store.folder(layer_id)):
                    return self._index_aside(layer_id, record)
                self.rebuild_index(layer_id, record)
                return Index(path, layer_id)

    def _index_aside(self, layer_id: str, record: LayerRecord) -> Index:
        """The layer's index in a store that can only be read, made once in this process."""
        path = self._aside_path(layer_id, folders.INDEX)
        with self._aside.lock:
            if not os.path.exists(path):
                make_index(self._store.folder(layer_id), layer_id, record, path)
        return Index(path, layer_id)

    def _aside_path(self, layer_id: str, name: str) -> str:
        return self._aside.path(layer_id, self._store.identity(layer_id), name)

    def rebuild_index(self, layer_id: str, record: LayerRecord) -> None:
        """Make the layer's index again; see :func:`~winlayers.layers.portable.ingest.rebuild_index`."""

        def keep(new: LayerRecord) -> None:
            parent = next(iter(self._store.parents(layer_id)), "") if record.parent is None else record.parent
            fields = {name: getattr(new, name) for name in _OF_INDEX}
            self._store.update_record(layer_id, parent=parent, **fields)

        rebuild_index(self._store.folder(layer_id), layer_id, record, keep)

    def index_of(self, layer_id: str) -> Index | None:
        """The layer's index; None: it has no content yet."""
        return self.index(layer_id) if self._store.record(layer_id).committed else None

    def open(self, layer_id: str) -> View:
        """The merged view of the layer and its parents."""
        ids = [layer_id, *self._store.parents(layer_id)]
        with self._store.staying(*ids):
            self._store.record(layer_id)
            view = self._usable(ids)
            if view is not None:
                return view
            try:
                with durable.FileLock(os.path.join(self._store.folder(layer_id), folders.VIEW_LOCK)):
                    return self._usable(ids) or self._build(ids, self._path(layer_id))
            except StoreReadOnlyError:
                pass
            path = self._aside_path(layer_id, folders.VIEW)
            with self._aside.lock:
                return self._usable(ids, path) or self._build(ids, path)

    def forget(self, layer_id: str) -> None:
        """Remove what was made of the layer's chain; it is made again when needed."""
        folder = self._store.folder(layer_id)
        for name in (folders.VIEW, folders.IMAGE, folders.WRITABLE_IMAGE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        durable.remove_tree(os.path.join(folder, folders.EXTRACT))

    def _path(self, layer_id: str) -> str:
        return os.path.join(self._store.folder(layer_id), folders.VIEW)

    def _usable(self, ids: Sequence[str], path: str | None = None) -> View | None:
        """The view kept beside the first of *ids*, or at *path*, if it is one of just this chain."""
        path = path or self._path(ids[0])
        if not os.path.exists(path):
            return None
        try:
            view = View(path, self._store.home)
        except LayerCorruptError:
            return None
        if [layer.name for layer in view.layers] != [
            i for i in reversed(ids) if self._store.record(i).committed
        ]:
            view.close()
            return None
        return view

    def _build(self, ids: Sequence[str], path: str) -> View:
        """Make the view of ``ids[0]`` at *path*, from that of its nearest parent that has one."""
        below = None
        missing = list(ids)
        for position in range(1, len(ids)):
            view = self._usable(ids[position:])
            if view is not None:
                below = view.path
                view.close()
                missing = list(ids[:position])
                break
        filled = [i for i in missing if self._store.record(i).committed]
        with contextlib.ExitStack() as stack:
            layers: list[tuple[str, Index, Hidden]] = []
            for layer_id in reversed(filled):
                index = stack.enter_context(self.index(layer_id))
                hidden = stack.enter_context(_HiddenTargets(self, ids[ids.index(layer_id) + 1 :]))
                layers.append((layer_id, index, hidden))
            with disk.writing():
                build_view(path, below, layers)
        return View(path, self._store.home)

    # -- what a layer may say of its parents --

    def check_content(self, index: Index, parents: Sequence[str]) -> None:
        """Refuse a layer whose links or deletions its chain can't bear, before it is published.

        Raises:
            LayerContentError: a link leads nowhere; a base layer deletes something; ``UtilityVM`` content is
                deleted that no parent has.
        """
        links = list(index.links())
        deletions = [(path, code) for path, code in index.deletions() if code == EntryCode.WHITEOUT]
        if deletions and not parents:
            raise LayerContentError(
                "a base layer can't delete anything", layer=index.layer, path=deletions[0][0]
            )
        utility = [path for path, _ in deletions if path.upper().startswith(_UTILITY_VM)]
        if not links and not utility:
            return
        outside = self._targets_outside(index, links)
        if links and _is_file_and_directory(index):
            self._try_view(index, parents)
        if not outside and not utility:
            return
        if not parents:
            self._refuse_link(index, *outside[0])
        # Links may lead to what is deleted since, so the parents' indexes say all; no view is made for them.
        with self._store.staying(*parents), _HiddenTargets(self, parents) as find:
            for path, target in outside:
                if find(target) is None:
                    self._refuse_link(index, path, target)
        if not utility:
            return
        with self._store.staying(*parents), self.open(parents[0]) as view:
            for path in utility:
                if view.resolve(path) is None:
                    raise LayerContentError(
                        "deletes what no parent layer has, which Windows refuses in UtilityVM",
                        layer=index.layer,
                        path=path,
                    )

    def _try_view(self, index: Index, parents: Sequence[str]) -> None:
        """Merge a layer that is not published yet, only to see that it can be."""
        with durable.hidden_folder(self._store.home) as folder, contextlib.ExitStack() as stack:
            below = None
            if parents:
                stack.enter_context(self._store.staying(*parents))
                below = stack.enter_context(self.open(parents[0])).path
            hidden = stack.enter_context(_HiddenTargets(self, parents))
            with disk.writing():
                build_view(os.path.join(folder, folders.VIEW), below, [(index.layer, index, hidden)])

    def _targets_outside(self, index: Index, links: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The links whose targets, links of the layer followed, must be in a parent: (path, target)."""
        if not links:
            return []
        files = {upcase(row.path) for row in index.content() if row.code == EntryCode.FILE}
        own = {upcase(path): target for path, target in links}
        ends: dict[str, str | None] = {}  # of links that were followed: the target outside; None: a file here
        outside = []
        for path, first in links:
            end = self._follow(index, path, first, files, own, ends)
            if end is not None:
                outside.append((path, end))
        return outside

    @staticmethod
    def _follow(
        index: Index, path: str, first: str, files: set[str], own: dict[str, str], ends: dict[str, str | None]
    ) -> str | None:
        """The target outside of the layer that a link leads to in the end; None: a file in it."""
        target, key = first, upcase(first)
        seen = {upcase(path): None}
        while key not in files and key in own and key not in ends:
            if key in seen:
                # A link over the parent's file that it leads to is fine; any other circle is not.
                if len(seen) > 1:
                    raise LayerContentError(
                        f"hard link to {first!r} in a circle", layer=index.layer, path=path
                    )
                break
            seen[key] = None
            target = own[key]
            key = upcase(target)
        end = None if key in files else ends.get(key, target)
        for followed in list(seen)[1:]:
            ends[followed] = end
        return end

    @staticmethod
    def _refuse_link(index: Index, path: str, target: str) -> None:
        raise LayerContentError(
            f"hard link to {target!r}, which neither the layer nor any parent has",
            layer=index.layer,
            path=path,
        )


def _is_file_and_directory(index: Index) -> bool:
    """Whether some path of the layer is a file or link and a directory as well.

    Which of the two is there in the end depends on the order of entries, and so does what links lead to.
    """
    files: set[str] = set()
    paths: set[str] = set()
    for row in index.entries():
        if row.code <= EntryCode.LINK:
            path = upcase(row.path).replace("/", _FIRST)
            paths.add(path)
            if row.code != EntryCode.DIRECTORY:
                files.add(path)
    # In order, what is below a path comes right behind it.
    return any(
        path in files and following.startswith(path) and following[len(path)] == _FIRST
        for path, following in itertools.pairwise(sorted(paths))
    )
