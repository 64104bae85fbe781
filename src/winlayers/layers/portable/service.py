"""The portable layer service: the contract of :mod:`winlayers.layers.service` on any operating system."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from winlayers import durable
from winlayers.errors import (
    LayerContentError,
    LayerCorruptError,
    LayerExistsError,
    LayerNotFoundError,
    StoreReadOnlyError,
    UnsupportedError,
)
from winlayers.layers.archive import archive_stream
from winlayers.layers.portable import disk, ingest, mounting, plain
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.changes import index_changes
from winlayers.layers.portable.check import Checker, Finding
from winlayers.layers.portable.index import Index, IndexSummary
from winlayers.layers.portable.scratch import ScratchChanges, ScratchReader, layer_changes
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.streams import TarFile
from winlayers.layers.portable.tarlayer import TarLayerReader, TarLayerWriter
from winlayers.layers.portable.view import View, ViewInode
from winlayers.layers.service import (
    REMOVING,
    DriverInfo,
    Flavour,
    LayerChange,
    LayerEntry,
    LayerReader,
    LayerService,
    LayerWriter,
    TarStream,
)
from winlayers.layers.transport import read_folder, write_folder
from winlayers.win32.metadata import DataStream, FileMetadata

_GUID_NAMESPACE = uuid.UUID("6f4c5a5e-8f0e-5c39-9d57-3f1f0c5c9a51")


def _linked(view: View, entry: LayerEntry) -> tuple[FileMetadata, Iterator[DataStream]]:
    """What a hard link into a parent layer leads to."""
    assert entry.link_target is not None
    node = view.resolve(entry.link_target)
    if node is None or node.is_directory:
        raise LayerContentError(f"hard link to {entry.link_target!r}, which no parent has", path=entry.path)
    inode = view.inode(node.inode)
    return inode.metadata, _view_streams(view, inode)


def _view_streams(view: View, inode: ViewInode) -> Iterator[DataStream]:
    if inode.metadata.reparse is None:
        yield DataStream("", inode.size, view.chunks(inode.extent))
    for stream in inode.streams:
        yield DataStream(stream.name, stream.extent.size, view.chunks(stream.extent))


class PortableLayerService(LayerService):
    """Keeps layers as their tars with an index, and makes views from these.

    Args:
        info: the home and flavour.
        mount: ``auto``, or the mount kind to use for new scratch layers.
    """

    def __init__(self, info: DriverInfo, *, mount: str = "auto") -> None:
        self.info = info
        self.store = LayerStore(info.home)
        self.views = ChainViews(self.store)
        self.mounts = mounting.Mounts(self.store, self.views, mount)
        self._leaving: dict[str, tuple[int, int]] = {}  # what prepare_removal saw

    @property
    def name(self) -> str:
        return "portable"

    def status(self) -> list[tuple[str, str]]:
        return [("Layer service", self.name), ("Layers", str(len(self.store.ids()))), *self.mounts.status()]

    def check_home(self) -> None:
        self.store.ensure()
        try:
            self.store.sweep()
        except StoreReadOnlyError:
            return  # it is for those who can write to sweep
        self.mounts.sweep()

    # -- life --

    def exists(self, layer_id: str) -> bool:
        return self.store.find(layer_id) is not None or self._is_plain(layer_id)

    def _is_plain(self, layer_id: str) -> bool:
        """Whether it is a layer of the differencing flavour: plain files in its folder, no tar."""
        if self.info.flavour is not Flavour.DIFF or layer_id.endswith(REMOVING):
            return False
        record = self.store.find(layer_id)
        if record is not None and (record.committed or record.kind != "layer"):
            return False
        return plain.is_plain(self.store.folder(layer_id))

    def create(self, layer_id: str, parent_id: str) -> None:
        parents = [] if not parent_id else [parent_id, *self.store.parents(parent_id)]
        self._require_new(layer_id)
        with self.store.hidden() as hidden:
            self.store.publish(layer_id, hidden, LayerRecord("layer"), parents)

    def create_scratch(self, layer_id: str, chain: Sequence[str]) -> None:
        if not chain:
            raise LayerNotFoundError("a scratch layer needs a parent", layer=layer_id)
        self._require_new(layer_id)
        parents = self.store.ids_of(chain)
        with self.store.hidden() as hidden:
            with disk.writing():
                os.mkdir(os.path.join(hidden, folders.SCRATCH), 0o755)
            self.store.publish(layer_id, hidden, LayerRecord("scratch"), parents)

    def expand_scratch(self, layer_id: str, size: int) -> None:
        record = self._scratch(layer_id)
        if record.size is not None and size < record.size:
            raise UnsupportedError(
                f"a scratch layer can't shrink from {record.size} to {size} bytes", layer=layer_id
            )
        self.store.update_record(layer_id, size=size)

    def prepare_removal(self, layer_id: str) -> None:
        with self.mounts.inactive(layer_id) as is_there:
            # Where there was none, one that has come since then is not meant.
            self._leaving[layer_id] = self.store.identity(layer_id) if is_there else (0, 0)
            if is_there and self.store.find(layer_id) is not None:
                self.store.forbid_children(layer_id)

    def set_aside(self, layer_id: str, hidden_id: str) -> None:
        self.store.set_aside(
            layer_id,
            hidden_id,
            self._leaving.get(layer_id),
            lambda: self.mounts.require_inactive(layer_id),
        )
        self._leaving.pop(layer_id, None)

    def cancel_removal(self, layer_id: str) -> None:
        self._leaving.pop(layer_id, None)
        self.store.allow_children(layer_id)

    def destroy(self, layer_id: str) -> None:
        with self.mounts.inactive(layer_id) as is_there:
            if is_there:
                self.store.destroy(layer_id)

    def _require_new(self, layer_id: str) -> None:
        if self.store.find(layer_id) is not None:
            raise LayerExistsError("there is a layer of that id already", layer=layer_id)

    def _scratch(self, layer_id: str) -> LayerRecord:
        record = self.store.record(layer_id)
        if record.kind != "scratch":
            raise LayerNotFoundError("it is not a scratch layer", layer=layer_id)
        return record

    # -- views --

    # A plain layer is its own view: there is nothing to mount.

    def activate(self, layer_id: str) -> None:
        if self._is_plain(layer_id):
            return
        self.mounts.activate(layer_id)

    def prepare(self, layer_id: str, chain: Sequence[str]) -> None:
        if self._is_plain(layer_id):
            return
        self.mounts.prepare(layer_id, self.store.ids_of(chain))

    def unprepare(self, layer_id: str) -> None:
        self.mounts.unprepare(layer_id)

    def deactivate(self, layer_id: str) -> None:
        self.mounts.deactivate(layer_id)

    def is_prepared(self, layer_id: str) -> bool:
        return self.mounts.is_prepared(layer_id)

    def mount_path(self, layer_id: str) -> str:
        if self._is_plain(layer_id):
            return self.store.folder(layer_id)
        self.store.record(layer_id)
        return self.mounts.path(layer_id)

    def set_mount_target(self, layer_id: str, folder: str | None) -> None:
        """Let the next :meth:`prepare` in this process show the view at *folder* (None: the usual place)."""
        self.mounts.set_target(layer_id, folder)

    # -- content --

    def import_tar(self, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream) -> int:
        parents = self._open_for_content(layer_id, chain)
        with self.store.hidden() as hidden:
            record = ingest.ingest_tar(hidden, source, layer_id)
            self._publish(layer_id, hidden, record, parents)
        return record.data_size

    def _open_for_content(self, layer_id: str, chain: Sequence[str]) -> list[str]:
        parents = self.store.ids_of(chain)
        record = self.store.find(layer_id)
        if record is not None and (record.committed or record.kind != "layer"):
            raise LayerExistsError("there is a layer of that id already", layer=layer_id)
        return parents

    def _publish(self, layer_id: str, hidden: str, record: LayerRecord, parents: Sequence[str]) -> None:
        with disk.reading(), Index(os.path.join(hidden, folders.INDEX), layer_id) as index:
            self.views.check_content(index, parents)
        with disk.writing():
            durable.fsync_tree(hidden)
        self.store.publish(layer_id, hidden, record, parents)

    def export_tar(self, layer_id: str, chain: Sequence[str]) -> TarStream:
        if self._is_plain(layer_id):
            return plain.plain_tar(self.store.folder(layer_id), layer_id)
        record = self.store.record(layer_id)
        if record.kind == "scratch":
            return archive_stream(self._scratch_reader(layer_id))
        if not record.committed:
            return archive_stream(None)
        with self.store.staying(layer_id):
            self.store.record(layer_id)
            path = os.path.join(self.store.folder(layer_id), folders.TAR)
            return TarFile(path, record.tar_size, layer_id)

    def open_reader(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        record = self.store.record(layer_id)
        if record.kind == "scratch":
            return self._scratch_reader(layer_id)
        index = self.views.index(layer_id) if record.committed else None
        return TarLayerReader(self.store.folder(layer_id), layer_id, index)

    def _scratch_reader(self, layer_id: str) -> LayerReader:
        view = self.views.open(self.scratch_parent(layer_id))
        try:
            with disk.reading():
                return ScratchReader(view, self.mounts.changes(layer_id, view))
        except BaseException:
            view.close()
            raise

    def scratch_parent(self, layer_id: str) -> str:
        """The layer that a scratch layer stands on.

        Raises:
            LayerNotFoundError: there is no such layer.
            LayerCorruptError: it is not known.
        """
        parents = self.store.parents(layer_id)
        if not parents:
            self.store.record(layer_id)  # it may have been removed just now
            raise LayerCorruptError(f"a scratch layer without {folders.CHAIN}", layer=layer_id)
        return parents[0]

    def open_writer(self, layer_id: str, chain: Sequence[str]) -> LayerWriter:
        parents = self._open_for_content(layer_id, chain)
        return TarLayerWriter(
            self.store, layer_id, lambda hidden, record: self._publish(layer_id, hidden, record, parents)
        )

    def import_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        with self.open_writer(layer_id, chain) as writer:
            read_folder(folder, writer)

    def export_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        parents = self.store.parents(layer_id)
        with self.open_reader(layer_id, chain) as reader, contextlib.ExitStack() as stack:
            view = stack.enter_context(self.views.open(parents[0])) if parents else None
            write_folder(reader, folder, None if view is None else lambda entry: _linked(view, entry))

    def facts(self, layer_id: str) -> dict[str, str]:
        record = self.store.find(layer_id)
        if record is None or not record.committed or record.digest is None:
            return {}
        known: LayerRecord | IndexSummary = record
        if record.stream_size is None:
            # Makes an index of this version, and where it can a record of this format.
            with self.views.index(layer_id) as index:
                known = index.summary
        numbers = {
            "entries": known.entries,
            "size": known.data_size,
            "stream_size": known.stream_size,
            "tar_size": known.tar_size,
        }
        return {"digest": record.digest, **{key: str(value) for key, value in numbers.items()}}

    def check(
        self,
        *,
        repair: bool = False,
        deep: bool = True,
        restore: Callable[[str, str, str], bool] | None = None,
    ) -> Iterator[Finding]:
        """Look for damage in the store; see :class:`~winlayers.layers.portable.check.Checker`."""
        checker = Checker(self.store, self.views, self.mounts, repair=repair, deep=deep, restore=restore)
        return checker.run()

    def changes(self, layer_id: str, chain: Sequence[str]) -> Iterator[LayerChange]:
        if self._is_plain(layer_id):
            return plain.plain_changes(self.store.folder(layer_id))
        record = self.store.record(layer_id)
        parents = self.store.parents(layer_id)
        if record.kind == "scratch":
            return self._scratch_changes(layer_id, self.scratch_parent(layer_id))
        if not record.committed:
            return iter(())
        return self._index_changes(layer_id, parents)

    def _scratch_changes(self, layer_id: str, parent: str) -> Iterator[LayerChange]:
        with self.store.staying(layer_id, parent), self.views.open(parent) as view:
            yield from layer_changes(ScratchChanges(view, self.mounts.changes(layer_id, view)))

    def _index_changes(self, layer_id: str, parents: Sequence[str]) -> Iterator[LayerChange]:
        with self.store.staying(layer_id, *parents), contextlib.ExitStack() as stack:
            index = stack.enter_context(self.views.index(layer_id))
            view = stack.enter_context(self.views.open(parents[0])) if parents else None
            yield from index_changes(index, view)

    def open_file(self, layer_id: str, path: str) -> BinaryIO:
        if self._is_plain(layer_id):
            return super().open_file(layer_id, path)
        with self.views.index(layer_id) as index:
            row = index.lookup(path)
        if row is None or row.code != 0:
            raise LayerContentError("the layer itself has no such file", layer=layer_id, path=path)
        return ingest.open_extent(self.store.folder(layer_id), row.source, row.offset, row.size)

    # -- the host --

    def shared_base_images(self) -> str:
        """None: only Windows hosts bring base images of their own."""
        return '{"Images":[]}'

    def name_to_guid(self, name: str) -> uuid.UUID:
        """A GUID of our own making (SHA-1 of the name): stable, but not the one that Windows computes."""
        return uuid.uuid5(_GUID_NAMESPACE, name.lower())

    def grant_vm_access(self, vm_id: str, path: str) -> None:
        raise UnsupportedError("virtual machines are granted access to files on Windows only", path=path)

    def process_base_layer(self, path: str) -> None:
        raise UnsupportedError("a base layer's disks are made by Windows only", path=path)

    def process_utility_vm(self, path: str) -> None:
        raise UnsupportedError("a utility VM's disks are made by Windows only", path=path)
