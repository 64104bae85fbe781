"""A layer service that records its calls and fails on demand, to test what is built on the contract."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from winlayers.errors import (
    LayerContentError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    TarError,
    UnsupportedError,
)
from winlayers.layers.service import (
    DriverInfo,
    EntryKind,
    LayerEntry,
    LayerReader,
    LayerService,
    LayerWriter,
    TarStream,
)
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata

_WHITEOUT = ".wh."


class RecordingLayerService(LayerService):
    """Keeps tars in folders, with empty views; does what the contract says of order and errors, no more.

    Attributes:
        calls: each call as a tuple of its name and the ids (for prepare also the chain) that it was given.
        fail: what a method of that name raises instead of working.
        pause: what a method of that name calls before it works (to hold it up in a thread).
        active, prepared: the layers that are.
        can_stream: what :attr:`streaming` answers.
        images: what :meth:`shared_base_images` answers.
        outside: folders of layers that lie outside of the home, by name.
    """

    def __init__(self, info: DriverInfo) -> None:
        self.info = info
        self.calls: list[tuple[str, ...]] = []
        self.fail: dict[str, BaseException] = {}
        self.pause: dict[str, threading.Event] = {}
        self.active: set[str] = set()
        self.prepared: set[str] = set()
        self.can_stream = True
        self.images = '{"Images": []}'
        self.outside: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    @property
    def name(self) -> str:
        return "recording"

    @property
    def streaming(self) -> bool:
        return self.can_stream

    def _record(self, name: str, *arguments: str) -> None:
        self.calls.append((name, *arguments))
        if name in self.pause:
            self.pause[name].wait(10)
        if name in self.fail:
            raise self.fail[name]

    def _need(self, layer_id: str) -> None:
        if not self.exists(layer_id):
            raise LayerNotFoundError("no such layer", layer=layer_id)

    def _tar(self, layer_id: str) -> str:
        return os.path.join(self.layer_path(layer_id), "layer.tar")

    # -- life of a layer --

    def exists(self, layer_id: str) -> bool:
        return layer_id in self.outside or os.path.exists(os.path.join(self.layer_path(layer_id), "kind"))

    def _make(self, layer_id: str, kind: str) -> None:
        if self.exists(layer_id):
            raise LayerExistsError("there is one", layer=layer_id)
        os.makedirs(self.layer_path(layer_id))
        with open(os.path.join(self.layer_path(layer_id), "kind"), "w", encoding="ascii") as file:
            file.write(kind)

    def create(self, layer_id: str, parent_id: str) -> None:
        self._record("create", layer_id, parent_id)
        self._make(layer_id, "layer")

    def create_scratch(self, layer_id: str, chain: Sequence[str]) -> None:
        self._record("create_scratch", layer_id, *chain)
        if not chain:
            raise LayerNotFoundError("no parent", layer=layer_id)
        self._make(layer_id, "scratch")

    def expand_scratch(self, layer_id: str, size: int) -> None:
        self._record("expand_scratch", layer_id, str(size))
        self.sizes[layer_id] = size

    def destroy(self, layer_id: str) -> None:
        self._record("destroy", layer_id)
        if layer_id in self.active:
            raise LayerInUseError("active", layer=layer_id)
        shutil.rmtree(self.layer_path(layer_id), ignore_errors=True)

    def prepare_removal(self, layer_id: str) -> None:
        self._record("prepare_removal", layer_id)

    def release(self, layer_path: str) -> None:
        self._record("release", os.path.basename(layer_path))

    # -- views --

    def activate(self, layer_id: str) -> None:
        self._record("activate", layer_id)
        self._need(layer_id)
        self.active.add(layer_id)

    def prepare(self, layer_id: str, chain: Sequence[str]) -> None:
        self._record("prepare", layer_id, *chain)
        os.makedirs(os.path.join(self.layer_path(layer_id), "view"), exist_ok=True)
        self.prepared.add(layer_id)

    def unprepare(self, layer_id: str) -> None:
        self._record("unprepare", layer_id)
        self.prepared.discard(layer_id)

    def deactivate(self, layer_id: str) -> None:
        self._record("deactivate", layer_id)
        self.active.discard(layer_id)

    def is_prepared(self, layer_id: str) -> bool:
        return layer_id in self.prepared

    def mount_path(self, layer_id: str) -> str:
        self._record("mount_path", layer_id)
        if layer_id in self.outside:
            return self.outside[layer_id]
        return os.path.join(self.layer_path(layer_id), "view") if layer_id in self.prepared else ""

    # -- content --

    def open_reader(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        self._record("open_reader", layer_id)
        self._need(layer_id)
        return _TarReader(self._tar(layer_id), self)

    def open_writer(self, layer_id: str, chain: Sequence[str]) -> LayerWriter:
        raise UnsupportedError("the recording service has no writer", layer=layer_id)

    def import_tar(self, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream) -> int:
        self._record("import_tar", layer_id, *chain)
        data = source.read()
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                size = sum(member.size for member in tar if ":" not in member.name)
        except tarfile.TarError as error:
            raise TarError(str(error), layer=layer_id) from error
        if os.path.exists(self._tar(layer_id)):
            raise LayerExistsError("it has content", layer=layer_id)
        if not self.exists(layer_id):
            self._make(layer_id, "layer")
        with open(self._tar(layer_id), "wb") as file:
            file.write(data)
        return size

    def export_tar(self, layer_id: str, chain: Sequence[str]) -> TarStream:
        self._record("export_tar", layer_id, *chain)
        self._need(layer_id)
        return _RecordedFile(self._tar(layer_id), self)

    def import_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        self._record("import_folder", layer_id, *chain)
        if not self.exists(layer_id):
            self._make(layer_id, "layer")
        shutil.copytree(folder, os.path.join(self.layer_path(layer_id), "content"), symlinks=True)

    def export_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        self._record("export_folder", layer_id, *chain)
        self._need(layer_id)
        content = os.path.join(self.layer_path(layer_id), "content")
        if os.path.isdir(content):
            shutil.copytree(content, folder, symlinks=True, dirs_exist_ok=True)

    def open_file(self, layer_id: str, path: str) -> BinaryIO:
        self._record("open_file", layer_id, path)
        with tarfile.open(self._tar(layer_id)) as tar:
            try:
                found = tar.extractfile(path)
            except KeyError:
                found = None
            if found is None:
                raise LayerContentError("no such file", layer=layer_id, path=path)
            return io.BytesIO(found.read())

    # -- the host --

    def shared_base_images(self) -> str:
        self._record("shared_base_images")
        return self.images

    def name_to_guid(self, name: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, name)

    def grant_vm_access(self, vm_id: str, path: str) -> None:
        raise UnsupportedError("no virtual machines", path=path)

    def process_base_layer(self, path: str) -> None:
        raise UnsupportedError("nothing to process", path=path)

    def process_utility_vm(self, path: str) -> None:
        raise UnsupportedError("nothing to process", path=path)

    # -- what tests ask --

    def chain_of(self, layer_id: str) -> object:
        """What the layer's ``layerchain.json`` holds."""
        with open(os.path.join(self.layer_path(layer_id), "layerchain.json"), encoding="utf-8") as file:
            return json.load(file)


class _RecordedFile:
    def __init__(self, path: str, service: RecordingLayerService) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        self._service = service

    def read(self, n: int = -1, /) -> bytes:
        self._service._record("read")
        return self._file.read(n)

    def close(self) -> None:
        self._service._record("close")
        self._file.close()


class _TarReader(LayerReader):
    """Reads a tar with the standard library, as far as the driver needs it."""

    def __init__(self, path: str, service: RecordingLayerService) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115 - closed by close
        self._service = service

    def __iter__(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        for member in self._tar:
            self._service._record("next")
            parent, base = os.path.split(member.name)
            if base.startswith(_WHITEOUT):
                yield LayerEntry(os.path.join(parent, base[len(_WHITEOUT) :]), EntryKind.WHITEOUT), ()
            elif member.islnk():
                yield LayerEntry(member.name, EntryKind.LINK, link_target=member.linkname), ()
            elif member.isdir():
                metadata = FileMetadata(FileAttributes.DIRECTORY)
                yield LayerEntry(member.name, EntryKind.DIRECTORY, metadata), ()
            elif ":" not in base:
                streams = (DataStream("", member.size, ()),)
                yield LayerEntry(member.name, EntryKind.FILE, FileMetadata(), member.size), streams

    def close(self) -> None:
        self._service._record("close_reader")
        self._tar.close()
