"""Content digests and chain ids.

A digest is ``algorithm:hex`` (source: OCI image specification, ``descriptor.md``); here it is a plain ``str``
that :func:`check_digest` has seen.  The chain id of a layer names its content together with all that lies
below it (source: OCI image specification, ``config.md``, "Layer ChainID").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from winlayers.errors import DigestMismatchError, ImageError

_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)")


def is_digest(text: str) -> bool:
    """Whether *text* is a digest of an algorithm known here."""
    match = _DIGEST.fullmatch(text)
    return match is not None and len(match[2]) == _LENGTHS[match[1]]


def check_digest(text: str) -> str:
    """*text* itself, once it is known to be a digest (and so to be safe as a part of a path).

    Raises:
        ImageError: it is not one, or of an algorithm that is not known here.
    """
    if not is_digest(text):
        raise ImageError(f"not a digest: {text[:140]!r}", hint="sha256, sha384 and sha512 are known")
    return text


def split_digest(digest: str) -> tuple[str, str]:
    """The algorithm and the hexadecimal digits of *digest*."""
    algorithm, _, digits = check_digest(digest).partition(":")
    return algorithm, digits


def hasher_for(digest: str) -> hashlib._Hash:
    """A fresh hash object of the algorithm of *digest*."""
    return hashlib.new(split_digest(digest)[0])


def digest_of(data: bytes) -> str:
    """The SHA-256 digest of *data*."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def verify(data: bytes, digest: str, size: int, what: str) -> bytes:
    """*data* itself, once it is known to have *digest* and *size*.

    Raises:
        DigestMismatchError: it has not.
    """
    if len(data) != size:
        raise DigestMismatchError(f"{what} {digest} should have {size} bytes, but has {len(data)}")
    hasher = hasher_for(digest)
    hasher.update(data)
    actual = f"{digest.partition(':')[0]}:{hasher.hexdigest()}"
    if actual != digest:
        raise DigestMismatchError(f"{what} {digest} has other content: its digest is {actual}")
    return data


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The layers' chain ids, base first: the diff id for the base, then a hash over parent and diff id."""
    chain: list[str] = []
    for diff_id in diff_ids:
        check_digest(diff_id)
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode("ascii")) if chain else diff_id)
    return chain


def layer_id(chain_id: str) -> str:
    """The id that the layer of that chain id has in the graph driver: the chain id's hexadecimal digits."""
    return split_digest(chain_id)[1]


def short(digest: str, length: int = 12) -> str:
    """The first *length* hexadecimal digits, for tables."""
    return digest.rpartition(":")[2][:length]
