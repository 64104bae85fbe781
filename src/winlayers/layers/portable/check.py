"""Looking for damage in a portable store, and mending what can be mended without guessing.

A layer's truth is its tar, whose SHA-256 the record holds.  All else is derived from it (index, side file,
views, images) and is made again; a tar that is wrong can only come from outside again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator

from winlayers import durable
from winlayers.errors import LayerCorruptError, LayerNotFoundError, WinlayersError
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.index import Index
from winlayers.layers.portable.mounting import Mounts
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.view import View

_CHUNK = 1 << 20
_LEFTOVER = "half done work of a process that is gone"
_FOREIGN_OK = {"layerID", "layerId"}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        layer: the layer's id; "" for the store as a whole.
        path: the file that it is about, relative to the layer's folder (or the home); may be "".
        problem: what is wrong.
        action: what was done about it; "" if nothing was.
        mended: whether it is right again.
    """

    layer: str
    path: str
    problem: str
    action: str = ""
    mended: bool = False

    def __str__(self) -> str:
        place = "/".join(part for part in (self.layer, self.path) if part) or "store"
        text = f"{place}: {self.problem}"
        return f"{text}; {self.action}" if self.action else text


class Checker:
    """Checks the layers of one store.

    Args:
        repair: mend what can be mended.
        deep: read every tar and compare its digest; otherwise only sizes are compared.
        restore: asked to bring a layer's tar again from outside (given its id and digest): writes the tar to
            the path it is given and says whether it could.
    """

    def __init__(
        self,
        store: LayerStore,
        views: ChainViews,
        mounts: Mounts,
        *,
        repair: bool = False,
        deep: bool = True,
        restore: Callable[[str, str, str], bool] | None = None,
    ) -> None:
        self._store = store
        self._views = views
        self._mounts = mounts
        self._repair = repair
        self._deep = deep
        self._restore = restore

    def run(self) -> Iterator[Finding]:
        """All findings; the store may be in use meanwhile: layers that are removed are passed over."""
        yield from self._leftovers()
        for layer_id in self._store.ids():
            identity = self._store.identity(layer_id)
            try:
                with self._store.staying(layer_id):
                    for finding in self._layer(layer_id):
                        if self._store.identity(layer_id) == identity:
                            yield finding
            except LayerNotFoundError:
                continue

    # -- the home --

    def _leftovers(self) -> Iterator[Finding]:
        for name in sorted(os.listdir(self._store.home)):
            path = os.path.join(self._store.home, name)
            if durable.is_leftover(path) or self._store.is_half_removed(name):
                yield self._finding("", name, _LEFTOVER, self._remove(path))
            elif name.startswith(".") or not os.path.isdir(path):
                continue
            elif not os.path.lexists(os.path.join(path, folders.RECORD)) and os.path.isdir(path):
                yield Finding("", name, f"a folder without {folders.RECORD}, so not a layer")

    def _remove(self, path: str) -> Callable[[], str]:
        def remove() -> str:
            if os.path.isdir(path) and not os.path.islink(path):
                durable.remove_tree(path)
            else:
                os.unlink(path)
            return "removed"

        return remove

    def _finding(self, layer: str, path: str, problem: str, mend: Callable[[], str] | None) -> Finding:
        if mend is None or not self._repair:
            return Finding(layer, path, problem)
        try:
            return Finding(layer, path, problem, mend(), True)
        except (OSError, WinlayersError) as error:
            return Finding(layer, path, problem, f"could not be mended: {error}")

    # -- one layer --

    def _layer(self, layer_id: str) -> Iterator[Finding]:
        try:
            record = self._store.record(layer_id)
        except LayerNotFoundError:
            return  # removed meanwhile
        except LayerCorruptError as error:
            yield Finding(layer_id, folders.RECORD, error.message)
            return
        yield from self._chain(layer_id)
        yield from self._extra_files(layer_id, record)
        yield from self._mount(layer_id)
        if record.committed:
            whole = True
            for finding in self._tar(layer_id, record):
                whole = whole and finding.mended
                yield finding
            if whole:
                yield from self._index(layer_id, record)
                yield from self._side(layer_id, record)
            yield from self._view(layer_id)

    def _chain(self, layer_id: str) -> Iterator[Finding]:
        try:
            parents = self._store.parents(layer_id)
        except LayerCorruptError as error:
            yield Finding(layer_id, folders.CHAIN, error.message)
            return
        seen = {layer_id}
        for parent in parents:
            if parent in seen:
                yield Finding(layer_id, folders.CHAIN, f"the layer {parent} stands in its own chain")
                return
            seen.add(parent)
            record = None
            try:
                record = self._store.find(parent)
            except WinlayersError:
                pass  # found with the parent itself
            else:
                if record is None:
                    yield Finding(layer_id, folders.CHAIN, f"the parent {parent} is missing")
                elif record.kind != "layer":
                    yield Finding(layer_id, folders.CHAIN, f"the parent {parent} is a scratch layer")
        if parents:
            try:
                self._store.record(parents[0])
                expected = self._store.parents(parents[0])
            except WinlayersError:
                return  # found with the parent itself
            if parents[1:] != expected:
                yield Finding(layer_id, folders.CHAIN, f"differs from the chain of its parent {parents[0]}")

    def _extra_files(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        folder = self._store.folder(layer_id)
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name in folders.KNOWN_FILES or name in _FOREIGN_OK or name.startswith("bcd"):
                continue
            if name.startswith(durable.TEMPORARY_PREFIX):
                if durable.is_leftover(path):
                    yield self._finding(layer_id, name, _LEFTOVER, self._remove(path))
                continue
            yield Finding(layer_id, name, "a file that does not belong to a layer")

    def _mount(self, layer_id: str) -> Iterator[Finding]:
        try:
            stale = self._mounts.stale(layer_id)
        except WinlayersError as error:
            yield self._finding(layer_id, folders.MOUNT_RECORD, str(error), None)
            return
        if stale is not None:

            def clear() -> str:
                self._mounts.clear_stale(layer_id)
                return "cleaned up"

            problem = f"the {stale.kind} mount at {stale.target} is gone"
            yield self._finding(layer_id, folders.MOUNT_RECORD, problem, clear)

    # -- what a layer is made of --

    def _tar(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        path = os.path.join(self._store.folder(layer_id), folders.TAR)
        padded = -(-record.tar_size // folders.BLOCK) * folders.BLOCK
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            yield self._finding(layer_id, folders.TAR, "missing", self._restorer(layer_id, record, path))
            return
        if size < record.tar_size:
            problem = f"truncated: {size} bytes of {record.tar_size}"
            yield self._finding(layer_id, folders.TAR, problem, self._restorer(layer_id, record, path))
            return
        if self._deep:
            try:
                digest = _digest(path, record.tar_size)
                problem = f"changed: its digest is {digest}, not {record.digest}"
            except OSError as error:
                digest = ""
                problem = f"it can't be read: {error.strerror}"
            if digest != record.digest:
                yield self._finding(layer_id, folders.TAR, problem, self._restorer(layer_id, record, path))
                return
        if size != padded:

            def resize() -> str:
                with open(path, "r+b") as file:
                    file.truncate(padded)
                    os.fsync(file.fileno())
                return "cut to its size"

            yield self._finding(layer_id, folders.TAR, f"{size} bytes where {padded} are due", resize)

    def _restorer(self, layer_id: str, record: LayerRecord, path: str) -> Callable[[], str] | None:
        restore = self._restore
        if restore is None or record.digest is None:
            return None
        digest = record.digest

        def mend() -> str:
            hidden = durable.temporary_name(os.path.dirname(path), "-restore")
            try:
                if not restore(layer_id, digest, hidden):
                    raise LayerCorruptError("no image in the store has this layer's blob", layer=layer_id)
                if _digest(hidden, os.stat(hidden).st_size) != digest:
                    raise LayerCorruptError("the blob does not have the layer's digest", layer=layer_id)
                with open(hidden, "r+b") as file:
                    file.truncate(-(-record.tar_size // folders.BLOCK) * folders.BLOCK)
                    os.fsync(file.fileno())
                os.replace(hidden, path)
                durable.fsync_dir(os.path.dirname(path))
            finally:
                if os.path.exists(hidden):
                    os.unlink(hidden)
            return "restored from the image's blob"

        return mend

    def _index(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        path = os.path.join(self._store.folder(layer_id), folders.INDEX)
        problem = None
        try:
            with Index(path, layer_id) as index:
                problem = index.damage()
                summary = index.summary
                if problem is None and (summary.digest, summary.entries) != (record.digest, record.entries):
                    problem = "it is of another tar"
        except LayerCorruptError as error:
            problem = error.message
        except sqlite3.DatabaseError as error:
            problem = f"the index can't be read: {error}"
        if problem is not None:
            yield self._finding(layer_id, folders.INDEX, problem, self._rebuilder(layer_id, record))

    def _rebuilder(self, layer_id: str, record: LayerRecord) -> Callable[[], str]:
        def mend() -> str:
            self._views.rebuild_index(layer_id, record)
            return "made again from the tar"

        return mend

    def _side(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        if not record.side_size:
            return
        path = os.path.join(self._store.folder(layer_id), folders.SIDE)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            size = -1
        if size < record.side_size:
            problem = "missing" if size < 0 else f"truncated: {size} bytes of {record.side_size}"
            yield self._finding(layer_id, folders.SIDE, problem, self._rebuilder(layer_id, record))

    def _view(self, layer_id: str) -> Iterator[Finding]:
        path = os.path.join(self._store.folder(layer_id), folders.VIEW)
        if not os.path.exists(path):
            return
        try:
            with View(path, self._store.home) as view:
                problem = view.damage()
        except LayerCorruptError as error:
            problem = error.message
        except sqlite3.DatabaseError as error:
            problem = f"the view can't be read: {error}"
        if problem is not None:

            def forget() -> str:
                self._views.forget(layer_id)
                return "removed; it is made again when needed"

            yield self._finding(layer_id, folders.VIEW, problem, forget)


def _digest(path: str, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while size:
            data = file.read(min(size, _CHUNK))
            if not data:
                break
            digest.update(data)
            size -= len(data)
    return f"sha256:{digest.hexdigest()}"
