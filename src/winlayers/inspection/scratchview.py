"""A container's merged view: its image's, with what its scratch layer changes laid over it.

The changes are indexed like a layer's tar, into a temporary file, and merged by the same rules.  Their data
stays where the scratch layer has it: where a tar's index would have an offset in the tar, this one has a
number that leads to the changed file.
"""

from __future__ import annotations

import bisect
import os
import tempfile
from collections.abc import Iterator

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable.index import EntryCode, Index, IndexWriter
from winlayers.layers.portable.merge import build_view
from winlayers.layers.portable.scratch import ScratchReader
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import Extent, Source, View
from winlayers.layers.service import EntryKind
from winlayers.win32.metadata import DataStream

_CODES = {
    EntryKind.FILE: EntryCode.FILE,
    EntryKind.DIRECTORY: EntryCode.DIRECTORY,
    EntryKind.LINK: EntryCode.LINK,
    EntryKind.WHITEOUT: EntryCode.WHITEOUT,
    EntryKind.OPAQUE: EntryCode.OPAQUE,
}
_ROOTS = ("Files", "Hives")


class ScratchView(View):
    """The view of a scratch layer's chain with its changes."""

    def __init__(self, service: PortableLayerService, layer_id: str) -> None:
        """Look at the scratch layer *layer_id*, as it is now.

        Raises:
            LayerNotFoundError: there is none.
            LayerCorruptError: its changes can't be read.
        """
        self._starts: list[int] = []
        self._data: list[DataStream] = []
        self._folder = tempfile.TemporaryDirectory(prefix="winlayers-")
        try:
            reader = service.open_reader(layer_id, ())
            if not isinstance(reader, ScratchReader):
                reader.close()
                raise LayerCorruptError("it is not a scratch layer", layer=layer_id)
            self._reader = reader
            path = os.path.join(self._folder.name, "view.db")
            self._index(layer_id)
            with (
                service.views.open(service.scratch_parent(layer_id)) as below,
                self.open_index(layer_id) as index,
            ):
                build_view(path, below.path, [(layer_id, index, lambda target: None)])
            super().__init__(path, service.store.home)
        except BaseException:
            self._folder.cleanup()
            raise

    def _index(self, layer_id: str) -> None:
        writer = IndexWriter(self._index_path)
        try:
            end = 0
            for number, (entry, streams) in enumerate(self._reader):
                if entry.path in _ROOTS:
                    continue  # a delta layer begins with them, but they are the image's
                parts = list(streams) if entry.kind is EntryKind.FILE else []
                places = []
                for part in parts:
                    places.append((Source.TAR if part.size else Source.NONE, end, part.size))
                    if part.size:
                        self._starts.append(end)
                        self._data.append(part)
                        end += part.size
                unnamed = places[0] if parts and not parts[0].name else (Source.NONE, 0, 0)
                writer.add(
                    entry.path,
                    _CODES[entry.kind],
                    header=number,
                    metadata=entry.metadata if entry.kind is not EntryKind.LINK else None,
                    source=unnamed[0],
                    offset=unnamed[1],
                    size=unnamed[2],
                    link=entry.link_target,
                )
                for part, (source, offset, size) in zip(parts, places, strict=True):
                    if part.name:
                        writer.add_stream(part.name, source=source, offset=offset, size=size)
            writer.finish("", end)
        finally:
            writer.close()

    @property
    def _index_path(self) -> str:
        return os.path.join(self._folder.name, "index.db")

    def open_index(self, name: str) -> Index:
        """The index of the changes."""
        return Index(self._index_path, name)

    def _own(self, extent: Extent) -> DataStream | None:
        """The changed stream that the extent means; None: it is in a layer below."""
        if extent.layer != len(self.layers) - 1 or extent.source is not Source.TAR:
            return None
        return self._data[bisect.bisect_right(self._starts, extent.offset) - 1]

    def read(self, extent: Extent, offset: int = 0, size: int = -1) -> bytes:
        stream = self._own(extent)
        if stream is None:
            return super().read(extent, offset, size)
        left = max(0, extent.size - offset)
        want = left if size < 0 else min(size, left)
        parts, position = [], 0
        for chunk in stream.chunks:
            if want <= 0:
                break
            begin = max(0, offset - position)
            position += len(chunk)
            part = bytes(chunk[begin : begin + want])
            parts.append(part)
            offset += len(part)
            want -= len(part)
        return b"".join(parts)

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        stream = self._own(extent)
        if stream is None:
            yield from super().chunks(extent)
            return
        for chunk in stream.chunks:
            yield bytes(chunk)

    def close(self) -> None:
        super().close()
        self._reader.close()
        self._folder.cleanup()
