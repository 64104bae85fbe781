"""An image's, layer's or container's files as one tree, to be looked at and read."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import io
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

from winlayers.errors import LayerCorruptError, PathNotFoundError, ReparseError
from winlayers.images.config import ImageConfig
from winlayers.images.documents import Descriptor, Manifest
from winlayers.inspection.target import split_inner
from winlayers.layers.portable.index import Index
from winlayers.layers.portable.view import ROOT, Extent, View, ViewInode, ViewNode
from winlayers.layers.section import Section
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import sort_key, upcase
from winlayers.win32.reparse import MountPoint, RawReparse, SymbolicLink, drive_path, parse_reparse, tag_name

DRIVE = "Files"
"""The directory of a layer's root that is drive C:."""
_MAX_LINKS = 63
"""As many reparse points Windows follows in one path."""


class EntryType(enum.Enum):
    """What an entry is, with the letter that listings show."""

    FILE = "-"
    DIRECTORY = "d"
    SYMLINK = "l"
    JUNCTION = "j"
    REPARSE = "r"
    """Some other reparse point."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a tree.

    Attributes:
        number: from 1, base first.
        id: what the store or the cache calls it.
        diff_id: the digest of its tar; "" where there is none (a container's changes).
        blob: the compressed layer, where it is known.
        created_by: what the image's history says made it.
        open_index: opens its index.
        is_scratch: whether it is a container's changes.
    """

    number: int
    id: str
    diff_id: str
    blob: Descriptor | None
    created_by: str
    open_index: Callable[[], Index]
    is_scratch: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A name in the tree with the file or directory that it names.

    Attributes:
        path: ``/``-separated, from the layers' root (``Files/Windows/win.ini``); "" for the root itself.
        node: the name's node.
        inode: the file or directory.
    """

    path: str
    node: ViewNode
    inode: ViewInode

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.node.name

    @property
    def metadata(self) -> FileMetadata:
        """What NTFS knows of it."""
        return self.inode.metadata

    @property
    def size(self) -> int:
        """Bytes of the unnamed stream."""
        return self.inode.extent.size

    @property
    def total_size(self) -> int:
        """Bytes of all streams."""
        return self.size + sum(stream.extent.size for stream in self.inode.streams)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory that holds entries (no junction, no link to a directory)."""
        return self.inode.is_directory and self.metadata.reparse is None

    @property
    def type(self) -> EntryType:
        """What it is."""
        if self.metadata.reparse is None:
            return EntryType.DIRECTORY if self.inode.is_directory else EntryType.FILE
        try:
            point = parse_reparse(self.metadata.reparse)
        except ReparseError:
            return EntryType.REPARSE
        if isinstance(point, SymbolicLink):
            return EntryType.SYMLINK
        return EntryType.JUNCTION if isinstance(point, MountPoint) else EntryType.REPARSE

    @property
    def target(self) -> str | None:
        """Where a link or junction leads to, as Windows shows it; another reparse point's tag; else None."""
        if self.metadata.reparse is None:
            return None
        try:
            point = parse_reparse(self.metadata.reparse)
        except ReparseError:
            return "(malformed)"
        return f"({tag_name(point.tag)})" if isinstance(point, RawReparse) else point.target

    @property
    def shown(self) -> str:
        """The path as commands print and take it: ``/Windows/win.ini`` on drive C:, else ``Hives/SAM``."""
        return shown_path(self.path)


class Tree:
    """The files of an image, a layer with all below it, or a container.  A context manager.

    Not for several threads at once.

    Attributes:
        name: what was opened.
        kind: ``image``, ``layer`` or ``container``.
        view: the merged view.
        layers: base first; an :attr:`Entry.inode`'s ``layer`` is an index of it.
        config, manifest: the image's documents, where there is an image.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        view: View,
        layers: tuple[Layer, ...],
        *,
        config: ImageConfig | None = None,
        manifest: Manifest | None = None,
        closing: contextlib.ExitStack | None = None,
    ) -> None:
        """Show *view*; *closing* is closed with it."""
        self.name = name
        self.kind = kind
        self.view = view
        self.layers = layers
        self.config = config
        self.manifest = manifest
        self._closing = closing or contextlib.ExitStack()

    def close(self) -> None:
        """Close the view and what it reads from."""
        self.view.close()
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- finding --

    def root(self, *, layer_root: bool = False) -> Entry:
        """Drive C:, or the layers' root (with ``Files``, ``Hives``, ``UtilityVM``).

        Raises:
            PathNotFoundError: no layer has a drive.
        """
        if layer_root:
            return self._entry("", self.view.node(ROOT))
        drive = self.view.drive
        if drive is None:
            raise PathNotFoundError(f"{self.name} has no drive C:", hint="--layer-root shows what it has")
        return self._entry(DRIVE, drive)

    def find(self, path: str, *, follow: bool = True, layer_root: bool = False) -> Entry:
        r"""The entry at *path*, by NTFS's rules: any letter case, slashes or backslashes.

        Links and junctions on the way are followed.

        Args:
            path: ``/Windows/win.ini`` or ``C:\Windows\win.ini``.
            follow: whether to follow a link that the path itself names.
            layer_root: the path starts at the layers' root.

        Raises:
            PathNotFoundError: there is none; the message names the first part that is missing.
            InvalidNameError: *path* can't be one.
        """
        parts, stream = split_inner(path)
        if stream:
            raise PathNotFoundError(f"{self.name} has no such file", path=path)
        return self._walk_to(parts, follow, layer_root)

    def find_stream(self, path: str, *, layer_root: bool = False) -> tuple[Entry, str]:
        """Like :meth:`find`, with the name of a stream after a colon ("" without one)."""
        parts, stream = split_inner(path)
        entry = self._walk_to(parts, True, layer_root)
        if stream:
            for found in entry.inode.streams:
                if upcase(found.name) == upcase(stream):
                    return entry, found.name
            raise PathNotFoundError(f"it has no stream {stream!r}", path=entry.shown)
        return entry, ""

    def _walk_to(self, parts: list[str], follow: bool, layer_root: bool) -> Entry:
        root = self.root(layer_root=layer_root)
        entry, todo, links = root, list(reversed(parts)), 0
        while todo:
            name = todo.pop()
            node = self.view.lookup(entry.node.id, name)
            if node is None:
                where = f"{entry.path}/{name}" if entry.path else name
                raise PathNotFoundError(f"{self.name} has no such file or directory", path=shown_path(where))
            entry = self._entry(f"{entry.path}/{node.name}" if entry.path else node.name, node)
            if entry.metadata.reparse is not None and (todo or follow):
                aim = self._aim(entry)
                if aim is None:
                    if todo:
                        raise PathNotFoundError(f"it leads out of {self.name}", path=entry.shown)
                    return entry
                links += 1
                if links > _MAX_LINKS:
                    raise PathNotFoundError("too many links lead to one another", path=entry.shown)
                entry = self.root()
                todo += [part for part in reversed(aim.split("/")) if part]
        return entry

    def _aim(self, entry: Entry) -> str | None:
        """Where a reparse point on drive C: leads to on it; None: nowhere in here."""
        if entry.metadata.reparse is None or not entry.path.startswith(f"{DRIVE}/"):
            return None
        try:
            return drive_path(parse_reparse(entry.metadata.reparse), entry.path[len(DRIVE) + 1 :])
        except ReparseError:
            return None

    def _entry(self, path: str, node: ViewNode | None) -> Entry:
        if node is None:
            raise LayerCorruptError("the view has no root", layer=self.name)
        return Entry(path, node, self.view.inode(node.inode))

    # -- listing --

    def children(self, directory: Entry) -> list[Entry]:
        """What is in a directory, in NTFS's order."""
        prefix = f"{directory.path}/" if directory.path else ""
        found = [
            Entry(f"{prefix}{node.name}", node, inode) for node, inode in self.view.entries(directory.node.id)
        ]
        found.sort(key=lambda entry: sort_key(entry.name))
        return found

    def walk(self, directory: Entry) -> Iterator[Entry]:
        """All that is below a directory: parents first, siblings in NTFS's order; no link is followed."""
        stack = [iter(self.children(directory))]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            yield entry
            if entry.is_directory:
                stack.append(iter(self.children(entry)))

    def links(self, entry: Entry) -> list[str]:
        """The paths of all hard links to the same file, this one included."""
        return sorted(self.view.path_of(node) for node in self.view.links(entry.inode.id))

    def layer_of(self, entry: Entry) -> Layer | None:
        """The layer that the entry comes from; None for directories that no layer describes."""
        return self.layers[entry.inode.layer] if self.layers else None

    # -- reading --

    def extent(self, entry: Entry, stream: str = "") -> Extent:
        """Where a stream's data is.

        Raises:
            PathNotFoundError: the file has no such stream, or is a directory.
        """
        if not stream:
            if entry.inode.is_directory:
                raise PathNotFoundError("it is a directory", path=entry.shown)
            return entry.inode.extent
        for found in entry.inode.streams:
            if upcase(found.name) == upcase(stream):
                return found.extent
        raise PathNotFoundError(f"it has no stream {stream!r}", path=entry.shown)

    def read(self, entry: Entry, stream: str = "", *, offset: int = 0, size: int = -1) -> bytes:
        """Up to *size* bytes of a file from *offset*; all for a negative *size*."""
        return self.view.read(self.extent(entry, stream), offset, size)

    def chunks(self, entry: Entry, stream: str = "") -> Iterator[bytes]:
        """A file's data in pieces of up to 1 MiB."""
        return self.view.chunks(self.extent(entry, stream))

    def open(self, entry: Entry, stream: str = "") -> BinaryIO:
        """A file's data as a file object that can be sought in; it must not outlive the tree."""
        extent = self.extent(entry, stream)
        read_at = functools.partial(self.view.read, extent)
        return io.BufferedReader(Section(extent.size, read_at), 1 << 16)


def shown_path(path: str) -> str:
    """A path from the layers' root as commands print and take it; see :attr:`Entry.shown`."""
    if path == DRIVE or path.startswith(f"{DRIVE}/"):
        return path[len(DRIVE) :] or "/"
    return path
