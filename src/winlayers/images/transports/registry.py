"""``docker://[registry/]repository[:tag|@digest]``: a repository in a registry."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO, cast

from winlayers.errors import DigestMismatchError, ImageNotFoundError, RegistryError
from winlayers.images.compression import Reader
from winlayers.images.digest import digest_of, verify
from winlayers.images.documents import Descriptor
from winlayers.images.reference import Reference
from winlayers.images.registry.client import Repository, first_of, open_url
from winlayers.images.registry.connection import Connection
from winlayers.images.registry.download import BlobReader
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.transports.base import ImageSource, ImageTarget, Offer


class RegistrySource(ImageSource):
    """An image in a registry."""

    def __init__(self, reference: Reference, options: RegistryOptions = DEFAULT_OPTIONS) -> None:
        """Look at *reference*; nothing is sent yet."""
        self._reference = reference
        self._options = options
        self._repository = Repository(reference, options)
        self._documents: dict[str, bytes] = {}
        self._elsewhere: list[Connection] = []
        self._giving_up = threading.Lock()
        self._given_up = False
        self.name = f"docker://{reference}"

    @property
    def parallel(self) -> int:
        return self._options.parallel

    def offers(self) -> Sequence[Offer]:
        reference = self._reference
        raw, media_type = self._repository.manifest(reference.digest or reference.tag or "")
        descriptor = Descriptor(media_type, reference.digest or digest_of(raw), len(raw))
        self._documents[descriptor.digest] = raw
        # As docker has it, an image that was pulled by its digest is called by it.
        named = dataclasses.replace(reference, digest=None) if reference.tag is not None else reference
        return [Offer(descriptor, (named,), reference.familiar)]

    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        raw = self._documents.get(descriptor.digest)
        if raw is None and what == "manifest":
            raw, _ = self._repository.manifest(descriptor.digest)
        elif raw is None:
            with self._repository.open_blob(descriptor) as file:
                raw = file.read(descriptor.size + 1) if descriptor.size == 0 else _read(file, descriptor.size)
        return verify(raw, descriptor.digest, descriptor.size, what)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return cast(BinaryIO, first_of(self._places(descriptor)))  # a raw file with the methods that are used

    def read_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes | None:
        try:
            return self._repository.open_range(descriptor, offset, size)
        except (RegistryError, ImageNotFoundError):
            return None  # a server without ranges, or a foreign layer that lies elsewhere

    def _places(self, descriptor: Descriptor) -> Iterator[Callable[[], BlobReader]]:
        """The registry first, then a foreign layer's URLs."""
        yield partial(self._repository.open_blob, descriptor)
        for url in descriptor.urls if descriptor.is_foreign else ():
            yield partial(open_url, url, descriptor, self._options, self._watch)

    def _watch(self, connection: Connection) -> None:
        with self._giving_up:
            self._elsewhere.append(connection)
            if self._given_up:
                connection.give_up()

    def give_up(self) -> None:
        self._repository.give_up()
        with self._giving_up:
            self._given_up = True
            for connection in self._elsewhere:
                connection.give_up()

    def close(self) -> None:
        self._repository.close()
        for connection in self._elsewhere:
            connection.close()


def _read(file: BlobReader, size: int) -> bytes:
    """A small blob, and one byte more if it is too long."""
    data = b""
    while len(data) <= size and (chunk := file.read(size + 1 - len(data))):
        data += chunk
    return data


class RegistryTarget(ImageTarget):
    """A repository in a registry, to be written to."""

    wants_foreign = False

    def __init__(
        self,
        reference: Reference,
        options: RegistryOptions = DEFAULT_OPTIONS,
        *,
        mount_from: Sequence[str] = (),
    ) -> None:
        """Write to *reference*.

        Args:
            mount_from: repositories of the same registry that may have the blobs already.
        """
        self._reference = reference
        self.parallel = options.parallel
        self._repository = Repository(reference, options, push=True)
        self._mount_from = [path for path in dict.fromkeys(mount_from) if path != reference.path]
        self.name = f"docker://{reference}"
        self.mounted: list[str] = []
        """The digests of blobs that were taken over from other repositories."""

    def expect(self, descriptor: Descriptor) -> None:
        if self._reference.digest not in (None, descriptor.digest):
            raise DigestMismatchError(
                f"what is to be sent is {descriptor.digest}, which can't be called {self._reference.familiar}"
            )

    def has_blob(self, descriptor: Descriptor) -> bool:
        if self._repository.has_blob(descriptor.digest):
            return True
        for path in self._mount_from:
            if self._repository.mount_blob(descriptor.digest, path):
                self.mounted.append(descriptor.digest)
                return True
        return False

    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        self._repository.upload_blob(descriptor, open_source, count)

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        self._repository.put_manifest(descriptor.digest, raw, descriptor.media_type)

    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        name = self._reference.tag or descriptor.digest
        self._repository.put_manifest(name, raw, descriptor.media_type)

    def give_up(self) -> None:
        self._repository.give_up()

    def close(self) -> None:
        self._repository.close()

    def abort(self) -> None:
        self._repository.close()
