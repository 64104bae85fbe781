"""Copying out of a tree: to the host's file system, or into a tar that loses nothing."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from winlayers.errors import PathNotFoundError, ReparseError, StoreError
from winlayers.inspection.tree import DRIVE, Entry, EntryType, Tree
from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar import TarWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import Sink
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import UNSET, unix_nanoseconds
from winlayers.win32.metadata import DataStream
from winlayers.win32.names import host_safe
from winlayers.win32.reparse import parse_reparse, posix_target

Warn = Callable[[str], object]


def _with_below(tree: Tree, top: Entry) -> Iterator[tuple[str, Entry]]:
    """The entry and all below it, with paths from it; its own is ""."""
    yield "", top
    if top.is_directory:
        for entry in tree.walk(top):
            yield entry.path[len(top.path) + 1 if top.path else 0 :], entry


def copy_out(tree: Tree, source: Entry, destination: str | os.PathLike[str], warn: Warn) -> int:
    """Copy a file, or a directory with all below it, to the host.

    Data, write and access times, the read-only bit and links survive; what the host has no place for
    (descriptors, streams, extended attributes) does not: use :func:`write_tar` for that.  Names that the host
    can't hold are escaped as in mounts.  Nothing is ever written through a link that lies below the
    destination.

    Args:
        destination: an existing folder, into which the entry goes under its name (of a root: what is in it);
            else its new name.
        warn: told in one line of each kind of thing that was not copied.

    Returns:
        The number of files and directories made.

    Raises:
        StoreError: the host's file system refuses.
        PathNotFoundError: there is a folder where a file would go, or the reverse.
    """
    target = Path(destination)
    below = target.is_dir() and source.path not in ("", DRIVE)
    if below:
        target = target / host_safe(source.name)
    copier = _Copier(tree, warn, follow=not below)
    try:
        for relative, entry in _with_below(tree, source):
            parts = [host_safe(part) for part in relative.split("/")] if relative else []
            copier.copy(entry, target.joinpath(*parts), relative)
        copier.finish()
    except OSError as error:
        raise StoreError(f"can't write to {error.filename or target}: {error.strerror}") from error
    return copier.count


class _Copier:
    def __init__(self, tree: Tree, warn: Warn, *, follow: bool) -> None:
        """Make a copier; *follow*: the topmost folder is what the user named, which may be a link to one."""
        self._tree = tree
        self._warn = warn
        self._follow = follow
        self._directories: list[tuple[Path, Entry]] = []
        self._made: dict[int, Path] = {}
        self._streams = 0
        self._leaving: list[Entry] = []
        self.count = 0

    def copy(self, entry: Entry, target: Path, relative: str) -> None:
        self._streams += len(entry.inode.streams)
        if entry.is_directory:
            self._make_directory(target)
            self._directories.append((target, entry))
        elif (link := self._tree_target(entry)) is not None:
            self._clear(target)
            os.symlink(link, target, target_is_directory=entry.inode.is_directory)
            leads = posixpath.normpath(posixpath.join(posixpath.dirname(relative), link))
            if relative and leads.split("/")[0] == "..":
                self._leaving.append(entry)
        elif entry.type is not EntryType.FILE:
            self._warn(f"{entry.shown}: a {entry.target} reparse point can't be copied")
            return
        else:
            self._make_file(entry, target)
        self.count += 1

    def _tree_target(self, entry: Entry) -> str | None:
        if entry.metadata.reparse is None or not entry.path.startswith(f"{DRIVE}/"):
            return None
        try:
            return posix_target(parse_reparse(entry.metadata.reparse), entry.path[len(DRIVE) + 1 :])
        except ReparseError:
            return None

    def _make_directory(self, target: Path) -> None:
        try:
            os.mkdir(target)
        except FileExistsError:
            named = self._follow and not self._directories
            if not stat.S_ISDIR((os.stat if named else os.lstat)(target).st_mode):
                raise PathNotFoundError(f"{target} is there already and is no folder") from None

    def _clear(self, target: Path) -> None:
        """Remove a file or link in the way; a folder stays and is an error."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(target).st_mode):
                raise PathNotFoundError(f"{target} is there already and is a folder")
            os.unlink(target)

    def _make_file(self, entry: Entry, target: Path) -> None:
        self._clear(target)
        first = self._made.get(entry.inode.id)
        if first is not None:
            try:
                os.link(first, target)
                return
            except OSError:
                pass  # a file system without hard links: a copy will do
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(target, flags, 0o666), "wb", buffering=0) as file:
            for chunk in self._tree.chunks(entry):
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) or 0 :]
        _set_times(entry, target)
        if entry.metadata.attributes & FileAttributes.READONLY:
            os.chmod(target, stat.S_IMODE(os.stat(target).st_mode) & ~0o222)
        if entry.inode.nlink > 1:
            self._made[entry.inode.id] = target

    def finish(self) -> None:
        """Set the times of directories, now that nothing is made in them any more."""
        for target, entry in reversed(self._directories):
            _set_times(entry, target)
        if self._streams:
            self._warn(
                f"{self._streams} alternate data stream{'s' if self._streams > 1 else ''} not copied;"
                " copy to - for a tar with everything"
            )
        if self._leaving:
            others = f", and {len(self._leaving) - 1} more" if len(self._leaving) > 1 else ""
            self._warn(f"{self._leaving[0].shown}{others}: links that lead out of what was copied")


def _set_times(entry: Entry, target: Path) -> None:
    written = entry.metadata.write_time
    if written == UNSET:
        return
    accessed = entry.metadata.access_time
    times = (unix_nanoseconds(written if accessed == UNSET else accessed), unix_nanoseconds(written))
    try:
        os.utime(target, ns=times)
    except (OSError, OverflowError):
        pass  # a time beyond what the host's file system holds is no reason to refuse the data


def write_tar(tree: Tree, source: Entry, sink: Sink, warn: Warn) -> int:
    """Write a file, or a directory with all below it, as a tar with all Windows metadata; return its entries.

    The records are those of layers (``MSWINDOWS.*``); the entry's own name is the first component.

    Args:
        sink: takes the tar.
        warn: told in one line of what tar has no form for.
    """
    writer = TarWriter(sink)
    names: dict[int, str] = {}
    top = source.name or "root"
    count = 0
    for relative, entry in _with_below(tree, source):
        path = f"{top}/{relative}" if relative else top
        first = names.get(entry.inode.id)
        if first is not None:
            member = LayerEntry(path, EntryKind.LINK, None, 0, first)
            streams: list[DataStream] = []
        else:
            kind = EntryKind.DIRECTORY if entry.inode.is_directory else EntryKind.FILE
            member = LayerEntry(path, kind, entry.metadata, entry.size)
            streams = list(_streams(tree, entry))
        try:
            for _ in write_layer_entry(writer, member, streams):
                pass
        except ReparseError as error:
            warn(f"{entry.shown}: not in the tar: {error.message}")
            continue
        if entry.inode.nlink > 1:
            names.setdefault(entry.inode.id, path)
        count += 1
    writer.close()
    return count


def _streams(tree: Tree, entry: Entry) -> Iterator[DataStream]:
    if not entry.inode.is_directory and entry.metadata.reparse is None:
        yield DataStream("", entry.size, tree.chunks(entry))
    for stream in entry.inode.streams:
        yield DataStream(stream.name, stream.extent.size, tree.view.chunks(stream.extent))
