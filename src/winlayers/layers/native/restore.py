"""Restoring files: the pieces that both layer writers and the utility VM share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from winlayers.errors import HcsError
from winlayers.layers.native import errors, files, paths
from winlayers.layers.native.safefile import (
    FILE_CREATE,
    FILE_DIRECTORY_FILE,
    FILE_OPEN,
    FILE_OPEN_REPARSE_POINT,
    Root,
)
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filestreams import write_file_streams
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.regf import minimal_hive


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryTimes:
    """What a directory gets at the end, since making files in it changes its times."""

    path: str
    metadata: FileMetadata


def reapply_directory_times(root: Root, directories: Sequence[DirectoryTimes]) -> None:
    """Give *directories* (parents before children) their attributes and times, deepest first."""
    for directory in reversed(directories):
        file = root.open_relative(
            directory.path,
            files.GENERIC_READ | files.GENERIC_WRITE,
            files.SHARE_READ,
            FILE_OPEN,
            FILE_DIRECTORY_FILE | FILE_OPEN_REPARSE_POINT,
        )
        with file:
            file.set_basic_info(directory.metadata)


def with_unnamed_stream(metadata: FileMetadata, streams: Iterable[DataStream]) -> Iterable[DataStream]:
    """*streams*, with an empty unnamed one in front where a regular file comes without any.

    Every regular file is restored with a data stream, even an empty one (source: go-winio ``backuptar``).
    """
    if metadata.is_directory or metadata.reparse is not None:
        return streams
    return _unnamed_first(streams)


def _unnamed_first(streams: Iterable[DataStream]) -> Iterable[DataStream]:
    started = False
    for stream in streams:
        if not started and stream.name:
            yield DataStream("", 0, ())
        started = True
        yield stream
    if not started:
        yield DataStream("", 0, ())


class Counted:
    """Adds up the sizes of unnamed streams as they go by; alternate ones do not count in hcsshim either."""

    def __init__(self) -> None:
        self.total = 0

    def pass_through(self, streams: Iterable[DataStream]) -> Iterable[DataStream]:
        """The *streams*."""
        for stream in streams:
            if not stream.name:
                self.total += stream.size
            yield stream


class Sink(Protocol):
    """What takes a backup stream's bytes."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class BufferedSink:
    """Hands on what is written in pieces of 64 KiB or more; the last, which `flush` hands on, may be less."""

    def __init__(self, hand_on: Callable[[bytes], None]) -> None:
        self._hand_on = hand_on
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        if len(self._pending) >= files.BUFFER_SIZE:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self._hand_on(bytes(self._pending))
            self._pending.clear()


class _Tee:
    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, data: bytes | memoryview) -> None:
        for sink in self._sinks:
            sink.write(data)


def restore(
    file: files.WinFile,
    metadata: FileMetadata,
    streams: Iterable[DataStream],
    *,
    security: bool,
    path: str,
    copy_to: str | None = None,
) -> None:
    """Restore the open *file* through BackupWrite.

    Args:
        security: restore the security descriptor, too.
        path: its path in the layer, for messages.
        copy_to: a file that gets the same data (and no descriptor); what is there is replaced.
    """
    writer = file.backup_writer(security=security)
    with contextlib.closing(writer):
        if copy_to is None:
            write_file_streams(metadata, streams, writer, path=path)
            writer.flush()
            return
        access = files.GENERIC_READ | files.GENERIC_WRITE
        with files.WinFile.open(copy_to, access, files.CREATE_ALWAYS) as copy:
            copy_writer = copy.backup_writer(security=False)
            with contextlib.closing(copy_writer):
                write_file_streams(metadata, streams, _Tee((writer, copy_writer)), path=path)
                writer.flush()
                copy_writer.flush()


def bcd_copy(root: Root, path: str) -> str | None:
    """Where the original of *path* is kept, if it is one of the files that an import changes."""
    prefix = paths.UTILITY_VM_FILES + "\\"
    name = paths.MUTATED_FILES.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
    return None if name is None else root.join(name)


def copy_with_metadata(
    source_root: Root, target_root: Root, path: str, *, target: str | None = None, is_directory: bool = False
) -> FileMetadata:
    """Copy one file, directory (without its content) or reparse point with all its metadata.

    Args:
        path: where it is below *source_root*.
        target: where the copy goes below *target_root*; None: the same path.

    Returns:
        The attributes and times.
    """
    source = source_root.open_relative(
        path, files.READ_SECURITY, files.SHARE_READ, FILE_OPEN, FILE_OPEN_REPARSE_POINT
    )
    with source, contextlib.closing(source.backup_reader(security=True)) as reader:
        basic = source.basic_info()
        options = FILE_DIRECTORY_FILE if is_directory else 0
        copy = target_root.open_relative(
            target or path, files.RESTORE, files.SHARE_READ, FILE_CREATE, options
        )
        with copy:
            copy.set_basic_info(basic)
            with contextlib.closing(copy.backup_writer(security=True)) as writer:
                while chunk := reader.read(files.BUFFER_SIZE):
                    writer.write(chunk)
                writer.flush()
        return basic


def link_or_copy(source_root: Root, target_path: str, root: Root, path: str) -> None:
    """Make *path* a hard link to *target_path*; a copy where the file has all the links that NTFS allows."""
    try:
        root.link(target_path, path, target_root=source_root)
    except HcsError as error:
        if errors.win32_code(error) != errors.ERROR_TOO_MANY_LINKS:
            raise
        copy_with_metadata(source_root, root, target_path, target=path)


def ensure_hives(root: Root) -> None:
    """Write an empty registry hive wherever a base layer has none, or one without a byte.

    Windows Server 2025 refuses a base layer whose five hives are not valid hive files.
    """
    if root.look(paths.HIVE_SOURCES) is None:
        root.mkdir_all(paths.HIVE_SOURCES)
    for name in paths.HIVE_NAMES:
        path = f"{paths.HIVE_SOURCES}\\{name}"
        found = root.look(path)
        if found is not None and (found.descends or found.metadata.attributes & FileAttributes.REPARSE_POINT):
            continue  # not a file: Windows says more about that than we could
        disposition = FILE_CREATE if found is None else FILE_OPEN
        access = files.GENERIC_READ | files.GENERIC_WRITE
        with root.open_relative(path, access, files.SHARE_READ, disposition) as file:
            if file.size() == 0:
                file.write(minimal_hive())
                if found is not None:
                    file.set_basic_info(found.metadata)
