"""The portable store's folders: what is a layer, what is half done, and who may change what when.

::

    HOME/.lock              taken exclusively for what changes the set of layers (publish, destroy)
    HOME/.tmp-...           half done work; swept when its process is gone
    HOME/<id>/layer.json    the record: written last, so a folder without it is no layer
             /layer.tar     the tar as it came (padded to whole blocks; the record has the true length)
             /index.db      what it holds (:mod:`winlayers.layers.portable.index`)
             /side.bin      expanded sparse members, if there are any
             /layerchain.json   the parents' folders, nearest first
             /view.db, view.erofs, ...   caches of the merged chain; can go at any time
             /scratch/      of a scratch layer: its changes, as the mount kind keeps them
             /mount/        where the view appears; mount.json says how

A layer is made in a hidden folder, made durable, and renamed: it exists wholly or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from winlayers import durable
from winlayers.errors import (
    InvalidNameError,
    LayerCorruptError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    StoreError,
    WinlayersError,
)
from winlayers.layers.portable import disk
from winlayers.layers.service import REMOVING

RECORD = "layer.json"
TAR = "layer.tar"
INDEX = "index.db"
SIDE = "side.bin"
CHAIN = "layerchain.json"
VIEW = "view.db"
SCRATCH = "scratch"
MOUNT_DIR = "mount"
MOUNT_RECORD = "mount.json"

IMAGE = "view.erofs"
WRITABLE_IMAGE = "view-rw.erofs"
EXTRACT = "extract"
FORMAT = 2
"""Of the record; format 1 had no digest but ``digest``, no parent, no ``stream_size`` (``data_size`` counted
streams, too)."""
_OWN_DIGEST = "own_digest"
_REMOVING = "removing"
_REPLACED = "-replaced-"
BLOCK = 512

VIEW_LOCK = ".view.lock"
MOUNT_LOCK = ".mount.lock"

KNOWN_FILES = frozenset(
    {RECORD, TAR, INDEX, SIDE, CHAIN, VIEW, IMAGE, WRITABLE_IMAGE, EXTRACT, SCRATCH, MOUNT_DIR, MOUNT_RECORD}
    | {VIEW_LOCK, MOUNT_LOCK, _REMOVING}
)
"""All that may lie in a layer's folder, beside the alternate id."""


@dataclasses.dataclass(frozen=True, slots=True)
class LayerRecord:
    """What ``layer.json`` says.

    Attributes:
        kind: ``layer`` or ``scratch``.
        committed: whether the layer has content (a layer that was only created has none).
        digest: ``sha256:...`` of the tar as it came (the diff id).
        tar_size: bytes of the tar as it came; the stored file is longer where its last block was cut.
        data_size: bytes in all unnamed data streams.
        stream_size: bytes in all alternate streams; None: the record is of format 1.
        entries: number of entries.
        side_size: bytes in the side file; 0: there is none.
        index_digest: ``sha256:...`` of the index's file; None: the index is of an earlier version.
        side_digest: the side file's digest (:mod:`winlayers.layers.portable.digests`).
        parent: the nearest parent's id; "": it has none; None: the record is of format 1.
        size: a scratch layer's bound in bytes; None: none was set.
        mount_kind: the mount kind that a scratch layer's changes are kept by; None: not mounted yet.
    """

    kind: str
    committed: bool = False
    digest: str | None = None
    tar_size: int = 0
    data_size: int = 0
    stream_size: int | None = None
    entries: int = 0
    side_size: int = 0
    index_digest: str | None = None
    side_digest: str | None = None
    parent: str | None = None
    size: int | None = None
    mount_kind: str | None = None


class LayerStore:
    """The folders of one home."""

    def __init__(self, home: str) -> None:
        self.home = os.path.abspath(home)

    def ensure(self) -> None:
        """Make the home if it is missing, and sweep what processes that are gone have left half done.

        Raises:
            StoreError: the home can't be made or written to.
        """
        try:
            os.makedirs(self.home, exist_ok=True)
        except OSError as error:
            raise StoreError(f"can't make the store: {error.strerror}", path=self.home) from error

    def sweep(self) -> list[str]:
        """Remove half done work of processes that are gone; return what was removed.

        A removal that did not get as far as the rename is taken back, and so is half of a replacement.
        """
        with self.lock(), disk.writing():
            for name in os.listdir(self.home):
                self._bring_back(name)
            swept = durable.sweep(self.home)
            for name in os.listdir(self.home):
                if name.endswith(REMOVING) and name[0] != ".":
                    aside = durable.temporary_name(self.home, f"-{_REMOVING}")
                    durable.rename_dir(os.path.join(self.home, name), aside)
                    if durable.remove_unless_busy(aside):
                        swept.append(name)
            for layer_id in self.ids():
                swept += [os.path.join(layer_id, name) for name in self._sweep_layer(layer_id)]
        return swept

    def _sweep_layer(self, layer_id: str) -> list[str]:
        folder = self.folder(layer_id)
        swept = durable.sweep(folder)
        for below in (SCRATCH, EXTRACT):
            if os.path.isdir(os.path.join(folder, below)):
                swept += [os.path.join(below, name) for name in durable.sweep(os.path.join(folder, below))]
        remover = self._remover(folder)
        if remover is not None and not durable.owner_lives(remover):
            # Another may have taken it back just now.
            durable.remove_any(os.path.join(folder, _REMOVING))
            swept.append(_REMOVING)
        return swept

    def _remover(self, folder: str) -> str | None:
        """The process that removes the layer in *folder*, or was about to; None: none said so."""
        try:
            with open(os.path.join(folder, _REMOVING), encoding="ascii", errors="replace") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_half_removed(self, name: str) -> bool:
        """Whether *name* in the home is a layer whose removal a process that is gone has begun."""
        if not name.endswith(REMOVING) or name.startswith("."):
            return False
        path = os.path.join(self.home, name)
        remover = self._remover(path)
        return not (remover is not None and durable.owner_lives(remover)) and os.path.lexists(path)

    def bring_back(self, name: str) -> bool:
        """Bring back the layer that *name* in the home was, if it is to be.

        It is one without content that went aside for content which never came (see :meth:`publish`).
        """
        with self.lock(), disk.writing():
            return self._bring_back(name)

    def _bring_back(self, name: str) -> bool:
        layer_id = name.partition(_REPLACED)[2]
        path = os.path.join(self.home, name)
        if not layer_id or not durable.is_leftover(path) or os.path.lexists(self.folder(layer_id)):
            return False
        durable.rename_dir(path, self.folder(layer_id))
        return True

    def lock(self) -> durable.FileLock:
        """The lock for what changes the set of layers.  Held for moments only."""
        self.ensure()
        return durable.FileLock(os.path.join(self.home, ".lock"))

    def folder(self, layer_id: str) -> str:
        """The layer's folder, whether or not it exists.

        Raises:
            InvalidNameError: the id can't name a folder.
        """
        if layer_id in ("", ".", "..") or layer_id.startswith(".") or any(c in layer_id for c in "/\\\0"):
            raise InvalidNameError("not a layer id", path=layer_id)
        return os.path.join(self.home, layer_id)

    def ids(self) -> list[str]:
        """The ids of all layers, sorted."""
        try:
            names = os.listdir(self.home)
        except FileNotFoundError:
            return []
        return sorted(
            name
            for name in names
            if name[0] != "."
            and not name.endswith(REMOVING)
            and os.path.lexists(os.path.join(self.home, name, RECORD))
        )

    # -- records --

    def record(self, layer_id: str) -> LayerRecord:
        """The layer's record.

        Raises:
            LayerNotFoundError: there is no such layer.
            LayerCorruptError: the record can't be read.
        """
        path = os.path.join(self.folder(layer_id), RECORD)
        try:
            with open(path, "rb") as file:
                value = json.load(file)
            if value["format"] not in (1, FORMAT):
                raise ValueError("another format version")
            if value.pop(_OWN_DIGEST, None) not in (_digest_of(value), None):
                raise ValueError("it has changed since it was written")
            del value["format"]
            return LayerRecord(**value)
        except FileNotFoundError as error:
            raise LayerNotFoundError("no such layer", layer=layer_id) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LayerCorruptError(f"the record {RECORD} can't be read: {error}", layer=layer_id) from error

    def find(self, layer_id: str) -> LayerRecord | None:
        """The layer's record; None where there is no such layer."""
        try:
            return self.record(layer_id)
        except LayerNotFoundError:
            return None

    def write_record(self, folder: str, record: LayerRecord) -> None:
        """Put the record into a layer's (or hidden) folder, durably."""
        value = {"format": FORMAT, **dataclasses.asdict(record)}
        durable.write_json(os.path.join(folder, RECORD), {**value, _OWN_DIGEST: _digest_of(value)})

    def update_record(self, layer_id: str, **changes: object) -> LayerRecord:
        """Change fields of the record, durably.

        Raises:
            LayerNotFoundError: there is no such layer (any more).
        """
        with self.lock(), self.staying(layer_id), disk.writing():
            record = dataclasses.replace(self.record(layer_id), **changes)  # type: ignore[arg-type]  # tested
            self.write_record(self.folder(layer_id), record)
        return record

    @contextlib.contextmanager
    def staying(self, *ids: str) -> Iterator[None]:
        """Say so, where the block fails because another process removed one of the layers meanwhile.

        Nothing holds a layer for those who only read it: removal does not wait for them.

        Raises:
            LayerNotFoundError: one of the layers was removed.
        """
        before = {layer_id: self.identity(layer_id) for layer_id in ids}
        try:
            yield
        except (OSError, sqlite3.Error, StoreError, LayerCorruptError) as error:
            for layer_id, identity in before.items():
                if not self.is_still(layer_id, identity):
                    raise LayerNotFoundError(
                        "the layer was removed by another process", layer=layer_id
                    ) from error
            if isinstance(error, WinlayersError):
                raise
            raise disk.disk_error(error, "read") from error

    def identity(self, layer_id: str) -> tuple[int, int]:
        """What tells a layer from another that came under its id later; zeros where there is none."""
        folder = self.folder(layer_id)
        try:
            inode = os.stat(folder).st_ino
        except OSError:
            return 0, 0
        try:
            # An inode's number alone may be used again; the chain is written once, when the layer is made.
            return inode, os.stat(os.path.join(folder, CHAIN)).st_mtime_ns
        except OSError:
            return inode, 0

    def is_still(self, layer_id: str, identity: tuple[int, int]) -> bool:
        """Whether the layer is there, and the one that had that identity (its chain may have been mended)."""
        inode, time = self.identity(layer_id)
        return inode != 0 and inode == identity[0] and (time == identity[1] or 0 in (time, identity[1]))

    # -- chains --

    def ids_of(self, chain: Sequence[str]) -> list[str]:
        """The ids of a chain of layer folders; each must be a layer of this home with content.

        Only the last part of each path counts, so that a home that was moved still works.

        Raises:
            LayerNotFoundError: one is not there or was never filled.
        """
        ids = [path.replace("\\", "/").rstrip("/").rpartition("/")[2] for path in chain]
        for layer_id in ids:
            if self.record(layer_id).kind != "layer":
                raise LayerNotFoundError("a scratch layer can't be a parent", layer=layer_id)
        return ids

    def parents(self, layer_id: str) -> list[str]:
        """The ids of the layer's parents, nearest first, as its ``layerchain.json`` has them.

        Raises:
            LayerCorruptError: the file is not a list of paths.
        """
        try:
            with open(os.path.join(self.folder(layer_id), CHAIN), "rb") as file:
                value = json.load(file)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise LayerCorruptError(f"{CHAIN} can't be read: {error}", layer=layer_id) from error
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
            raise LayerCorruptError(f"{CHAIN} is not a list of paths", layer=layer_id)
        return [path.replace("\\", "/").rstrip("/").rpartition("/")[2] for path in value]

    def write_chain(self, folder: str, parents: Sequence[str]) -> None:
        """Put the parents' folders into a layer's (or hidden) folder, durably."""
        durable.write_json(os.path.join(folder, CHAIN), self.chain_paths(parents))

    def children(self, layer_id: str) -> list[str]:
        """The ids of the layers that stand directly on this one."""
        return [other for other in self.ids() if other != layer_id and self.parents(other)[:1] == [layer_id]]

    def chain_paths(self, ids: Sequence[str]) -> list[str]:
        """The folders of the ids, for ``layerchain.json``."""
        return [self.folder(layer_id) for layer_id in ids]

    # -- making and removing --

    @contextlib.contextmanager
    def hidden(self) -> Iterator[str]:
        """A hidden folder for a layer in the making; what is left of it when the block ends is removed."""
        self.ensure()
        with contextlib.ExitStack() as stack:
            with disk.writing():
                path = stack.enter_context(durable.hidden_folder(self.home))
            yield path

    def publish(self, layer_id: str, hidden: str, record: LayerRecord, parents: Sequence[str]) -> bool:
        """Let the layer made in the folder *hidden* exist under its id; its files are durable already.

        An empty layer of that id is filled: its other files (an alternate id) are kept.

        Returns:
            False where another process published the same content meanwhile; *hidden* is then not used.

        Raises:
            LayerExistsError: there is another layer of that id.
            LayerNotFoundError: a parent has been removed meanwhile.
        """
        folder = self.folder(layer_id)
        with self.lock(), disk.writing():
            for parent in parents:
                self.require_parent(parent)
            old = self.find(layer_id)
            if old is not None and (old.committed or old.kind != record.kind or not record.committed):
                if old.committed and old.digest == record.digest and self.parents(layer_id) == list(parents):
                    return False
                raise LayerExistsError("there is a layer of that id already", layer=layer_id)
            self.write_chain(hidden, parents)
            record = dataclasses.replace(record, parent=parents[0] if parents else "")
            if os.path.isdir(folder):
                _keep_small_files(folder, hidden)
            self.write_record(hidden, record)
            durable.fsync_dir(hidden)
            if os.path.isdir(folder):
                # An empty layer or a folder without a record: aside with it, for the rename needs the name.
                # The name lets the next process bring it back if this one ends between the two renames.
                aside = durable.temporary_name(self.home, f"{_REPLACED}{layer_id}")
                durable.rename_dir(folder, aside)
                durable.rename_dir(hidden, folder)
                durable.remove_tree(aside)
            else:
                durable.rename_dir(hidden, folder)
        return True

    def require_parent(self, layer_id: str) -> None:
        """Raise unless the layer can be a parent and is not about to be removed."""
        if self.require_staying(layer_id).kind != "layer":
            raise LayerNotFoundError("a scratch layer can't be a parent", layer=layer_id)

    def require_staying(self, layer_id: str) -> LayerRecord:
        """The record of a layer that is there and not about to be removed.

        Raises:
            LayerNotFoundError: it is not, or will not be for long.
        """
        if os.path.exists(os.path.join(self.folder(layer_id), _REMOVING)):
            raise LayerNotFoundError("the layer is being removed", layer=layer_id)
        # After the marker, which goes with the folder: a removal that took it away in between is seen here.
        return self.record(layer_id)

    def forbid_children(self, layer_id: str) -> None:
        """See that the layer has no children and gets none from now on, since it will be removed.

        Raises:
            LayerInUseError: it has.
        """
        folder = self.folder(layer_id)
        with self.lock(), disk.writing():
            if not os.path.isdir(folder):
                return  # another process has removed it just now
            self._refuse_children(layer_id)
            marker = os.path.join(folder, _REMOVING)
            durable.write_bytes(marker, durable.owner().encode("ascii"))

    def set_aside(
        self, layer_id: str, name: str, identity: tuple[int, int] | None, require_unused: Callable[[], None]
    ) -> None:
        """Rename the layer's folder, after :meth:`forbid_children`, to *name*.

        Another process may have taken that back since: then others may have begun to use the layer.

        Args:
            identity: that of the layer that is meant; None: whichever is there.
            require_unused: raises LayerInUseError if it is active or mounted.

        Raises:
            FileNotFoundError: it is gone, or another one is in its place.
            LayerInUseError: other layers stand on it, or it is in use.
            OSError: it can't be renamed.
        """
        with self.lock():
            if identity not in (None, self.identity(layer_id)):
                if self._remover(self.folder(layer_id)) == durable.owner():
                    self.allow_children(layer_id)  # the one that is there now stays
                raise FileNotFoundError(errno.ENOENT, "another process removed it", self.folder(layer_id))
            self._refuse_children(layer_id)
            require_unused()
            os.rename(self.folder(layer_id), self.folder(name))

    def allow_children(self, layer_id: str) -> None:
        """Take :meth:`forbid_children` back."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder(layer_id), _REMOVING))

    def _refuse_children(self, layer_id: str) -> None:
        children = self.children(layer_id)
        if children:
            more = f" and {len(children) - 1} more" if len(children) > 1 else ""
            raise LayerInUseError(
                f"the layer {children[0]}{more} stands on it", layer=layer_id, hint="remove that first"
            )

    def destroy(self, layer_id: str) -> None:
        """Remove the layer's folder, at once for all who look; a missing one is fine.

        Raises:
            LayerInUseError: other layers stand on it.
        """
        folder = self.folder(layer_id)
        with disk.writing():
            with self.lock():
                if not os.path.lexists(folder):
                    return
                self._refuse_children(layer_id)
                aside = durable.temporary_name(self.home, f"-{_REMOVING}")
                durable.rename_dir(folder, aside)
            durable.remove_any(aside)


def _digest_of(value: dict[str, object]) -> str:
    """The digest of a record's fields, by which damage to the record itself is seen."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def _keep_small_files(old: str, new: str) -> None:
    """Copy to *new* the files of an empty layer that others put there (its alternate id)."""
    ours = {RECORD, TAR, INDEX, SIDE, CHAIN, VIEW, MOUNT_RECORD, _REMOVING}
    for name in os.listdir(old):
        path = os.path.join(old, name)
        if name in ours or name.startswith(".") or os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            durable.write_bytes(os.path.join(new, name), file.read())
