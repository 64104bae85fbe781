"""Looking for damage in a portable store, and mending what can be mended without guessing.

A layer's truth is its tar, whose SHA-256 the record holds.  All else is derived from it (index, side file,
views, images) and is made again; a tar that is wrong can only come from outside again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator

from winlayers import durable
from winlayers.errors import LayerCorruptError, LayerNotFoundError, WinlayersError
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.digests import file_digest, side_digest
from winlayers.layers.portable.index import Index
from winlayers.layers.portable.mounting import Mounts
from winlayers.layers.portable.records import restore_record
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.view import View

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
                        if self._store.is_still(layer_id, identity):
                            yield finding
            except LayerNotFoundError:
                continue

    # -- the home --

    def _leftovers(self) -> Iterator[Finding]:
        for name in sorted(os.listdir(self._store.home)):
            path = os.path.join(self._store.home, name)
            if durable.is_leftover(path) or self._store.is_half_removed(name):
                yield self._finding("", name, _LEFTOVER, self._leftover_remover(name))
            elif not name.startswith(".") and _is_no_layer(path):
                yield Finding("", name, f"a folder without {folders.RECORD}, so not a layer")

    def _leftover_remover(self, name: str) -> Callable[[], str]:
        def mend() -> str:
            if self._store.bring_back(name):
                return "made the layer again that it was"
            return self._remove(os.path.join(self._store.home, name))()

        return mend

    def _remove(self, path: str) -> Callable[[], str]:
        def remove() -> str:
            durable.remove_any(path)
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
            found = self._finding(layer_id, folders.RECORD, error.message, self._recorder(layer_id))
            yield found
            if not found.mended:
                return
            record = self._store.record(layer_id)
        yield from self._chain(layer_id, record)
        yield from self._extra_files(layer_id, record)
        yield from self._mount(layer_id)
        if record.committed:
            whole = True
            for finding in self._tar(layer_id, record):
                whole = whole and finding.mended
                yield finding
            if whole:
                for finding in self._derived(layer_id, record):
                    yield finding
                    if finding.mended:
                        break  # index and side file are made together
            yield from self._view(layer_id)

    def _recorder(self, layer_id: str) -> Callable[[], str]:
        def mend() -> str:
            restore_record(self._store, layer_id)
            return "made again, as the tar and its index agree"

        return mend

    def _chain(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        parents: list[str] = []
        problem = ""
        try:
            parents = self._store.parents(layer_id)
        except LayerCorruptError as error:
            problem = error.message
        expected = self._expected_chain(layer_id, record.parent)
        if expected is not None and not problem and parents != expected:
            pairs = itertools.zip_longest(parents, expected, fillvalue="nothing")
            problem = "it names {} where {} is due".format(
                *next(pair for pair in pairs if pair[0] != pair[1])
            )
        if problem:
            mend = None if expected is None else self._chain_writer(layer_id, expected)
            yield self._finding(layer_id, folders.CHAIN, problem, mend)
            return
        seen = {layer_id}
        for parent in parents:
            if parent in seen:
                yield Finding(layer_id, folders.CHAIN, f"the layer {parent} stands in its own chain")
                return
            seen.add(parent)
            found = None
            try:
                found = self._store.find(parent)
            except WinlayersError:
                pass  # found with the parent itself
            else:
                if found is None:
                    yield Finding(layer_id, folders.CHAIN, f"the parent {parent} is missing")
                elif found.kind != "layer":
                    yield Finding(layer_id, folders.CHAIN, f"the parent {parent} is a scratch layer")
        if parents and record.parent is None:
            expected = self._expected_chain(layer_id, parents[0])
            if expected is not None and parents != expected:
                yield Finding(layer_id, folders.CHAIN, f"differs from the chain of its parent {parents[0]}")

    def _expected_chain(self, layer_id: str, parent: str | None) -> list[str] | None:
        """The chain of a layer on *parent*; None: that is not known, or not to be had from the parent."""
        if not parent or parent == layer_id:
            return [] if parent == "" else None
        try:
            self._store.record(parent)
            return [parent, *self._store.parents(parent)]
        except WinlayersError:
            return None  # found with the parent itself

    def _chain_writer(self, layer_id: str, chain: list[str]) -> Callable[[], str]:
        def mend() -> str:
            folder = self._store.folder(layer_id)
            path = os.path.join(folder, folders.CHAIN)
            with self._store.lock():
                about = os.stat(path) if os.path.exists(path) else None
                self._store.write_chain(folder, chain)
                if about is not None:
                    # It is the same layer still: the file's time is part of what tells that.
                    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
            return "made again from the record and the parent's chain"

        return mend

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
                digest = file_digest(path, record.tar_size)
                problem = f"changed: its digest is {digest}, not {record.digest}"
            except OSError as error:
                digest = ""
                problem = f"it can't be read: {error.strerror}"
            if digest != record.digest:
                yield self._finding(layer_id, folders.TAR, problem, self._restorer(layer_id, record, path))
                return
        wrong = size != padded
        problem = f"{size} bytes where {padded} are due"
        if self._deep and not wrong and _has_padding(path, record.tar_size):
            wrong, problem = True, "what fills its last block is not zeroes"
        if wrong:

            def resize() -> str:
                with open(path, "r+b") as file:
                    file.truncate(record.tar_size)
                    file.truncate(padded)
                    os.fsync(file.fileno())
                return "cut to its size"

            yield self._finding(layer_id, folders.TAR, problem, resize)

    def _restorer(self, layer_id: str, record: LayerRecord, path: str) -> Callable[[], str] | None:
        restore = self._restore
        if restore is None or record.digest is None:
            return None
        digest = record.digest

        def mend() -> str:
            folder, name = os.path.split(path)
            with durable.hidden_folder(folder, "-restore") as hidden:
                made = os.path.join(hidden, name)
                if not restore(layer_id, digest, made):
                    raise LayerCorruptError("no image in the store has this layer's blob", layer=layer_id)
                if file_digest(made) != digest:
                    raise LayerCorruptError("the blob does not have the layer's digest", layer=layer_id)
                with open(made, "r+b") as file:
                    file.truncate(-(-record.tar_size // folders.BLOCK) * folders.BLOCK)
                    os.fsync(file.fileno())
                os.replace(made, path)
                durable.fsync_dir(folder)
            return "restored from the image's blob"

        return mend

    def _derived(self, layer_id: str, record: LayerRecord) -> Iterator[Finding]:
        """What is wrong with the index and the side file."""
        for name, look in ((folders.INDEX, self._index_problem), (folders.SIDE, self._side_problem)):
            try:
                problem = look(layer_id, record)
            except LayerCorruptError as error:
                problem = error.message
            except (sqlite3.DatabaseError, OSError) as error:
                problem = f"it can't be read: {error}"
            if problem is not None and self._store.record(layer_id) == record:
                yield self._finding(layer_id, name, problem, self._rebuilder(layer_id, record))

    def _index_problem(self, layer_id: str, record: LayerRecord) -> str | None:
        path = os.path.join(self._store.folder(layer_id), folders.INDEX)
        if self._deep and record.index_digest is not None:
            return None if file_digest(path) == record.index_digest else "it has changed since it was made"
        with Index(path, layer_id) as index:
            summary = index.summary
            if (summary.digest, summary.entries) != (record.digest, record.entries):
                return "it is of another tar"
            if not self._deep:
                return index.damage()
        return "an earlier version kept no digest of it, so it can't be verified"

    def _side_problem(self, layer_id: str, record: LayerRecord) -> str | None:
        if not record.side_size:
            return None
        path = os.path.join(self._store.folder(layer_id), folders.SIDE)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return "missing"
        if size < record.side_size:
            return f"truncated: {size} bytes of {record.side_size}"
        if self._deep and record.side_digest is not None and side_digest(path) != record.side_digest:
            return "it has changed since it was made"
        return None

    def _rebuilder(self, layer_id: str, record: LayerRecord) -> Callable[[], str]:
        def mend() -> str:
            self._views.rebuild_index(layer_id, record)
            # What was made by the damaged one goes as well; all of it is made again when needed.
            for other in self._store.ids():
                if other == layer_id or layer_id in self._store.parents(other):
                    self._views.forget(other)
            return "made again from the tar"

        return mend

    def _view(self, layer_id: str) -> Iterator[Finding]:
        """What is wrong with the view, and with what is made from it."""
        folder = self._store.folder(layer_id)
        path = os.path.join(folder, folders.VIEW)
        if not os.path.exists(path):
            return
        problem = None
        try:
            with View(path, self._store.home) as view:
                problem = view.damage(deep=self._deep)
                if problem is None and self._deep:
                    yield from self._images(layer_id, view)
                    yield from self._extracted(layer_id, view)
        except LayerCorruptError as error:
            problem = error.message
        except (sqlite3.DatabaseError, OSError) as error:
            problem = f"the view can't be read: {error}"
        if problem is not None:

            def forget() -> str:
                self._views.forget(layer_id)
                return "removed; it is made again when needed"

            yield self._finding(layer_id, folders.VIEW, problem, forget)

    def _images(self, layer_id: str, view: View) -> Iterator[Finding]:
        """Images of the view that are not what is made from it now; those of an earlier view don't count."""
        from winlayers.layers.portable import xattrs
        from winlayers.layers.portable.erofs.image import is_image_of

        rooms = {folders.IMAGE: xattrs.READ_ONLY_ROOM, folders.WRITABLE_IMAGE: xattrs.WRITABLE_ROOM}
        for name, room in rooms.items():
            path = os.path.join(self._store.folder(layer_id), name)
            # Twice, as it may have been replaced under the first look's eyes.
            if os.path.exists(path) and [is_image_of(path, view, room) for _ in range(2)] == [False, False]:
                remove = self._remove(path)
                yield self._finding(layer_id, name, "it has changed since it was made", remove)

    def _extracted(self, layer_id: str, view: View) -> Iterator[Finding]:
        """Files of the view that were written out once for several mounts and are not what they were."""
        damage = _shared_damage(view, self._store.folder(layer_id))
        if damage is not None:
            tree, path = damage
            name = os.path.join(folders.EXTRACT, os.path.basename(tree))
            yield self._finding(layer_id, name, f"{path} has changed since it was made", self._remove(tree))


def _is_no_layer(path: str) -> bool:
    """Whether *path* is a folder without a record, and not one layer that goes and another that comes."""
    before = _folder_state(path)
    has_record = os.path.lexists(os.path.join(path, folders.RECORD))
    return before is not None and not has_record and _folder_state(path) == before


def _folder_state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # An inode's number alone may be used again.
    return (found.st_dev, found.st_ino, found.st_ctime_ns) if stat.S_ISDIR(found.st_mode) else None


def _shared_damage(view: View, folder: str) -> tuple[str, str] | None:
    if sys.platform != "win32":
        from winlayers.layers.portable.mounts.extract import shared_damage

        return shared_damage(view, folder)
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return None


def _has_padding(path: str, size: int) -> bool:
    """Whether anything but zeroes follows the file's first *size* bytes."""
    with open(path, "rb") as file:
        file.seek(size)
        return any(file.read(folders.BLOCK))
