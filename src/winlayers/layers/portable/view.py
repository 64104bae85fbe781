"""The merged view of a layer chain: one tree, by NTFS's rules, whose data stays in the layers' tars.

A view is an SQLite file, ``view.db``, kept beside the chain's top layer and made by
:mod:`winlayers.layers.portable.merge`; it can be deleted at any time and is made again.  This module is the
side that reads it.

The tree's root is the layers' root: ``Files`` (drive C:), ``Hives``, ``UtilityVM``.  A *node* is a name in
a directory, an *inode* is a file or directory; hard links are nodes that share an inode.

Schema (version 2; as version 1, but sealed: :mod:`winlayers.layers.portable.digests`)::

    meta(key, value)                    schema version, counts
    layers(id, name)                    base first, from 0; name is the layer's folder in the store
    security(id, data)                  deduplicated self-relative security descriptors
    inodes(id, kind, layer, attributes, btime, atime, mtime, ctime, security,
           reparse, eas, source, offset, size, nlink)
    nodes(id, parent, key, name, inode) key: the name folded as NTFS compares; unique with parent
    streams(inode, key, name, layer, source, offset, size)

Names are stored as WTF-8 (UTF-8 that may hold lone surrogates).
"""

from __future__ import annotations

import dataclasses
import enum
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

from winlayers.errors import LayerCorruptError, LayerNotFoundError
from winlayers.layers.portable import disk
from winlayers.layers.portable.digests import is_sealed
from winlayers.layers.portable.frozen import connect_frozen, structural_damage
from winlayers.layers.portable.index import unpack_eas
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import decode_wtf8, fold_key

SCHEMA_VERSION = 2
"""Raised with every change of the schema or of the merge rules; older views are made again."""

ROOT = 1
"""The node id (and inode id) of the view's root."""

_CHUNK = 1 << 20


class Source(enum.IntEnum):
    """Where an extent's bytes are."""

    NONE = 0
    """Nowhere: the extent is empty."""
    TAR = 1
    """In the layer's ``layer.tar``, at a multiple of 512."""
    SIDE = 2
    """In the layer's ``side.bin``: expanded sparse members, at a multiple of 4096."""


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in one of the view's layers (``layer`` indexes :attr:`View.layers`)."""

    layer: int
    source: Source
    offset: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class ViewStream:
    """An alternate data stream of an inode."""

    name: str
    extent: Extent


@dataclasses.dataclass(frozen=True, slots=True)
class ViewInode:
    """A file or directory.

    Attributes:
        id: its number in this view; stable as long as the view's file is.
        layer: the layer (an index of :attr:`View.layers`) that its metadata came from.
        extent: the unnamed data stream.
        nlink: how many nodes name it.
        streams: alternate data streams.
    """

    id: int
    is_directory: bool
    layer: int
    metadata: FileMetadata
    extent: Extent
    nlink: int
    streams: tuple[ViewStream, ...] = ()

    @property
    def size(self) -> int:
        """The size of the unnamed data stream in bytes."""
        return self.extent.size


@dataclasses.dataclass(frozen=True, slots=True)
class ViewNode:
    """A name in a directory.  ``parent`` is the directory's node id; the root's is 0."""

    id: int
    parent: int
    name: str
    inode: int
    is_directory: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ViewLayer:
    """One layer under a view: its folder, and the files that extents point into."""

    name: str
    folder: str

    @property
    def tar(self) -> str:
        """The path of the layer's tar."""
        return os.path.join(self.folder, "layer.tar")

    @property
    def side(self) -> str:
        """The path of the layer's side file; it exists only where some extent needs it."""
        return os.path.join(self.folder, "side.bin")


_NODE = "n.id, n.parent, n.name, n.inode, i.kind"
_INODE = (
    "i.id, i.kind, i.layer, i.attributes, i.btime, i.atime, i.mtime, i.ctime, i.security, i.reparse, i.eas,"
    " i.source, i.offset, i.size, i.nlink, i.has_streams"
)


class View:
    """A chain's merged tree, to be read.  Not safe for use by several threads at once; open one for each."""

    def __init__(self, path: str, home: str) -> None:
        """Open the view file *path* of the store whose layers' folders lie in *home*.

        Raises:
            LayerCorruptError: the file is not a view of this version.
        """
        self.path = path
        try:
            self._db = connect_frozen(path)
        except sqlite3.OperationalError as error:
            raise LayerCorruptError(f"the view can't be opened: {error}", layer=path) from error
        self._files: dict[tuple[int, Source], BinaryIO] = {}
        self._security: dict[int, bytes] = {}
        try:
            version = self._db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
            layers = self._db.execute("SELECT name FROM layers ORDER BY id").fetchall()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise LayerCorruptError(f"not a view: {error}", layer=path) from error
        if version is None or version[0] != SCHEMA_VERSION:
            self._db.close()
            raise LayerCorruptError("a view of another version", layer=path)
        self.layers = tuple(ViewLayer(name, os.path.join(home, name)) for (name,) in layers)

    def close(self) -> None:
        """Close the view and the layers' files that it has open."""
        self._db.close()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def damage(self, *, deep: bool = True) -> str | None:
        """What is wrong with the file: any change since it was made, or, not *deep*, what SQLite finds."""
        if deep:
            return None if is_sealed(self.path) else "it has changed since it was made"
        return structural_damage(self._db)

    # -- the tree --

    def lookup(self, parent: int, name: str) -> ViewNode | None:
        """The node that NTFS would find for *name* in the directory node *parent*."""
        row = self._one(
            f"SELECT {_NODE} FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.parent = ? AND n.key = ?",
            (parent, fold_key(name)),
        )
        return None if row is None else _node(row)

    def resolve(self, path: str, start: int = ROOT) -> ViewNode | None:
        """The node at the ``/``-separated *path* below the node *start*; reparse points are not followed."""
        node = self.node(start)
        for part in path.split("/"):
            if part and node is not None:
                node = self.lookup(node.id, part)
        return node

    def node(self, node_id: int) -> ViewNode | None:
        """The node of that id."""
        row = self._one(
            f"SELECT {_NODE} FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.id = ?", (node_id,)
        )
        return None if row is None else _node(row)

    @property
    def drive(self) -> ViewNode | None:
        """The node of ``Files``, which is drive C:; None where no layer has one."""
        return self.lookup(ROOT, "Files")

    def path_of(self, node: ViewNode) -> str:
        """The node's path from the view's root."""
        parts = []
        current: ViewNode | None = node
        while current is not None and current.id != ROOT:
            parts.append(current.name)
            current = self.node(current.parent)
        return "/".join(reversed(parts))

    def children(self, node_id: int) -> Iterator[ViewNode]:
        """The directory's nodes in NTFS order (by folded name)."""
        for row in self._rows(
            f"SELECT {_NODE} FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.parent = ? ORDER BY n.key",
            (node_id,),
        ):
            yield _node(row)

    def entries(self, node_id: int) -> Iterator[tuple[ViewNode, ViewInode]]:
        """The directory's nodes with their inodes: one query for what a listing needs."""
        rows = self._rows(
            f"SELECT {_NODE}, {_INODE} FROM nodes n JOIN inodes i ON i.id = n.inode"
            " WHERE n.parent = ? ORDER BY n.key",
            (node_id,),
        )
        for row in rows:
            yield _node(row), self._inode(row[5:])

    def walk(self, node_id: int = ROOT, path: str = "") -> Iterator[tuple[str, ViewNode, ViewInode]]:
        """Everything below the directory node, parents first, siblings in NTFS order, with paths from it."""
        stack: list[Iterator[tuple[str, ViewNode, ViewInode]]] = [
            ((f"{path}{node.name}", node, inode) for node, inode in self.entries(node_id))
        ]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
                continue
            yield item
            if item[2].is_directory:
                prefix = f"{item[0]}/"
                below = [(f"{prefix}{node.name}", node, inode) for node, inode in self.entries(item[1].id)]
                stack.append(iter(below))

    def count(self) -> int:
        """The number of nodes, the root not counted."""
        row = self._one("SELECT count(*) - 1 FROM nodes", ())
        return int(row[0])

    # -- files --

    def inode(self, inode_id: int) -> ViewInode:
        """The inode of that id.

        Raises:
            LayerCorruptError: the view has none.
        """
        row = self._one(f"SELECT {_INODE} FROM inodes i WHERE i.id = ?", (inode_id,))
        if row is None:
            raise LayerCorruptError(f"inode {inode_id} is missing from the view", layer=self.path)
        return self._inode(row)

    def links(self, inode_id: int) -> list[ViewNode]:
        """All the nodes that name the inode."""
        rows = self._rows(
            f"SELECT {_NODE} FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.inode = ? ORDER BY n.id",
            (inode_id,),
        )
        return [_node(row) for row in rows]

    def open_source(self, layer: int, source: Source) -> BinaryIO:
        """The open file that extents of *source* in *layer* point into; it belongs to the view.

        Raises:
            LayerNotFoundError: the layer has been removed.
            LayerCorruptError: the layer is there, and its file is not.
        """
        file = self._files.get((layer, source))
        if file is None:
            where = self.layers[layer]
            try:
                path = where.tar if source is Source.TAR else where.side
                file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the view
            except OSError as error:
                if not os.path.isdir(where.folder):
                    raise LayerNotFoundError(
                        "the layer was removed by another process", layer=where.name
                    ) from error
                raise LayerCorruptError(
                    f"the layer's data can't be opened: {error}", layer=where.name
                ) from error
            self._files[layer, source] = file
        return file

    def read(self, extent: Extent, offset: int = 0, size: int = -1) -> bytes:
        """Up to *size* bytes of the extent from *offset*.

        Raises:
            LayerNotFoundError: the layer has been removed.
            LayerCorruptError: the layer's file is missing, or shorter than its index says.
        """
        left = max(0, extent.size - offset)
        want = left if size < 0 else min(size, left)
        if want == 0:
            return b""
        file = self.open_source(extent.layer, extent.source)
        try:
            data = _read_at(file, want, extent.offset + offset)
        except OSError as error:
            raise disk.disk_error(error, "read") from error
        if len(data) != want:
            raise LayerCorruptError("the layer's data is cut short", layer=self.layers[extent.layer].name)
        return data

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """The extent's bytes in pieces of up to 1 MiB."""
        for offset in range(0, extent.size, _CHUNK):
            yield self.read(extent, offset, _CHUNK)

    # -- rows --

    def _one(self, query: str, values: tuple[object, ...]) -> Any:
        """The first row of the query's answer, or None."""
        try:
            return self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise disk.disk_error(error, "read") from error

    def _rows(self, query: str, values: tuple[object, ...]) -> Iterator[Any]:
        try:
            # No "yield from": it would close the cursor of a reader that stops early, which may come late.
            for row in self._db.execute(query, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise disk.disk_error(error, "read") from error

    def _inode(self, row: tuple[object, ...]) -> ViewInode:
        (number, kind, layer, attributes, btime, atime, mtime, ctime, security, reparse, eas) = row[:11]
        (source, offset, size, nlink, has_streams) = row[11:16]
        metadata = FileMetadata(
            FileAttributes(attributes),  # type: ignore[arg-type]  # SQLite's columns are typed by the schema
            btime,  # type: ignore[arg-type]
            atime,  # type: ignore[arg-type]
            mtime,  # type: ignore[arg-type]
            ctime,  # type: ignore[arg-type]
            self._descriptor(security),  # type: ignore[arg-type]
            unpack_eas(eas),  # type: ignore[arg-type]
            reparse,  # type: ignore[arg-type]
        )
        extent = Extent(layer, Source(source), offset, size)  # type: ignore[arg-type]
        streams = tuple(self._streams(number)) if has_streams else ()  # type: ignore[arg-type]
        return ViewInode(number, kind == 1, layer, metadata, extent, nlink, streams)  # type: ignore[arg-type]

    def _streams(self, inode_id: int) -> Iterable[ViewStream]:
        rows = self._rows(
            "SELECT name, layer, source, offset, size FROM streams WHERE inode = ? ORDER BY rowid",
            (inode_id,),
        )
        for name, layer, source, offset, size in rows:
            yield ViewStream(decode_wtf8(name), Extent(layer, Source(source), offset, size))

    def _descriptor(self, security: int | None) -> bytes | None:
        if security is None:
            return None
        data = self._security.get(security)
        if data is None:
            row = self._one("SELECT data FROM security WHERE id = ?", (security,))
            if row is None:
                raise LayerCorruptError(f"descriptor {security} is missing from the view", layer=self.path)
            data = bytes(row[0])
            self._security[security] = data
        return data


def _node(row: tuple[int, int, bytes, int, int]) -> ViewNode:
    return ViewNode(row[0], row[1], decode_wtf8(row[2]), row[3], row[4] == 1)


if sys.platform != "win32":

    def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
        # Without the file's position, which a forked process would share.
        return os.pread(file.fileno(), size, offset)

else:

    def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
        file.seek(offset)
        return file.read(size)
