"""The layer service of a Windows host: vmcompute.dll, called as hcsshim calls it."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, cast

from winlayers.errors import (
    HcsError,
    LayerContentError,
    LayerExistsError,
    LayerNotFoundError,
    StoreError,
    UnsupportedError,
)
from winlayers.layers.archive import archive_stream
from winlayers.layers.native import childimport, compute, errors, ffi, files, host, paths, vmcompute
from winlayers.layers.native.privileges import READ, WRITE, privileges
from winlayers.layers.native.reader import BaseLayerReader, ExportedLayerReader
from winlayers.layers.native.safefile import FILE_OPEN, FILE_SEQUENTIAL_ONLY, Root
from winlayers.layers.native.streaming import StreamingReader, StreamingWriter
from winlayers.layers.native.tarimport import write_from_tar
from winlayers.layers.rooted import BCD_COPIES
from winlayers.layers.service import DriverInfo, LayerReader, LayerService, LayerWriter, TarStream
from winlayers.win32.metadata import DataStream, FileMetadata

INLINE_VARIABLE = "WINLAYERS_IMPORT_INLINE"
"""The environment variable that, if not empty, makes imports run in this process (for debugging)."""

_CONTENT = (paths.FILES, paths.HIVES, paths.UTILITY_VM)


class NativeLayerService(LayerService):
    """Layers kept by the Windows host compute service.

    Args:
        info: home and flavour.
        import_inline: take tars in within this process rather than in a child; None: as the environment
            variable `INLINE_VARIABLE` says.
        complete_hives: make an empty registry hive for each of the five that a base layer does not have, or
            has without a byte.  hcsshim's import leaves them out, and Windows Server 2025 refuses the layer.
        streaming_calls: read and write layers through ImportLayerBegin and ExportLayerBegin and their like,
            which only previews of Server 2016 have.  hcsshim dropped them, so they are not used unless asked
            for.

    Raises:
        UnsupportedError: this host has no host compute service (or *streaming_calls* and not those).
    """

    def __init__(
        self,
        info: DriverInfo,
        *,
        import_inline: bool | None = None,
        complete_hives: bool = True,
        streaming_calls: bool = False,
    ) -> None:
        self.info = info
        ffi.vmcompute()
        if import_inline is None:
            import_inline = bool(os.environ.get(INLINE_VARIABLE))
        self._import_inline = import_inline or not childimport.can_run()
        if streaming_calls and not vmcompute.has_streaming():
            raise UnsupportedError("this build of Windows has no streaming calls for layers")
        self._complete_hives = complete_hives
        self._unfinished: set[str] = set()
        self._streaming_calls = streaming_calls

    @property
    def name(self) -> str:
        return "hcs"

    @property
    def streaming(self) -> bool:
        return not host.is_tp4()

    def status(self) -> list[tuple[str, str]]:
        return [
            ("Windows version", str(host.os_version())),
            ("Imports", "in this process" if self._import_inline else "in a child process"),
            ("Layer transfer", self._transfer()),
        ]

    def _transfer(self) -> str:
        if self._streaming_calls:
            return "streaming calls"
        return "transport format" if self.streaming else "whole folders (TP4)"

    def check_home(self) -> None:
        try:
            host.refuse_refs(self.info.home)
        except UnsupportedError as error:
            raise StoreError(error.message, hint=error.hint) from error

    # -- life of a layer --

    def exists(self, layer_id: str) -> bool:
        path = self.layer_path(layer_id)
        if path in self._unfinished:
            return False  # its folder is there, for as long as it is being written
        return vmcompute.layer_exists(self.info.flavour, path)

    def is_there(self, layer_id: str) -> bool:
        path = self.layer_path(layer_id)
        if path in self._unfinished:
            return False
        # A layer outside of the home (a shared base image) is known to HCS alone.
        return os.path.isdir(path) or self.exists(layer_id)

    def create(self, layer_id: str, parent_id: str) -> None:
        vmcompute.create_layer(self.info.flavour, self.layer_path(layer_id), parent_id)

    def create_scratch(self, layer_id: str, chain: Sequence[str]) -> None:
        if not chain:
            raise LayerNotFoundError("a scratch layer needs a parent layer", layer=layer_id)
        _need_folders(chain)
        vmcompute.create_sandbox_layer(self.info.flavour, self.layer_path(layer_id), chain)

    def expand_scratch(self, layer_id: str, size: int) -> None:
        path = self.layer_path(layer_id)
        vmcompute.expand_sandbox_size(self.info.flavour, path, size)
        host.expand_scratch_volume(self.info.flavour, path)

    def copy(self, source_id: str, target_id: str, chain: Sequence[str]) -> None:
        """CopyLayer: make *target_id* a copy of *source_id*, which stands on *chain*."""
        vmcompute.copy_layer(self.info.flavour, self.layer_path(source_id), self.layer_path(target_id), chain)

    def destroy(self, layer_id: str) -> None:
        try:
            vmcompute.destroy_layer(self.info.flavour, self.layer_path(layer_id))
        except errors.HcsNotFoundError:
            pass  # what is not there needs no removal

    def prepare_removal(self, layer_id: str) -> None:
        compute.terminate_templates(layer_id)

    def release(self, layer_path: str) -> None:
        host.detach_scratch(layer_path)

    # -- views --

    @property
    def tells_views(self) -> bool:
        return False

    def activate(self, layer_id: str) -> None:
        vmcompute.activate_layer(self.info.flavour, self.layer_path(layer_id))

    def prepare(self, layer_id: str, chain: Sequence[str]) -> None:
        vmcompute.prepare_layer(self.info.flavour, self.layer_path(layer_id), chain)

    def unprepare(self, layer_id: str) -> None:
        vmcompute.unprepare_layer(self.info.flavour, self.layer_path(layer_id))

    def deactivate(self, layer_id: str) -> None:
        vmcompute.deactivate_layer(self.info.flavour, self.layer_path(layer_id))

    def mount_path(self, layer_id: str) -> str:
        return vmcompute.get_layer_mount_path(self.info.flavour, self.layer_path(layer_id))

    # -- content --

    def open_reader(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        return self._open_reader(layer_id, chain, listing=False)

    def open_listing(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        return self._open_reader(layer_id, chain, listing=True)

    def _open_reader(self, layer_id: str, chain: Sequence[str], *, listing: bool) -> LayerReader:
        path = self.layer_path(layer_id)
        if not os.path.isdir(path):
            raise LayerNotFoundError("there is no such layer", layer=layer_id)
        if not chain:
            return BaseLayerReader(path, listing=listing)
        if self._streaming_calls:
            return StreamingReader(self.info.flavour, path, chain)
        return ExportedLayerReader(self.info.flavour, path, chain, listing=listing)

    def open_writer(self, layer_id: str, chain: Sequence[str]) -> LayerWriter:
        path = self.layer_path(layer_id)
        with self._new_content(path, chain) as undo:
            if chain and self._streaming_calls:
                writer: LayerWriter = StreamingWriter(self.info.flavour, path, chain)
            else:
                writer = self._target(path, chain).open_writer()
        return _UndoingWriter(writer, undo)

    def import_tar(self, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream) -> int:
        path = self.layer_path(layer_id)
        if chain and self._streaming_calls:
            return self._import_streaming(layer_id, chain, source)
        with self._new_content(path, chain) as undo:
            run = childimport.import_inline if self._import_inline else childimport.import_in_child
            size = run(self._target(path, chain), source)
        undo.forget()
        return size

    @contextlib.contextmanager
    def _new_content(self, path: str, chain: Sequence[str]) -> Iterator[_Undo]:
        """Have the folder *path*, without content; undo what the block wrote if it fails.

        Raises:
            LayerNotFoundError: a parent is not there.
            LayerExistsError: the layer has content already.
        """
        _need_folders(chain)
        undo = _Undo(path, self._unfinished)
        if undo.has_content():
            raise LayerExistsError("the layer has content already", layer=path)
        try:
            yield undo
        except BaseException:
            undo.run()
            raise

    def _target(self, path: str, chain: Sequence[str]) -> childimport.ImportTarget:
        return childimport.ImportTarget(self.info.flavour, path, tuple(chain), self._complete_hives)

    def _import_streaming(self, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream) -> int:
        writer = self.open_writer(layer_id, chain)
        try:
            write_from_tar(source, writer)
            return writer.commit()
        except BaseException:
            writer.abort()
            raise

    def export_tar(self, layer_id: str, chain: Sequence[str]) -> TarStream:
        return archive_stream(self.open_reader(layer_id, chain))

    def export_inactive(self, layer_id: str, chain: Sequence[str]) -> TarStream:
        """`export_tar` of a layer that is not activated; it is until the stream is closed.

        The layer is prepared once, so that what Windows makes on first use is there (source: hcsshim
        ``ociwclayer.ExportLayerToTar``).
        """
        self.activate(layer_id)
        try:
            self.prepare(layer_id, chain)
            self.unprepare(layer_id)
            stream = self.export_tar(layer_id, chain)
        except BaseException:
            self._deactivate_quietly(layer_id)
            raise
        return _ClosingStream(stream, lambda: self._deactivate_quietly(layer_id))

    def _deactivate_quietly(self, layer_id: str) -> None:
        try:
            self.deactivate(layer_id)
        except HcsError:
            pass  # what was read is complete; hcsshim ignores this, too

    def import_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        _need_folders(chain)
        with privileges(*WRITE):
            vmcompute.import_layer(self.info.flavour, self.layer_path(layer_id), folder, chain)

    def export_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        with privileges(*READ):
            vmcompute.export_layer(self.info.flavour, self.layer_path(layer_id), folder, chain)

    def open_file(self, layer_id: str, path: str) -> BinaryIO:
        name = paths.entry_path(path, stream=True)
        try:
            with privileges(*READ), Root.open(self.layer_path(layer_id)) as root:
                kept = BCD_COPIES.get(path)
                if kept is not None and root.look(kept) is not None:
                    name = kept
                file = root.open_relative(
                    name, files.GENERIC_READ, files.SHARE_READ, FILE_OPEN, FILE_SEQUENTIAL_ONLY, stream=True
                )
                if file.basic_info().is_directory:
                    file.close()
                    raise LayerContentError("not a file", layer=layer_id, path=path)
        except errors.HcsNotFoundError as error:
            raise LayerContentError("there is no such file", layer=layer_id, path=path) from error
        return cast(BinaryIO, io.BufferedReader(files.RawReader(file), files.BUFFER_SIZE))

    # -- the host --

    def shared_base_images(self) -> str:
        return vmcompute.get_base_images()

    def name_to_guid(self, name: str) -> uuid.UUID:
        return vmcompute.name_to_guid(name)

    def grant_vm_access(self, vm_id: str, path: str) -> None:
        vmcompute.grant_vm_access(vm_id, path)

    def process_base_layer(self, path: str) -> None:
        with privileges(*WRITE):
            vmcompute.process_base_image(path)

    def process_utility_vm(self, path: str) -> None:
        with privileges(*WRITE):
            vmcompute.process_utility_image(path)


# -- the folder that an import fills ----------------------------------------------------------------


def _need_folders(chain: Sequence[str]) -> None:
    for folder in chain:
        if not os.path.isdir(folder):
            raise LayerNotFoundError("the parent layer is not there", layer=folder)


class _Undo:
    """What an import that fails must leave: the folder as it was, or none."""

    def __init__(self, path: str, unfinished: set[str]) -> None:
        """Make the folder if it is missing; it is in *unfinished* then until it is done with."""
        self._path = path
        self._unfinished = unfinished
        self._before: set[str] | None = None
        try:
            self._before = set(os.listdir(path))
        except FileNotFoundError:
            os.makedirs(path)
            unfinished.add(path)

    def forget(self) -> None:
        """What was written stays."""
        self._unfinished.discard(self._path)

    def has_content(self) -> bool:
        """Whether the folder holds a layer's content already."""
        return any(
            name in (self._before or ()) and (os.listdir(os.path.join(self._path, name))) for name in _CONTENT
        )

    def run(self) -> None:
        """Remove what was not there before; the first error has been reported by then, so none is raised."""
        parent, name = os.path.split(paths.long_path(self._path))
        try:
            with privileges(*WRITE):
                if self._before is None:
                    with Root.open(parent) as root:
                        root.remove_all(name)
                else:
                    with Root.open(self._path) as root:
                        for left in set(root.list(".")) - self._before:
                            root.remove_all(left)
        except HcsError:
            pass
        self.forget()


class _UndoingWriter(LayerWriter):
    """A writer that leaves nothing in the layer's folder if it does not commit."""

    def __init__(self, writer: LayerWriter, undo: _Undo) -> None:
        self._writer = writer
        self._undo: _Undo | None = undo

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        self._writer.add(path, metadata, streams)

    def add_link(self, path: str, target: str) -> None:
        self._writer.add_link(path, target)

    def remove(self, path: str) -> None:
        self._writer.remove(path)

    def hide(self, path: str) -> None:
        self._writer.hide(path)

    def commit(self) -> int:
        try:
            size = self._writer.commit()
        except BaseException:
            self._run_undo()
            raise
        if self._undo is not None:
            self._undo.forget()
            self._undo = None
        return size

    def abort(self) -> None:
        try:
            self._writer.abort()
        finally:
            self._run_undo()

    def _run_undo(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.run()


class _ClosingStream:
    """A tar stream with something to be done once it is closed."""

    def __init__(self, stream: TarStream, after: Callable[[], None]) -> None:
        self._stream = stream
        self._after: Callable[[], None] | None = after

    def read(self, n: int = -1, /) -> bytes:
        return self._stream.read(n)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            after, self._after = self._after, None
            if after is not None:
                after()
