"""What every kind of mount must do.

A mount shows the drive (``Files``) of a :class:`~winlayers.layers.portable.view.View` at a folder, read-only
or with a scratch layer on top.  It lives on when the process that made it ends: what is needed to use it,
to take it down and to find it stale is in its :class:`MountRecord`, which the store keeps on disk.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from winlayers.errors import MountError
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.view import View
from winlayers.win32.metadata import FileMetadata


@dataclasses.dataclass(frozen=True, slots=True)
class MountRequest:
    """What is to be mounted.

    Attributes:
        view: the chain's merged view.
        view_dir: a folder beside the view's file, for what can be shared by all mounts of that chain (an
            EROFS image, extracted files).  Files appear in it by atomic rename only.
        target: an existing empty folder, absolute, where the view is to appear.
        state_dir: the scratch layer's own folder for changes (upper, work, databases); it is empty or was
            left by an earlier mount of the same kind.  None: mount read-only.
        size: the scratch layer's size in bytes; None: no bound was set.
    """

    view: View
    view_dir: str
    target: str
    state_dir: str | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MountRecord:
    """A mount that was made; all values survive JSON.

    Attributes:
        kind: the mount kind's name.
        target: the folder at which the view appears.
        writable: whether changes are kept in a scratch layer.
        boot_id: the boot during which it was made; mounts do not survive another.
        details: what the kind itself needs (loop device, process id and start time, ...).
    """

    kind: str
    target: str
    writable: bool
    boot_id: str
    details: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class MountAttempt:
    """A call of :meth:`Mounter.mount` that may have ended half way, with its process.

    Attributes:
        kind: the mount kind's name.
        target: the folder at which the view was to appear.
        identity: device and inode number that this folder had, before.
        state_dir: the scratch layer's own folder, of a writable mount.
        view_dir: the folder beside the view's file.
    """

    kind: str
    target: str
    identity: str
    state_dir: str | None
    view_dir: str = ""


class UpperKind(enum.Enum):
    """What an entry of a scratch layer is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    WHITEOUT = "whiteout"


@dataclasses.dataclass(frozen=True, slots=True)
class UpperEntry:
    """One path that a scratch layer changes, as a mount kind finds it.

    Parents come before children.  A directory whose content alone changed is reported too (its own
    ``metadata_changed`` is then False), so that children always have their parent before them.  The drive's
    root itself is not reported.  A directory that was moved is reported with all below it, each path with its
    origin, so that nothing need be looked for anywhere else.

    Attributes:
        path: relative to the drive, ``/``-separated, as it was written (lone surrogates allowed).
        kind: what is there now.
        opaque: a directory that hides all that lies below in it.
        data_changed: the unnamed stream is new or changed (False: it is still the view's, at *origin* if that
            is set, else at *path*).
        metadata_changed: attributes, times, descriptor, EAs, reparse data or streams are new or changed.
        size: bytes of the unnamed stream.
        write_time, access_time, creation_time, change_time: FILETIMEs; 0 where the mount kind can't know.
        posix_target: for symbolic links made through POSIX, their target.
        overrides: metadata that was set explicitly through the ``user.`` attributes; only the fields named in
            ``overridden`` ("attributes", "security", "eas", "reparse") count; the others are the view's where
            the path was there before, else new-file defaults.
        streams: alternate streams, complete, if they were changed; None: as in the view.
        origin: for a path that was moved (renamed) or is a hard link of one of the view's files: the path,
            relative to the drive, that it had in the view.  Metadata not overridden is that file's.
        replaced: the view has something at *path*, and none of it lives on: it was deleted and another file
            made in its place, or moved there.  Without an origin that is a new file.  Also set for one that
            is there still, but spelled otherwise (its origin is then that other spelling).
        identity: equal for entries that are hard links of one file; None: not linked.
        open: opens the unnamed stream; None where there is none or data_changed is False.
    """

    path: str
    kind: UpperKind
    opaque: bool = False
    data_changed: bool = True
    metadata_changed: bool = True
    size: int = 0
    creation_time: int = 0
    access_time: int = 0
    write_time: int = 0
    change_time: int = 0
    posix_target: str | None = None
    overrides: FileMetadata | None = None
    overridden: frozenset[str] = frozenset()
    streams: tuple[tuple[str, bytes], ...] | None = None
    origin: str | None = None
    replaced: bool = False
    identity: object | None = None
    open: Callable[[], BinaryIO] | None = None

    @property
    def differs(self) -> bool:
        """Whether anything at the path is not the view's; an untouched copy of a file does not."""
        moved = self.origin is not None or self.replaced or self.opaque or self.identity is not None
        return moved or self.data_changed or self.metadata_changed or self.kind is UpperKind.WHITEOUT


class Mounter(abc.ABC):
    """One kind of mount.  Instances are stateless and cheap."""

    kind: str
    """The name that options and records use: ``erofs``, ``fuse``, ``extract``."""

    enforces_size: bool
    """Whether a scratch layer's size is enforced with ENOSPC."""

    @abc.abstractmethod
    def unavailable(self) -> str | None:
        """Why this kind can't be used here and now; None: it can.  Quick, and without side effects."""

    @abc.abstractmethod
    def mount(self, request: MountRequest) -> MountRecord:
        """Make the mount; when it returns, the view can be used at the target.

        Raises:
            MountError: it can't be made; nothing is left mounted or running.
            UnsupportedError: the view needs what this kind can't do (a scratch size that can't be enforced).
        """

    def recover(self, attempt: MountAttempt) -> None:
        """Take away what a `mount` that was killed has left; there may be nothing.

        This takes down what is mounted at the target, where nothing was before.

        Raises:
            MountError: it can't be taken away.
        """
        if sys.platform == "linux":
            from winlayers.layers.portable.mounts import syscalls

            try:
                for _ in mountinfo.mounts_at(attempt.target):
                    syscalls.unmount(attempt.target, syscalls.UMOUNT_NOFOLLOW | syscalls.UMOUNT_DETACH)
            except OSError as error:
                raise MountError(
                    f"what a killed process mounted can't be unmounted: {error.strerror}", path=attempt.target
                ) from error

    @abc.abstractmethod
    def unmount(self, record: MountRecord) -> None:
        """Take the mount down.  All changes are on disk when it returns.  A stale mount is fine.

        Raises:
            MountError: it is busy.
        """

    @abc.abstractmethod
    def is_alive(self, record: MountRecord) -> bool:
        """Whether the mount is still there; False after a reboot or a crash."""

    @abc.abstractmethod
    def changes(self, view: View, state_dir: str) -> Iterator[UpperEntry]:
        """What a scratch layer whose changes are in *state_dir* changes, relative to *view*."""
