"""What a disk may hold after the power fails at a given step: two models of what a file system promises.

A file's content is on disk as it was when the file was last fsynced, or is empty.  For names there are two
extremes, between which real file systems lie:

- ``ordered``: every change of names so far is there (a journal that was written just in time);
- ``strict``: a folder has the names that it had when it was last fsynced (POSIX promises no more).

The disk that is left is written out as a folder of its own, on which the store is then opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from tests.faults.steps import KILLED, Steps
from winlayers.layers.portable.mounts import syscalls

MODELS = ("ordered", "strict")

_Inode = tuple[int, int]


class Disk:
    """What is on disk of the folder *root*, told by the calls that the process makes."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._content: dict[_Inode, bytes] = {}
        self._names: dict[_Inode, dict[str, tuple[_Inode, bool]]] = {}
        self._kept: dict[_Inode, int] = {}  # open, so that no number is used again
        self._note_all()

    def _note_all(self) -> None:
        for folder, folders, files in _walk(self._root):
            for name in [*folders, *files, "."]:
                if os.path.isfile(place := os.path.join(folder, name)) or os.path.isdir(place):
                    fd = os.open(place, os.O_RDONLY)
                    self._note(fd)
                    os.close(fd)

    def install(self) -> None:
        """Follow this process's fsyncs; after the steps are wrapped."""
        counted, counted_all = os.fsync, syscalls.sync_file_system

        def fsync(fd: int) -> None:
            counted(fd)
            self._note(fd)

        def sync_file_system(path: str) -> None:
            counted_all(path)
            self._note_all()

        setattr(os, "fsync", fsync)  # noqa: B010 - for mypy, as below
        setattr(syscalls, "sync_file_system", sync_file_system)  # noqa: B010

    def _note(self, fd: int) -> None:
        """What *fd* is, is on disk as it is now."""
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino)
        if key not in self._kept:
            self._kept[key] = os.dup(fd)
        if stat.S_ISDIR(found.st_mode):
            self._names[key] = {
                entry.name: (_key(entry.stat(follow_symlinks=False)), entry.is_dir(follow_symlinks=False))
                for entry in _scan(fd)
            }
        else:
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                self._content[key] = file.read()

    def unsynced(self, path: str) -> list[str]:
        """What of the file or folder *path* would be lost if the power failed now."""
        if not os.path.isdir(path) or os.path.islink(path):
            return [] if self._is_synced(path) else [path]
        return [
            place
            for folder, folders, files in _walk(path)
            for name in [*folders, *files, "."]
            if not self._is_synced(place := os.path.join(folder, name))
        ]

    def _is_synced(self, path: str) -> bool:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            return set(os.listdir(path)) == set(self._names.get(_key(found), ()))
        if not stat.S_ISREG(found.st_mode) or path.endswith(".lock"):
            return True
        with open(path, "rb") as file:
            return file.read() == self._content.get(_key(found))

    def write_out(self, model: str, target: str) -> None:
        """Write what is on disk to the new folder *target*."""
        if model == "ordered":
            self._write_now(self._root, target)
        else:
            found = os.stat(self._root)
            self._write_strict((found.st_dev, found.st_ino), target)

    def _write_now(self, folder: str, target: str) -> None:
        os.mkdir(target)
        for entry in os.scandir(folder):
            found = entry.stat(follow_symlinks=False)
            place = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                self._write_now(entry.path, place)
            elif entry.is_file(follow_symlinks=False):
                self._write_file(_key(found), place)

    def _write_strict(self, folder: _Inode, target: str) -> None:
        os.mkdir(target)
        for name, (key, is_folder) in self._names.get(folder, {}).items():
            place = os.path.join(target, name)
            if is_folder:
                self._write_strict(key, place)
            else:
                self._write_file(key, place)

    def _write_file(self, key: _Inode, place: str) -> None:
        with open(place, "wb") as file:
            file.write(self._content.get(key, b""))


def _walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like os.walk, but only what is on the root's own file system."""
    device = os.stat(root).st_dev
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
        yield folder, folders, files


def _key(found: os.stat_result) -> _Inode:
    return found.st_dev, found.st_ino


def _scan(fd: int) -> list[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        return list(entries)


class PowerFailure:
    """Lets the power of a child process fail just before its step number *target*, or when all is done."""

    def __init__(self, home: str, model: str, target: int, remains: str) -> None:
        """See to it that the folder *remains* is what is then on the disk of *home*."""
        self._home, self._model, self._target, self._remains = home, model, target, remains
        self._disk: Disk | None = None

    def install(self) -> None:
        """Begin; to be called in the child."""
        steps = Steps(self._before)
        self._disk = Disk(self._home)
        steps.install()
        self._disk.install()

    def _before(self, number: int, name: str) -> None:
        if number == self._target:
            self.fail()
            os._exit(KILLED)

    def fail(self) -> None:
        """Write out what is on the disk."""
        self._target = 0
        assert self._disk is not None
        self._disk.write_out(self._model, self._remains)


class Watch:
    """Notes what is renamed into place, or left in the end, before it is on disk; to be used in a child."""

    def __init__(self, home: str) -> None:
        """Watch the folder *home*."""
        self._home = home
        self._disk: Disk | None = None
        self.lost: list[str] = []

    def install(self) -> None:
        """Begin; to be called in the child."""
        self._disk = disk = Disk(self._home)
        disk.install()
        for name in ("rename", "replace"):
            self._wrap(name, getattr(os, name), disk)

    def _wrap(self, name: str, call: Callable[..., None], disk: Disk) -> None:
        def watched(source: str, target: str, **folders: int) -> None:
            if not folders and not _is_hidden(target) and source.startswith(self._home):
                self.lost += [f"{path}, renamed to {target}" for path in disk.unsynced(source)]
            call(source, target, **folders)

        setattr(os, name, watched)

    def finish(self) -> None:
        """End with a list of what was seen as the child's error."""
        assert self._disk is not None
        left = [path for path in self._disk.unsynced(self._home) if os.path.isfile(path)]
        lost = [*self.lost, *left]
        if lost:
            raise AssertionError("not on disk: " + "; ".join(lost))


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".tmp-") or path.endswith("-removing")
