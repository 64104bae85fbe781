"""``docker-archive:FILE[:REF]``: what ``docker save`` writes and ``docker load`` reads.

``manifest.json`` lists images as the names of a configuration and of plain layer tars; there are no manifests
and no digests of blobs.  A manifest is therefore made up on reading, with each layer's own tar as its blob,
as skopeo does; the diff ids of the configuration check the layers.  Source: moby ``image/tarexport``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import BinaryIO

from winlayers.errors import ImageError, ImageNotFoundError, InvalidReferenceError
from winlayers.images import mediatypes
from winlayers.images.blobstream import LayerStream
from winlayers.images.compression import BUFFER, Reader, sniff
from winlayers.images.config import ImageConfig
from winlayers.images.digest import digest_of, split_digest
from winlayers.images.documents import Descriptor, Manifest, compact_json, manifest_bytes, parse_document
from winlayers.images.jsonfields import MAX_DOCUMENT, Fields, parse_list
from winlayers.images.reference import Reference
from winlayers.images.transports.archive import Archive
from winlayers.images.transports.archive_writer import ArchiveWriter
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer

MANIFEST = "manifest.json"


class DockerArchiveSource(ImageSource):
    """Images in an archive of ``docker save``."""

    def __init__(self, archive: Archive, choice: str | None = None) -> None:
        """Read from *archive*, which the source closes.

        Args:
            choice: a reference, or ``@N`` for the N-th image; None: all.

        Raises:
            ImageError: it is no such archive.
        """
        self._archive = archive
        self._choice = choice
        self.name = f"docker-archive:{archive.path}" + (f":{choice}" if choice is not None else "")
        self._documents: dict[str, bytes] = {}
        self._blobs: dict[str, str] = {}
        if MANIFEST not in archive:
            self.close()
            raise ImageError(f"{archive.path} holds no manifest.json of docker save")

    def offers(self) -> Sequence[Offer]:
        what = f"{self._archive.path}: {MANIFEST}"
        images = [Fields(item, what) for item in parse_list(self._archive.read(MANIFEST), what)]
        if not images:
            raise ImageNotFoundError(f"{self._archive.path} holds no images")
        if self._choice is None:
            return [self._offer(image) for image in images]
        if self._choice.startswith("@") and self._choice[1:].isdigit():
            position = int(self._choice[1:])
            if position < len(images):
                return [self._offer(images[position])]
        else:
            wanted = Reference.parse(self._choice)
            for image in images:
                if wanted in _references(image):
                    return [self._offer(image, only=wanted)]
        there = ", ".join(text for image in images for text in image.strings("RepoTags"))
        raise ImageNotFoundError(
            f"{self._archive.path} has no image {self._choice}", hint=f"it has {there or 'none with a name'}"
        )

    def _offer(self, image: Fields, only: Reference | None = None) -> Offer:
        raw_config = self._archive.read(image.string("Config"))
        config = Descriptor(mediatypes.DOCKER_CONFIG, digest_of(raw_config), len(raw_config))
        parsed = ImageConfig.parse(raw_config, f"{self._archive.path}: {image.string('Config')}")
        names = image.strings("Layers")
        if len(names) != len(parsed.diff_ids):
            raise ImageError(
                f"{self._archive.path}: manifest.json lists {len(names)} layers,"
                f" but the configuration names {len(parsed.diff_ids)}"
            )
        layers = [self._layer(name, diff) for name, diff in zip(names, parsed.diff_ids, strict=True)]
        raw = manifest_bytes(mediatypes.DOCKER_MANIFEST, config, layers)
        descriptor = Descriptor(mediatypes.DOCKER_MANIFEST, digest_of(raw), len(raw))
        self._documents[config.digest] = raw_config
        self._documents[descriptor.digest] = raw
        references = (only,) if only is not None else tuple(_references(image))
        return Offer(descriptor, references, ", ".join(image.strings("RepoTags")))

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        """A layer's descriptor: a plain tar's digest is its diff id; a compressed one must be read for it."""
        size = self._archive.size(name)
        with self._archive.open(name) as file:
            kind = sniff(file.read(6))
        digest = diff_id
        if kind != "none":
            hasher = hashlib.sha256()
            with self._archive.open(name) as file:
                while chunk := file.read(BUFFER):
                    hasher.update(chunk)
            digest = f"sha256:{hasher.hexdigest()}"
        self._blobs[digest] = name
        return Descriptor(mediatypes.layer_type(mediatypes.DOCKER_MANIFEST, kind), digest, size)

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        found = self._documents.get(descriptor.digest)
        if found is None:
            raise ImageNotFoundError(f"{self._archive.path} has no {what} {descriptor.digest}")
        return found

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        document = self._documents.get(descriptor.digest)
        if document is not None:
            return io.BytesIO(document)
        name = self._blobs.get(descriptor.digest)
        if name is None:
            raise ImageNotFoundError(f"{self._archive.path} has no layer {descriptor.digest}")
        return self._archive.open(name)

    def close(self) -> None:
        self._archive.close()


def _references(image: Fields) -> list[Reference]:
    found = []
    for text in image.strings("RepoTags"):
        try:
            found.append(Reference.parse(text))
        except InvalidReferenceError:
            continue  # docker writes "<none>:<none>" for images without a name
    return found


class DockerArchiveTarget(ImageTarget):
    """A new archive with one image, for ``docker load``.

    Layers are written as plain tars, so what comes back from it has other blobs, with the same diff ids.
    """

    takes_indexes = False

    def __init__(self, path: str, reference: str | None) -> None:
        """Write to the file *path* (``-``: standard output); the image is called *reference*.

        Raises:
            ImageError: the file exists, or can't be written.
        """
        self._reference = None if reference is None else Reference.parse(reference)
        self._writer = ArchiveWriter(path)
        self._members: dict[str, str] = {}
        self.name = f"docker-archive:{path}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self._members

    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        if descriptor.media_type in mediatypes.CONFIGS:
            self._put_config(descriptor, open_source())
            return
        name = ""

        def produce(put: Callable[[bytes], object]) -> str:
            nonlocal name
            with LayerStream(open_source(), descriptor, None, tee=lambda data: count(len(data))) as stream:
                while chunk := stream.read(BUFFER):
                    put(chunk)
                name = f"{split_digest(stream.diff_id)[1]}.tar"
            return name

        self._writer.stream_unknown(produce)
        self._members[descriptor.digest] = name

    def _put_config(self, descriptor: Descriptor, source: Reader) -> None:
        parts = []
        size = 0
        while chunk := source.read(BUFFER):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_DOCUMENT:
                raise ImageError(f"configuration {descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
        raw = b"".join(parts)
        name = f"{split_digest(descriptor.digest)[1]}.json"
        self._writer.file(name, raw)
        self._members[descriptor.digest] = name

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        raise ImageError(f"{self.name}: an index can't be written to such an archive")

    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        manifest = parse_document(raw, descriptor.media_type, self.name)
        if not isinstance(manifest, Manifest):
            raise ImageError(f"{self.name}: an index can't be written to such an archive")
        entry = {
            "Config": self._members[manifest.config.digest],
            "RepoTags": [] if self._reference is None else [self._reference.familiar],
            "Layers": [self._members[layer.digest] for layer in manifest.layers],
        }
        self._writer.file(MANIFEST, compact_json([entry]))
        self._writer.finish()

    def abort(self) -> None:
        self._writer.abort()

    def close(self) -> None:
        self._writer.abort()
