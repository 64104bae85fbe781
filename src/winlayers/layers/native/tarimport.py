"""A layer's tar fed to a layer writer.

Source: hcsshim ``pkg/ociwclayer/import.go`` and dockerd ``writeLayerFromTar``: what becomes of which entry.
"""

from __future__ import annotations

from typing import BinaryIO

from winlayers.errors import LayerContentError
from winlayers.layers.service import LayerWriter, TarStream
from winlayers.tar import TarReader
from winlayers.tar.backuptar import EntryKind
from winlayers.tar.layertar import LayerTarEntry, entries_from_tar
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import normalize_layer_path

_CHUNK = 1 << 20


def write_from_tar(source: BinaryIO | TarStream, writer: LayerWriter) -> None:
    """Add all that the tar holds to *writer*, which is neither committed nor aborted here.

    The source is read to its end, past the archive's.

    Raises:
        TarError, LayerContentError, InvalidNameError: the tar is not a layer.
    """
    reader = TarReader(source, buffer_size=_CHUNK)
    for entry in entries_from_tar(reader):
        _add(entry, writer)
    reader.drain()


def _add(entry: LayerTarEntry, writer: LayerWriter) -> None:
    path = normalize_layer_path(entry.path) if entry.path else ""
    if ":" in path:
        raise LayerContentError("a stream that does not follow its file, or a colon in a name", path=path)
    if not path:
        if entry.kind is not EntryKind.DIRECTORY:
            raise LayerContentError("only a directory can be the layer's root")
    elif entry.kind is EntryKind.WHITEOUT:
        writer.remove(path)
    elif entry.kind is EntryKind.OPAQUE:
        writer.hide(path)
    elif entry.kind is EntryKind.LINK:
        writer.add_link(path, normalize_layer_path(entry.link_target or ""))
    else:
        writer.add(path, entry.metadata or FileMetadata(), entry.streams)
