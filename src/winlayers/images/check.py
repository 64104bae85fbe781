"""Looking for damage above the layers: blobs, documents, references, and what they rely on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator

from winlayers import durable
from winlayers.durable.locks import hold
from winlayers.errors import LayerNotFoundError, WinlayersError
from winlayers.images.blobstream import LayerStream
from winlayers.images.documents import REF_NAME, Descriptor
from winlayers.images.image import Image
from winlayers.images.leases import leased
from winlayers.images.store import ImageStore

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFinding:
    """One thing that is wrong; the fields are those of the layer store's findings.

    Attributes:
        subject: the image, blob or container that it is about.
        problem: what is wrong.
        action: what was done about it; "" if nothing was.
        mended: whether it is right again.
    """

    subject: str
    problem: str
    action: str = ""
    mended: bool = False

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}"
        return f"{text}; {self.action}" if self.action else text


class ImageChecker:
    """Checks the images of a store.

    Args:
        repair: remove damaged blobs, so that the next load or pull brings them again.
        deep: read every blob and compare its digest; otherwise only sizes are compared.
    """

    def __init__(self, store: ImageStore, *, repair: bool = False, deep: bool = True) -> None:
        self._store = store
        self._repair = repair
        self._deep = deep

    def run(self) -> Iterator[ImageFinding]:
        """All findings; the store may be in use meanwhile: images that are removed are passed over."""
        damaged = set()
        for digest, _ in list(self._store.content.digests()):
            problem = self._blob_problem(digest)
            finding = None if problem is None else self._damaged(digest, problem)
            if finding is not None:
                damaged.add(digest)
                yield finding
        for folder in self._store.work_folders():
            yield from leftovers(folder, repair=self._repair)
        for descriptor in self._store.content.manifests():
            if self._findings(descriptor, damaged):
                # Again, while nobody can remove it, or bring back what was removed.
                with self._store.lock(shared=True):
                    found = self._findings(descriptor, damaged)
                yield from found

    def _findings(self, descriptor: Descriptor, damaged: set[str]) -> list[ImageFinding]:
        """What is wrong with an image, unless that has been removed."""
        try:
            found = list(self._image(descriptor, damaged))
        except LayerNotFoundError:
            return []
        return found if any(d.digest == descriptor.digest for d in self._store.content.manifests()) else []

    def _blob_problem(self, digest: str) -> str | None:
        if not self._deep:
            return None
        found = hashlib.sha256()
        try:
            with self._store.content.open(digest) as file:
                while data := file.read(_CHUNK):
                    found.update(data)
        except (OSError, WinlayersError) as error:
            if not self._store.content.blob_path(digest).exists():
                return None  # removed just now; an image that still needs it is found to lack it
            return f"can't be read: {error}"
        actual = f"sha256:{found.hexdigest()}"
        return None if actual == digest else f"changed: its digest is {actual}"

    def _damaged(self, digest: str, problem: str) -> ImageFinding | None:
        """The finding; None: another process has removed the blob, and maybe brought it whole, meanwhile."""
        subject = f"blob {digest}"
        if not self._repair:
            return ImageFinding(subject, problem)
        with self._store.lock():
            if digest in leased(self._store.root / "leases"):
                return ImageFinding(subject, problem, "left, as another process works with it")
            if self._blob_problem(digest) is None:
                return None
            self._store.content.delete(digest)
        return ImageFinding(subject, problem, "removed; load or pull its image again", False)

    def _image(self, descriptor: Descriptor, damaged: set[str]) -> Iterator[ImageFinding]:
        name = descriptor.annotations.get(REF_NAME, descriptor.digest)
        try:
            manifest = self._store.read_manifest(descriptor)
            image = self._store.find(descriptor.digest)
        except WinlayersError as error:
            yield ImageFinding(f"image {name}", str(error))
            return
        for blob in (manifest.config, *manifest.layers):
            if blob.digest in damaged or self._store.content.has(blob) or blob.urls:
                continue
            if not self._store.is_unkept(blob.digest):
                yield ImageFinding(f"image {name}", f"the blob {blob.digest} is missing or has another size")
        yield from self._layers(name, image)

    def _layers(self, name: str, image: Image) -> Iterator[ImageFinding]:
        for info in self._store.layers(image):
            if not info.present:
                continue
            digest = self._store.driver.get_metadata(info.id).get("digest")
            if digest is not None and digest != info.diff_id:
                yield ImageFinding(
                    f"image {name}", f"layer {info.id} has the diff id {digest}, not {info.diff_id}"
                )


def leftovers(folder: str, *, repair: bool = False) -> Iterator[ImageFinding]:
    """What processes that are gone have left half done in the folder; nothing where there is none.

    Args:
        repair: remove it.
    """
    problem = "half done work of a process that is gone"
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(folder, name)
        if not durable.is_leftover(path):
            continue
        if not repair:
            yield ImageFinding(name, problem)
            continue
        held = hold(path, alone=True)
        if held is None:
            continue  # its maker, which can't be seen from here, has just begun with it
        action = "removed"
        try:
            durable.remove_any(path)
        except OSError as error:
            action = f"could not be removed: {error.strerror}"
        finally:
            held.close()
        yield ImageFinding(name, problem, action, action == "removed")


def restore_layer(store: ImageStore, layer_id: str, diff_id: str, target: str) -> bool:
    """Write the layer's uncompressed tar to the new file *target*, from the blob of an image that has it.

    Returns:
        Whether some image's blob could be used.

    Raises:
        OSError: *target* can't be written.
    """
    for image in store.images():
        for blob, known in zip(image.manifest.layers, image.config.diff_ids, strict=True):
            if known != diff_id or not store.content.has(blob):
                continue
            try:
                with (
                    store.content.open(blob.digest) as raw,
                    LayerStream(raw, blob, diff_id) as stream,
                    open(target, "wb") as file,
                ):
                    while data := stream.read(_CHUNK):
                        file.write(data)
            except WinlayersError:
                continue  # that blob is damaged as well; another image may have a good one
            return True
    return False
