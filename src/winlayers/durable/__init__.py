"""Atomic, durable changes to folders, and locks between processes: what every store here is built from.

The discipline: write under a hidden name, ``fsync`` the file, rename it into place, ``fsync`` the folder.
What a reader sees is then always whole, and what a caller was told is done survives power loss.

Hidden names start with ``.tmp-`` and name the process that works there, which where it can holds a lock on
them; :func:`sweep` removes those that no live process owns.  ``docs/durability.md`` tells the whole of it.
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
from typing import IO

from winlayers.durable.locks import FileLock, hold, is_still, try_lock
from winlayers.durable.owners import is_alive, owner, owner_lives, start_time
from winlayers.durable.trees import remove_tree

__all__ = [
    "TEMPORARY_PREFIX",
    "FileLock",
    "can_write",
    "fsync_dir",
    "fsync_file",
    "fsync_tree",
    "hidden_file",
    "hidden_folder",
    "is_alive",
    "is_leftover",
    "open_hidden",
    "owner",
    "owner_lives",
    "put_in_place",
    "remove_any",
    "remove_tree",
    "remove_unless_busy",
    "rename_dir",
    "replacing",
    "start_time",
    "sweep",
    "temporary_name",
    "write_bytes",
    "write_json",
]

TEMPORARY_PREFIX = ".tmp-"


def can_write(folder: str) -> bool:
    """Whether files can be made in the folder, as far as its permissions and its file system go."""
    return os.access(folder, os.W_OK | os.X_OK)


def fsync_dir(path: str) -> None:
    """Make the names in the folder *path* durable."""
    if sys.platform != "win32":  # NTFS journals names; a handle to flush would need administrator rights
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def fsync_file(path: str) -> None:
    """Make the content of the file *path* durable."""
    fd = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_name(folder: str, label: str = "") -> str:
    """A fresh hidden path in *folder*, with this process in it so that :func:`sweep` can tell."""
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{owner()}-{secrets.token_hex(6)}{label}")


@contextlib.contextmanager
def hidden_folder(folder: str, label: str = "", mode: int = 0o755) -> Iterator[str]:
    """A fresh hidden folder in *folder*; what is left of it when the block ends is removed."""
    while True:
        path = temporary_name(folder, label)
        os.mkdir(path, mode)
        held = hold(path)
        if held is not None:
            break
    with contextlib.closing(held):
        try:
            yield path
        finally:
            remove_tree(path)


@contextlib.contextmanager
def hidden_file(folder: str) -> Iterator[IO[bytes]]:
    """A fresh hidden binary file in *folder*, to write and read, which is gone when the block ends."""
    fd, hidden = open_hidden(folder, 0o600)
    try:
        with open(fd, "w+b") as file:
            yield file
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of *path*, wholly and durably, when the block ends well."""
    folder = os.path.dirname(path) or "."
    fd, hidden = open_hidden(folder, mode)
    try:
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            put_in_place(file, hidden, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        raise
    fsync_dir(folder)


def put_in_place(file: IO[bytes], hidden: str, path: str) -> None:
    """Rename the open hidden *file*, whose content is durable, to *path*, and close it.

    In this order, so that it is held, and not swept, for as long as its name is hidden.
    """
    if sys.platform == "win32":
        file.close()  # an open file can't be renamed there
    os.replace(hidden, path)
    file.close()


def open_hidden(folder: str, mode: int = 0o644) -> tuple[int, str]:
    """A fresh hidden file in *folder*, open to read and write and held until it is closed, and its path."""
    while True:
        hidden = temporary_name(folder)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        if _is_held(fd, hidden):
            return fd, hidden
        os.close(fd)


def _is_held(fd: int, path: str) -> bool:
    """Hold the new hidden file; False where it was swept before it could be."""
    if sys.platform != "win32":  # an open file can't be removed there
        try:
            try_lock(fd, shared=True)
        except OSError:
            return True  # a file system without locks
        return is_still(fd, path)
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return True


def write_bytes(path: str, data: bytes, mode: int = 0o644) -> None:
    """Give the file *path* the content *data*, wholly and durably."""
    with replacing(path, mode) as file:
        file.write(data)


def write_json(path: str, value: object, mode: int = 0o644) -> None:
    """Give the file *path* the value as JSON, wholly and durably."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n", mode)


def rename_dir(source: str, target: str) -> None:
    """Rename a folder whose content is durable already, and make the new name durable."""
    os.rename(source, target)
    fsync_dir(os.path.dirname(target))
    if os.path.dirname(source) != os.path.dirname(target):
        fsync_dir(os.path.dirname(source))


def fsync_tree(folder: str) -> None:
    """Make every file and folder below *folder*, and itself, durable."""
    for root, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(root, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                fsync_file(path)
        fsync_dir(root)


def sweep(folder: str) -> list[str]:
    """Remove from *folder* the hidden leftovers of processes that are gone; return their names.

    A folder that is gone itself has none.  What a file system is mounted in is left, for `check` to report.
    """
    swept: list[str] = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return swept
    for name in names:
        path = os.path.join(folder, name)
        if not name.startswith(TEMPORARY_PREFIX) or _owner_of(name):
            continue
        held = hold(path, alone=True)
        if held is None:
            continue
        try:
            if remove_unless_busy(path):
                swept.append(name)
        finally:
            held.close()
    return swept


def remove_unless_busy(path: str) -> bool:
    """Remove the file, link or folder *path*; False: a file system is mounted in it, so some of it stays."""
    try:
        remove_any(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def remove_any(path: str) -> None:
    """Remove the file, link or folder *path*; a missing one is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def is_leftover(path: str) -> bool:
    """Whether *path* is hidden work of a process that is gone."""
    name = os.path.basename(path)
    if not name.startswith(TEMPORARY_PREFIX) or _owner_of(name):
        return False
    held = hold(path, alone=True)
    if held is not None:
        held.close()
    return held is not None


def _owner_of(name: str) -> bool:
    """Whether the process that a hidden name names is alive."""
    return owner_lives(name[len(TEMPORARY_PREFIX) :].split("-", 1)[0])
