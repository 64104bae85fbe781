"""Where a scratch layer's upper and work folders lie: in its own folder, or in a file system of its own size.

Overlayfs can't bound what is written, so a bound is a sparse file, ``scratch.img``, with ext4 in it, mounted
at ``fs`` beside it for as long as the view is.  Whoever only reads has a mount of its own, which nobody else
sees.  Making and growing the file takes e2fsprogs.  Windows' default of 127 GB, and what is more than the
disk has left, bounds nothing in practice, so no file is made for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers.durable import can_write
from winlayers.errors import MountError, UnsupportedError
from winlayers.layers.portable.mounts import loop, mountinfo, syscalls

IMAGE = "scratch.img"
MOUNT = "fs"
UPPER = "upper"
WORK = "work"

_EXT4_BLOCK = 4096
_SUPER_OFFSET, _SUPER_SIZE = 1024, 1024
_BLOCK_COUNTS = (0x4, 0x150)  # s_blocks_count_lo and _hi (source: Linux, fs/ext4/ext4.h)
DEFAULT_SIZE = 127 << 30
"""What a scratch layer gets on Windows when nobody asks: it is taken for no bound here."""
MINIMUM = 8 << 20
"""The smallest size that can be enforced, in bytes."""
_ATTRIBUTES = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOATIME
_TIMEOUT = 120


def is_bound(size: int | None, folder: str) -> bool:
    """Whether *size* is less than Windows' own default, and than what is free where *folder* is."""
    if size is None or size >= DEFAULT_SIZE:
        return False
    about = os.statvfs(folder)
    return size < about.f_bavail * about.f_frsize


def cannot_enforce() -> str | None:
    """Why a scratch layer's size can't be enforced here; None: it can."""
    for tool in ("mkfs.ext4", "e2fsck", "resize2fs"):
        if _tool(tool) is None:
            return f"{tool} (of e2fsprogs) is not installed"
    return loop.unavailable()


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _run(held: int, name: str, *arguments: str, good: tuple[int, ...] = (0,)) -> None:
    """Run one of e2fsprogs, which gets the descriptor *held* of what is locked.

    It outlives a command that is killed, and nobody else must work on the same file till its end.

    Raises:
        MountError: it fails.
    """
    command = [_tool(name) or name, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False, pass_fds=(held,))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountError(f"{name} failed: {error}") from error
    if done.returncode not in good:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise MountError(f"{name} failed: {said or done.returncode}")


@contextlib.contextmanager
def scratch_folder(state_dir: str, size: int | None = None) -> Iterator[str]:
    """The folder that is to hold ``upper`` and ``work`` of a view that the block mounts.

    A file system of its own stays mounted when the block ends well (see `release`).

    Args:
        state_dir: the scratch layer's own folder.
        size: its bound, where one is to be enforced from now on.

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


@contextlib.contextmanager
def readable_folder(state_dir: str) -> Iterator[str]:
    """The folder that holds ``upper``, to be read while the block runs, whoever mounts the view or ends that.

    Files that are open in it then stay usable: a file system of its own goes with the last.

    Raises:
        MountError: that can't be mounted.
    """
    image = os.path.join(state_dir, IMAGE)
    if not os.path.exists(image):
        yield state_dir
        return
    with _detached(image, read_only=not can_write(state_dir)) as mount:
        yield f"/proc/self/fd/{mount}"


def release(state_dir: str) -> None:
    """Unmount the scratch layer's own file system, if it has one that is mounted for its view.

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
    """Make, grow and mount as needed; whether it was mounted only now."""
    folder = os.path.join(state_dir, MOUNT)
    with loop.alone(state_dir) as held:
        if not os.path.exists(image):
            _make(state_dir, image, size or 0, held)
    if size is not None and _file_system_size(image) < size // _EXT4_BLOCK * _EXT4_BLOCK:
        release(state_dir)
        _grow(image, size)
    os.makedirs(folder, exist_ok=True)
    if mountinfo.mounts_at(folder):
        return False
    _attach(image, folder)
    return True


def _make(state_dir: str, image: str, size: int, held: int) -> None:
    why = cannot_enforce()
    if why is not None:
        raise UnsupportedError(
            f"the scratch layer's size of {size} bytes can't be enforced: {why}",
            hint="set no size, or use another kind of mount",
        )
    if size < MINIMUM:
        raise UnsupportedError(f"a scratch layer of {size} bytes is too small: it takes {MINIMUM} at least")
    upper = os.path.join(state_dir, UPPER)
    if os.path.isdir(upper) and os.listdir(upper):
        raise UnsupportedError(
            "a scratch layer that holds changes can't be given a size any more", path=upper
        )
    hidden = f"{image}.new"
    with open(hidden, "wb") as file:
        file.truncate(size)
    try:
        options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        _run(held, "mkfs.ext4", "-q", "-F", "-m0", f"-b{_EXT4_BLOCK}", "-Oea_inode", "-E", options, hidden)
    except MountError:
        os.unlink(hidden)
        raise
    os.replace(hidden, image)


def _grow(image: str, size: int) -> None:
    with loop.alone(image) as held:
        if loop.find(image) is not None:
            raise MountError("the scratch layer is in use, so it can't be grown", path=image)
        os.truncate(image, size)
        _run(held, "e2fsck", "-f", "-p", image, good=(0, 1))  # 1: errors were put right
        _run(held, "resize2fs", image)


def _file_system_size(image: str) -> int:
    """The size of the ext4 file system in the file, in bytes (its superblock counts blocks)."""
    with open(image, "rb") as file:
        file.seek(_SUPER_OFFSET)
        head = file.read(_SUPER_SIZE)
    if len(head) < _SUPER_SIZE:
        raise MountError("not a scratch layer's file system", path=image)
    low, high = (int.from_bytes(head[at : at + 4], "little") for at in _BLOCK_COUNTS)
    return (high << 32 | low) * _EXT4_BLOCK


def _attach(image: str, folder: str) -> None:
    with _detached(image) as mount, _refusals(image):
        syscalls.move_mount(mount, folder)


@contextlib.contextmanager
def _detached(image: str, *, read_only: bool = False) -> Iterator[int]:
    """A detached mount of the image's file system, as a descriptor."""
    device, fd = loop.attach(image, read_only=read_only, unique=not read_only)
    try:
        with _refusals(image), syscalls.Context("ext4") as context:
            context.string("source", device)
            if read_only:
                context.flag("ro")
            context.create()
            mount = context.mount(_ATTRIBUTES | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0))
    finally:
        os.close(fd)
    try:
        yield mount
    finally:
        os.close(mount)


@contextlib.contextmanager
def _refusals(image: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MountError(f"the scratch layer can't be mounted: {error.strerror}", path=image) from error
