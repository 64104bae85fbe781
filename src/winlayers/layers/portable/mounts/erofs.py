"""The ``erofs`` kind: an EROFS image over the layers' tars, with overlayfs on top where it is writable.

The image (:mod:`winlayers.layers.portable.erofs`) is made once for a chain.  It is mounted from the plain
file where the kernel can (6.12), else through loop devices.  For a writable mount it is attached to the
target only until overlayfs has taken hold of it; what is then left is one mount, whose end frees the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers.errors import MountError, UnsupportedError
from winlayers.layers.portable.erofs.image import ensure_image, read_facts
from winlayers.layers.portable.mounts import loop, mountinfo, scratch, syscalls
from winlayers.layers.portable.mounts.contract import (
    MountAttempt,
    Mounter,
    MountRecord,
    MountRequest,
    UpperEntry,
)
from winlayers.layers.portable.mounts.overlay import overlay_changes, prepare_upper
from winlayers.layers.portable.view import Source, View

_WRITABLE = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOATIME
_READ_ONLY = _WRITABLE | syscalls.MOUNT_ATTR_RDONLY

OVERLAY_OPTIONS = (
    # A renamed directory is a note of where it came from, not a copy of all below it; and rename(2) works.
    ("redirect_dir", "on"),
    # A changed file is whole in the upper folder: it can be read without the image, and what changed is found
    # by comparing.  With metacopy it would depend on the image's inode numbers.
    ("metacopy", "off"),
    # The index copies a file before one of its names is deleted, and ties the upper folder to one image and
    # to its place (docs/mounts.md).  The price: writing to one name of a file leaves its others as they were.
    ("index", "off"),
    ("nfs_export", "off"),
    # One device number and lasting inode numbers for the whole mount where the upper file system allows it.
    ("xino", "auto"),
)

_OVERLAY_SOURCE = "winlayers"
_NOT_AN_UPPER = "not supported as upperdir"
_NO_OVERLAY = "keep the store on a file system that is no overlay itself, or use another kind of mount"
_CAP_SYS_ADMIN = 21
_RETRIES = 20
_PAUSE = 0.05


class ErofsMounter(Mounter):
    """See the module."""

    kind = "erofs"

    def __init__(self, *, use_loop: bool = False) -> None:
        """Make a mounter.

        Args:
            use_loop: use loop devices also where the kernel could mount plain files.
        """
        self._use_loop = use_loop
        self.enforces_size = scratch.cannot_enforce() is None

    def unavailable(self) -> str | None:
        """Why this kind can't be used here and now; None: it can."""
        if sys.platform != "linux":
            return "EROFS is a Linux file system"
        if os.geteuid() != 0:
            return "mounting EROFS needs root"
        if not _is_initial_user_name_space():
            return "EROFS can't be mounted in a user name space"
        for kind in ("erofs", "overlay"):
            try:
                syscalls.Context(kind).close()
            except OSError as error:
                return f"the kernel refuses {kind}: {error.strerror}"
        release = _release()
        if release < (6, 4):
            return "EROFS with blocks of 512 bytes needs Linux 6.4"
        if release < (6, 12) or self._use_loop:
            return loop.unavailable()
        return None

    def mount(self, request: MountRequest) -> MountRecord:
        """Make the mount.

        Raises:
            MountError: it can't be made; nothing is left mounted.
            UnsupportedError: the scratch layer's size can't be enforced here.
        """
        writable = request.state_dir is not None
        image = ensure_image(request.view, request.view_dir, writable=writable)
        _clear_target(request.target)
        details = {"image": image, "name_space": mountinfo.name_space()}
        try:
            mount_id = self._mount_image(request, image)
            if request.state_dir is not None:
                try:
                    mount_id = self._mount_overlay(request, request.state_dir)
                except BaseException:
                    with contextlib.suppress(OSError):  # it may be gone already
                        _detach(request.target)
                    raise
                details["state_dir"] = request.state_dir
        except OSError as error:
            raise MountError(
                f"{error.filename or 'a call'} failed: {error.strerror}",
                path=request.target,
                hint=_NO_OVERLAY if _NOT_AN_UPPER in str(error.strerror) else None,
            ) from error
        details["mount_id"] = str(mount_id)
        return MountRecord(self.kind, request.target, writable, mountinfo.boot_id(), details)

    def _mount_image(self, request: MountRequest, image: str) -> int:
        """Mount the image at the target; the mount's id."""
        with _image_mount(request.view, image, use_loop=self._use_loop) as mount:
            syscalls.move_mount(mount, request.target)
            return mountinfo.id_of_descriptor(mount)

    @staticmethod
    def _mount_overlay(request: MountRequest, state_dir: str) -> int:
        """Put overlayfs in the place of the image at the target; the mount's id."""
        size = request.size if scratch.is_bound(request.size, state_dir) else None
        with scratch.scratch_folder(state_dir, size) as folder, contextlib.ExitStack() as stack:
            upper = os.path.join(folder, scratch.UPPER)
            prepare_upper(upper, request.view)
            os.makedirs(os.path.join(folder, scratch.WORK), exist_ok=True)
            context = stack.enter_context(syscalls.Context("overlay"))
            context.string("source", _OVERLAY_SOURCE)
            for option, path in (
                ("lowerdir", request.target),
                ("upperdir", upper),
                ("workdir", os.path.join(folder, scratch.WORK)),
            ):
                context.string(option, _option_path(path, stack))
            for option, value in OVERLAY_OPTIONS:
                context.string(option, value)
            context.create()
            mount = context.mount(_WRITABLE)
            stack.callback(os.close, mount)
            _detach(request.target)
            syscalls.move_mount(mount, request.target)
            return mountinfo.id_of_descriptor(mount)

    def recover(self, attempt: MountAttempt) -> None:
        """Take down what is at the target, and the scratch layer's own file system."""
        super().recover(attempt)
        if attempt.state_dir is not None:
            scratch.release(attempt.state_dir)

    def unmount(self, record: MountRecord) -> None:
        """Take the mount down, with all changes written.

        Raises:
            MountError: it is busy.
        """
        if record.boot_id != mountinfo.boot_id():
            return
        if self.is_alive(record):
            try:
                if record.writable:
                    syscalls.sync_file_system(record.target)
                _unmount(record.target)
            except OSError as error:
                raise MountError(
                    f"can't be unmounted: {error.strerror}",
                    path=record.target,
                    hint=mountinfo.holders(record.target),
                ) from error
        state_dir = record.details.get("state_dir")
        if state_dir is not None:
            scratch.release(state_dir)

    def is_alive(self, record: MountRecord) -> bool:
        """Whether the mount is there, in this process's mount name space."""
        mount_id = record.details.get("mount_id", "")
        if record.boot_id != mountinfo.boot_id() or not mount_id.isdigit():
            return False
        found = mountinfo.find(record.target, int(mount_id))
        return found is not None and found.kind == ("overlay" if record.writable else "erofs")

    def changes(self, view: View, state_dir: str) -> Iterator[UpperEntry]:
        """What the scratch layer changes; it may be mounted meanwhile.

        Raises:
            UnsupportedError: overlayfs's notes of it can't be seen by this process.
        """
        if not _sees_trusted_attributes():
            raise UnsupportedError(
                "what overlayfs notes of a scratch layer's changes is for root alone to see"
            )
        with scratch.readable_folder(state_dir) as folder:
            yield from overlay_changes(view, os.path.join(folder, scratch.UPPER))


@contextlib.contextmanager
def _image_mount(view: View, image: str, *, use_loop: bool) -> Iterator[int]:
    """A detached mount of the image, as a descriptor."""
    facts = read_facts(image)
    if facts is None:
        raise MountError("not an image of a view", path=image)
    files = [image]
    for layer, source in facts.devices:
        where = view.layers[layer]
        files.append(where.tar if source is Source.TAR else where.side)
    with contextlib.ExitStack() as stack:
        mount = None
        if not use_loop:
            try:
                mount = _create(files, stack)
            except OSError as error:
                if error.errno != errno.ENOTBLK:
                    raise
        if mount is None:
            devices = []
            for path in files:
                device, fd = loop.attach(path)
                stack.callback(os.close, fd)
                devices.append(device)
            mount = _create(devices, stack)
        stack.callback(os.close, mount)
        yield mount


def _create(files: list[str], stack: contextlib.ExitStack) -> int:
    with syscalls.Context("erofs") as context:
        context.string("source", _option_path(files[0], stack))
        context.flag("ro")
        for path in files[1:]:
            context.string("device", _option_path(path, stack))
        context.create()
        return context.mount(_READ_ONLY)


def _option_path(path: str, stack: contextlib.ExitStack) -> str:
    """*path* as an option's value: itself, or through a descriptor where it is too long or has separators."""
    if len(os.fsencode(path)) <= syscalls.MAX_OPTION and not set(path) & set(":,\\"):
        return path
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _clear_target(target: str) -> None:
    """Take down what an attempt that was killed left at the target; refuse what is not ours.

    Raises:
        MountError: something else is mounted there.
    """
    for mount in reversed(mountinfo.mounts_at(target)):
        if mount.kind != "erofs":
            raise MountError(f"something ({mount.kind}) is mounted there already", path=target)
        _detach(target)


def _detach(target: str) -> None:
    syscalls.unmount(target, syscalls.UMOUNT_NOFOLLOW | syscalls.UMOUNT_DETACH)


def _unmount(target: str) -> None:
    for attempt in range(_RETRIES):
        try:
            syscalls.unmount(target)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == _RETRIES - 1:
                raise
            time.sleep(_PAUSE)  # indexers and the like hold files for moments only


def _is_initial_user_name_space() -> bool:
    """Whether root is the host's: all ids stand for themselves."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return True


def _sees_trusted_attributes() -> bool:
    """Whether the kernel shows this process ``trusted.`` attributes; others see none, and no error.

    Source: Linux, ``fs/xattr.c``: the capability is asked for in the first user name space.
    """
    if sys.platform != "linux":
        return True
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(held >> _CAP_SYS_ADMIN & 1) and _is_initial_user_name_space()


def _release() -> tuple[int, ...]:
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())
