"""A scratch layer's changes, told in a layer's terms.

A mount kind finds what its changes folder holds (:class:`UpperEntry`); this module says what that means for
the chain below: which paths are added, modified or deleted, with which metadata, and which files of the chain
have come to another place and must be written again.

Metadata follows Windows.  A file that was there keeps its descriptor, attributes, creation time, extended
attributes and streams, unless they were set explicitly; one that is new inherits its descriptor from its
directory, as NTFS would have done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from winlayers.errors import LayerInUseError
from winlayers.layers.portable import disk
from winlayers.layers.portable.mounts.contract import UpperEntry, UpperKind
from winlayers.layers.portable.view import ROOT, Extent, View, ViewInode, ViewNode
from winlayers.layers.service import ChangeKind, EntryKind, LayerChange, LayerEntry, LayerReader
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.reparse import SymbolicLink, parse_reparse
from winlayers.win32.security import inherit

DRIVE = "Files"
_CHUNK = 1 << 20


@dataclasses.dataclass(slots=True)
class Change:
    """One path of the scratch layer, resolved against the chain.

    Attributes:
        path: relative to the drive.
        kind: what happened to it, seen from the chain; None: it is only on the way to another change.
        entry: what the mount kind found.
        below: the inode that the path had in the chain.
        source: the inode of the chain that it continues (the same, or where it was moved from).
        metadata: its metadata now; None for deletions.
        replaced: something else was there: what lies below must be deleted first.
        link_to: the path of the entry that it is a hard link to.
    """

    path: str
    kind: ChangeKind | None
    entry: UpperEntry
    below: ViewInode | None
    source: ViewInode | None
    metadata: FileMetadata | None
    replaced: bool = False
    link_to: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether the path is (for a deletion: was) a plain directory."""
        if self.metadata is None:
            return self.below is not None and self.below.is_directory
        return self.metadata.is_directory

    @property
    def size(self) -> int:
        """Bytes of the unnamed stream, counted under the first of a file's names."""
        return 0 if self.metadata is None or self.link_to is not None else self.data_size

    @property
    def stream_size(self) -> int:
        """Bytes of the alternate streams, counted like :attr:`size`."""
        if self.metadata is None or self.link_to is not None:
            return 0
        return sum(size for _, size in self.stream_sizes())

    @property
    def data_size(self) -> int:
        """Bytes of the unnamed stream."""
        if self.entry.data_changed:
            return self.entry.size if self.entry.kind is UpperKind.FILE else 0
        return self.source.size if self.source is not None else 0

    def stream_sizes(self) -> list[tuple[str, int]]:
        """The alternate streams with their sizes."""
        if self.entry.streams is not None:
            return [(name, len(data)) for name, data in self.entry.streams]
        if self.source is not None:
            return [(stream.name, stream.extent.size) for stream in self.source.streams]
        return []


class ScratchChanges:
    """The changes of one scratch layer over its chain's view, in the order in which they are found."""

    def __init__(self, view: View, entries: Iterable[UpperEntry]) -> None:
        self._view = view
        self._entries = entries
        self._metadata: dict[str, FileMetadata | None] = {}  # directories' metadata now, for inheritance
        self._links: dict[object, str] = {}
        drive = view.drive
        self._drive = drive.id if drive is not None else None
        self._metadata[""] = view.inode(drive.inode).metadata if drive is not None else None

    def __iter__(self) -> Iterator[Change]:
        for entry in self._entries:
            change = self._resolve(entry)
            if change is not None:
                yield change

    def _resolve(self, entry: UpperEntry) -> Change | None:
        node = self._find(entry.path)
        below = None if node is None else self._view.inode(node.inode)
        if entry.kind is UpperKind.WHITEOUT:
            if below is None:
                return None
            return Change(entry.path, ChangeKind.DELETE, entry, below, None, None)
        source = self._source(entry, below)
        metadata = self._metadata_now(entry, source)
        is_directory = entry.kind is UpperKind.DIRECTORY
        if is_directory:
            self._metadata[entry.path] = metadata
        lives_on = source is not None and below is not None and source.id == below.id
        if below is None:
            kind: ChangeKind | None = ChangeKind.ADD
        elif is_directory and lives_on and not entry.metadata_changed:
            kind = None
        else:
            kind = ChangeKind.MODIFY
        replaced = below is not None and below.is_directory and not (is_directory and lives_on)
        if entry.replaced and node is not None and node.name != entry.path.rpartition("/")[2]:
            replaced = True  # names that are there keep their spelling, unless they are deleted first
        link_to = self._link_target(entry)
        return Change(entry.path, kind, entry, below, source, metadata, replaced, link_to)

    def _source(self, entry: UpperEntry, below: ViewInode | None) -> ViewInode | None:
        """The chain's file that the entry continues; None: it is new."""
        if entry.origin is not None:
            return self._lookup(entry.origin)
        if entry.opaque or entry.replaced or below is None or not _continues(entry, below):
            return None
        return below

    # -- the chain --

    def _find(self, path: str) -> ViewNode | None:
        return None if self._drive is None else self._view.resolve(path, self._drive)

    def _lookup(self, path: str) -> ViewInode | None:
        node = self._find(path)
        return None if node is None else self._view.inode(node.inode)

    def _link_target(self, entry: UpperEntry) -> str | None:
        if entry.identity is None or entry.kind is UpperKind.DIRECTORY:
            return None
        first = self._links.setdefault(entry.identity, entry.path)
        return None if first == entry.path else first

    # -- metadata --

    def _metadata_now(self, entry: UpperEntry, source: ViewInode | None) -> FileMetadata:
        parent = entry.path.rpartition("/")[0]
        base = self._new_metadata(entry, parent) if source is None else source.metadata
        attributes = base.attributes
        if entry.kind is UpperKind.FILE and entry.data_changed:
            attributes |= FileAttributes.ARCHIVE
        changes: dict[str, object] = {"attributes": attributes}
        for field in ("creation_time", "access_time", "write_time", "change_time"):
            value = getattr(entry, field)
            if value:
                changes[field] = value
        if entry.overrides is not None:
            for field in entry.overridden:
                changes[field] = getattr(entry.overrides, field)
        metadata = dataclasses.replace(base, **changes)  # type: ignore[arg-type]  # fields by name
        return _consistent(metadata, entry.kind is UpperKind.DIRECTORY)

    def _new_metadata(self, entry: UpperEntry, parent: str) -> FileMetadata:
        is_directory = entry.kind is UpperKind.DIRECTORY
        directory = self._directory_metadata(parent)
        security = None
        if directory is not None and directory.security is not None:
            security = inherit(directory.security, is_directory=is_directory)
        attributes = FileAttributes.DIRECTORY if is_directory else FileAttributes.ARCHIVE
        reparse = None
        if entry.kind is UpperKind.SYMLINK and entry.posix_target is not None:
            reparse = symlink_reparse(entry.posix_target)
            if self._is_directory(entry.posix_target, parent):
                attributes = FileAttributes.DIRECTORY
        created = entry.creation_time or entry.write_time
        return FileMetadata(
            attributes, created, entry.access_time, entry.write_time, entry.change_time, security, (), reparse
        )

    def _is_directory(self, target: str, parent: str) -> bool:
        """Whether a new symbolic link leads to a directory of the chain; Windows keeps that in the link."""
        parts = [] if target.startswith("/") else parent.split("/")
        for part in target.split("/"):
            if part == "..":
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        found = self._lookup("/".join(parts))
        return found is not None and found.is_directory

    def _directory_metadata(self, path: str) -> FileMetadata | None:
        if path not in self._metadata:
            found = self._lookup(path)
            self._metadata[path] = None if found is None else found.metadata
        return self._metadata[path]


def _continues(entry: UpperEntry, inode: ViewInode) -> bool:
    """Whether the entry is the chain's file still, changed, rather than another in its place."""
    if entry.kind is UpperKind.DIRECTORY:
        return inode.is_directory and inode.metadata.reparse is None
    if entry.kind is UpperKind.SYMLINK:
        return not entry.data_changed and inode.metadata.reparse is not None
    return not inode.is_directory


def symlink_reparse(target: str) -> bytes:
    """The reparse buffer for a symbolic link made through POSIX with the text *target*.

    A target that starts with ``/`` means the drive's root, as inside the mount.
    """
    windows = target.replace("/", "\\")
    if windows.startswith("\\") and not windows.startswith("\\\\"):
        windows = f"C:{windows}"
    return SymbolicLink.to(windows).to_bytes()


def _consistent(metadata: FileMetadata, is_directory: bool) -> FileMetadata:
    """The metadata with the attribute bits that its other fields demand."""
    attributes = metadata.attributes
    if metadata.reparse is not None:
        attributes |= FileAttributes.REPARSE_POINT
        parse_reparse(metadata.reparse)
    else:
        attributes &= ~FileAttributes.REPARSE_POINT
        if is_directory:
            attributes |= FileAttributes.DIRECTORY
        else:
            attributes &= ~FileAttributes.DIRECTORY
    return dataclasses.replace(metadata, attributes=attributes)


def layer_changes(changes: Iterable[Change]) -> Iterator[LayerChange]:
    """The changes as the layer service reports them."""
    for change in changes:
        if change.kind is None:
            # A directory on the way to a change: Docker reports it as changed, since its times are.
            yield LayerChange(f"{DRIVE}/{change.path}", ChangeKind.MODIFY, 0, True, True)
            continue
        yield LayerChange(
            f"{DRIVE}/{change.path}",
            change.kind,
            change.size,
            change.is_directory,
            change.kind is ChangeKind.MODIFY and not change.entry.data_changed,
            change.stream_size,
        )


class ScratchReader(LayerReader):
    """Reads a scratch layer's changes as the entries of a delta layer.

    More than the contract asks for: streams may be read at any time, and again, until the reader is closed.
    """

    def __init__(self, view: View, entries: Iterable[UpperEntry]) -> None:
        self._view = view
        self._changes = ScratchChanges(view, entries)

    def close(self) -> None:
        self._view.close()

    def __iter__(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        with disk.reading():
            yield from self._entries()

    def _entries(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        for root in (DRIVE, "Hives"):
            yield self._root(root), ()
        for change in self._changes:
            path = f"{DRIVE}/{change.path}"
            if change.metadata is None:
                yield LayerEntry(path, EntryKind.WHITEOUT), ()
                continue
            if change.replaced:
                yield LayerEntry(path, EntryKind.WHITEOUT), ()
            if change.link_to is not None:
                yield LayerEntry(path, EntryKind.LINK, change.metadata, 0, f"{DRIVE}/{change.link_to}"), ()
                continue
            kind = EntryKind.DIRECTORY if change.is_directory else EntryKind.FILE
            has_data = kind is EntryKind.FILE and change.metadata.reparse is None
            size = change.data_size if has_data else 0
            yield LayerEntry(path, kind, change.metadata, size), self._streams(change, has_data)

    def _root(self, name: str) -> LayerEntry:
        node = self._view.lookup(ROOT, name)
        metadata = FileMetadata(FileAttributes.DIRECTORY)
        if node is not None and node.is_directory:
            metadata = self._view.inode(node.inode).metadata
        return LayerEntry(name, EntryKind.DIRECTORY, metadata)

    def _streams(self, change: Change, has_data: bool) -> Iterator[DataStream]:
        entry, source = change.entry, change.source
        if has_data:
            if entry.data_changed:
                yield DataStream("", entry.size, _Again(lambda: _file_chunks(entry)))
            elif source is not None:
                yield self._stream("", source.extent)
        if entry.streams is not None:
            for name, data in entry.streams:
                yield DataStream(name, len(data), (data,))
        elif source is not None:
            for stream in source.streams:
                yield self._stream(stream.name, stream.extent)

    def _stream(self, name: str, extent: Extent) -> DataStream:
        return DataStream(name, extent.size, _Again(lambda: self._view.chunks(extent)))


class _Again:
    """Chunks that can be iterated more than once."""

    def __init__(self, chunks: Callable[[], Iterator[bytes]]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks()


def _file_chunks(entry: UpperEntry) -> Iterator[bytes]:
    if entry.open is None:
        return
    left = entry.size
    try:
        with entry.open() as file:
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise LayerInUseError(
                        f"the file became {left} bytes shorter while it was read",
                        path=entry.path,
                        hint="unmount first",
                    )
                left -= len(chunk)
                yield chunk
    except FileNotFoundError as error:
        raise LayerInUseError(
            "the file went away while it was read", path=entry.path, hint="unmount first"
        ) from error
    except OSError as error:
        raise disk.disk_error(error, "read") from error
