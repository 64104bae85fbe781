"""The transport format: a layer as a folder, what ExportLayer writes and ImportLayer reads.

::

    Files/...           each file is a u32 of attributes and its backup stream; each directory has beside it
                        <dir>.$wcidirs$ with the same for the directory itself
    Hives/..., UtilityVM/Files/...      files as they are
    tombstones.txt      UTF-8 with a BOM: "Version 1.0", then a path a line, relative to Files, with a leading
                        backslash

Files' times are the times of the files that carry them.  A POSIX file system keeps the times of last write
and access; the times of creation and change are kept in the extended attribute ``user.ntfs_times`` where the
file system has such, and are otherwise the time of last write.  So is, for files that stand as they are, all
other metadata lost: the format has no place for it outside NTFS.

Names that the host can't hold are escaped by :func:`~winlayers.win32.names.host_safe`.

Sources: hcsshim ``internal/wclayer/legacy.go`` (``legacyLayerReader``, ``legacyLayerWriter``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator

from winlayers.errors import LayerContentError, UnsupportedError
from winlayers.layers.rooted import Root
from winlayers.layers.service import EntryKind, LayerEntry, LayerReader, LayerWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filestreams import read_transport_file, write_transport_file
from winlayers.win32.filetime import filetime_from_nanoseconds, unix_nanoseconds
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import fold_key, host_original, host_safe

TOMBSTONES = "tombstones.txt"
DIRECTORY_SUFFIX = ".$wcidirs$"
_HEADER = "\ufeffVersion 1.0"
_FILES = "Files"
_HIVES = "Hives"
_RECYCLE_BIN = b"$RECYCLE.BIN"
_TIMES_ATTRIBUTE = "user.ntfs_times"
_TIMES = struct.Struct("<4q")  # creation, write, access, change: ntfs-3g's order
_CHUNK = 1 << 20

LinkContent = Callable[[LayerEntry], tuple[FileMetadata, Iterable[DataStream]]]
"""Gives what a hard link leads to, when that is in a parent layer."""


# -- writing ----------------------------------------------------------------------------------------


def write_folder(reader: LayerReader, folder: str, link_content: LinkContent | None = None) -> None:
    """Write the entries of *reader* to the existing empty *folder*.

    Args:
        link_content: for hard links into parent layers, whose content must be written again.

    Raises:
        UnsupportedError: an opaque directory, which the format can't say; a link into a parent layer without
            *link_content*.
    """
    with Root(folder) as root:
        _FolderWriter(root, link_content).write(reader)


class _FolderWriter:
    def __init__(self, root: Root, link_content: LinkContent | None) -> None:
        self._root = root
        self._link_content = link_content
        self._tombstones: list[str] = []
        self._made: dict[tuple[bytes, ...], str] = {}  # folded path -> host path, of files
        self._directories: dict[tuple[bytes, ...], str] = {(): ""}
        self._times: list[tuple[str, FileMetadata]] = []

    def write(self, reader: LayerReader) -> None:
        links = []
        for entry, streams in reader:
            if entry.kind is EntryKind.WHITEOUT:
                self._delete(entry.path)
            elif entry.kind is EntryKind.OPAQUE:
                raise UnsupportedError(
                    "the transport format can't say that a directory is opaque", path=entry.path
                )
            elif entry.kind is EntryKind.LINK:
                links.append(entry)
            elif entry.path:
                self._put(entry, entry.metadata or FileMetadata(), streams)
        for entry in links:
            self._link(entry)
        text = "".join(f"{line}\n" for line in (_HEADER, *self._tombstones))
        with self._root.create_file(TOMBSTONES) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        for path, metadata in reversed(self._times):
            self._set_times(path, metadata)

    def _delete(self, path: str) -> None:
        root, _, rest = path.partition("/")
        if fold_key(root) != fold_key(_FILES) or not rest:
            raise UnsupportedError("the transport format can only delete below Files", path=path)
        self._tombstones.append("\\" + rest.replace("/", "\\"))

    def _put(self, entry: LayerEntry, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        host = self._place(entry.path)
        key = _key(entry.path)
        coded = key[0] == fold_key(_FILES)
        if entry.kind is EntryKind.DIRECTORY:
            if key not in self._directories:
                self._root.make_directory(host)
                self._directories[key] = host
            if coded:
                self._coded(host + DIRECTORY_SUFFIX, metadata, streams)
            else:
                self._times.append((host, metadata))
            return
        self._root.remove(host)
        if coded:
            self._coded(host, metadata, streams)
        else:
            self._raw(host, metadata, streams)
        self._made[key] = host

    def _coded(self, host: str, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        self._root.remove(host)
        with self._root.create_file(host) as file:
            write_transport_file(metadata, streams, file, path=host)
        self._set_times(host, metadata)

    def _raw(self, host: str, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        with self._root.create_file(host) as file:
            for stream in streams:
                if not stream.name:
                    for chunk in stream.chunks:
                        file.write(chunk)
        self._set_times(host, metadata)

    def _link(self, entry: LayerEntry) -> None:
        assert entry.link_target is not None
        target = self._made.get(_key(entry.link_target))
        if target is not None:
            host = self._place(entry.path)
            self._root.remove(host)
            self._root.link(target, host)
            self._made[_key(entry.path)] = host
        elif self._link_content is not None:
            metadata, streams = self._link_content(entry)
            self._put(entry, metadata, streams)
        else:
            raise UnsupportedError(f"a hard link to a parent layer's {entry.link_target!r}", path=entry.path)

    def _place(self, path: str) -> str:
        """The host path for *path*, with the spelling of directories that are there already."""
        *parents, name = path.split("/")
        key: tuple[bytes, ...] = ()
        host = ""
        for part in parents:
            key = (*key, fold_key(part))
            known = self._directories.get(key)
            if known is None:
                known = f"{host}/{host_safe(part)}".lstrip("/")
                self._root.make_directory(known)
                self._directories[key] = known
            host = known
        if (*key, fold_key(name)) in self._directories:
            return self._directories[*key, fold_key(name)]
        return f"{host}/{host_safe(name)}".lstrip("/")

    def _set_times(self, host: str, metadata: FileMetadata) -> None:
        access = metadata.access_time or metadata.write_time
        if metadata.write_time:
            self._root.set_times(host, unix_nanoseconds(access), unix_nanoseconds(metadata.write_time))
        if sys.platform == "linux":
            times = (metadata.creation_time, metadata.write_time, metadata.access_time, metadata.change_time)
            with contextlib.suppress(OSError):  # a file system without such attributes
                path = os.path.join(self._root.path, host)
                os.setxattr(path, _TIMES_ATTRIBUTE, _TIMES.pack(*times), follow_symlinks=False)


# -- reading ----------------------------------------------------------------------------------------


def read_folder(folder: str, writer: LayerWriter) -> None:
    """Give the layer in *folder* to *writer*, entry by entry, parents first.

    Raises:
        LayerContentError: the folder is not a layer in the transport format.
        BackupStreamError: a file in it is malformed.
    """
    with Root(folder) as root:
        for path, host, found in _walk(root):
            _give(root, path, host, found, writer)
        for path in _read_tombstones(root):
            writer.remove(path)


def _walk(root: Root) -> Iterator[tuple[str, str, os.stat_result]]:
    """Everything in the folder, parents first, as (path, host path, status)."""
    stack = [_entries(root, "", "")]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        yield entry
        path, host, found = entry
        if stat.S_ISDIR(found.st_mode):
            stack.append(_entries(root, path, host))


def _entries(root: Root, path: str, host: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """What one folder holds; the files that carry directories' metadata are no entries."""
    names = sorted(root.names(host))
    known = set(names)
    for name in names:
        if not host and name == TOMBSTONES:
            continue
        if name.endswith(DIRECTORY_SUFFIX) and name[: -len(DIRECTORY_SUFFIX)] in known:
            continue
        original = host_original(name)
        if original is None:
            raise LayerContentError("the name was cut to fit the host and can't be restored", path=name)
        child, child_host = f"{path}/{original}".lstrip("/"), f"{host}/{name}".lstrip("/")
        found = root.lstat(child_host)
        if found is None:
            continue
        if (
            fold_key(path) == fold_key(_FILES)
            and fold_key(original) == _RECYCLE_BIN
            and stat.S_ISDIR(found.st_mode)
        ):
            continue
        yield child, child_host, found


def _give(root: Root, path: str, host: str, found: os.stat_result, writer: LayerWriter) -> None:
    is_directory = stat.S_ISDIR(found.st_mode)
    if not is_directory and not stat.S_ISREG(found.st_mode):
        raise LayerContentError("neither a regular file nor a directory", path=path)
    if fold_key(path.partition("/")[0]) != fold_key(_FILES):
        metadata = _plain_metadata(root, path, found)
        if is_directory:
            writer.add(path, metadata)
            return
        with root.open_file(host) as file:
            writer.add(path, metadata, [DataStream("", found.st_size, iter(lambda: file.read(_CHUNK), b""))])
        return
    carrier = host + DIRECTORY_SUFFIX if is_directory else host
    carried = root.lstat(carrier)
    if carried is None:
        raise LayerContentError(f"the directory has no {DIRECTORY_SUFFIX} file", path=path)
    with root.open_file(carrier) as file:
        content = read_transport_file(file, path=path)
        metadata = _with_times(root, carrier, carried, content.metadata)
        if path == _FILES:
            metadata = _hive_times(root, metadata)
        if is_directory:
            attributes = metadata.attributes | FileAttributes.DIRECTORY
            metadata = dataclasses.replace(metadata, attributes=attributes)
        writer.add(path, metadata, content.streams)


def _with_times(root: Root, host: str, found: os.stat_result, metadata: FileMetadata) -> FileMetadata:
    creation, write, access, change = _times_of(root, host, found)
    return dataclasses.replace(
        metadata, creation_time=creation, access_time=access, write_time=write, change_time=change
    )


def _times_of(root: Root, host: str, found: os.stat_result) -> tuple[int, int, int, int]:
    """(creation, write, access, change) of the file at *host*."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            data = os.getxattr(os.path.join(root.path, host), _TIMES_ATTRIBUTE, follow_symlinks=False)
            if len(data) == _TIMES.size:
                creation, write, access, change = _TIMES.unpack(data)
                return creation, write, access, change
    write = filetime_from_nanoseconds(found.st_mtime_ns)
    return write, write, filetime_from_nanoseconds(found.st_atime_ns), write


def _plain_metadata(root: Root, path: str, found: os.stat_result) -> FileMetadata:
    """Metadata of what stands as it is: times of creation and access are the time of last write."""
    is_directory = stat.S_ISDIR(found.st_mode)
    write = filetime_from_nanoseconds(found.st_mtime_ns)
    metadata = FileMetadata(
        FileAttributes.DIRECTORY if is_directory else FileAttributes.ARCHIVE, write, write, write, write
    )
    return _hive_times(root, metadata) if path == _HIVES else metadata


def _hive_times(root: Root, metadata: FileMetadata) -> FileMetadata:
    """An import changes the times of ``Hives`` and ``Files``; those of ``System_Delta`` stand for them."""
    found = root.lstat(f"{_HIVES}/System_Delta")
    if found is None:
        return metadata
    write = filetime_from_nanoseconds(found.st_mtime_ns)
    return dataclasses.replace(
        metadata, creation_time=write, access_time=write, write_time=write, change_time=write
    )


def _read_tombstones(root: Root) -> list[str]:
    if root.lstat(TOMBSTONES) is None:
        return []
    with root.open_file(TOMBSTONES) as file:
        lines = file.read().decode("utf-8", "surrogatepass").splitlines()
    if not lines or lines[0] != _HEADER:
        raise LayerContentError("not a tombstones file of version 1.0", path=TOMBSTONES)
    paths = []
    for line in lines[1:]:
        if not line.startswith("\\") or len(line) == 1:
            raise LayerContentError(f"{line!r} is not a path", path=TOMBSTONES)
        paths.append(f"{_FILES}/" + line[1:].replace("\\", "/"))
    return paths


def _key(path: str) -> tuple[bytes, ...]:
    return tuple(fold_key(part) for part in path.split("/"))
