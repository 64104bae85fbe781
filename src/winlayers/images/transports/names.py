"""Transport names, as skopeo writes them: ``oci:FOLDER[:TAG]`` and so on."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from winlayers.errors import ImageError, InvalidReferenceError

if TYPE_CHECKING:
    from winlayers.images.transports.base import ImageSource, ImageTarget

TRANSPORTS = ("oci", "oci-archive", "docker-archive", "docker")
_PREFIX = re.compile(r"([a-z][a-z0-9-]+):(.*)", re.DOTALL)


def split_name(text: str) -> tuple[str, str]:
    """The transport and what follows the colon; the transport is "" where none is named.

    Raises:
        InvalidReferenceError: it names a transport that is not known.
    """
    match = _PREFIX.fullmatch(text)
    if match is None or os.path.exists(text):
        return "", text
    if match[1] in TRANSPORTS:
        return match[1], match[2]
    if match[1] in ("dir", "docker-daemon", "containers-storage", "ostree", "sif", "tarball", "atomic"):
        raise InvalidReferenceError(
            f"the transport {match[1]}: is not known",
            hint=f"known are {', '.join(f'{t}:' for t in TRANSPORTS)}",
        )
    return "", text


def split_path(text: str) -> tuple[str, str | None]:
    """A path and the tag after it (``FOLDER:TAG``); a drive letter's colon separates nothing.

    Raises:
        InvalidReferenceError: the path is empty.
    """
    drive = text[:2] if re.match(r"[A-Za-z]:[\\/]", text) else ""
    path, colon, tag = text[len(drive) :].partition(":")
    if not path:
        raise InvalidReferenceError(f"no path in {text!r}")
    return drive + path, tag if colon and tag else None


def open_source(text: str) -> ImageSource:
    """The source that *text* names; without a transport: a bare folder or archive, told by looking at it.

    Raises:
        ImageError: it is not there, or not what it is said to be.
    """
    from winlayers.images.transports.oci_layout import LayoutSource

    transport, rest = split_name(text)
    if transport == "oci":
        return LayoutSource(*split_path(rest))
    if transport:
        raise InvalidReferenceError(f"the transport {transport}: can't be read from yet")
    path, tag = (rest, None) if os.path.exists(rest) else split_path(rest)
    if os.path.isdir(path):
        return LayoutSource(path, tag)
    if not os.path.exists(path):
        raise ImageError(
            f"no such file or folder: {path}", hint="or name a transport, such as oci:FOLDER:TAG"
        )
    raise ImageError(f"{path} is not a folder with an OCI image layout")


def open_target(text: str) -> ImageTarget:
    """The target that *text* names.

    Raises:
        ImageError: it can't be written to.
        InvalidReferenceError: no transport is named.
    """
    from winlayers.images.transports.oci_layout import LayoutTarget

    transport, rest = split_name(text)
    if transport == "oci":
        return LayoutTarget(*split_path(rest))
    raise InvalidReferenceError(
        f"not a place to write an image to: {text!r}", hint="name a transport, such as oci:FOLDER:TAG"
    )
