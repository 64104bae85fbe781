"""Tar streams, and Windows metadata inside them.

- :class:`TarReader`, :class:`TarWriter`: members in and out, as Go's ``archive/tar`` reads and writes them;
- :func:`metadata_from_header`, :func:`header_from_metadata`, :func:`write_entry`: go-winio's ``backuptar``;
- :func:`entries_from_tar`, :class:`TarLayerWriter`: a layer's tar as files, links and whiteouts;
- :func:`write_backup_stream`, :func:`write_from_backup_stream`: the same as Win32 backup streams;
- :mod:`winlayers.tar.tarsplit`: tars taken apart and put together again, byte for byte.

A name is loaded with its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winlayers.tar.backupexport import write_from_backup_stream, write_from_backup_stream_once
    from winlayers.tar.backuptar import (
        EntryKind,
        header_from_metadata,
        metadata_from_header,
        write_entry,
        write_layer_entry,
    )
    from winlayers.tar.header import Format, TarHeader
    from winlayers.tar.layertar import (
        LayerTarEntry,
        TarDataStream,
        TarLayerWriter,
        entries_from_tar,
        write_backup_stream,
    )
    from winlayers.tar.reader import SkippingSource, Source, TarReader
    from winlayers.tar.writer import Sink, TarWriter

_HOMES = {
    "backupexport": ("write_from_backup_stream", "write_from_backup_stream_once"),
    "backuptar": (
        "EntryKind",
        "header_from_metadata",
        "metadata_from_header",
        "write_entry",
        "write_layer_entry",
    ),
    "header": ("Format", "TarHeader"),
    "layertar": (
        "LayerTarEntry",
        "TarDataStream",
        "TarLayerWriter",
        "entries_from_tar",
        "write_backup_stream",
    ),
    "reader": ("SkippingSource", "Source", "TarReader"),
    "writer": ("Sink", "TarWriter"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "EntryKind",
    "Format",
    "LayerTarEntry",
    "Sink",
    "SkippingSource",
    "Source",
    "TarDataStream",
    "TarHeader",
    "TarLayerWriter",
    "TarReader",
    "TarWriter",
    "entries_from_tar",
    "header_from_metadata",
    "metadata_from_header",
    "write_backup_stream",
    "write_entry",
    "write_from_backup_stream",
    "write_from_backup_stream_once",
    "write_layer_entry",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
