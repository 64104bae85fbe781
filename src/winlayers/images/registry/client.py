"""A repository in a registry: manifests, blobs, uploads.

Source: OCI distribution specification.  What is read may come from mirrors, what is written goes to the
registry itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from winlayers.errors import DigestMismatchError, ImageError, ImageNotFoundError, RegistryError
from winlayers.images import mediatypes
from winlayers.images.blobstream import CheckedReader
from winlayers.images.compression import Reader
from winlayers.images.digest import digest_of, is_digest
from winlayers.images.documents import Descriptor
from winlayers.images.jsonfields import MAX_DOCUMENT, Fields, parse_object
from winlayers.images.reference import Reference
from winlayers.images.registry.connection import Connection, Response, drain, reason_of
from winlayers.images.registry.credentials import Credentials, find_credentials, parse_pair
from winlayers.images.registry.download import BlobReader
from winlayers.images.registry.hosts import endpoints
from winlayers.images.registry.options import RegistryOptions

_log = logging.getLogger("winlayers.registry")
_ACCEPT = ", ".join((*sorted(mediatypes.MANIFESTS), *sorted(mediatypes.INDEXES)))
_CHUNK = 1 << 20
_T = TypeVar("_T")


class Repository:
    """One repository."""

    def __init__(self, reference: Reference, options: RegistryOptions, *, push: bool = False) -> None:
        """Look at the repository of *reference*; nothing is sent yet.

        Args:
            push: ask for the right to write as well.

        Raises:
            RegistryError: the configuration is damaged.
        """
        self.reference = reference
        self.options = options
        actions = "pull,push" if push else "pull"
        self._scopes = (f"repository:{reference.path}:{actions}",)
        self._connections = [
            Connection(endpoint, reference.domain, self._credentials, options.retries)
            for endpoint in endpoints(reference.domain, options)
        ]

    def _credentials(self) -> Credentials | None:
        if self.options.credentials is not None:
            return parse_pair(self.options.credentials)
        return find_credentials(self.reference.domain, self.reference.path)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()

    def give_up(self) -> None:
        """End what other threads are waiting for, now and later: they get a RegistryError."""
        for connection in self._connections:
            connection.give_up()

    def _path(self, rest: str) -> str:
        return f"/v2/{self.reference.path}/{rest}"

    @property
    def _registry(self) -> Connection:
        """The registry itself: where is written to."""
        return self._connections[-1]

    def _first(self, call: Callable[[Connection], _T], *, resolving: bool = False) -> _T:
        """What the first server answers that has it; the registry itself has the last word."""
        for connection in self._connections[:-1]:
            if resolving and not connection.endpoint.can_resolve:
                continue
            try:
                return call(connection)
            except ImageError as error:
                _log.info("mirror %s: %s", connection.endpoint.name, error)
        return call(self._registry)

    # -- reading --

    def manifest(self, name: str) -> tuple[bytes, str]:
        """A manifest's or index's bytes and media type, by tag or digest; a digest is checked.

        Raises:
            ImageNotFoundError: there is none.
            DigestMismatchError: the server gave another one.
        """
        return self._first(lambda c: self._manifest(c, name), resolving=not is_digest(name))

    def _manifest(self, connection: Connection, name: str) -> tuple[bytes, str]:
        separator = "@" if is_digest(name) else ":"
        what = f"{self.reference.path}{separator}{name}"
        response, raw = connection.fetch(
            self._path(f"manifests/{name}"), (200,), what, scopes=self._scopes, headers={"Accept": _ACCEPT}
        )
        if len(raw) > MAX_DOCUMENT:
            raise ImageError(f"{what} is larger than {MAX_DOCUMENT} bytes")
        wanted = name if is_digest(name) else response.headers.get("Docker-Content-Digest", "")
        if wanted.startswith("sha256:") and digest_of(raw) != wanted:
            raise DigestMismatchError(f"{what} should be {wanted}, but is {digest_of(raw)}")
        return raw, response.headers.get("Content-Type", "").partition(";")[0].strip()

    def open_blob(self, descriptor: Descriptor) -> BlobReader:
        """A blob, to be read from its start; what it gives is checked by the caller.

        Raises:
            ImageNotFoundError: it is not there.
        """
        what = f"blob {descriptor.digest} of {self.reference.path}"

        def opened(connection: Connection) -> BlobReader:
            def open_at(offset: int) -> Response:
                headers = {"Range": f"bytes={offset}-"} if offset else {}
                response = connection.request(
                    "GET", self._path(f"blobs/{descriptor.digest}"), scopes=self._scopes, headers=headers
                )
                return connection.check(response, (200, 206) if offset else (200,), what)

            return BlobReader(what, descriptor.size, open_at, self.options.retries, self.give_up)

        return self._first(opened)

    def open_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes:
        """Some bytes of a blob, where the server can give them.

        Raises:
            RegistryError: it can't.
        """
        what = f"blob {descriptor.digest} of {self.reference.path}"

        def fetched(connection: Connection) -> bytes:
            _, data = connection.fetch(
                self._path(f"blobs/{descriptor.digest}"),
                (206,),
                what,
                scopes=self._scopes,
                headers={"Range": f"bytes={offset}-{offset + size - 1}"},
                limit=size,
            )
            return data[:size]

        return self._first(fetched)

    def tags(self) -> list[str]:
        """All tags of the repository.

        Raises:
            ImageNotFoundError: there is no such repository.
            RegistryError: the server can't be reached or refuses.
            ImageError: its answer is malformed.
        """
        return self._first(self._tags)

    def _tags(self, connection: Connection) -> list[str]:
        found: list[str] = []
        url: str | None = self._path("tags/list")
        while url is not None:
            response, raw = connection.fetch(url, (200,), self.reference.path, scopes=self._scopes)
            what = f"the tags of {self.reference.path}"
            more = Fields(parse_object(raw, what), what).strings("tags")
            found += more
            match = re.match(r'<([^>]+)>;\s*rel="?next', response.headers.get("Link", ""))
            url = match[1] if match is not None and more and len(found) < 1_000_000 else None
        return found

    # -- writing --

    def has_blob(self, digest: str) -> bool:
        """Whether the registry has the blob in this repository."""
        response = self._registry.request("HEAD", self._path(f"blobs/{digest}"), scopes=self._scopes)
        drain(response)
        if response.status == 404:
            return False
        self._registry.check(response, (200,), f"blob {digest} of {self.reference.path}")
        return True

    def mount_blob(self, digest: str, other: str) -> bool:
        """Take a blob over from another repository of the same registry; False where that can't be done."""
        scopes = (*self._scopes, f"repository:{other}:pull")
        try:
            response = self._registry.request(
                "POST",
                self._path("blobs/uploads/"),
                scopes=scopes,
                query={"mount": digest, "from": other},
                headers={"Content-Length": "0"},
            )
        except RegistryError as error:
            _log.debug("no mount of %s from %s: %s", digest, other, error)
            return False
        drain(response)
        if response.status == 202 and (location := response.headers.get("Location")):
            # The registry has begun an upload instead, which nobody will finish.
            drain(self._registry.request("DELETE", location, scopes=self._scopes))
        return response.status == 201

    def upload_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        """Upload a blob; after a broken connection go on where the registry says.

        Raises:
            DigestMismatchError: the source is not the blob.
            RegistryError: the registry refuses, or the connection broke too often.
        """
        what = f"upload of {descriptor.digest} to {self.reference.path}"
        upload = _Upload(self._registry, self._path("blobs/uploads/"), self._scopes, what)
        done = 0
        for attempt in range(self.options.retries + 1):
            reader = CheckedReader(open_source(), descriptor, None)
            try:
                offset = upload.begin_or_resume()
                _skip(reader, offset)

                def told(size: int, start: int = offset) -> None:
                    nonlocal done
                    fresh = max(0, start + size - done)
                    done += fresh
                    count(fresh)

                if offset < descriptor.size or descriptor.size == 0:
                    upload.send(reader, offset, descriptor.size, told)
                reader.finish()
                upload.finish(descriptor.digest)
                return
            except (HTTPError, OSError) as error:
                if attempt == self.options.retries:
                    raise RegistryError(
                        f"{self._registry.endpoint.name}: {what}: {reason_of(error)}"
                    ) from error
                _log.debug("%s: %s", what, reason_of(error))

    def put_manifest(self, name: str, raw: bytes, media_type: str) -> None:
        """Store a manifest under a tag, or under its digest."""
        response = self._registry.request(
            "PUT",
            self._path(f"manifests/{name}"),
            scopes=self._scopes,
            headers={"Content-Type": media_type},
            body=raw,
        )
        self._registry.check(response, (201, 200, 202), f"the manifest {self.reference.path}:{name}")
        drain(response)


class _Upload:
    """One upload's session on the server."""

    def __init__(self, connection: Connection, path: str, scopes: tuple[str, ...], what: str) -> None:
        self._connection = connection
        self._path = path
        self._scopes = scopes
        self._what = what
        self._location: str | None = None

    def begin_or_resume(self) -> int:
        """Where to go on from; 0 for a session that has just begun."""
        if self._location is not None:
            response = self._connection.request("GET", self._location, scopes=self._scopes)
            drain(response)
            if response.status == 204:
                self._moved(response)
                match = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.headers.get("Range", "").strip())
                if match is None:
                    return 0
                # Registries say "0-0" for nothing and for one byte; nothing is the safe reading.
                return int(match[1]) + 1 if int(match[1]) else 0
        response = self._connection.request(
            "POST", self._path, scopes=self._scopes, headers={"Content-Length": "0"}
        )
        self._connection.check(response, (202,), self._what)
        drain(response)
        self._moved(response)
        return 0

    def _moved(self, response: Response) -> None:
        location = response.headers.get("Location")
        if location is not None:
            self._location = location
        if self._location is None:
            raise RegistryError(f"{self._connection.endpoint.name}: {self._what}: no location was given")

    def send(self, reader: CheckedReader, offset: int, size: int, count: Callable[[int], object]) -> None:
        """Send all from *offset* on."""
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            while chunk := reader.read(_CHUNK):
                yield chunk
                sent += len(chunk)
                count(sent)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - offset)}
        if offset:
            headers["Content-Range"] = f"{offset}-{size - 1}"
        response = self._connection.request(
            "PATCH", self._location or "", scopes=self._scopes, headers=headers, body=chunks(), retry=False
        )
        if response.status in (416, 404):
            drain(response)
            if response.status == 404:
                self._location = None
            raise HTTPError(f"the registry does not take the upload on (status {response.status})")
        self._connection.check(response, (202, 204), self._what)
        drain(response)
        self._moved(response)

    def finish(self, digest: str) -> None:
        """Close the session: the registry checks the digest."""
        response = self._connection.request(
            "PUT",
            self._location or "",
            scopes=self._scopes,
            query={"digest": digest},
            headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
        )
        self._connection.check(response, (201, 204), self._what)
        drain(response)


def _skip(reader: CheckedReader, size: int) -> None:
    while size and (data := reader.read(min(size, _CHUNK))):
        size -= len(data)


def open_url(
    url: str,
    descriptor: Descriptor,
    options: RegistryOptions,
    watch: Callable[[Connection], object] = lambda connection: None,
) -> BlobReader:
    """A foreign layer from one of its URLs; the digest is checked by the caller.

    Args:
        watch: hears of the connection before it is used, to close it or give it up.

    Raises:
        ImageNotFoundError: it is not there.
        RegistryError: the URL is of another kind, or can't be reached.
    """
    from winlayers.images.registry.hosts import Endpoint, is_loopback

    parts = urlsplit(url)
    safe = parts.scheme == "https" or (
        parts.scheme == "http" and (options.insecure or is_loopback(parts.netloc))
    )
    if not safe:
        raise RegistryError(f"a layer's URL is not safe: {url[:200]}", hint="only https is")
    endpoint = Endpoint(
        parts.netloc,
        schemes=(parts.scheme,),
        verify=not options.insecure,
        ca_files=(options.ca_file,) if options.ca_file else (),
    )
    connection = Connection(endpoint, parts.netloc, lambda: None, options.retries)
    watch(connection)

    def open_at(offset: int) -> Response:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = connection.request("GET", url, headers=headers)
        return connection.check(response, (200, 206) if offset else (200,), url)

    return BlobReader(url, descriptor.size, open_at, options.retries, connection.give_up)


def first_of(attempts: Iterator[Callable[[], BlobReader]]) -> BlobReader:
    """The first blob that can be opened.

    Raises:
        ImageError: none can; the first failure.
    """
    first: ImageError | None = None
    for attempt in attempts:
        try:
            return attempt()
        except (ImageNotFoundError, RegistryError) as error:
            first = first or error
    if first is None:
        raise ImageNotFoundError("there is no place to get the blob from")
    raise first
