"""OCI image layouts: a folder with ``oci-layout``, ``index.json`` and ``blobs``.

The project's own content store is one, and so are what ``oci:`` names.  Source: OCI image specification
``image-layout.md``.  Blobs are written under a hidden name and renamed; ``index.json`` is replaced under a
lock on the file ``oci-layout``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

from winlayers import durable
from winlayers.durable.locks import hold
from winlayers.errors import ImageError, ImageNotFoundError, StoreError
from winlayers.images.compression import Reader
from winlayers.images.digest import digest_of, split_digest, verify
from winlayers.images.documents import REF_NAME, Descriptor, compact_json
from winlayers.images.jsonfields import MAX_DOCUMENT, Fields, parse_object

_MARKER = "oci-layout"
_INDEX = "index.json"
_MAX_INDEX = 64 << 20
_TRIES = 100
VERSION_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class OciLayout:
    """An OCI image layout that exists."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Look at the layout in the folder *root*.

        Raises:
            ImageError: there is no such folder, or it is no layout of version 1.
        """
        self.root = Path(root)
        try:
            marker = _read_regular(self.root / _MARKER, 1 << 16)
        except FileNotFoundError as error:
            missing = "has no file oci-layout" if self.root.is_dir() else "does not exist"
            if self.root.exists() and not self.root.is_dir():
                missing = "is not a folder"
            raise ImageError(f"{self.root} is not an OCI image layout: it {missing}") from error
        except OSError as error:
            raise ImageError(f"{self.root} is not an OCI image layout: {error.strerror}") from error
        version = Fields(parse_object(marker, f"{self.root}/{_MARKER}"), f"{self.root}/{_MARKER}")
        if version.string("imageLayoutVersion", "").split(".")[0] != "1":
            raise ImageError(f"{self.root} is an OCI image layout of a version that is not read")

    @classmethod
    def create(cls, root: str | os.PathLike[str]) -> OciLayout:
        """The layout in *root*, made if the folder is empty or missing.

        Raises:
            ImageError: there is something else.
        """
        path = Path(root)
        if (path / _MARKER).exists():
            return cls(path)
        try:
            with _alone_in(path):
                if not (path / _MARKER).exists():  # another process may have made it meanwhile, and filled it
                    cls._make(path)
        except OSError as error:
            raise ImageError(f"can't make an OCI image layout in {path}: {error.strerror}") from error
        return cls(path)

    @staticmethod
    def _make(path: Path) -> None:
        others = [name for name in os.listdir(path) if not name.startswith(durable.TEMPORARY_PREFIX)]
        if others and not _is_begun(path, others):
            raise ImageError(f"{path} is neither empty nor an OCI image layout")
        (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        durable.sweep(os.fspath(path))
        durable.write_bytes(os.fspath(path / _INDEX), compact_json({"schemaVersion": 2, "manifests": []}))
        durable.write_bytes(os.fspath(path / _MARKER), VERSION_MARKER)

    def lock(self, *, shared: bool = False) -> durable.FileLock:
        """The lock under which the index is changed."""
        return durable.FileLock(os.fspath(self.root / _MARKER), shared=shared)

    # -- blobs --

    def blob_path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self.root.joinpath("blobs", *split_digest(digest))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with the right size; its content is checked when it is read."""
        try:
            found = os.stat(self.blob_path(descriptor.digest))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == descriptor.size

    def open(self, digest: str) -> BinaryIO:
        """The blob, to be read; nothing is checked.

        Raises:
            ImageNotFoundError: it is not there.
        """
        path = self.blob_path(digest)
        try:
            return _open_regular(path)
        except OSError as error:
            raise ImageNotFoundError(f"blob {digest} is missing from {self.root}") from error

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """The bytes of a small blob (manifest, configuration), checked.

        Raises:
            ImageNotFoundError: it is not there.
            DigestMismatchError: its content is other.
            ImageError: it is too large to be one.
        """
        if descriptor.size > MAX_DOCUMENT:
            raise ImageError(f"{what} {descriptor.digest} is larger than {MAX_DOCUMENT} bytes")
        with self.open(descriptor.digest) as file:
            return verify(file.read(MAX_DOCUMENT + 1), descriptor.digest, descriptor.size, what)

    def write(self, data: bytes) -> str:
        """Store *data*; return its digest."""
        digest = digest_of(data)
        path = self.blob_path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(os.fspath(path), data)
        return digest

    def writer(self) -> BlobWriter:
        """A writer of a blob whose digest is known or found out at the end."""
        return BlobWriter(self)

    def copy_in(self, source: Reader, descriptor: Descriptor, count: Callable[[int], object]) -> None:
        """Store the blob of *descriptor* from *source*, checked; *count* is told of bytes as they pass.

        Raises:
            DigestMismatchError: *source* is something else; nothing is stored.
        """
        from winlayers.images.blobstream import copy_checked  # listing images does not need it

        with self.writer() as writer:

            def sink(data: bytes) -> None:
                writer.write(data)
                count(len(data))

            copy_checked(source, descriptor, sink)
            writer.commit(descriptor.digest)

    def delete(self, digest: str) -> int:
        """Remove a blob; return the bytes that became free."""
        path = self.blob_path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def digests(self) -> Iterator[tuple[str, int]]:
        """All blobs with their sizes."""
        blobs = self.root / "blobs"
        for algorithm in sorted(os.listdir(blobs)):
            folder = blobs / algorithm
            if folder.is_dir():
                for entry in sorted(os.scandir(folder), key=lambda e: e.name):
                    if entry.name.startswith(durable.TEMPORARY_PREFIX) or not entry.is_file():
                        continue
                    try:
                        size = entry.stat().st_size
                    except FileNotFoundError:  # removed just now
                        continue
                    yield f"{algorithm}:{entry.name}", size

    # -- the index --

    def _index(self) -> Fields:
        path = self.root / _INDEX
        try:
            raw = _read_regular(path, _MAX_INDEX)
        except OSError as error:
            raise ImageError(f"{self.root} is not an OCI image layout: no index.json can be read") from error
        fields = Fields(parse_object(raw, os.fspath(path)), os.fspath(path))
        if fields.value.get("schemaVersion") != 2:
            raise ImageError(f"{path}: schemaVersion is not 2")
        return fields

    def index_version(self) -> tuple[int, int]:
        """Another after each change of the index, which is always a new file."""
        about = os.stat(self.root / _INDEX)
        return about.st_ino, about.st_mtime_ns

    def manifests(self) -> list[Descriptor]:
        """The images that the index lists.

        Raises:
            ImageError: the index is malformed.
        """
        return [Descriptor.from_fields(f) for f in self._index().objects("manifests")]

    def replace_manifests(self, manifests: Sequence[Descriptor]) -> None:
        """Write the index anew, with its other fields kept.  The caller holds :meth:`lock`."""
        value = {**self._index().value, "manifests": [d.to_json() for d in manifests]}
        durable.write_bytes(os.fspath(self.root / _INDEX), compact_json(value))

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let *name* mean *descriptor*; what it meant before is no longer in the index under that name."""
        with self.lock():
            kept = [d for d in self.manifests() if d.annotations.get(REF_NAME) != name]
            annotations = {**descriptor.annotations, REF_NAME: name}
            named = Descriptor(
                descriptor.media_type,
                descriptor.digest,
                descriptor.size,
                annotations,
                platform=descriptor.platform,
            )
            self.replace_manifests([*kept, named])


@contextlib.contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Make the folder, and keep others from making a layout in it meanwhile, where folders can be locked."""
    held = None
    for _ in range(_TRIES):
        path.mkdir(parents=True, exist_ok=True)
        held = hold(os.fspath(path), alone=True, wait=True)
        if held is not None:
            break  # and not removed again by who failed to fill it
    try:
        yield
    finally:
        if held is not None:
            held.close()


def _is_begun(path: Path, names: Sequence[str]) -> bool:
    """Whether *names* in *path* are what a killed :meth:`OciLayout.create` leaves: no blob is there."""
    if not set(names) <= {"blobs", _INDEX}:
        return False
    return not any(files for _, _, files in os.walk(path / "blobs"))


class BlobWriter:
    """Writes one blob under a hidden name; :meth:`commit` gives it its own.  A context manager."""

    def __init__(self, layout: OciLayout) -> None:
        """Begin a blob in *layout*."""
        self._layout = layout
        folder = layout.root / "blobs" / "sha256"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd, self._hidden = durable.open_hidden(os.fspath(folder))
            self._file: IO[bytes] = open(fd, "wb", buffering=0)  # noqa: SIM115 - __exit__ closes it
        except OSError as error:
            raise StoreError(f"can't write to {layout.root}: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Append *data*.

        Raises:
            StoreError: the disk is full or fails.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise StoreError(f"can't write to {self._layout.root}: {error.strerror}") from error

    def commit(self, digest: str) -> None:
        """Make the blob durable under *digest*, which the caller has checked."""
        os.fsync(self._file.fileno())
        path = self._layout.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.put_in_place(self._file, self._hidden, os.fspath(path))
        durable.fsync_dir(os.fspath(path.parent))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hidden)


def _open_regular(path: Path) -> BinaryIO:
    """Open a plain file, also behind a symbolic link, but never a pipe or device, on which to hang."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileNotFoundError(2, "not a plain file", os.fspath(path))
    return open(path, "rb", buffering=0)


def _read_regular(path: Path, limit: int) -> bytes:
    with _open_regular(path) as file:
        data = b""
        while chunk := file.read(limit + 1 - len(data)):
            data += chunk
        if len(data) > limit:
            raise ImageError(f"{path} is larger than {limit} bytes")
        return data
