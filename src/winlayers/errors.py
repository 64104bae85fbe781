"""Every error that winlayers raises on purpose.

One hierarchy, so that ``except WinlayersError`` is all a caller needs, with names fine enough to act on.
A message is one line: what is wrong, with which layer, at which path inside it, and what to do.
"""

from __future__ import annotations


class WinlayersError(Exception):
    """The root of the hierarchy.

    Args:
        message: what is wrong, in one line, without a full stop.
        layer: the layer (id, digest or folder) that it is about.
        path: the path inside the layer, ``/``-separated.
        hint: what the reader can do about it.
    """

    def __init__(
        self, message: str, *, layer: str | None = None, path: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer
        self.path = path
        self.hint = hint

    def __str__(self) -> str:
        text = self.message
        if self.path is not None:
            text = f"{_printable(self.path)}: {text}"
        if self.layer is not None:
            text = f"layer {_printable(self.layer)}: {text}"
        if self.hint is not None:
            text = f"{text} ({self.hint})"
        return text


_MOST_SHOWN = 400
"""Of a path or name in a message: hostile ones can have millions of characters."""


def _printable(text: str) -> str:
    """*text*, cut where it is very long, with what a terminal can't show (lone surrogates) escaped."""
    if len(text) > _MOST_SHOWN:
        text = f"{text[: _MOST_SHOWN // 2]}...{text[-_MOST_SHOWN // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


# -- formats ----------------------------------------------------------------------------------------


class FormatError(WinlayersError, ValueError):
    """Bytes or text are not what their format demands."""


class BackupStreamError(FormatError):
    """A Win32 backup stream is malformed."""


class ReparseError(FormatError):
    """A reparse buffer is malformed, or carries what the target format cannot."""


class ExtendedAttributeError(FormatError):
    """An extended attribute buffer is malformed or over NTFS's limits."""


class SecurityDescriptorError(FormatError):
    """A binary security descriptor is malformed."""


class SddlError(SecurityDescriptorError):
    """A security descriptor's text form is malformed."""


class InvalidNameError(FormatError):
    """A name or path is not valid where it stands (``..``, a colon, an empty part, a NUL)."""


class RegistryHiveError(FormatError):
    """A regf hive is malformed."""


class TarError(FormatError):
    """A tar stream is malformed, or a header can't be written."""


class TarTruncatedError(TarError):
    """A tar stream ends inside a header or a member."""


class TarSplitError(FormatError):
    """tar-split metadata is malformed, or a stream can't be reassembled exactly."""


# -- layers -----------------------------------------------------------------------------------------


class LayerError(WinlayersError):
    """Something is wrong with a layer."""


class LayerNotFoundError(LayerError, LookupError):
    """There is no such layer."""


class LayerExistsError(LayerError):
    """A layer of that id is there already."""


class LayerInUseError(LayerError):
    """The layer is mounted, locked by another process, or has children."""


class LayerNotMountedError(LayerError):
    """The operation needs a mounted (activated, prepared) layer."""


class LayerCorruptError(LayerError):
    """A layer's files do not agree with each other or with their digests; run ``winlayers check``."""


class LayerContentError(LayerError, ValueError):
    """A layer's content is refused: a link to nothing, a deletion in a base layer, a lone stream."""


class UnsupportedError(WinlayersError):
    """This can't be done here (this host, this kernel, this service); the message says why."""


class MountError(WinlayersError):
    """A view could not be mounted or unmounted."""


class ScratchFullError(LayerError):
    """A scratch layer has reached its size."""


class StoreError(WinlayersError):
    """The store itself is unusable: wrong version, not a store, locked, or its file system refuses."""


class StoreReadOnlyError(StoreError):
    """The store can only be read: its file system is read-only, or it belongs to another user."""


class HcsError(WinlayersError, OSError):
    """A call into Windows failed.

    Attributes:
        function: the function called (``PrepareLayer``, ``NtCreateFile``).
        code: the HRESULT, NTSTATUS or Win32 error code as an unsigned number.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str = "",
        code: int = 0,
        layer: str | None = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, layer=layer, path=path, hint=hint)
        self.function = function
        self.code = code


class PathNotFoundError(WinlayersError, LookupError):
    """There is no such file, directory or stream in an image, layer or container."""


# -- graph driver -----------------------------------------------------------------------------------


class GraphDriverError(WinlayersError):
    """A graph driver can't be had or can't do what is asked."""


class DriverNotFoundError(GraphDriverError, LookupError):
    """No graph driver is registered under that name."""


class DriverOptionError(GraphDriverError, ValueError):
    """A driver or storage option is unknown or malformed."""


# -- images and containers --------------------------------------------------------------------------


class ImageError(WinlayersError):
    """Something is wrong with an image or the place that it comes from."""


class ImageNotFoundError(ImageError, LookupError):
    """There is no such image, tag or blob."""


class InvalidReferenceError(ImageError, ValueError):
    """An image reference or transport name can't be parsed."""


class DigestMismatchError(ImageError):
    """Content does not have the digest or size that names it."""


class PlatformError(ImageError):
    """The image is not for Windows, or no manifest fits the platform asked for."""


class ImageInUseError(ImageError):
    """An image can't be removed while containers stand on it."""


class RegistryError(ImageError):
    """A registry answered with an error or not at all."""


class ContainerError(WinlayersError):
    """Something is wrong with a container."""


class ContainerNotFoundError(ContainerError, LookupError):
    """There is no such container."""


class ContainerExistsError(ContainerError):
    """A container of that name is there already."""


class RebaseConflictError(ImageError):
    """An image can't be put on another base: where its layers changed the old base, the new one differs.

    Attributes:
        conflicts: the paths, from the layers' root, where force would help.
        missing: the paths that the layers need of the base and that the new one lacks: there it would not.
    """

    def __init__(
        self,
        message: str,
        *,
        conflicts: tuple[str, ...] = (),
        missing: tuple[str, ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.conflicts = conflicts
        self.missing = missing
