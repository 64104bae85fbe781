"""``oci-archive:FILE[:TAG]``: an OCI image layout in a tar, as skopeo, podman and BuildKit write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import BinaryIO

from winlayers.errors import ImageError
from winlayers.images.blobstream import copy_checked
from winlayers.images.compression import Reader
from winlayers.images.digest import split_digest, verify
from winlayers.images.documents import REF_NAME, Descriptor, compact_json
from winlayers.images.jsonfields import MAX_DOCUMENT, Fields, parse_object
from winlayers.images.layout import VERSION_MARKER
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.transports.archive import Archive
from winlayers.images.transports.archive_writer import ArchiveWriter
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer
from winlayers.images.transports.oci_layout import open_or_fetch, select

MARKER, INDEX = "oci-layout", "index.json"


def blob_name(digest: str) -> str:
    """Where a blob is in a layout."""
    return "/".join(("blobs", *split_digest(digest)))


def stem_of(path: str) -> str:
    """A file's name without what says that it is an archive."""
    name = PurePath(path).name
    for suffix in (".gz", ".tgz", ".zst", ".tar", ".oci"):
        name = name.removesuffix(suffix)
    return name


class OciArchiveSource(ImageSource):
    """Images in an archived OCI layout."""

    def __init__(
        self, archive: Archive, tag: str | None = None, options: RegistryOptions = DEFAULT_OPTIONS
    ) -> None:
        """Read from *archive*, which the source closes; *tag* chooses one of its images.

        Args:
            options: how foreign layers are fetched that the archive has not.

        Raises:
            ImageError: it holds no OCI layout.
        """
        self._archive = archive
        self._tag = tag
        self._options = options
        self.name = f"oci-archive:{archive.path}" + (f":{tag}" if tag is not None else "")
        if MARKER not in archive or INDEX not in archive:
            self.close()
            raise ImageError(f"{archive.path} holds no OCI image layout")

    def offers(self) -> Sequence[Offer]:
        what = f"{self._archive.path}: {INDEX}"
        fields = Fields(parse_object(self._archive.read(INDEX), what), what)
        if fields.value.get("schemaVersion") != 2:
            raise ImageError(f"{what}: schemaVersion is not 2")
        manifests = [Descriptor.from_fields(f) for f in fields.objects("manifests")]
        return select(manifests, self._tag, stem_of(self._archive.path), self._archive.path)

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        if descriptor.size > MAX_DOCUMENT:
            raise ImageError(f"{what} {descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
        raw = self._archive.read(blob_name(descriptor.digest))
        return verify(raw, descriptor.digest, descriptor.size, what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        name = blob_name(descriptor.digest)
        return open_or_fetch(lambda: self._archive.open(name), descriptor, self._options)

    def close(self) -> None:
        self._archive.close()


class OciArchiveTarget(ImageTarget):
    """A new archive with one image."""

    def __init__(self, path: str, tag: str | None) -> None:
        """Write to the file *path* (``-``: standard output), the image under *tag*.

        Raises:
            ImageError: the file exists, or can't be written.
        """
        self._writer = ArchiveWriter(path)
        self._tag = tag
        self._there: set[str] = set()
        self._folders: set[str] = set()
        self.name = f"oci-archive:{path}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self._there

    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        def produce(put: Callable[[bytes], object]) -> None:
            def sink(data: bytes) -> None:
                put(data)
                count(len(data))

            copy_checked(open_source(), descriptor, sink)

        self._make_folders(descriptor.digest)
        self._writer.stream(blob_name(descriptor.digest), descriptor.size, produce)
        self._there.add(descriptor.digest)

    def _make_folders(self, digest: str) -> None:
        for folder in ("blobs", f"blobs/{split_digest(digest)[0]}"):
            if folder not in self._folders:
                self._folders.add(folder)
                self._writer.directory(folder)

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        if descriptor.digest not in self._there:
            self._make_folders(descriptor.digest)
            self._writer.file(blob_name(descriptor.digest), raw)
            self._there.add(descriptor.digest)

    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        self.put_document(descriptor, raw)
        annotations = {} if self._tag is None else {REF_NAME: self._tag}
        entry = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, annotations)
        self._writer.file(INDEX, compact_json({"schemaVersion": 2, "manifests": [entry.to_json()]}))
        self._writer.file(MARKER, VERSION_MARKER)
        self._writer.finish()

    def abort(self) -> None:
        self._writer.abort()

    def close(self) -> None:
        self._writer.abort()
