"""The layer service: hcsshim's layer API as one contract.

What the Windows host compute service does for dockerd's graph driver, as an abstract class with two
implementations: :mod:`winlayers.layers.native` (``vmcompute.dll`` through ctypes) and
:mod:`winlayers.layers.portable` (a store of our own, on any operating system).  The promises below are the
contract; :mod:`winlayers.testing` has a conformance suite that checks them on any implementation.

**Ids and paths.**  A layer is a folder ``<home>/<id>``.  Parent chains are lists of layer folders' paths,
nearest parent first, everywhere (source: hcsshim ``wclayer``; dockerd ``layerchain.json``).

**Order of calls.**  ``activate``, ``prepare``, (use), ``unprepare``, ``deactivate``.  ``activate`` makes a
scratch layer's volume available, ``prepare`` joins it with its parents into one view, of which
``mount_path`` is the root.

**Layer content.**  Paths of entries are ``/``-separated, relative, and start at the layer's root: ``Files``
(drive C:), ``Hives``, ``UtilityVM``.  They are ``str`` and may hold lone surrogates.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from winlayers.errors import LayerContentError
from winlayers.tar.backuptar import EntryKind
from winlayers.win32.metadata import DataStream, FileMetadata

__all__ = [
    "REMOVING",
    "ChangeKind",
    "DriverInfo",
    "EntryKind",
    "Flavour",
    "LayerChange",
    "LayerEntry",
    "LayerReader",
    "LayerService",
    "LayerWriter",
    "TarStream",
]


REMOVING = "-removing"
"""What the names of folders end in whose removal has begun; they are no layers any more."""


class Flavour(enum.IntEnum):
    """hcsshim's driver types, with the numbers that HCS takes."""

    DIFF = 0
    FILTER = 1


@dataclasses.dataclass(frozen=True, slots=True)
class DriverInfo:
    """Which driver a layer call is for (HCS's ``DriverInfo``).

    Attributes:
        home: the absolute path of the folder that holds the layers' folders.
        flavour: filter (``windowsfilter``) or differencing disk (``windowsdiff``).
    """

    home: str
    flavour: Flavour = Flavour.FILTER


@dataclasses.dataclass(frozen=True, slots=True)
class LayerEntry:
    """One entry of a layer, without its data.

    A reparse point is a ``FILE`` or ``DIRECTORY`` whose metadata carries a reparse buffer.

    Attributes:
        path: the path in the layer.
        kind: what it is.
        metadata: for files and directories; for links where the source recorded some; else None.
        size: bytes in the unnamed data stream.
        link_target: for links, the target's path in the layer (in this layer or a parent).
    """

    path: str
    kind: EntryKind
    metadata: FileMetadata | None = None
    size: int = 0
    link_target: str | None = None


class LayerReader(abc.ABC):
    """Reads a layer's own entries (not its parents') in an order in which they can be written again.

    Iterating gives each entry with an iterable of its streams: the unnamed one first where the file has
    one, then alternate ones.  The streams of an entry can be read only until the next entry is taken; what
    is not read is skipped.  Readers are context managers; closing twice is harmless, and a reader that is
    not exhausted may be closed.
    """

    @abc.abstractmethod
    def __iter__(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        """The entries, parents before children.

        Raises:
            LayerError: the layer can't be read.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release what the reader holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LayerWriter(abc.ABC):
    """Writes a new layer, entry by entry.

    The layer exists only once :meth:`commit` has returned.  As a context manager a writer commits when
    the block ends well and aborts otherwise.
    """

    @abc.abstractmethod
    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        """Add a file or directory (told apart by the DIRECTORY attribute) with its streams.

        Raises:
            LayerContentError, InvalidNameError: the entry can't be part of a layer.
        """

    @abc.abstractmethod
    def add_link(self, path: str, target: str) -> None:
        """Add a hard link to *target*, which may lie in this layer or in any parent.

        Links are made last, so the target may come later.
        """

    @abc.abstractmethod
    def remove(self, path: str) -> None:
        """Record that the parents' *path* is deleted.

        In ``Files`` a path that no parent has is a no-op; in ``UtilityVM/Files`` and in a base layer it is
        an error at the latest on :meth:`commit` (source: hcsshim ``legacyLayerWriter.Remove``).
        """

    def hide(self, path: str) -> None:
        """Record that the directory *path* is opaque (it hides what the parents have in it).

        Raises:
            LayerContentError: this service can't express it.
        """
        raise LayerContentError("opaque directories can't be written by this layer service", path=path)

    @abc.abstractmethod
    def commit(self) -> int:
        """Finish the layer; return its size, counted as :meth:`LayerService.import_tar` does."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Throw away what was written; harmless after commit or abort."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


class TarStream(Protocol):
    """A layer's tar as it is read: ``read`` gives up to *n* bytes and b"" at the end."""

    def read(self, n: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class ChangeKind(enum.Enum):
    """Docker's kinds of change, with the letters that ``docker diff`` prints."""

    MODIFY = "C"
    ADD = "A"
    DELETE = "D"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class LayerChange:
    """One path that a layer changes, relative to its parents.

    Attributes:
        path: the path in the layer (``Files/Windows/win.ini``).
        kind: added, modified, deleted.
        size: bytes in the unnamed stream (0 for deletions, directories and further names of a file).
        is_directory: whether it is a directory (of a deletion: whether the parents have one there).
        metadata_only: modified, but the data streams are the parents'.
        stream_size: bytes in the alternate streams.
    """

    path: str
    kind: ChangeKind = dataclasses.field(compare=False)
    size: int = dataclasses.field(default=0, compare=False)
    is_directory: bool = dataclasses.field(default=False, compare=False)
    metadata_only: bool = dataclasses.field(default=False, compare=False)
    stream_size: int = dataclasses.field(default=0, compare=False)


class LayerService(abc.ABC):
    """Stores layers, joins them into views, takes them in and gives them out.

    Every method may raise :class:`~winlayers.errors.LayerNotFoundError` where it needs a layer that is not
    there, :class:`~winlayers.errors.UnsupportedError` where this host can't do it, and, on Windows,
    :class:`~winlayers.errors.HcsError`.
    """

    info: DriverInfo
    """The home and flavour that all calls are about."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name for status output (``hcs``, ``portable``)."""

    @property
    def streaming(self) -> bool:
        """Whether layers can be read and written entry by entry.

        False where only folders in the transport format work (Windows Server 2016 TP4); the graph driver
        then goes through a temporary folder.
        """
        return True

    def status(self) -> list[tuple[str, str]]:
        """Name and value pairs for ``info``-like output, such as the kind of mounts in use and why."""
        return []

    def check_home(self) -> None:  # noqa: B027 - a hook, empty by default
        """Refuse a home that can't hold layers (a ReFS volume on Windows); called before it is made or used.

        Raises:
            StoreError: the home's file system can't be used; the message says why.
        """

    def layer_path(self, layer_id: str) -> str:
        """The absolute path of the layer's folder, whether or not it exists (the id's last part counts)."""
        return os.path.join(self.info.home, os.path.basename(layer_id.rstrip("/\\").replace("\\", "/")))

    # -- life of a layer --

    @abc.abstractmethod
    def exists(self, layer_id: str) -> bool:
        """Whether the layer is there, wholly (LayerExists)."""

    def is_there(self, layer_id: str) -> bool:
        """As :meth:`exists`, but a service that would have to ask the host may look at the folder."""
        return self.exists(layer_id)

    @abc.abstractmethod
    def create(self, layer_id: str, parent_id: str) -> None:
        """Make an empty read-only layer on *parent_id* ("" for none) (CreateLayer).

        Raises:
            LayerExistsError: there is one of that id.
        """

    @abc.abstractmethod
    def create_scratch(self, layer_id: str, chain: Sequence[str]) -> None:
        """Make a writable scratch layer on *chain* (CreateSandboxLayer).

        Raises:
            LayerExistsError: there is one of that id.
            LayerNotFoundError: *chain* is empty or names a layer that is not there.
        """

    @abc.abstractmethod
    def expand_scratch(self, layer_id: str, size: int) -> None:
        """Let the scratch layer hold *size* bytes (ExpandSandboxSize)."""

    @abc.abstractmethod
    def destroy(self, layer_id: str) -> None:
        """Remove the layer and all that belongs to it (DestroyLayer).  A layer that is not there is fine.

        Raises:
            LayerInUseError: it is activated, or locked by another process.
        """

    def prepare_removal(self, layer_id: str) -> None:  # noqa: B027 - a hook, empty by default
        """Stop what holds the layer open before it is removed (template VMs on Windows)."""

    def set_aside(self, layer_id: str, hidden_id: str) -> None:
        """Rename the folder of a layer that is being removed: from then on the layer is gone, its id free.

        Raises:
            FileNotFoundError: there is no such layer, or no more the one that :meth:`prepare_removal` saw.
            LayerInUseError: it has come into use since then.
            OSError: the folder can't be renamed.
        """
        os.rename(self.layer_path(layer_id), self.layer_path(hidden_id))

    def cancel_removal(self, layer_id: str) -> None:  # noqa: B027 - a hook, empty by default
        """Take :meth:`prepare_removal` back: the layer stays after all."""

    def release(self, layer_path: str) -> None:  # noqa: B027 - a hook, empty by default
        """Let go of what keeps the folder *layer_path* from being renamed (detach a virtual disk)."""

    # -- views --

    @property
    def tells_views(self) -> bool:
        """Whether :meth:`is_prepared` knows of all views, other processes' too."""
        return True

    @abc.abstractmethod
    def activate(self, layer_id: str) -> None:
        """Make the layer ready for use (ActivateLayer)."""

    @abc.abstractmethod
    def prepare(self, layer_id: str, chain: Sequence[str]) -> None:
        """Join the layer with its parents into a view (PrepareLayer)."""

    @abc.abstractmethod
    def unprepare(self, layer_id: str) -> None:
        """Take the view apart (UnprepareLayer).  A layer that is not prepared is fine."""

    @abc.abstractmethod
    def deactivate(self, layer_id: str) -> None:
        """End the use of the layer (DeactivateLayer).  A layer that is not active is fine."""

    def is_prepared(self, layer_id: str) -> bool:
        """Whether the layer is joined into a view now, be it by another process.

        Services whose views end with the process, or that can't tell (HCS, whose :attr:`tells_views` says
        so), say False: the graph driver then knows of its own mounts only.
        """
        return False

    @abc.abstractmethod
    def mount_path(self, layer_id: str) -> str:
        """The root of the prepared layer's view, else the layer's folder (GetLayerMountPath).

        May be "": the folder is meant.
        """

    # -- content --

    @abc.abstractmethod
    def open_reader(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        """Read the layer's own entries (ExportLayerBegin...)."""

    def open_listing(self, layer_id: str, chain: Sequence[str]) -> LayerReader:
        """:meth:`open_reader` for whom paths, kinds and sizes are enough.

        The rest of the metadata may be missing, and the streams may be without their data.
        """
        return self.open_reader(layer_id, chain)

    @abc.abstractmethod
    def open_writer(self, layer_id: str, chain: Sequence[str]) -> LayerWriter:
        """Write a new layer on *chain* (ImportLayerBegin...); *chain* empty: a base layer.

        A layer of that id made by :meth:`create` and still empty is filled.
        """

    @abc.abstractmethod
    def import_tar(self, layer_id: str, chain: Sequence[str], source: BinaryIO | TarStream) -> int:
        """Take in an uncompressed layer tar; return its size: the bytes of all files' unnamed streams.

        Alternate streams and hard links add nothing; what has several entries counts as often (source:
        dockerd and hcsshim ``writeLayerFromTar``, which add up ``backuptar.FileInfoFromHeader``'s sizes).

        A failure leaves no layer and no file behind.

        Raises:
            TarError, LayerContentError: the tar is not a layer.
        """

    @abc.abstractmethod
    def export_tar(self, layer_id: str, chain: Sequence[str]) -> TarStream:
        """The layer as a tar stream; the caller closes it.  Errors surface in ``read`` and ``close``."""

    @abc.abstractmethod
    def import_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        """Take in *folder*, a layer in the transport format (ImportLayer)."""

    @abc.abstractmethod
    def export_folder(self, layer_id: str, folder: str, chain: Sequence[str]) -> None:
        """Write the layer to *folder* in the transport format (ExportLayer)."""

    def facts(self, layer_id: str) -> dict[str, str]:
        """What the service knows of a layer without reading it, for metadata and listings.

        Keys mean the same in every service: ``entries`` (a number), ``size`` (as :meth:`import_tar` counts),
        ``stream_size`` (bytes in alternate streams), ``tar_size`` (bytes of its tar), ``digest`` (its diff
        id).  Who knows nothing gives nothing.
        """
        return {}

    def changes(self, layer_id: str, chain: Sequence[str]) -> Iterator[LayerChange] | None:
        """The layer's changes from an index, additions told from modifications; None: there is no index.

        The graph driver then derives them from :meth:`open_reader`, where all but deletions are
        modifications (as in the reference).
        """
        return None

    def open_file(self, layer_id: str, path: str) -> BinaryIO:
        """The unnamed data stream of the layer's own file at *path*, to be closed by the caller.

        By default *path* is opened in the layer's folder, one component at a time and never through a link.
        The four boot files that an import changes are read from the copies that it kept (``bcd.bak``...).

        Raises:
            LayerContentError: there is no file at that path.
            InvalidNameError: *path* can't be a path in a layer.
        """
        from winlayers.layers.rooted import BCD_COPIES, Root

        with Root(self.layer_path(layer_id)) as root:
            copy = BCD_COPIES.get(path)
            if copy is not None and root.lstat(copy) is not None:
                path = copy
            return root.open_file(path)

    # -- the host --

    @abc.abstractmethod
    def shared_base_images(self) -> str:
        """The host's shared base images, as the JSON text ``{"Images": [...]}`` (GetBaseImages)."""

    @abc.abstractmethod
    def name_to_guid(self, name: str) -> uuid.UUID:
        """The GUID that the service knows a layer's folder name by (NameToGuid)."""

    @abc.abstractmethod
    def grant_vm_access(self, vm_id: str, path: str) -> None:
        """Let a virtual machine open the file *path* (GrantVmAccess)."""

    @abc.abstractmethod
    def process_base_layer(self, path: str) -> None:
        """Make a freshly written base layer's folder bootable for containers (ProcessBaseImage)."""

    @abc.abstractmethod
    def process_utility_vm(self, path: str) -> None:
        """Make a freshly written ``UtilityVM`` folder bootable (ProcessUtilityImage)."""
