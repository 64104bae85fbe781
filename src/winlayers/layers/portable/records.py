"""Making a layer's damaged record again from what the layer's other files agree on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable import disk
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.digests import file_digest
from winlayers.layers.portable.index import Index
from winlayers.layers.portable.ingest import rebuild_index
from winlayers.layers.portable.store import LayerRecord, LayerStore


def restore_record(store: LayerStore, layer_id: str) -> None:
    """Write the record of the layer again, and its index with it.

    The tar must have the digest that its index, or what is left of the record, tells of; a layer without
    content has neither.  What a scratch layer's record says of size and mount kind stands nowhere else.

    Raises:
        LayerCorruptError: it can't be known what the record was.
    """
    folder = store.folder(layer_id)
    files = set(os.listdir(folder))
    if folders.SCRATCH in files:
        raise LayerCorruptError("a scratch layer's record can't be made again", layer=layer_id)
    parent = next(iter(store.parents(layer_id)), "")
    if not files & {folders.TAR, folders.INDEX, folders.SIDE}:
        store.write_record(folder, LayerRecord("layer", parent=parent))
        return
    path = os.path.join(folder, folders.TAR)
    for digest, size in _witnesses(folder, layer_id):
        if folders.TAR in files and os.stat(path).st_size >= size and file_digest(path, size) == digest:
            break
    else:
        raise LayerCorruptError("the tar is not what its index or record tells of", layer=layer_id)

    def keep(new: LayerRecord) -> None:
        with store.lock(), disk.writing():
            store.write_record(folder, dataclasses.replace(new, parent=parent))

    rebuild_index(folder, layer_id, LayerRecord("layer", True, digest, size), keep)


def _witnesses(folder: str, layer_id: str) -> Iterator[tuple[str, int]]:
    """What the layer's files say of its tar: digest, size in bytes."""
    said: list[tuple[object, object]] = []
    try:
        with Index(os.path.join(folder, folders.INDEX), layer_id) as index:
            said = [(index.summary.digest, index.summary.tar_size)]
    except LayerCorruptError:
        pass  # it may be the other one that is whole
    try:
        with open(os.path.join(folder, folders.RECORD), "rb") as file:
            value = json.load(file)
        if isinstance(value, dict):
            said.append((value.get("digest"), value.get("tar_size")))
    except (OSError, ValueError):
        pass
    for digest, size in said:
        if isinstance(digest, str) and isinstance(size, int) and size >= 0:
            yield digest, size
