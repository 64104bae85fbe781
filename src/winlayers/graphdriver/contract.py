"""The graph driver contract: what an engine asks of the thing that keeps its layers.

It is Docker's graph driver interface (source: moby ``daemon/graphdriver/driver.go``: ``ProtoDriver``,
``DiffDriver``, ``DiffGetterDriver``), with what its Windows driver has beyond it.  Images and containers are
built on this class alone.  :class:`winlayers.testing.GraphDriverSuite` checks the promises on any driver.

**Ids** are one path part, chosen by the caller: not empty, not ``.`` or ``..``, without ``/``, ``\\`` and
control characters, and not ending in ``-removing``.  Where one may be missing, ``""`` says so.

**Errors.**  Beside what a method names, every method that takes an id may raise
:class:`~winlayers.errors.InvalidNameError` (not an id), :class:`~winlayers.errors.LayerNotFoundError` (no
such layer), :class:`~winlayers.errors.UnsupportedError` (not on this host) and, on Windows,
:class:`~winlayers.errors.HcsError`.  A method that fails leaves the layers as they were.

**Threads.**  One driver object may be used by many threads at once.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Protocol, Self, TypeAlias, runtime_checkable

from winlayers.errors import UnsupportedError
from winlayers.layers.service import LayerChange, TarStream

Change: TypeAlias = LayerChange
"""One path that a layer changes: the layer service's type under Docker's name."""


@dataclasses.dataclass(frozen=True, slots=True)
class CreateOptions:
    """What a new layer may be given (moby's ``CreateOpts``).

    Attributes:
        storage_opt: options of this one layer, such as ``{"size": "20G"}``; keys are read without regard to
            case.
        mount_label: SELinux's label.  It has no meaning on Windows and is kept for the contract's sake.
    """

    storage_opt: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mount_label: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CustomImageInfo:
    """A base image that the host always has (Windows' shared base images).

    Attributes:
        id: the layer's id: the first 32 bytes of the SHA-384 of the folder's name, in hexadecimal.
        name: the image's name (``WindowsServerCore``).
        version: its version (``10.0.10586.0``).
        path: the folder of the layer on the host.
        size: bytes.
        created_time: when it was made; None where the host doesn't say.
    """

    id: str
    name: str
    version: str
    path: str
    size: int
    created_time: datetime.datetime | None = None


class FileGetCloser(abc.ABC):
    """Opens a layer's files by their path, for tar-split's reassembly; a context manager."""

    @abc.abstractmethod
    def get(self, path: str) -> BinaryIO:
        """The data of the file at *path* (``/``-separated, from the layer's root); the caller closes it.

        Raises:
            LayerContentError: there is no file at that path.
            InvalidNameError: *path* can't be a path in a layer.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release what is held (a temporary folder); harmless when called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class DiffGetter(Protocol):
    """A driver that can open the files of a layer one by one (moby's ``DiffGetterDriver``)."""

    def diff_getter(self, layer_id: str) -> FileGetCloser:
        """A getter of the layer's own files."""


class GraphDriver(abc.ABC):
    """Keeps layers and joins them into file systems.

    A driver is made by an :data:`~winlayers.graphdriver.registry.InitFunction`, which takes the home folder
    and options as ``key=value`` texts.
    """

    # -- what it is --

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name under which the driver is registered."""

    def __str__(self) -> str:
        return self.name

    @abc.abstractmethod
    def status(self) -> list[tuple[str, str]]:
        """Name and value pairs for ``info``-like output."""

    def cleanup(self) -> None:  # noqa: B027 - a hook, empty by default
        """Release what the driver holds and sweep what an interrupted removal left.

        What is locked is logged and left for the next time; nothing is raised for it.  A home that is not
        there is fine.
        """

    # -- the life of a layer --

    @abc.abstractmethod
    def exists(self, layer_id: str) -> bool:
        """Whether the layer is there.  Never raises: what can't be told is not there."""

    @abc.abstractmethod
    def create(self, layer_id: str, parent_id: str = "", options: CreateOptions | None = None) -> None:
        """Make an empty read-only layer on *parent_id*, to be filled by :meth:`apply_diff`.

        Raises:
            LayerExistsError: there is one of that id.
            LayerNotFoundError: the parent is not there.
            DriverOptionError: an option is unknown or malformed.
        """

    @abc.abstractmethod
    def create_read_write(
        self, layer_id: str, parent_id: str = "", options: CreateOptions | None = None
    ) -> None:
        """Make a writable layer (a container's scratch layer) on *parent_id*.

        A parent whose id ends in ``-init`` is Docker's empty init layer: the new layer stands on that layer's
        own parents.

        Raises:
            LayerExistsError: there is one of that id.
            LayerNotFoundError: the parent is not there, or there is nothing below to stand on.
            DriverOptionError: an option is unknown or malformed.
        """

    @abc.abstractmethod
    def remove(self, layer_id: str) -> None:
        """Remove the layer.  One that is not there is fine.

        Once this returns the id is free, even if the host still held some file: what is left is then logged
        and swept by :meth:`cleanup`.

        Raises:
            LayerInUseError: the layer is mounted, or other layers stand on it.
        """

    # -- use --

    @abc.abstractmethod
    def get(self, layer_id: str, mount_label: str = "") -> str:
        """Mount the layer on its parents and return the absolute path of the view's root.

        Calls are counted: a second one returns the same path, and waits where the first is still at work.
        Each must be paid back with :meth:`put`.  A call that fails counts for nothing.

        Raises:
            MountError: the view can't be made.
        """

    @abc.abstractmethod
    def put(self, layer_id: str) -> None:
        """Give back one :meth:`get`; the last one unmounts.

        A layer that is mounted without having been counted by this driver object (by an earlier process) is
        unmounted; one that is not mounted is fine.  If unmounting fails the layer stays counted as mounted,
        so that ``put`` can be called again.

        Raises:
            MountError, LayerInUseError: the view is busy.
        """

    # -- content --

    @abc.abstractmethod
    def diff(self, layer_id: str, parent_id: str = "") -> TarStream:
        """What the layer changes relative to its parent, as an uncompressed layer tar; the caller closes it.

        A mounted layer is unmounted while the stream is open and mounted again when it is closed, whatever
        happened in between.  *parent_id* may be the layer's own parent or ``""``: a diff against any other
        layer does not exist for this format.

        Errors while reading surface in ``read`` and ``close``.
        """

    @abc.abstractmethod
    def changes(self, layer_id: str, parent_id: str = "") -> list[Change]:
        """The paths that the layer changes relative to its parent, sorted by path."""

    @abc.abstractmethod
    def apply_diff(self, layer_id: str, parent_id: str, diff: BinaryIO | TarStream) -> int:
        """Fill the layer *layer_id* on *parent_id* from an uncompressed layer tar.

        The layer is made if :meth:`create` has not made it.  It must not be mounted.

        Returns:
            The layer's size: the bytes of its files' unnamed streams.

        Raises:
            TarError, LayerContentError: *diff* is not a layer; there is no layer then.
            LayerExistsError: there is a layer of that id which has content.
            LayerNotFoundError: the parent is not there.
        """

    @abc.abstractmethod
    def diff_size(self, layer_id: str, parent_id: str = "") -> int:
        """The bytes of the unnamed streams of the files that the layer adds or modifies.

        A file with several names counts once (source: moby ``archive.ChangesSize``).
        """

    def diff_getter(self, layer_id: str) -> FileGetCloser:
        """A getter of the layer's own files, for tar-split.

        Raises:
            UnsupportedError: this driver has none.
        """
        raise UnsupportedError(f"the graph driver {self.name} can't open files of a layer", layer=layer_id)

    # -- where things are --

    @abc.abstractmethod
    def get_metadata(self, layer_id: str) -> dict[str, str]:
        """Facts about the layer for ``inspect``-like output (``dir``: its folder)."""

    @abc.abstractmethod
    def layer_chain(self, layer_id: str) -> list[str]:
        """The folders of the layer's parents, nearest first; empty for a base layer."""

    @abc.abstractmethod
    def layer_path(self, layer_id: str) -> str:
        """The absolute path of the layer's folder, whether or not it exists."""

    def get_custom_image_infos(self) -> Sequence[CustomImageInfo]:
        """The base images that the host always has, each made known as a layer; by default none."""
        return ()
