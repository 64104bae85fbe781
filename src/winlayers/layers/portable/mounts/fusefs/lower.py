"""What a view holds, as a FUSE server needs it: by inode number, in rows rather than objects.

The kernel knows files by *node ids*.  Those of the view's files are the view's inode numbers, so nothing need
be remembered for a file that was only looked at; that of the drive's root is `protocol.ROOT_ID` instead.
"""

from __future__ import annotations

import stat
import sys
from typing import NamedTuple

assert sys.platform != "win32"

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable.frozen import connect_frozen
from winlayers.layers.portable.mounts.fusefs import protocol
from winlayers.layers.portable.posix import DIRECTORY_MODE, file_mode, link_text, path_on_drive
from winlayers.layers.portable.view import Extent, Source, View, ViewInode
from winlayers.win32.filetime import TICKS_PER_SECOND, UNIX_EPOCH
from winlayers.win32.names import decode_wtf8, fold_key, host_safe

FIRST_NEW = 1 << 40
"""Node ids from here on are those of files that no layer below has."""

SYMLINK_MODE = stat.S_IFLNK | 0o777
FOLDER_MODE = stat.S_IFDIR | DIRECTORY_MODE
BLOCK_SIZE = 4096

_COLUMNS = (
    "n.id, n.key, n.name, i.id, i.kind, i.attributes, i.atime, i.mtime, i.ctime, i.reparse, i.size, i.nlink"
)
_FROM = f"SELECT {_COLUMNS} FROM nodes n JOIN inodes i ON i.id = n.inode WHERE "
_CACHED_ROWS = 100_000
_CACHED_LINKS = 50_000


class Row(NamedTuple):
    """A name of the view with what is shown of its file; times are FILETIMEs, names WTF-8."""

    node: int
    key: bytes
    name: bytes
    inode: int
    kind: int
    attributes: int
    access_time: int
    write_time: int
    change_time: int
    reparse: bytes | None
    size: int
    nlink: int


class Owner(NamedTuple):
    """Whom all files belong to."""

    uid: int
    gid: int


def pack_attr(
    owner: Owner, inode: int, mode: int, size: int, nlink: int, access: int, write: int, change: int
) -> bytes:
    """``struct fuse_attr``; the times are FILETIMEs, and unset ones are shown as 1970."""
    a, an = divmod((access or UNIX_EPOCH) - UNIX_EPOCH, TICKS_PER_SECOND)
    w, wn = divmod((write or UNIX_EPOCH) - UNIX_EPOCH, TICKS_PER_SECOND)
    c, cn = divmod((change or UNIX_EPOCH) - UNIX_EPOCH, TICKS_PER_SECOND)
    return protocol.ATTR.pack(
        inode, size, size + 511 >> 9, a, w, c, an * 100, wn * 100, cn * 100,
        mode, nlink, owner.uid, owner.gid, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


class Lower:
    """The drive of a view.  For use by one thread."""

    def __init__(self, view: View, owner: Owner) -> None:
        self.view = view
        self.owner = owner
        self._db = connect_frozen(view.path)
        self._db.execute("PRAGMA mmap_size = 1073741824")
        drive = view.drive
        self.drive = drive if drive is not None and drive.is_directory else None
        self._nodes: dict[int, int] = {protocol.ROOT_ID: self.drive.id if self.drive is not None else 0}
        self._listings: dict[int, list[Row]] = {}
        self._listed = 0
        self._links: dict[int, bytes | None] = {}

    def close(self) -> None:
        """Close the connection; the view stays open."""
        self._db.close()

    # -- numbers --

    def inode_of(self, node_id: int) -> int:
        """The view's number for the file that the kernel knows as *node_id*."""
        if node_id == protocol.ROOT_ID and self.drive is not None:
            return self.drive.inode
        return node_id

    def directory_node(self, node_id: int) -> int:
        """The view's node of the directory *node_id*; 0: the view has none."""
        if node_id >= FIRST_NEW:
            return 0
        node = self._nodes.get(node_id)
        if node is None:
            row = self._db.execute("SELECT id FROM nodes WHERE inode = ?", (node_id,)).fetchone()
            node = self._nodes[node_id] = 0 if row is None else row[0]
        return node

    def parent_of(self, node_id: int) -> tuple[int, str]:
        """The directory that the view has the file in, and its name there (the first, of several)."""
        row = self._db.execute(
            "SELECT p.inode, n.name FROM nodes n JOIN nodes p ON p.id = n.parent WHERE n.inode = ?"
            " ORDER BY n.id LIMIT 1",
            (self.inode_of(node_id),),
        ).fetchone()
        if row is None:
            raise LayerCorruptError(f"inode {node_id} has no name in the view", layer=self.view.path)
        return self.node_id_of(row[0]), decode_wtf8(row[1])

    def node_id_of(self, inode: int) -> int:
        """What the kernel knows the view's inode as."""
        return protocol.ROOT_ID if self.drive is not None and inode == self.drive.inode else inode

    def origin_of(self, node_id: int) -> str:
        """The path on the drive that the view has the file at (the first, of several)."""
        if node_id == protocol.ROOT_ID:
            return ""
        for node in self.view.links(node_id):
            path = self.view.path_of(node)
            if fold_key(path.partition("/")[0]) == b"FILES":
                return path.partition("/")[2]
        raise LayerCorruptError(f"inode {node_id} is not on the view's drive", layer=self.view.path)

    # -- files --

    def find(self, directory: int, key: bytes) -> Row | None:
        """What the view's directory node has under the folded name *key*."""
        row = self._db.execute(f"{_FROM}n.parent = ? AND n.key = ?", (directory, key)).fetchone()
        return None if row is None else Row._make(row)

    def row(self, node_id: int) -> Row:
        """The file's row, with its first name.

        Raises:
            LayerCorruptError: the view has no such inode.
        """
        number = self.inode_of(node_id)
        row = self._db.execute(f"{_FROM}n.inode = ? ORDER BY n.id LIMIT 1", (number,)).fetchone()
        if row is None:
            raise LayerCorruptError(f"inode {number} is missing from the view", layer=self.view.path)
        return Row._make(row)

    def inode(self, node_id: int) -> ViewInode:
        """All that the view knows of the file."""
        return self.view.inode(self.inode_of(node_id))

    def extent(self, node_id: int) -> Extent:
        """Where the file's data is."""
        row = self._db.execute(
            "SELECT layer, source, offset, size FROM inodes WHERE id = ?", (self.inode_of(node_id),)
        ).fetchone()
        if row is None:
            raise LayerCorruptError(f"inode {node_id} is missing from the view", layer=self.view.path)
        return Extent(row[0], Source(row[1]), row[2], row[3])

    def listing(self, directory: int) -> list[Row]:
        """The directory node's content, by node number."""
        rows = self._listings.pop(directory, None)
        if rows is None:
            found = self._db.execute(f"{_FROM}n.parent = ?", (directory,)).fetchall()
            rows = sorted(map(Row._make, found))
            self._listed += len(rows)
            while self._listings and self._listed > _CACHED_ROWS:
                self._listed -= len(self._listings.pop(next(iter(self._listings))))
        self._listings[directory] = rows
        return rows

    # -- what is shown --

    def link(self, row: Row, path: str | None = None) -> bytes | None:
        """The target of the symbolic link that the file is shown as; None: it is shown as what it is.

        Args:
            path: where it is now, if it was moved.
        """
        if row.reparse is None:
            return None
        if path is None and row.node in self._links:
            return self._links[row.node]
        node = self.view.node(row.node)
        if node is None:
            return None
        at = link_text(
            self.view, node, row.reparse, path if path is not None else path_on_drive(self.view, node)
        )
        text = None if at is None else at.encode("utf-8")
        if path is None and len(self._links) < _CACHED_LINKS:
            self._links[row.node] = text
        return text

    def attr(self, row: Row) -> bytes:
        """``struct fuse_attr`` of an unchanged file."""
        _, _, _, inode, kind, attributes, access, write, change, reparse, size, nlink = row
        if kind == 1:
            mode, size, nlink = FOLDER_MODE, 0, 1
        else:
            mode = file_mode(attributes)
        if reparse is not None:
            target = self.link(row)
            if target is not None:
                mode, size = SYMLINK_MODE, len(target)
        return pack_attr(self.owner, self.node_id_of(inode), mode, size, nlink, access, write, change)

    def mode(self, row: Row) -> int:
        """The mode of an unchanged file."""
        if row.reparse is not None and self.link(row) is not None:
            return SYMLINK_MODE
        return FOLDER_MODE if row.kind == 1 else file_mode(row.attributes)


def shown_name(name: bytes) -> bytes:
    """The name, WTF-8, as a POSIX name."""
    if len(name) > 255 or not name.isascii() or b"%{" in name or name in (b".", b".."):
        return host_safe(decode_wtf8(name)).encode("utf-8")
    return name
