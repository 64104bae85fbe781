"""Where a scratch layer's upper and work folders lie: in its own folder, or in a file system of its own size.

Overlayfs can't bound what is written, so a bound is a sparse file, ``scratch.img``, with ext4 in it, mounted
at ``fs`` beside it for as long as the view is.  Making it takes ``mkfs.ext4``; the kernel grows it.  A size
that is no smaller than the file system that holds the scratch layer bounds nothing (the default of 127 GB
mostly is such), so no file is made for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from winlayers.errors import MountError, UnsupportedError
from winlayers.layers.portable.mounts import loop, mountinfo, syscalls

if sys.platform != "win32":
    import fcntl

IMAGE = "scratch.img"
MOUNT = "fs"
UPPER = "upper"
WORK = "work"

_EXT4_BLOCK = 4096
_EXT4_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS: _IOW('f', 16, u64), in blocks
_MINIMUM = 8 << 20
_ATTRIBUTES = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOATIME
_TIMEOUT = 120


def is_bound(size: int | None, folder: str) -> bool:
    """Whether *size* bounds more than the file system that *folder* is on does already."""
    if size is None:
        return False
    about = os.statvfs(folder)
    return size < about.f_blocks * about.f_frsize


def cannot_enforce() -> str | None:
    """Why a scratch layer's size can't be enforced here; None: it can."""
    if _mkfs() is None:
        return "mkfs.ext4 is not installed"
    return loop.unavailable()


def _mkfs() -> str | None:
    return shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def scratch_folder(state_dir: str, size: int | None = None, *, keep: bool = False) -> Iterator[str]:
    """The folder that holds ``upper`` and ``work``, for as long as the block runs.

    Args:
        state_dir: the scratch layer's own folder.
        size: its bound, where one is to be enforced from now on.
        keep: leave a file system of its own mounted when the block ends well (see `release`).

    Raises:
        MountError: its file system can't be made, mounted or grown.
        UnsupportedError: its size can't be enforced here, or no more.
    """
    image = os.path.join(state_dir, IMAGE)
    if size is None and not os.path.exists(image):
        yield state_dir
        return
    mounted_here = _mount(state_dir, image, size)
    try:
        yield os.path.join(state_dir, MOUNT)
    except BaseException:
        if mounted_here:
            release(state_dir)
        raise
    if mounted_here and not keep:
        release(state_dir)


def release(state_dir: str) -> None:
    """Unmount the scratch layer's own file system, if it has one that is mounted.

    Files that are open in it (a reader of its changes) stay usable: the file system goes with the last.

    Raises:
        MountError: the kernel refuses.
    """
    folder = os.path.join(state_dir, MOUNT)
    while mountinfo.mounts_at(folder):
        try:
            syscalls.sync_file_system(folder)
            syscalls.unmount(folder, syscalls.UMOUNT_NOFOLLOW | syscalls.UMOUNT_DETACH)
        except OSError as error:
            raise MountError(
                f"the scratch layer can't be unmounted: {error.strerror}", path=folder
            ) from error


def _mount(state_dir: str, image: str, size: int | None) -> bool:
    """Make and mount what is missing; whether it was mounted only now."""
    folder = os.path.join(state_dir, MOUNT)
    if not os.path.exists(image):
        if size is None:
            raise MountError("there is no scratch image", path=image)
        _make(state_dir, image, size)
    grown = size is not None and os.path.getsize(image) < size
    if grown and size is not None:
        os.truncate(image, size)
    os.makedirs(folder, exist_ok=True)
    mounted = bool(mountinfo.mounts_at(folder))
    if not mounted:
        _attach(image, folder)
    if grown:
        _grow(folder, image)
    return not mounted


def _make(state_dir: str, image: str, size: int) -> None:
    mkfs, why = _mkfs(), cannot_enforce()
    if mkfs is None or why is not None:
        raise UnsupportedError(
            f"the scratch layer's size of {size} bytes can't be enforced: {why}",
            hint="set no size, or use another kind of mount",
        )
    if size < _MINIMUM:
        raise UnsupportedError(
            f"a scratch layer can't be smaller than {_MINIMUM} bytes with this kind of mount"
        )
    upper = os.path.join(state_dir, UPPER)
    if os.path.isdir(upper) and os.listdir(upper):
        raise UnsupportedError("a scratch layer that holds changes can't be bound any more", path=upper)
    hidden = f"{image}.new"
    with open(hidden, "wb") as file:
        file.truncate(size)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    command = [mkfs, "-q", "-F", "-m", "0", "-b", str(_EXT4_BLOCK), "-O", "ea_inode", "-E", options, hidden]
    try:
        made = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        os.unlink(hidden)
        raise MountError(f"mkfs.ext4 failed: {error}") from error
    if made.returncode:
        os.unlink(hidden)
        said = " ".join(made.stderr.decode("utf-8", "replace").split())
        raise MountError(f"mkfs.ext4 failed: {said or made.returncode}")
    os.replace(hidden, image)


def _attach(image: str, folder: str) -> None:
    device, fd = loop.attach(image, read_only=False, unique=True)
    try:
        with syscalls.Context("ext4") as context:
            context.string("source", device)
            context.create()
            mount = context.mount(_ATTRIBUTES)
        try:
            syscalls.move_mount(mount, folder)
        finally:
            os.close(mount)
    except OSError as error:
        raise MountError(f"the scratch layer can't be mounted: {error.strerror}", path=image) from error
    finally:
        os.close(fd)


def _grow(folder: str, image: str) -> None:
    blocks = os.path.getsize(image) // _EXT4_BLOCK
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        loop.refresh(image)
        fcntl.ioctl(fd, _EXT4_RESIZE, blocks.to_bytes(8, sys.byteorder))
    except OSError as error:
        raise MountError(f"the scratch layer can't be grown: {error.strerror}", path=image) from error
    finally:
        os.close(fd)
