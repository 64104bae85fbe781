"""The ``extract`` kind: the view's files written out, for hosts and users that can mount nothing.

The files are plain ones at the target: a folder that is made elsewhere and moved there (where the target lies
on another file system, a link to it takes the target's place).  It outlives the process and also a reboot.

*Read-only* mounts of ordinary users share their files: written out once into ``extract`` beside the view,
without write permission, and hard-linked from there.  Root, whom permissions don't stop, gets files of its
own.  *Writable* ones have their own files, cloned from the shared ones where the file system can (btrfs,
xfs), else written out from the tars.  What they were is noted in ``stamps.db``, so that changes are found by
comparing status first and data only where that differs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers import durable
from winlayers.errors import MountError, UnsupportedError
from winlayers.layers.portable.erofs.image import stamp_of
from winlayers.layers.portable.mounts import mountinfo, scratch, syscalls
from winlayers.layers.portable.mounts.contract import (
    MountAttempt,
    Mounter,
    MountRecord,
    MountRequest,
    UpperEntry,
)
from winlayers.layers.portable.mounts.extractor import Extractor, can_clone, first_difference
from winlayers.layers.portable.mounts.stamps import Stamps, extract_changes
from winlayers.layers.portable.view import View

EXTRACT = "extract"
TREE = "tree"
STAMPS = "stamps.db"
PLACE = "place.json"
_SHARED = "shared-"
_OWN = "mount-"
_LOCK = ".lock"


class ExtractMounter(Mounter):
    """See the module."""

    kind = "extract"
    enforces_size = False

    def unavailable(self) -> str | None:
        """Why this kind can't be used here and now; None: it can."""
        if sys.platform == "win32" or os.open not in os.supports_dir_fd:
            return "this system can't open files relative to folders"
        return None

    def mount(self, request: MountRequest) -> MountRecord:
        """Write out what is needed and put it at the target.

        Raises:
            MountError: it can't be written or put there; nothing is left at the target.
            UnsupportedError: the scratch layer has a size, which can't be enforced with plain files.
        """
        if request.state_dir is not None and scratch.is_bound(request.size, request.state_dir):
            raise UnsupportedError(
                f"the scratch layer's size of {request.size} bytes can't be enforced by extraction",
                hint="set no size, or use another kind of mount",
            )
        try:
            if os.path.islink(request.target) or os.listdir(request.target):
                raise MountError("the target is not an empty folder", path=request.target)
            if request.state_dir is None:
                tree = self._read_only_tree(request)
            else:
                tree = self._writable_tree(request, request.state_dir)
            identity = _identity(tree)
            details = {"tree": tree, "identity": identity}
            if request.state_dir is not None:
                details["state_dir"] = request.state_dir
                place = {"target": request.target, "identity": identity}
                durable.write_json(os.path.join(request.state_dir, PLACE), place)
            _put(tree, request.target)
        except OSError as error:
            raise MountError(f"extraction failed: {error.strerror}", path=request.target) from error
        return MountRecord(
            self.kind, request.target, request.state_dir is not None, mountinfo.boot_id(), details
        )

    def recover(self, attempt: MountAttempt) -> None:
        """Take the tree from the target back to the scratch layer, or altogether if it was read-only."""
        try:
            if attempt.state_dir is not None:
                found, tree = _locate(attempt.state_dir), os.path.join(attempt.state_dir, TREE)
                if found is not None and found != tree:
                    _take(found, tree, _identity(found))
            elif os.path.islink(attempt.target):
                os.unlink(attempt.target)
                os.mkdir(attempt.target)
            elif _identity(attempt.target) not in ("", attempt.identity):
                # The target was empty: another folder in its place can only be what was put there.
                _remove(attempt.target)
                os.mkdir(attempt.target)
            if attempt.state_dir is None:
                # A layer is mounted once at a time: no other mount's tree can be there.
                folder = os.path.join(attempt.view_dir, EXTRACT)
                for name in os.listdir(folder) if os.path.isdir(folder) else []:
                    if name.startswith(_OWN):
                        _remove(os.path.join(folder, name))
        except OSError as error:
            raise MountError(
                f"what a killed process put there can't be taken away: {error.strerror}", path=attempt.target
            ) from error

    def unmount(self, record: MountRecord) -> None:
        """Take the files away from the target: into the scratch layer's folder, or altogether.

        Raises:
            MountError: they can't be moved.
        """
        tree = record.details["tree"]
        try:
            if record.writable and self.is_alive(record):
                _settle(record.target)
            _take(record.target, tree, record.details["identity"])
            if record.writable:
                durable.fsync_dir(os.path.dirname(tree))
            else:
                _remove(tree)
        except OSError as error:
            raise MountError(f"can't be taken down: {error.strerror}", path=record.target) from error

    def is_alive(self, record: MountRecord) -> bool:
        """Whether the files are at the target; a reboot does not end that."""
        return _identity(record.target) == record.details.get("identity")

    def changes(self, view: View, state_dir: str) -> Iterator[UpperEntry]:
        """What the scratch layer changes; it may be mounted meanwhile."""
        tree = _locate(state_dir)
        stamps = os.path.join(state_dir, STAMPS)
        if tree is None or not os.path.exists(stamps):
            return
        with Stamps(stamps) as known:
            yield from extract_changes(view, tree, known)

    # -- trees --

    @staticmethod
    def _writable_tree(request: MountRequest, state_dir: str) -> str:
        """The scratch layer's own tree, made where there is none yet."""
        tree = os.path.join(state_dir, TREE)
        found = _locate(state_dir)
        if found is not None:
            if found != tree:  # left at the target of a mount that was killed
                _take(found, tree, _identity(found))
            return tree
        durable.remove_tree(tree)  # without stamps: it was never whole
        shared = None
        if can_clone(request.view_dir, state_dir):
            shared = _shared_tree(request.view, request.view_dir)
        stamps = os.path.join(state_dir, f"{STAMPS}.new")
        with _hidden_tree(state_dir) as hidden:
            with contextlib.closing(Stamps.create(stamps)) as written:
                Extractor(request.view, hidden, clone_from=shared, stamps=written).run()
            _settle(hidden)
            os.rename(hidden, tree)
        os.replace(stamps, os.path.join(state_dir, STAMPS))
        durable.fsync_dir(state_dir)
        return tree

    @staticmethod
    def _read_only_tree(request: MountRequest) -> str:
        """A tree for one read-only mount."""
        shared = None if os.geteuid() == 0 else _shared_tree(request.view, request.view_dir)
        folder = _folder(request.view_dir)
        tree = os.path.join(folder, f"{_OWN}{secrets.token_hex(6)}")
        with _hidden_tree(folder) as hidden:
            Extractor(request.view, hidden, link_from=shared, read_only=True, locked=True).run()
            _settle(hidden)
            os.rename(hidden, tree)
        return tree


def _shared_tree(view: View, view_dir: str) -> str:
    """The files of *view*, written out once for all who share them; made again where the view was."""
    folder = _folder(view_dir)
    tree = os.path.join(folder, f"{_SHARED}{stamp_of(view, 0)}")
    with durable.FileLock(os.path.join(folder, _LOCK)):
        if os.path.isdir(tree):
            return tree
        durable.sweep(folder)
        for name in os.listdir(folder):
            if name.startswith(_SHARED):
                durable.remove_tree(os.path.join(folder, name))
        with _hidden_tree(folder) as hidden:
            Extractor(view, hidden, read_only=True).run()
            _settle(hidden)
            os.rename(hidden, tree)
    return tree


def shared_damage(view: View, view_dir: str) -> tuple[str, str] | None:
    """The shared tree that is of just this view, and the path of a file in it that is not the view's.

    Returns:
        None: there is no such tree, or it is whole.

    Raises:
        OSError: a file can't be read.
    """
    tree = os.path.join(view_dir, EXTRACT, f"{_SHARED}{stamp_of(view, 0)}")
    try:
        path = first_difference(view, tree)
    except FileNotFoundError:
        return None
    return None if path is None else (tree, path)


def _folder(view_dir: str) -> str:
    """Where all lies that is made of the view: the shared tree, and those of read-only mounts."""
    folder = os.path.join(view_dir, EXTRACT)
    os.makedirs(folder, exist_ok=True)
    return folder


@contextlib.contextmanager
def _hidden_tree(folder: str) -> Iterator[str]:
    """A fresh hidden folder in *folder* to write a tree to; one that is not renamed is removed."""
    with durable.hidden_folder(folder, mode=0o700) as hidden:
        try:
            yield hidden
        except BaseException:
            _remove(hidden)
            raise


def _remove(tree: str) -> None:
    """Remove a tree, locked or not; a missing one is fine."""
    if os.path.isdir(tree):
        _unlock(tree)
    durable.remove_tree(tree)


def _settle(tree: str) -> None:
    """Bring the tree on disk: with one call for all files, where there is such."""
    if sys.platform == "linux":
        syscalls.sync_file_system(tree)
    else:
        durable.fsync_tree(tree)


def _unlock(tree: str) -> None:
    """Let what is in the directories of the tree be removed."""
    for _, names, _, fd in os.fwalk(tree, follow_symlinks=False):
        for name in names:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.chmod(name, 0o700, dir_fd=fd)


def _identity(path: str) -> str:
    """What tells a tree from any other folder, also through a link to it; "" if there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return ""
    return f"{about.st_dev}:{about.st_ino}"


def _locate(state_dir: str) -> str | None:
    """Where the scratch layer's tree is now: in its folder, or at the target of a mount; None: nowhere."""
    tree = os.path.join(state_dir, TREE)
    if not os.path.exists(os.path.join(state_dir, STAMPS)):
        return None
    if os.path.isdir(tree):
        return tree
    try:
        with open(os.path.join(state_dir, PLACE), "rb") as file:
            place = json.load(file)
        target, identity = str(place["target"]), str(place["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return target if _identity(target) == identity else None


def _put(tree: str, target: str) -> None:
    """Let the tree appear at the empty folder *target*."""
    try:
        os.rename(tree, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        os.rmdir(target)
        os.symlink(tree, target)


def _take(target: str, tree: str, identity: str) -> None:
    """Undo `_put`, as far as it was done; an empty folder is at the target again."""
    if _identity(target) != identity:
        return
    if os.path.islink(target):
        os.unlink(target)
    else:
        os.rename(target, tree)
    os.mkdir(target)
