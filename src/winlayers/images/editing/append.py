"""``append``: folders and tars as proper Windows layers on an image."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

from winlayers.errors import ImageError, InvalidNameError, LayerContentError, TarError, WinlayersError
from winlayers.images.building import NewLayer, add_image, add_layer
from winlayers.images.compression import decompress
from winlayers.images.config import history_entry, raw_history
from winlayers.images.digest import chain_ids, layer_id
from winlayers.images.editing.layers import ensure_layers
from winlayers.images.image import Image
from winlayers.images.leases import Lease
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import ROOT, View, ViewInode, ViewNode
from winlayers.tar.header import PAX_GLOBAL
from winlayers.tar.linuxlayer import LayerOptions, layer_from_tar
from winlayers.tar.linuxtree import layer_from_tree
from winlayers.tar.reader import TarReader
from winlayers.tar.writer import Sink
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import validate_component

_ROOTS = frozenset({"FILES", "HIVES", "UTILITYVM"})
_BUFFER = 1 << 20


class TarForm(enum.Enum):
    """What a tar is taken for."""

    GUESS = "guess"
    PLAIN = "plain"
    """Files, as tar(1) packs them: they become files of the drive."""
    LAYER = "layer"
    """A Windows layer, which is appended byte for byte."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AppendOptions:
    """How sources become layers.

    Attributes:
        destination: the folder of the drive that they come into, as :func:`drive_path` takes it.
        form: what tars are.
        sddl: the descriptor of all new files and folders, instead of what they would inherit.
    """

    destination: str = ""
    form: TarForm = TarForm.GUESS
    sddl: str | None = None


def append_image(
    store: ImageStore,
    image: Image,
    sources: Sequence[str | os.PathLike[str]],
    reference: Reference | None,
    options: AppendOptions | None = None,
    *,
    author: str = "",
    message: str = "",
    compression: str = "gzip",
    level: int | None = None,
    progress: Progress = QUIET,
) -> Image:
    """Make an image with a layer more for each source.

    A folder or plain tar becomes a Windows layer: new files and folders inherit their descriptors from the
    folders that they come to lie in, and folders that are there already keep all that they have.  The same
    sources on the same image give the same layers; with ``SOURCE_DATE_EPOCH``, the same image.

    Args:
        sources: folders and tars (plain, gzip or zstd), lowest first; ``-`` is a tar on standard input.
        reference: what to call it; None: nothing.
        author: who made it, for its history and configuration.
        message: a comment, for its history.
        compression, level: of the new layers.

    Raises:
        ImageError: a source can't be read.
        InvalidNameError, LayerContentError, TarError: a source can't be a Windows layer.
    """
    if not sources:
        raise ImageError("there is nothing to append")
    options = options or AppendOptions()
    destination = drive_path(options.destination)
    with store.lease() as lease:
        ensure_layers(store, lease, image, progress)
        diff_ids = list(image.config.diff_ids)
        layers = list(image.manifest.layers)
        history = list(raw_history(image.config))
        for source in sources:
            with _at_hand(os.fspath(source)) as path:
                layer = _append(store, lease, image, diff_ids, path, options, compression, level, progress)
            diff_ids.append(layer.diff_id)
            layers.append(layer.blob)
            name = os.path.basename(os.path.abspath(source))
            where = "C:\\" + destination.replace("/", "\\")
            history.append(history_entry(f"winlayers append {name} {where}", comment=message, author=author))
        return add_image(
            store,
            lease,
            image,
            layers=layers,
            diff_ids=diff_ids,
            history=history,
            author=author or None,
            reference=reference,
        )


def drive_path(text: str) -> str:
    r"""A folder of drive C: as a path from the drive's root: ``C:\app``, ``/app``, ``app`` are ``app``.

    Raises:
        InvalidNameError: it is on another drive, or no path.
    """
    path = text.replace("\\", "/")
    if path[1:2] == ":":
        if path[0] not in "cC":
            raise InvalidNameError("a container has drive C: alone", path=text)
        path = path[2:]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        validate_component(part)
    return "/".join(parts)


def _append(
    store: ImageStore,
    lease: Lease,
    image: Image,
    diff_ids: Sequence[str],
    source: str | os.PathLike[str],
    options: AppendOptions,
    compression: str,
    level: int | None,
    progress: Progress,
) -> NewLayer:
    with contextlib.ExitStack() as stack:
        service = getattr(store.driver, "service", None)
        below = None
        if isinstance(service, PortableLayerService):
            below = stack.enter_context(service.views.open(layer_id(chain_ids(diff_ids)[-1])))
        return add_layer(
            store,
            lease,
            diff_ids,
            _writer(os.fspath(source), options, below),
            manifest_type=image.manifest.media_type,
            compression=compression,
            level=level,
            progress=progress,
        )


def _writer(source: str, options: AppendOptions, below: View | None) -> Callable[[Sink], None]:
    chosen = LayerOptions(
        destination=drive_path(options.destination), file_sddl=options.sddl, directory_sddl=options.sddl
    )
    if below is not None:
        drive = _Drive(below)
        chosen = dataclasses.replace(chosen, below=drive.is_directory, directory=drive.directory)

    def write(sink: Sink) -> None:
        try:
            if os.path.isdir(source):
                layer_from_tree(source, sink, chosen)
            elif _is_layer(source, options.form):
                for chunk in _plain_data(source):
                    sink.write(chunk)
            else:
                layer_from_tar(_Chunks(_plain_data(source)), sink, chosen)
        except OSError as error:
            if isinstance(error, WinlayersError) or error.filename is None:
                raise
            raise ImageError(f"{source} can't be read: {error.filename}: {error.strerror}") from error
        except (TarError, ImageError) as error:
            error.layer = error.layer or source
            raise

    return write


# -- tars --


@contextlib.contextmanager
def _at_hand(source: str) -> Iterator[str]:
    """The path of *source*; standard input, which is read more than once, is kept in a file meanwhile.

    Raises:
        ImageError: nothing comes, or it can't be read or kept.
    """
    if source != "-":
        yield source
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="winlayers-"))
            path = os.path.join(folder, "standard input")
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise ImageError(f"can't keep what comes from standard input: {error.strerror}") from error
        if not os.path.getsize(path):
            raise ImageError("standard input is empty")
        try:
            yield path
        except (TarError, ImageError) as error:
            if error.layer == path:
                error.layer = "standard input"
            raise


def _plain_data(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from decompress(file)


class _Chunks:
    """Chunks as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, n: int, /) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:n], self._rest[n:]
        return data


def _is_layer(path: str, form: TarForm) -> bool:
    """Whether the tar is a Windows layer: by *form*, by Windows' records, or by a layer's roots alone."""
    if form is not TarForm.GUESS:
        return form is TarForm.LAYER
    names = set()
    for header in TarReader(_Chunks(_plain_data(path)), buffer_size=_BUFFER):
        if header.typeflag == PAX_GLOBAL:
            continue
        if any(key.startswith("MSWINDOWS.") for key in header.pax):
            return True
        root = header.name.removeprefix("./").strip("/").partition("/")[0].upper()
        if root in ("", "."):
            continue
        if root not in _ROOTS:
            return False
        names.add(root)
    return "FILES" in names


# -- what is there already --


class _Drive:
    """Drive C: of the image below."""

    def __init__(self, view: View) -> None:
        self._view = view

    def _node(self, path: str) -> ViewNode | None:
        drive = self._view.drive
        if drive is None or not drive.is_directory:
            return None
        return self._view.resolve(path, drive.id)

    def is_directory(self, path: str) -> bool | None:
        """Whether there is a directory; None: there is nothing."""
        node = self._node(path)
        return None if node is None else node.is_directory

    def directory(self, path: str) -> tuple[FileMetadata, Iterable[DataStream]]:
        """The metadata and streams of a directory.

        Raises:
            LayerContentError: it is a junction or a link.
        """
        node = self._node(path)
        if node is None or node.id == ROOT:
            return FileMetadata(FileAttributes.DIRECTORY), ()
        inode = self._view.inode(node.inode)
        if inode.metadata.reparse is not None:
            raise LayerContentError(
                "is a junction or a link in the image, so nothing can be put into it",
                path=path,
                hint="name the folder that it leads to",
            )
        return inode.metadata, _streams(self._view, inode)


def _streams(view: View, inode: ViewInode) -> Iterator[DataStream]:
    for stream in inode.streams:
        yield DataStream(stream.name, stream.extent.size, view.chunks(stream.extent))
