"""Registry deltas: the one thing in a layer whose merging is not a matter of files.

Each layer of Windows brings ``Hives/*_Delta``, and Windows lays them over each other key by key.  A merged
view shows the topmost file only, so where layers are merged into one, what lower deltas say would be lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

from winlayers.layers.portable.index import EntryCode
from winlayers.layers.portable.ingest import open_extent
from winlayers.layers.portable.service import PortableLayerService
from winlayers.win32.regf import BASE_BLOCK_SIZE

ROOT = "HIVES/"
_SUFFIX = "_DELTA"
_ROOT_OFFSET = struct.Struct("<I")  # in the base block, at 36
_KEY = struct.Struct("<i2s18sII8sI")  # size, "nk", flags to parent, subkeys (stable, volatile), lists, values


def lost_deltas(service: PortableLayerService, layers: Sequence[str], *, into_base: bool) -> list[str]:
    """The registry deltas of *layers* that would be lost if these became one layer.

    Args:
        layers: the layers to be merged, lowest first.
        into_base: whether the lowest is a base layer, where Windows looks for no deltas.

    Returns:
        ``LAYER: PATH`` of each delta that says something and that is not the topmost of its name.
    """
    found: dict[str, list[str]] = {}
    for layer in layers:
        with service.views.index(layer) as index:
            deltas = {
                row.path.upper(): row
                for row in index.content()
                if row.code == EntryCode.FILE and row.path.upper().startswith(ROOT)
            }
        for name, row in sorted(deltas.items()):
            if not name.endswith(_SUFFIX):
                continue
            with open_extent(service.store.folder(layer), row.source, row.offset, row.size) as file:
                empty = is_empty(file)
            if not empty:
                found.setdefault(name, []).append(f"{layer[:12]}: {row.path}")
    return [delta for names in found.values() for delta in (names if into_base else names[:-1])]


def is_empty(hive: BinaryIO) -> bool:
    """Whether a hive has no keys and no values; what is no hive counts as one that has."""
    base = hive.read(BASE_BLOCK_SIZE)
    if not base:
        return True
    if not base.startswith(b"regf") or len(base) < BASE_BLOCK_SIZE:
        return False
    (offset,) = _ROOT_OFFSET.unpack_from(base, 36)
    hive.seek(BASE_BLOCK_SIZE + offset)
    root = hive.read(_KEY.size)
    if len(root) < _KEY.size:
        return False
    _, signature, _, stable, volatile, _, values = _KEY.unpack(root)
    return bool(signature == b"nk" and not stable and not volatile and not values)
