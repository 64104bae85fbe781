"""The merged view of an image whose layers are read where they lie: in a layout, an archive, a registry."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol, cast

from winlayers.images.config import ImageConfig
from winlayers.images.documents import Descriptor, Manifest
from winlayers.images.progress import QUIET, Progress
from winlayers.inspection.blobcache import BlobCache
from winlayers.inspection.seekable import OpenAt, SeekableBlob
from winlayers.layers.portable import disk
from winlayers.layers.portable.index import EntryCode, EntryRow, Index, StreamRow
from winlayers.layers.portable.merge import Hidden, build_view
from winlayers.layers.portable.view import Extent, Source, View

_CHUNK = 1 << 20
_SKIP = 1 << 20


class BlobSource(Protocol):
    """Where blobs are read from: an :class:`~winlayers.images.transports.base.ImageSource`, or a store."""

    def open_blob(self, descriptor: Descriptor) -> BinaryIO: ...

    def read_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes | None: ...


class BlobView(View):
    """A view whose tars are inside compressed blobs."""

    def __init__(self, path: str, home: str, blobs: Sequence[SeekableBlob]) -> None:
        """Open the view file *path*; *blobs* are its layers', base first, closed with the view."""
        super().__init__(path, home)
        self.blobs = tuple(blobs)

    def read(self, extent: Extent, offset: int = 0, size: int = -1) -> bytes:
        if extent.source is not Source.TAR:
            return super().read(extent, offset, size)
        left = max(0, extent.size - offset)
        want = left if size < 0 else min(size, left)
        return self.blobs[extent.layer].read(extent.offset + offset, want) if want else b""

    def close(self) -> None:
        super().close()
        for blob in self.blobs:
            blob.close()


def open_blob_view(
    source: BlobSource,
    manifest: Manifest,
    config: ImageConfig,
    cache: BlobCache,
    *,
    progress: Progress = QUIET,
) -> BlobView:
    """The view of an image's layers in *source*; each blob is read once, ever, by this cache.

    Raises:
        DigestMismatchError: a blob is not what the manifest says.
        TarError, LayerContentError: one is no layer.
    """
    total = len(manifest.layers)
    for number, (blob, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True), 1):
        cache.ensure(blob, diff_id, opener(source, blob), progress=progress, label=f"layer {number}/{total}")
    digests = [blob.digest for blob in manifest.layers]
    path = cache.view_path(digests)
    if not os.path.exists(path):
        _build(cache, digests, path)
    blobs = [SeekableBlob(cache.points(b.digest), open_at(source, b), b.digest) for b in manifest.layers]
    return BlobView(path, os.fspath(cache.blobs), blobs)


def _build(cache: BlobCache, digests: Sequence[str], path: str) -> None:
    indexes = [cache.index(digest) for digest in digests]
    try:
        layers = [
            (cache.name(digest), index, _hidden_targets(cache, digests[:position], indexes[:position]))
            for position, (digest, index) in enumerate(zip(digests, indexes, strict=True))
        ]
        with disk.writing():
            build_view(path, None, layers)
    finally:
        for index in indexes:
            index.close()


def _hidden_targets(cache: BlobCache, digests: Sequence[str], indexes: Sequence[Index]) -> Hidden:
    """What finds a link's target in the nearest layer below that has it, deleted above it or not."""

    def find(target: str) -> tuple[str, EntryRow, Sequence[StreamRow]] | None:
        for position in range(len(indexes) - 1, -1, -1):
            row = indexes[position].lookup(target)
            if row is None or row.code == EntryCode.DIRECTORY:
                continue
            if row.code == EntryCode.LINK and row.link is not None and row.link != target:
                return _hidden_targets(cache, digests[: position + 1], indexes[: position + 1])(row.link)
            return cache.name(digests[position]), row, indexes[position].streams_of(row.seq)
        return None

    return find


def opener(source: BlobSource, blob: Descriptor) -> Callable[[], BinaryIO]:
    """Opens *blob* at its start."""
    return lambda: source.open_blob(blob)


def open_at(source: BlobSource, blob: Descriptor) -> OpenAt:
    """Opens *blob* anywhere, by the cheapest means that *source* has."""

    def opened(offset: int) -> BinaryIO:
        first = source.read_range(blob, offset, min(_CHUNK, max(1, blob.size - offset)))
        if first is not None:
            return cast(BinaryIO, io.BufferedReader(_Ranges(source, blob, offset, first), _CHUNK))
        file = source.open_blob(blob)
        if file.seekable():
            file.seek(offset)
            return file
        left = offset
        while left and (data := file.read(min(left, _SKIP))):
            left -= len(data)
        return file

    return opened


class _Ranges(io.RawIOBase):
    """A blob from an offset on, fetched in pieces."""

    def __init__(self, source: BlobSource, blob: Descriptor, offset: int, first: bytes) -> None:
        self._source = source
        self._blob = blob
        self._ready = first
        self._position = offset + len(first)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what BufferedReader passes
        if not self._ready and self._position < self._blob.size:
            want = min(_CHUNK, self._blob.size - self._position)
            self._ready = self._source.read_range(self._blob, self._position, want) or b""
            self._position += len(self._ready)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
