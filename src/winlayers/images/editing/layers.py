"""What the verbs need of an image's layers: that they are there, and can be looked into."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from winlayers.errors import ImageError, UnsupportedError
from winlayers.images.blobstream import LayerStream
from winlayers.images.digest import chain_ids, layer_id
from winlayers.images.image import Image
from winlayers.images.leases import Lease
from winlayers.images.progress import QUIET, Progress
from winlayers.images.store import ImageStore
from winlayers.layers.portable.service import PortableLayerService


def portable_service(store: ImageStore, purpose: str) -> PortableLayerService:
    """The layer service, which can show layers merged.

    Raises:
        UnsupportedError: it is another that can't; *purpose* says what it was needed for.
    """
    service = getattr(store.driver, "service", None)
    if not isinstance(service, PortableLayerService):
        raise UnsupportedError(f"{purpose} needs the portable layer service, which this store does not use")
    return service


def hold(store: ImageStore, lease: Lease, image: Image) -> None:
    """Lease all that the image is made of.

    Raises:
        ImageNotFoundError: it has been removed meanwhile.
    """
    lease.add([*image.layer_ids, *(d.digest for d in image.blobs)])
    store.find(image.digest)


def ensure_layers(store: ImageStore, lease: Lease, image: Image, progress: Progress = QUIET) -> None:
    """Hold the image, and have all its layers in the graph driver, from its blobs where they are not.

    Raises:
        ImageNotFoundError: the image has been removed meanwhile, or a layer and its blob are both missing.
        DigestMismatchError: a blob is damaged.
    """
    hold(store, lease, image)
    parent = ""
    for identifier, diff_id, blob in zip(
        image.layer_ids, image.config.diff_ids, image.manifest.layers, strict=True
    ):
        with store.layer_lock(identifier):
            if not store.driver.exists(identifier):
                progress.start(identifier, "layer", blob.size)
                with (
                    store.content.open(blob.digest) as file,
                    LayerStream(file, blob, diff_id, tee=_counter(progress, identifier)) as stream,
                ):
                    _apply(store, identifier, parent, diff_id, stream)
                progress.finish(identifier)
        parent = identifier


def find_layer(image: Image, name: str) -> int:
    """The number (from 0) of the image's layer that *name* means.

    Args:
        name: a layer id, diff id, chain id or blob digest, or the start of one (4 digits at least); or the
            layer's position, from 1.

    Raises:
        ImageError: there is none, or several.
    """
    count = len(image.manifest.layers)
    if name.isascii() and name.isdigit() and len(name) < 4:
        if 1 <= int(name) <= count:
            return int(name) - 1
        raise ImageError(f"the image has no layer number {name}: it has {count}")
    digits = name.rpartition(":")[2]
    found = {
        number
        for number in range(count)
        for known in (
            image.layer_ids[number],
            image.config.diff_ids[number],
            image.manifest.layers[number].digest,
        )
        if len(digits) >= 4 and known.rpartition(":")[2].startswith(digits)
    }
    if len(found) != 1:
        what = f"{len(found)} layers" if found else "no layer"
        raise ImageError(f"the image has {what} called {name!r}", hint="winlayers layers IMAGE lists them")
    return found.pop()


def _counter(progress: Progress, key: str) -> Callable[[bytes], object]:
    return lambda data: progress.advance(key, len(data))


def _apply(store: ImageStore, identifier: str, parent: str, diff_id: str, stream: LayerStream) -> None:
    store.expect_layer(identifier, diff_id)
    size = store.driver.apply_diff(identifier, parent, stream)
    try:
        stream.drain()  # the last checks come with the end
    except BaseException:
        store.driver.remove(identifier)
        raise
    store.record_layer(identifier, diff_id, size, stream.size)


def transplant(
    store: ImageStore, lease: Lease, image: Image, first: int, base: Sequence[str], progress: Progress = QUIET
) -> None:
    """Have the image's layers from number *first* on (from 0) also above the layers of the diff ids *base*.

    Raises:
        LayerContentError: a layer can't stand there.
    """
    upper = image.config.diff_ids[first:]
    identifiers = [layer_id(chain) for chain in chain_ids([*base, *upper])][len(base) :]
    lease.add(identifiers)
    parent = layer_id(chain_ids(base)[-1])
    for diff_id, old, new in zip(upper, image.layer_ids[first:], identifiers, strict=True):
        with store.layer_lock(new):
            if not store.driver.exists(new):
                progress.start(new, "layer on the new base")
                _copy(store, old, new, parent, diff_id)
                progress.finish(new)
        parent = new


def _copy(store: ImageStore, old: str, new: str, parent: str, diff_id: str) -> None:
    tar = store.driver.diff(old)
    try:
        counted = _Counted(tar.read)
        store.expect_layer(new, diff_id)
        size = store.driver.apply_diff(new, parent, counted)
    finally:
        tar.close()
    store.record_layer(new, diff_id, size, counted.size)


class _Counted:
    """A stream that counts what is read of it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.size = 0

    def read(self, n: int = -1, /) -> bytes:
        data = self._read(n)
        self.size += len(data)
        return data

    def close(self) -> None:
        """The stream is closed by whoever opened it."""
