"""Layers that travel as the folder of the transport format, packed in a plain tar.

Windows Server 2016 TP4 could neither read nor write layers entry by entry, so the graph driver exported to a
temporary folder and packed that (source: the Docker 1.11 driver, ``exportLayer`` and ``importLayer``).
Where a layer service has no streaming this is still the way, and its archives are compatible.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator, Sequence
from typing import BinaryIO

from winlayers.durable import remove_tree
from winlayers.errors import LayerError, StoreError
from winlayers.graphdriver.windows.docker_layer import apply_layer
from winlayers.layers.service import LayerService, TarStream
from winlayers.tar.header import DIRECTORY, REGULAR, SYMLINK, Format, TarHeader
from winlayers.tar.writer import TarWriter

_CHUNK = 1 << 16
_PREFIX = "winlayers-"


def export_folder(service: LayerService, layer_id: str, chain: Sequence[str]) -> str:
    """Export the layer to a fresh temporary folder, for :func:`remove_exported`; return its path."""
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        service.export_folder(layer_id, folder, chain)
    except BaseException:
        remove_tree(folder)
        raise
    return folder


def remove_exported(folder: str) -> None:
    """Remove the *folder* that :func:`export_folder` made.

    Raises:
        StoreError: it can't be removed.
    """
    try:
        remove_tree(folder)
    except OSError as error:
        raise StoreError(f"can't remove a temporary folder: {error.strerror}", path=folder) from error


def export_packed(service: LayerService, layer_id: str, chain: Sequence[str]) -> TarStream:
    """The layer as a tar of its transport folder; closing the stream removes the folder."""
    return _PackedFolder(export_folder(service, layer_id, chain), layer_id)


def import_packed(
    service: LayerService, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream
) -> int:
    """Take in a tar of a transport folder; return the sum of its members' sizes.

    Raises:
        TarError, LayerContentError: it is not one.
    """
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        size = apply_layer(folder, source)
        service.import_folder(layer_id, folder, chain)
    finally:
        remove_tree(folder)
    return size


class _PackedFolder:
    """Reads a folder as a tar, made as it is read; removes the folder when closed."""

    def __init__(self, folder: str, layer_id: str) -> None:
        self._folder = folder
        self._layer_id = layer_id
        self._chunks = _pack(folder)
        self._rest = b""

    def read(self, n: int = -1, /) -> bytes:
        try:
            if n < 0:
                data = b"".join((self._rest, *self._chunks))
                self._rest = b""
                return data
            while n and not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return b""
                self._rest = chunk
        except OSError as error:
            raise LayerError(
                f"can't read the exported layer: {error.strerror}", layer=self._layer_id
            ) from error
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    def close(self) -> None:
        self._chunks.close()
        remove_exported(self._folder)


class _Collector:
    """A sink whose content is taken away piece by piece."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._parts.append(bytes(data))

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _pack(folder: str) -> Generator[bytes, None, None]:
    sink = _Collector()
    writer = TarWriter(sink)
    for path, found in _walk(folder):
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        kind = REGULAR
        if stat.S_ISDIR(found.st_mode):
            kind, name = DIRECTORY, f"{name}/"
        elif stat.S_ISLNK(found.st_mode):
            kind = SYMLINK
        header = TarHeader(
            name=name,
            typeflag=kind,
            size=found.st_size if kind == REGULAR else 0,
            mode=stat.S_IMODE(found.st_mode),
            linkname=os.readlink(path) if kind == SYMLINK else "",
            mtime=divmod(found.st_mtime_ns, 1_000_000_000),
            format=Format.PAX,
        )
        writer.write_header(header)
        yield sink.take()
        if kind == REGULAR:
            with open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    writer.write(chunk)
                    yield sink.take()
    writer.close()
    yield sink.take()


def _walk(folder: str) -> Generator[tuple[str, os.stat_result], None, None]:
    """All that lies below *folder*, parents first, in the order of names, but no devices and the like."""
    pending = [folder]
    while pending:
        current = pending.pop()
        below = []
        for name in sorted(os.listdir(current)):
            path = os.path.join(current, name)
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                below.append(path)
            if stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                yield path, found
        pending.extend(reversed(below))
