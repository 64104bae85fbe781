"""What is kept of layer blobs that were looked into: their index and the points to read them from.

On disk, below the cache's folder (all derived, all may be deleted at any time)::

    blobs/<digits>/index.db     what the layer holds (:mod:`winlayers.layers.portable.index`)
                   side.bin     expanded sparse members, if there are any
                   points.db    where to begin to read (:mod:`winlayers.inspection.seekpoints`)
    views/<digits>.db           merged views of chains of blobs

A blob's folder is named after its digest and made while the blob is read once, with both digests checked.
The data itself is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from winlayers import durable
from winlayers.errors import LayerCorruptError, WinlayersError
from winlayers.images.blobstream import LayerStream
from winlayers.images.cachefolder import CacheFolder
from winlayers.images.compression import Reader
from winlayers.images.digest import split_digest
from winlayers.images.documents import Descriptor
from winlayers.images.progress import QUIET, Progress
from winlayers.inspection.seekable import scan
from winlayers.inspection.seekpoints import Points, PointWriter
from winlayers.layers.portable import disk
from winlayers.layers.portable.index import Index
from winlayers.layers.portable.ingest import index_stream
from winlayers.layers.portable.view import SCHEMA_VERSION as VIEW_VERSION

INDEX = "index.db"
POINTS = "points.db"


class BlobCache:
    """The indexes of layer blobs, by digest."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Keep them below *folder*, made if it is missing.

        Raises:
            StoreError: it can't be made.
        """
        self.folder = CacheFolder(folder)
        self.folder.make()
        self.blobs = self.folder.blobs
        self.views = self.folder.views

    def name(self, digest: str) -> str:
        """The name of a blob's folder."""
        return split_digest(digest)[1]

    def index(self, digest: str) -> Index:
        """The blob's index; :meth:`ensure` has been called."""
        return Index(os.fspath(self.blobs / self.name(digest) / INDEX), digest)

    def points(self, digest: str) -> Points:
        """The blob's points; :meth:`ensure` has been called."""
        return Points(os.fspath(self.blobs / self.name(digest) / POINTS), digest)

    def has(self, digest: str) -> bool:
        """Whether the blob was read before, by this version."""
        try:
            self.index(digest).close()
            self.points(digest).close()
        except LayerCorruptError:
            return False
        return True

    def ensure(
        self,
        blob: Descriptor,
        diff_id: str,
        open_blob: Callable[[], BinaryIO],
        *,
        progress: Progress = QUIET,
        label: str = "",
    ) -> None:
        """Read the blob once, unless that was done before.

        Raises:
            DigestMismatchError: it is not the blob of *blob*, or its tar not that of *diff_id*.
            StoreError: what is learnt of it can't be kept.
            TarError, LayerContentError: it is no layer.
        """
        if self.has(blob.digest):
            return
        with durable.FileLock(os.fspath(self.folder.locks / self.name(blob.digest)[:2])):
            if self.has(blob.digest):  # by another process, meanwhile
                return
            progress.start(blob.digest, label or "layer", blob.size)
            target = self.blobs / self.name(blob.digest)
            with contextlib.ExitStack() as stack:
                with disk.writing():
                    hidden = stack.enter_context(durable.hidden_folder(os.fspath(self.blobs)))
                with open_blob() as file:
                    self._read(file, blob, diff_id, hidden, progress)
                with disk.writing():
                    durable.fsync_tree(hidden)
                    durable.remove_tree(os.fspath(target))
                    durable.rename_dir(hidden, os.fspath(target))
            progress.finish(blob.digest, "indexed")

    @staticmethod
    def _read(file: BinaryIO, blob: Descriptor, diff_id: str, hidden: str, progress: Progress) -> None:
        points = PointWriter(os.path.join(hidden, POINTS))

        def inflate(source: Reader) -> Iterable[bytes]:
            return scan(source, points)

        def advance(data: bytes) -> None:
            progress.advance(blob.digest, len(data))

        try:
            with LayerStream(file, blob, diff_id, tee=advance, inflate=inflate) as stream:
                index_stream(stream, blob.digest, hidden, lambda: stream.diff_id)
                stream.drain()
        except WinlayersError as error:
            if error.layer is None:
                error.layer = blob.digest
            raise
        finally:
            points.close()

    def view_path(self, digests: Sequence[str]) -> str:
        """Where the view of that chain of blobs is, or would be."""
        text = "\n".join([str(VIEW_VERSION), *digests])
        return os.fspath(self.views / f"{hashlib.sha256(text.encode('ascii')).hexdigest()}.db")
