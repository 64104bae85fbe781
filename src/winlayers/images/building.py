"""New layers and new images in the store: what commit, append, squash and rebase are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, BinaryIO

from winlayers.errors import StoreError
from winlayers.images import mediatypes
from winlayers.images.compression import BUFFER, Compressor, Reader
from winlayers.images.config import ImageConfig, derive
from winlayers.images.digest import chain_ids, digest_of, layer_id
from winlayers.images.documents import Descriptor, manifest_bytes
from winlayers.images.image import Image
from winlayers.images.layout import OciLayout
from winlayers.images.leases import Lease
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore
from winlayers.tar.writer import Buffer, Sink


@dataclasses.dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer that is in the store now.

    Attributes:
        diff_id: the digest of its tar.
        blob: the compressed layer.
    """

    diff_id: str
    blob: Descriptor


class _Spool:
    """A file that is hashed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hasher = hashlib.sha256()
        self.size = 0

    def write(self, data: Buffer, /) -> object:
        self.hasher.update(data)
        self.size += len(data)
        return self._file.write(data)


@contextmanager
def spooled(
    store: ImageStore, tar: Reader | Callable[[Sink], object]
) -> Iterator[tuple[IO[bytes], str, int]]:
    """A layer tar in a file, with its diff id and size: its name must be known before it can be imported.

    Args:
        tar: gives the tar, or writes it.
    """
    try:
        with tempfile.TemporaryFile(dir=store.root / "layerdb", prefix=".tmp-") as file:
            spool = _Spool(file)
            if callable(tar):
                tar(spool)
            else:
                while chunk := tar.read(BUFFER):
                    spool.write(chunk)
            file.seek(0)
            yield file, f"sha256:{spool.hasher.hexdigest()}", spool.size
    except OSError as error:
        raise StoreError(f"can't keep the new layer: {error.strerror or error}") from error


def add_layer(
    store: ImageStore,
    lease: Lease,
    parents: Sequence[str],
    tar: Reader | Callable[[Sink], object],
    *,
    manifest_type: str,
    compression: str = "gzip",
    level: int | None = None,
    progress: Progress = QUIET,
) -> NewLayer:
    """Bring a new layer into the store: as a compressed blob, and as a layer of the graph driver.

    Args:
        parents: the diff ids of the layers below, base first.
        tar: the uncompressed layer tar, or what writes it.
        manifest_type: decides the family of the blob's media type.
        compression: ``gzip``, ``zstd`` or ``none``; the same tar always gives the same blob.
        level: of the compression; None: its default.
        progress: advanced by bytes of the tar.

    Raises:
        TarError, LayerContentError: the tar is not a layer.
    """
    with spooled(store, tar) as (file, diff_id, size):
        identifiers = [layer_id(chain) for chain in chain_ids([*parents, diff_id])]
        lease.add(identifiers)
        progress.start(diff_id, "new layer", size)
        with store.layer_lock(identifiers[-1]):
            if not store.driver.exists(identifiers[-1]):
                below = identifiers[-2] if parents else ""
                store.expect_layer(identifiers[-1], diff_id)
                data_size = store.driver.apply_diff(identifiers[-1], below, file)
                store.record_layer(identifiers[-1], diff_id, data_size, size)
        file.seek(0)
        digest, blob_size = _compress(
            store.content, lease, file, compression, level, lambda n: progress.advance(diff_id, n)
        )
        progress.finish(diff_id)
    media_type = mediatypes.layer_type(manifest_type, compression)
    return NewLayer(diff_id, Descriptor(media_type, digest, blob_size))


def _compress(
    content: OciLayout,
    lease: Lease,
    source: BinaryIO | IO[bytes],
    compression: str,
    level: int | None,
    count: Callable[[int], object],
) -> tuple[str, int]:
    compressor = Compressor(compression, level)
    hasher = hashlib.sha256()
    size = 0
    with content.writer() as writer:

        def put(data: bytes) -> None:
            nonlocal size
            hasher.update(data)
            size += len(data)
            writer.write(data)

        while chunk := source.read(BUFFER):
            put(compressor.compress(chunk))
            count(len(chunk))
        put(compressor.flush())
        digest = f"sha256:{hasher.hexdigest()}"
        lease.add([digest])
        writer.commit(digest)
    return digest, size


def add_image(
    store: ImageStore,
    lease: Lease,
    base: Image,
    *,
    layers: Sequence[Descriptor],
    diff_ids: Sequence[str],
    history: Sequence[Mapping[str, object]],
    change_run: Callable[[dict[str, object]], None] | None = None,
    change_document: Callable[[dict[str, object]], None] | None = None,
    author: str | None = None,
    annotations: Mapping[str, str | None] | None = None,
    reference: Reference | None = None,
) -> Image:
    """Write a new configuration and manifest in the manner of *base*'s, and name the image.

    Args:
        layers: all layers of the new image, base first; their blobs are in the store.
        diff_ids: as many diff ids.
        history: all steps of the history.
        change_run: changes a copy of what containers start with.
        change_document: changes a copy of the whole configuration.
        author: the new author; None keeps the old one.
        annotations: set in the manifest (OCI only); None takes one away.
        reference: what to call the image; None: nothing.
    """
    raw_config = derive(
        base.config,
        diff_ids=diff_ids,
        history=history,
        change_run=change_run,
        change_document=change_document,
        author=author,
    )
    config = ImageConfig.parse(raw_config, "the new configuration")
    config_blob = Descriptor(base.manifest.config.media_type, config.digest, len(raw_config))
    media_type = base.manifest.media_type
    noted = {**base.manifest.annotations, **(annotations or {})}
    kept = {key: value for key, value in noted.items() if value is not None}
    raw_manifest = manifest_bytes(media_type, config_blob, layers, kept)
    lease.add([config.digest])
    store.content.write(raw_config)
    descriptor = store_manifest(store, lease, raw_manifest, media_type)
    return store.set_reference(reference, descriptor)


def store_manifest(store: ImageStore, lease: Lease, raw: bytes, media_type: str) -> Descriptor:
    """Put a manifest's bytes into the store."""
    lease.add([digest_of(raw)])
    return Descriptor(media_type, store.content.write(raw), len(raw))
