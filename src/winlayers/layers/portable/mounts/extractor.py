"""Writes a view's files out to a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers import durable
from winlayers.errors import LayerContentError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs.tree import stream_sources
from winlayers.layers.portable.mounts import anchored
from winlayers.layers.portable.mounts.stamps import Stamps
from winlayers.layers.portable.posix import (
    DIRECTORY_MODE,
    WRITE_BITS,
    file_mode,
    link_text,
    posix_nanoseconds,
)
from winlayers.layers.portable.view import Extent, View, ViewInode, ViewNode
from winlayers.win32.names import host_safe

if sys.platform == "linux":
    import fcntl

_FICLONE = 0x40049409
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL)

Parts = tuple[bytes, ...]


def can_clone(source: str, target: str) -> bool:
    """Whether files in the folder *source* can be cloned (share their blocks) into the folder *target*."""
    if sys.platform != "linux":
        return False
    try:
        with durable.hidden_file(source) as original, durable.hidden_file(target) as clone:
            original.write(bytes(4096))
            original.flush()
            fcntl.ioctl(clone.fileno(), _FICLONE, original.fileno())
    except OSError:
        return False
    return True


def first_difference(view: View, folder: str) -> str | None:
    """The path of the first file in *folder* whose data is not what the view says; None: all are the same.

    What was written for the view's drive by :class:`Extractor` is compared: names, data, where links lead.

    Raises:
        OSError: a file can't be read.
        LayerCorruptError: the view's data is damaged.
    """
    drive = view.drive
    root = anchored.Anchor(folder)
    stack: list[tuple[int, Parts]] = [] if drive is None or not drive.is_directory else [(drive.id, ())]
    while stack:
        directory, parts = stack.pop()
        for node, inode in view.entries(directory):
            place = (*parts, host_safe(node.name).encode("utf-8"))
            target = link_text(view, node, inode.metadata.reparse)
            try:
                if target is not None:
                    same = _link_at(root, place) == target.encode("utf-8")
                elif inode.is_directory:
                    os.close(root.directory(place))
                    stack.append((node.id, place))
                    same = True
                else:
                    with root.file(place) as file:
                        same = all(file.read(len(chunk)) == chunk for chunk in view.chunks(inode.extent))
                        same = same and not file.read(1)
            except (FileNotFoundError, NotADirectoryError, LayerContentError):
                same = False
            if not same:
                return b"/".join(place).decode("utf-8", "replace")
    return None


def _link_at(root: anchored.Anchor, parts: Parts) -> bytes:
    """Where the symbolic link leads; b"" where there is something else."""
    directory = root.directory(parts[:-1])
    try:
        return os.readlink(parts[-1], dir_fd=directory)
    except OSError:
        return b""
    finally:
        os.close(directory)


class Extractor:
    """Writes the drive of one view to a new folder."""

    def __init__(
        self,
        view: View,
        folder: str,
        *,
        link_from: str | None = None,
        clone_from: str | None = None,
        read_only: bool = False,
        locked: bool = False,
        stamps: Stamps | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: the folder to make, or an empty one.
            link_from: a tree, written by this class, whose files are to be hard-linked.
            clone_from: the same, to be cloned.
            read_only: files get no write permission.
            locked: directories, but for the folder itself, get none either.
            stamps: where to note what was written.
        """
        self.view = view
        self.folder = folder
        self.read_only = read_only
        self._directory_mode = DIRECTORY_MODE & ~WRITE_BITS if locked else DIRECTORY_MODE
        self.stamps = stamps
        self._link = link_from is not None
        self._other_path = link_from if link_from is not None else clone_from
        self._other: anchored.Anchor | None = None
        self._has_attributes = hasattr(os, "setxattr")
        self._written: dict[int, Parts] = {}  # where files with several names were written first
        self._directories: list[tuple[Parts, int]] = []  # with their times, to be set when all is in them

    def run(self) -> None:
        """Write everything.

        Raises:
            OSError: a file can't be written.
            LayerCorruptError: the view's data is damaged.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        self._root = anchored.Anchor(self.folder)
        if self._other_path is not None:
            self._other = anchored.Anchor(self._other_path)
        drive = self.view.drive
        if drive is not None and drive.is_directory:
            inode = self.view.inode(drive.inode)
            self._show_attributes(self.folder, inode)
            self._directories.append(((), posix_nanoseconds(inode.metadata.write_time)))
            stack: list[tuple[ViewNode, Parts]] = [(drive, ())]
            while stack:
                node, parts = stack.pop()
                stack += self._directory(node, parts)
        os.chmod(self.folder, DIRECTORY_MODE)
        for parts, time in reversed(self._directories):
            fd = self._root.directory(parts)
            try:
                if parts:
                    os.fchmod(fd, self._directory_mode)
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)
        if self.stamps is not None:
            self.stamps.note_tree(self._root.fd, self._inodes())

    def _directory(self, directory: ViewNode, parts: Parts) -> list[tuple[ViewNode, Parts]]:
        """Write what is in one directory; return the directories in it."""
        below = []
        fd = self._root.directory(parts)
        try:
            for node, inode in self.view.entries(directory.id):
                name = host_safe(node.name).encode("utf-8")
                target = link_text(self.view, node, inode.metadata.reparse)
                time = posix_nanoseconds(inode.metadata.write_time)
                if target is not None:
                    os.symlink(target.encode("utf-8"), name, dir_fd=fd)
                    os.utime(name, ns=(time, time), dir_fd=fd, follow_symlinks=False)
                elif inode.is_directory:
                    os.mkdir(name, DIRECTORY_MODE, dir_fd=fd)
                    self._show_attributes_at(fd, name, inode)
                    self._directories.append(((*parts, name), time))
                    below.append((node, (*parts, name)))
                else:
                    self._file(fd, (*parts, name), inode, time)
        finally:
            os.close(fd)
        return below

    def _file(self, directory: int, parts: Parts, inode: ViewInode, time: int) -> None:
        name = parts[-1]
        first = self._written.get(inode.id) if inode.nlink > 1 else None
        if first is not None and self._hard_link(self._root, first, directory, name):
            return
        if inode.nlink > 1:
            self._written[inode.id] = parts
        if self._link and self._other is not None and self._hard_link(self._other, parts, directory, name):
            return
        fd = os.open(name, _NEW, 0o600, dir_fd=directory)
        try:
            if not self._clone(parts, fd):
                self._copy(inode.extent, fd)
            self._show_attributes(fd, inode)
            mode = file_mode(inode.metadata.attributes) & 0o777
            os.fchmod(fd, mode & ~WRITE_BITS if self.read_only else mode)
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)

    @staticmethod
    def _hard_link(root: anchored.Anchor, parts: Parts, directory: int, name: bytes) -> bool:
        source = root.directory(parts[:-1])
        try:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.ENOTSUP):
                raise
            return False  # too many links, or a file system without them: a copy serves as well
        finally:
            os.close(source)
        return True

    def _clone(self, parts: Parts, fd: int) -> bool:
        if self._other is None or self._link or sys.platform != "linux":
            return False
        with self._other.file(parts) as source:
            try:
                fcntl.ioctl(fd, _FICLONE, source.fileno())
            except OSError:
                return False
        return True

    def _copy(self, extent: Extent, fd: int) -> None:
        for chunk in self.view.chunks(extent):
            data = memoryview(chunk)
            while data:
                data = data[os.write(fd, data) :]

    # -- attributes --

    def _show_attributes_at(self, directory: int, name: bytes, inode: ViewInode) -> None:
        if self._has_attributes:
            self._show_attributes(b"/proc/self/fd/%d/%b" % (directory, name), inode)

    def _show_attributes(self, place: int | str | bytes, inode: ViewInode) -> None:
        """Set what the file system takes; what it has no room for is noted where stamps are kept."""
        if not self._has_attributes:
            return
        sources = stream_sources(self.view, inode)
        shown, _ = xattrs.shown_attributes(inode.metadata, sources, xattrs.WRITABLE_ROOM)
        for name, value in shown.items():
            try:
                os.setxattr(place, xattrs.USER.encode("ascii") + name, value)
            except OSError as error:
                if error.errno in (errno.ENOTSUP, errno.EPERM):
                    self._has_attributes = False
                    if self.stamps is not None:
                        self.stamps.note_without_attributes()
                    return
                if error.errno not in _NO_ROOM:
                    raise
                if self.stamps is not None:
                    self.stamps.note_hidden(inode.id, name)

    def _inodes(self) -> Iterator[tuple[Parts, int]]:
        """All that was written: its path in the folder, and its inode in the view."""
        drive = self.view.drive
        if drive is None or not drive.is_directory:
            return
        stack: list[tuple[ViewNode, Parts]] = [(drive, ())]
        while stack:
            directory, parts = stack.pop()
            for node, inode in self.view.entries(directory.id):
                path = (*parts, host_safe(node.name).encode("utf-8"))
                yield path, inode.id
                is_link = link_text(self.view, node, inode.metadata.reparse) is not None
                if inode.is_directory and not is_link:
                    stack.append((node, path))
