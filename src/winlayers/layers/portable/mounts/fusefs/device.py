"""Opens ``/dev/fuse``, mounts it and takes it down: by itself as root, else through ``fusermount3``.

Source of the protocol with ``fusermount3``: libfuse, ``lib/mount.c`` (the open device comes over the socket
named by ``_FUSE_COMMFD``).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys

assert sys.platform != "win32"

from winlayers.errors import MountError
from winlayers.layers.portable.mounts import mountinfo, syscalls

DEVICE = "/dev/fuse"
SUBTYPE = "winlayers"
KIND = f"fuse.{SUBTYPE}"
"""The type of file system that the mount table shows."""

_ATTRIBUTES = syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOATIME
_TIMEOUT = 60


def unavailable() -> str | None:
    """Why FUSE can't be used by this user; None: it can."""
    if not os.path.exists(DEVICE):
        return f"there is no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} can't be opened by this user"
    if os.geteuid() != 0 and _fusermount() is None:
        return "fusermount3 is not installed"
    return None


def _fusermount() -> str | None:
    return shutil.which("fusermount3")


def mount(target: str, *, read_only: bool) -> int:
    """Mount a new FUSE file system at *target*.

    Returns:
        the descriptor that it is served through.

    Raises:
        MountError: it can't be mounted.
    """
    if os.geteuid() == 0:
        try:
            return _mount_directly(target, read_only)
        except OSError as failure:
            raise MountError(f"FUSE can't be mounted: {failure.strerror}", path=target) from failure
    return _mount_with_help(target, read_only)


def _mount_directly(target: str, read_only: bool) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        with syscalls.Context("fuse") as context:
            for option, value in (
                ("source", SUBTYPE),
                ("subtype", SUBTYPE),
                ("fd", str(fd)),
                ("rootmode", "40000"),
                ("user_id", "0"),
                ("group_id", str(os.getegid())),
            ):
                context.string(option, value)
            for option in ("default_permissions", "allow_other", *(("ro",) if read_only else ())):
                context.flag(option)
            context.create()
            made = context.mount(_ATTRIBUTES | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0))
        try:
            syscalls.move_mount(made, target)
        finally:
            os.close(made)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount_with_help(target: str, read_only: bool) -> int:
    program = _fusermount()
    if program is None:
        raise MountError("fusermount3 is not installed", path=target)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = f"fsname={SUBTYPE},subtype={SUBTYPE},default_permissions,nosuid,nodev"
        command = [program, "-o", f"{options},ro" if read_only else options, "--", target]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        made = subprocess.run(
            command,
            env=environment,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if made.returncode:
            raise MountError(f"fusermount3 failed: {_said(made)}", path=target)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise MountError("fusermount3 gave no descriptor", path=target)
    return fds[0]


def unmount(target: str, *, lazy: bool = False) -> None:
    """Take down the mount on top at *target*.

    Raises:
        OSError: it is busy (EBUSY), or it can't be done.
    """
    if os.geteuid() == 0:
        syscalls.unmount(target, syscalls.UMOUNT_NOFOLLOW | (syscalls.UMOUNT_DETACH if lazy else 0))
        return
    program = _fusermount()
    if program is None:
        raise OSError(errno.ENOENT, "fusermount3 is not installed")
    command = [program, "-uz" if lazy else "-u", "--", target]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        said = _said(done)
        raise OSError(errno.EBUSY if "busy" in said.lower() else errno.EPERM, said)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode("utf-8", "replace").split()) or f"exit code {done.returncode}"


def is_dead(target: str) -> bool:
    """Whether the mount at *target* has lost its server."""
    try:
        os.statvfs(target)
    except OSError as failure:
        return failure.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def clear_target(target: str) -> None:
    """Take down what a server that died left at *target*.

    Raises:
        MountError: something is mounted there and in use, or it can't be taken down.
    """
    while True:
        there = mountinfo.mounts_at(target)
        if not there:
            return
        if there[-1].kind != KIND or not is_dead(target):
            raise MountError(f"something ({there[-1].kind}) is mounted there already", path=target)
        try:
            unmount(target, lazy=True)
        except OSError as failure:
            raise MountError(f"a dead mount can't be removed: {failure.strerror}", path=target) from failure
