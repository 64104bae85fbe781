"""Layer readers: base layers from their folder, others from the transport format that HCS exports.

Source: hcsshim ``baselayerreader.go`` and ``legacy.go`` for what is read, in which order, with which times.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from winlayers.errors import LayerCorruptError
from winlayers.layers.native import errors, files, paths, temporary, vmcompute
from winlayers.layers.native.content import FileContent
from winlayers.layers.native.privileges import READ, privileges
from winlayers.layers.native.safefile import FILE_OPEN, FILE_OPEN_REPARSE_POINT, Root, WalkEntry
from winlayers.layers.service import EntryKind, Flavour, LayerEntry, LayerReader
from winlayers.win32.filestreams import read_transport_file
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import decode_wtf8

_RECYCLE_BIN = "files\\$recycle.bin"
_TOMBSTONES_HEADER = "\ufeffVersion 1.0"
_MAX_TOMBSTONES = 256 << 20

Entry = tuple[LayerEntry, Iterable[DataStream]]


class NativeReader(LayerReader):
    """Takes the privilege to read for each step, and releases what it holds on every path.

    Args:
        listing: leave the files that BackupRead would be needed for unread: of their metadata there are the
            attributes and times alone, of their streams the unnamed one's size.
    """

    def __init__(self, *, listing: bool = False) -> None:
        self._listing = listing
        self._entries: Iterator[Entry] | None = None
        self._held = contextlib.ExitStack()
        self._links: dict[tuple[int, bytes], str] = {}
        self._closed = False

    @abc.abstractmethod
    def _walk(self) -> Iterator[Entry]:
        """The entries; runs with the privilege, between one entry and the next."""

    def __iter__(self) -> Iterator[Entry]:
        self._entries = self._walk()
        while True:
            with privileges(*READ):
                self._held.close()
                entry = next(self._entries, None)
            if entry is None:
                return
            yield entry

    def close(self) -> None:
        self._held.close()
        self._entries = None
        self._closed = True

    # -- shared by the two kinds --

    def _open(self, root: Root, path: str) -> files.WinFile:
        """Open *path* itself (not what it points to), to be held until the next entry is taken."""
        file = root.open_relative(
            path, files.GENERIC_READ, files.SHARE_READ, FILE_OPEN, FILE_OPEN_REPARSE_POINT
        )
        return self._held.enter_context(file)

    def _link_or_none(self, file: files.WinFile, name: str, basic: FileMetadata) -> LayerEntry | None:
        """The entry of a further name of a file that was seen before."""
        if file.link_count() < 2:
            return None
        target = self._links.setdefault(file.file_id(), name)
        if target == name:
            return None
        return LayerEntry(name, EntryKind.LINK, basic, link_target=target)

    def _read_backup(self, file: files.WinFile, name: str, basic: FileMetadata, *, security: bool) -> Entry:
        """The entry of a file that is read through BackupRead."""
        link = self._link_or_none(file, name, basic)
        if link is not None:
            return link, ()
        kind = EntryKind.DIRECTORY if basic.is_directory else EntryKind.FILE
        size = 0 if basic.is_directory else file.size()
        if self._listing:
            return LayerEntry(name, kind, basic, size), (DataStream("", size, ()),)
        content = FileContent(file, basic, security=security, path=name)
        self._held.callback(content.close)
        return LayerEntry(name, kind, content.metadata, size), _privileged_streams(content.streams())


_Item = TypeVar("_Item")


def _privileged(items: Iterator[_Item]) -> Iterator[_Item]:
    """*items*, each got with the privilege to read."""
    while True:
        with privileges(*READ):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _privileged_streams(streams: Iterator[DataStream]) -> Iterator[DataStream]:
    for stream in _privileged(streams):
        yield DataStream(stream.name, stream.size, _privileged(iter(stream.chunks)))


def _entry_name(path: str) -> str:
    return path.replace("\\", "/")


def _is_recycle_bin(entry: WalkEntry) -> bool:
    return entry.path.lower() == _RECYCLE_BIN and entry.descends


# -- base layers ------------------------------------------------------------------------------------


class BaseLayerReader(NativeReader):
    """Reads a base layer from its folder: ``Files``, and ``UtilityVM\\Files`` where there is one."""

    def __init__(self, path: str, *, listing: bool = False) -> None:
        super().__init__(listing=listing)
        with privileges(*READ):
            self._root = Root.open(path)

    def _walk(self) -> Iterator[Entry]:
        if self._root.look(paths.FILES) is None:
            return  # made and never filled
        for entry in self._root.walk(paths.FILES, skip=_is_recycle_bin):
            yield self._read(entry)
        if self._root.look(paths.UTILITY_VM_FILES) is None:
            return  # a UtilityVM without Files is none
        for entry in self._root.walk(paths.UTILITY_VM, skip=_outside_utility_vm_files):
            yield self._read(entry)

    def _read(self, entry: WalkEntry) -> Entry:
        file = self._open(self._root, entry.path)
        return self._read_backup(file, _entry_name(entry.path), file.basic_info(), security=True)

    def close(self) -> None:
        super().close()
        self._root.close()


def _outside_utility_vm_files(entry: WalkEntry) -> bool:
    return entry.path not in (paths.UTILITY_VM, paths.UTILITY_VM_FILES) and not paths.is_below(
        entry.path, paths.UTILITY_VM_FILES
    )


# -- other layers -----------------------------------------------------------------------------------


class TransportReader(NativeReader):
    """Reads a folder in the transport format."""

    def __init__(self, folder: str, *, listing: bool = False) -> None:
        super().__init__(listing=listing)
        with privileges(*READ):
            self._root = Root.open(folder)

    def _walk(self) -> Iterator[Entry]:
        tombstones = self._read_tombstones()
        for entry in self._root.walk(".", skip=_is_recycle_bin):
            if entry.path in (".", paths.TOMBSTONES) or entry.path.endswith(paths.DIRECTORY_SUFFIX):
                continue
            yield self._read(entry)
            if entry.descends:
                for path in tombstones.pop(entry.path, ()):
                    yield LayerEntry(_entry_name(path), EntryKind.WHITEOUT), ()
        # hcsshim drops deletions in directories that the export does not name.
        for paths_left in tombstones.values():
            for path in paths_left:
                yield LayerEntry(_entry_name(path), EntryKind.WHITEOUT), ()

    def _read_tombstones(self) -> dict[str, list[str]]:
        """The deleted paths by the directory that they lie in."""
        with self._root.open_relative(
            paths.TOMBSTONES, files.GENERIC_READ, files.SHARE_READ, FILE_OPEN
        ) as file:
            if file.size() > _MAX_TOMBSTONES:
                raise LayerCorruptError("a list of deletions beyond any size", path=paths.TOMBSTONES)
            with io.BufferedReader(files.RawReader(file)) as stream:
                text = decode_wtf8(stream.read())
        lines = text.split("\n")
        if lines[0].removesuffix("\r") != _TOMBSTONES_HEADER:
            raise LayerCorruptError("not a list of deletions of version 1.0", path=paths.TOMBSTONES)
        found: dict[str, list[str]] = {}
        for line in lines[1:]:
            line = line.removesuffix("\r")
            if line:
                path = f"{paths.FILES}\\{paths.clean_relative(line.removeprefix(chr(92)))}"
                found.setdefault(path.rpartition("\\")[0], []).append(path)
        return found

    def _read(self, entry: WalkEntry) -> Entry:
        if not paths.is_below(entry.path, paths.FILES):
            return self._read_plain(entry)
        path = f"{entry.path}{paths.DIRECTORY_SUFFIX}" if entry.descends else entry.path
        file = self._open(self._root, path)
        name = _entry_name(entry.path)
        stream = io.BufferedReader(files.RawReader(file), files.BUFFER_SIZE)
        self._held.callback(stream.detach)
        content = read_transport_file(stream, path=name)
        # The times are those of the transport file, the attributes what it says.
        basic = dataclasses.replace(file.basic_info(), attributes=content.metadata.attributes)
        link = None if entry.descends else self._link_or_none(file, name, basic)
        if link is not None:
            return link, ()
        metadata = dataclasses.replace(
            basic,
            security=content.metadata.security,
            eas=content.metadata.eas,
            reparse=content.metadata.reparse,
        )
        if entry.descends:
            return LayerEntry(name, EntryKind.DIRECTORY, metadata), content.streams
        size = next((stream.size for stream in content.streams if not stream.name), 0)
        return LayerEntry(name, EntryKind.FILE, metadata, size), content.streams

    def _read_plain(self, entry: WalkEntry) -> Entry:
        """An entry outside of ``Files``, or ``Files`` itself: a file as it is."""
        file = self._open(self._root, entry.path)
        basic = file.basic_info()
        times = self._delta_times() if entry.path in (paths.HIVES, paths.FILES) else basic
        # Creation and access times outside of Files are those of the export.
        basic = FileMetadata(
            basic.attributes, times.write_time, times.write_time, times.write_time, times.change_time
        )
        return self._read_backup(file, _entry_name(entry.path), basic, security=False)

    def _delta_times(self) -> FileMetadata:
        """What ``Hives`` and ``Files`` take their times from: HCS gives these two whatever time it is.

        hcsshim fails where a layer has no System_Delta; here such a layer's directories have no times.
        """
        try:
            delta = self._root.open_relative(
                paths.SYSTEM_DELTA, files.GENERIC_READ, files.SHARE_READ, FILE_OPEN
            )
        except errors.HcsNotFoundError:
            return FileMetadata()
        with delta:
            return delta.basic_info()

    def close(self) -> None:
        super().close()
        self._root.close()


class ExportedLayerReader(TransportReader):
    """Exports a layer to a temporary folder, reads that, and removes it when closed."""

    def __init__(self, flavour: Flavour, path: str, chain: Sequence[str], *, listing: bool = False) -> None:
        self._folder = temporary.make_folder()
        try:
            with privileges(*READ):
                vmcompute.export_layer(flavour, path, self._folder, chain)
            super().__init__(self._folder, listing=listing)
        except BaseException:
            temporary.remove_folder(self._folder)
            raise

    def close(self) -> None:
        already = self._closed
        super().close()
        if not already:
            temporary.remove_folder(self._folder)
