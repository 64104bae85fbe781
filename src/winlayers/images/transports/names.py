"""Transport names, as skopeo writes them: ``oci:FOLDER[:TAG]`` and so on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from winlayers.errors import ImageError, InvalidReferenceError
from winlayers.images.reference import Reference
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions

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


def split_path(text: str, transport: str = "") -> tuple[str, str | None]:
    """A path and the tag after it (``FOLDER:TAG``); a drive letter's colon separates nothing.

    Args:
        transport: what stood before it, for the message.

    Raises:
        InvalidReferenceError: the path is empty.
    """
    drive = text[:2] if re.match(r"[A-Za-z]:[\\/]", text) else ""
    path, colon, tag = text[len(drive) :].partition(":")
    if not path:
        whole = f"{transport}:{text}" if transport else text
        raise InvalidReferenceError(f"no file or folder in {whole!r}")
    return drive + path, tag if colon and tag else None


def parse_name(text: str) -> Reference:
    """The reference in ``//registry/repository:tag``, which is what follows ``docker:``.

    Raises:
        InvalidReferenceError: the slashes are missing, or it is no reference.
    """
    if not text.startswith("//"):
        raise InvalidReferenceError(f"not a registry's image: docker:{text}", hint="write docker://REFERENCE")
    return Reference.parse(text[2:])


def open_source(text: str, options: RegistryOptions = DEFAULT_OPTIONS) -> ImageSource:
    """The source that *text* names; without a transport: a bare folder or archive, told by looking at it.

    Args:
        options: how registries are reached.

    Raises:
        ImageError: it is not there, or not what it is said to be.
    """
    transport, rest = split_name(text)
    if transport == "docker":
        from winlayers.images.transports.registry import RegistrySource

        return RegistrySource(parse_name(rest), options)
    if transport:
        return _local_source(transport, *split_path(rest, transport), options)
    path, tag = (rest, None) if rest == "-" or os.path.exists(rest) else split_path(rest)
    if os.path.isdir(path):
        return _local_source("oci", path, tag, options)
    if path != "-" and not os.path.exists(path):
        raise ImageError(
            f"no such file or folder: {path}", hint="or name a transport, such as oci:FOLDER:TAG"
        )
    return _local_source("", path, tag, options)


def _local_source(transport: str, path: str, tag: str | None, options: RegistryOptions) -> ImageSource:
    if transport == "oci":
        from winlayers.images.transports.oci_layout import LayoutSource

        return LayoutSource(path, tag, options)
    from winlayers.images.transports.archive import Archive
    from winlayers.images.transports.docker_archive import DockerArchiveSource
    from winlayers.images.transports.oci_archive import MARKER, OciArchiveSource

    archive = Archive(path)
    # What today's docker save writes is both; the OCI half has the manifests and blobs as they were.
    if transport == "oci-archive" or (not transport and MARKER in archive):
        return OciArchiveSource(archive, tag, options)
    return DockerArchiveSource(archive, tag)


def open_target(
    text: str, options: RegistryOptions = DEFAULT_OPTIONS, *, mount_from: Sequence[str] = ()
) -> ImageTarget:
    """The target that *text* names.

    Args:
        options: how registries are reached.
        mount_from: repositories of the same registry that may have the blobs already.

    Raises:
        ImageError: it can't be written to.
        InvalidReferenceError: no transport is named.
    """
    transport, rest = split_name(text)
    if transport == "oci":
        from winlayers.images.transports.oci_layout import LayoutTarget

        return LayoutTarget(*split_path(rest, transport))
    if transport == "oci-archive":
        from winlayers.images.transports.oci_archive import OciArchiveTarget

        return OciArchiveTarget(*split_path(rest, transport))
    if transport == "docker-archive":
        from winlayers.images.transports.docker_archive import DockerArchiveTarget

        return DockerArchiveTarget(*split_path(rest, transport))
    if transport == "docker":
        from winlayers.images.transports.registry import RegistryTarget

        return RegistryTarget(parse_name(rest), options, mount_from=mount_from)
    raise InvalidReferenceError(
        f"not a place to write an image to: {text!r}", hint="name a transport, such as oci:FOLDER:TAG"
    )
