"""Which names tar-split takes for the same."""

from __future__ import annotations

import hashlib

from winlayers.errors import TarSplitError
from winlayers.tar.fields import to_bytes

_LONG = 64


def clean(name: bytes) -> bytes:
    """The shortest equivalent path, as Go's ``path/filepath.Clean`` gives it on Unix."""
    if not name:
        return b"."
    rooted = name[:1] == b"/"
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part != b"..":
            parts.append(part)
        elif parts and parts[-1] != b"..":
            parts.pop()
        elif not rooted:
            parts.append(part)
    path = b"/".join(parts)
    return b"/" + path if rooted else path or b"."


class SeenNames:
    """The names of a stream so far: files are found by name, so no two may have the same.

    Long names are remembered by their digest, so that memory stays within a fraction of the stream's length.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, name: str) -> None:
        """Note *name*.

        Raises:
            TarSplitError: it is there already.
        """
        key = to_bytes(name)
        if key.endswith(b"/") or b"/." in key or b"//" in key or not key or key[0] == 0x2E:
            key = clean(key)
        if len(key) > _LONG:
            key = b"\0" + hashlib.blake2b(key, digest_size=32).digest()
        if key in self._seen:
            raise TarSplitError(
                "two members have this name, and tar-split finds content by name",
                path=name,
                hint="keep the tar itself",
            )
        self._seen.add(key)
