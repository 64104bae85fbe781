"""Making views: the indexes of a chain, merged by the rules that Windows merges layers by.

The view of a layer is its parent's view with the layer's entries laid over it, so making it costs a file copy
plus the entries of the layers that have no view yet.  The rules, and where they come from:

- Names are compared as NTFS compares them; a path keeps the case that the lowest layer gave it, as on a
  volume where the directory is there already.
- What a layer deletes or hides is looked for in its parents only, wherever in the tar the whiteout stands
  (hcsshim writes tombstones to a file that is applied before the layer's own files count).
- A directory over a directory keeps the lower one's content and takes the upper one's metadata; anything
  else replaces what was there, with all below it.
- Of two entries for one path in a layer the last one wins.
- A hard link's target is looked for in the layer itself, then in its parents, nearest first, *before* the
  layer's deletions (hcsshim makes links last, by opening the target in each parent's folder).
- A parent directory that no entry describes is made, with the metadata of none.
- A directory without a descriptor of its own keeps the one of the directory that it covers: tools that make
  layers on Linux record none.
"""

from __future__ import annotations

import collections
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence

from winlayers.durable import fsync_dir, fsync_file, hidden_folder
from winlayers.errors import LayerContentError
from winlayers.layers.portable.digests import seal
from winlayers.layers.portable.frozen import begin_frozen
from winlayers.layers.portable.index import EntryCode, EntryRow, Index, StreamRow
from winlayers.layers.portable.view import ROOT, SCHEMA_VERSION
from winlayers.win32.names import encode_wtf8, fold_key

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE layers(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE security(id INTEGER PRIMARY KEY, data BLOB NOT NULL UNIQUE);
CREATE TABLE inodes(
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, layer INTEGER NOT NULL, attributes INTEGER NOT NULL,
    btime INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    security INTEGER, reparse BLOB, eas BLOB, source INTEGER NOT NULL, offset INTEGER NOT NULL,
    size INTEGER NOT NULL, nlink INTEGER NOT NULL, has_streams INTEGER NOT NULL);
CREATE TABLE nodes(
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL,
    inode INTEGER NOT NULL);
CREATE UNIQUE INDEX nodes_by_name ON nodes(parent, key);
CREATE TABLE streams(
    inode INTEGER NOT NULL, key BLOB NOT NULL, name BLOB NOT NULL, layer INTEGER NOT NULL,
    source INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL);
CREATE INDEX streams_by_inode ON streams(inode);
"""

_DIRECTORY = 0x10
_MOST_REMEMBERED = 64 << 20

Hidden = Callable[[str], tuple[str, EntryRow, Sequence[StreamRow]] | None]
"""Given a link's target that the parents' view does not show, the nearest parent's own entry for it."""

_SUBTREE = (
    "WITH RECURSIVE below(id) AS (SELECT id FROM nodes WHERE parent = ?"
    " UNION ALL SELECT n.id FROM nodes n JOIN below b ON n.parent = b.id)"
)


def build_view(target: str, parent_view: str | None, layers: Sequence[tuple[str, Index, Hidden]]) -> None:
    """Make the view file *target*, atomically.

    Args:
        parent_view: the view to start from; None: from nothing.
        layers: the folder name and index of each layer to lay over it, lowest first, with what finds the
            targets of its links that a layer between deletes: the folder name of the layer that has such a
            file, its entry and its streams.

    Raises:
        LayerContentError: a link leads nowhere.
    """
    folder, name = os.path.split(target)
    with hidden_folder(folder, "-view") as hidden:
        made = os.path.join(hidden, name)
        if parent_view is not None:
            shutil.copyfile(parent_view, made)
        db = begin_frozen(made, _SCHEMA if parent_view is None else "")
        try:
            db.execute("PRAGMA cache_size = -65536")
            if parent_view is None:
                _start(db)
            for layer, index, hidden_target in layers:
                _Overlay(db, layer, index, hidden_target).apply()
            if parent_view is None:
                db.execute("CREATE INDEX nodes_by_inode ON nodes(inode)")
            db.execute("COMMIT")
        finally:
            db.close()
        seal(made)
        # A view that lost pages with the power would not be told from a whole one.
        fsync_file(made)
        os.replace(made, target)
        fsync_dir(folder)


def _start(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO meta VALUES ('version', ?)", (SCHEMA_VERSION,))
    db.execute(
        "INSERT INTO inodes VALUES (?, 1, 0, ?, 0, 0, 0, 0, NULL, NULL, NULL, 0, 0, 0, 1, 0)",
        (ROOT, _DIRECTORY),
    )
    db.execute("INSERT INTO nodes VALUES (?, 0, x'', x'', ?)", (ROOT, ROOT))


class _Overlay:
    """Lays one layer's entries over the view in *db*."""

    def __init__(self, db: sqlite3.Connection, name: str, index: Index, hidden: Hidden) -> None:
        self.db = db
        self.name = name
        self.index = index
        self.hidden = hidden
        (self.layer,) = db.execute("SELECT count(*) FROM layers").fetchone()
        db.execute("INSERT INTO layers VALUES (?, ?)", (self.layer, name))
        (self.next_node,) = db.execute("SELECT max(id) + 1 FROM nodes").fetchone()
        (self.next_inode,) = db.execute("SELECT max(id) + 1 FROM inodes").fetchone()
        self.first_inode = self.next_inode
        self.directories: dict[str, int] = {"": ROOT}  # exact paths of directories seen, to their nodes
        self.remembered = 0  # characters in these paths
        self.security: dict[int, int] = {}  # the index's descriptor ids to the view's
        self.inodes: list[tuple[object, ...]] = []
        self.linked: set[int] = set()  # the nodes that are links made by this layer

    def apply(self) -> None:
        links = list(self.index.links())
        outer = self._resolve_outer_links(links)
        self._apply_deletions()
        self._copy_descriptors()
        streams = self.index.streams_by_entry()
        for row in self.index.content():
            self._add(row, streams.get(row.seq, ()))
        self._flush()
        self._link(links, outer)
        self.db.execute("DELETE FROM streams WHERE inode IN (SELECT id FROM inodes WHERE nlink <= 0)")
        self.db.execute("DELETE FROM inodes WHERE nlink <= 0")

    # -- deletions --

    def _apply_deletions(self) -> None:
        for path, code in self.index.deletions():
            node = self._find(path)
            if node is None:
                continue
            if code == EntryCode.WHITEOUT:
                self._remove(node)
            else:
                self._empty(node)
        self._forget_directories()

    def _find(self, path: str) -> int | None:
        """The node that the path names in the view as it is now."""
        parent_path, _, last = path.rpartition("/")
        known = self.directories.get(parent_path)
        node, parts = (ROOT, path.split("/")) if known is None else (known, [last])
        for part in parts:
            row = self.db.execute(
                "SELECT id FROM nodes WHERE parent = ? AND key = ?", (node, fold_key(part))
            ).fetchone()
            if row is None:
                return None
            node = row[0]
        return node

    def _remove(self, node: int) -> None:
        self._empty(node)
        self._unlink("id = ?", node)

    def _empty(self, node: int) -> None:
        """Remove all that is below the node."""
        if self.db.execute("SELECT 1 FROM nodes WHERE parent = ?", (node,)).fetchone() is None:
            return
        ids = [row[0] for row in self.db.execute(_SUBTREE + " SELECT id FROM below", (node,))]
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            self._unlink(f"id IN ({','.join('?' * len(part))})", *part)

    def _unlink(self, condition: str, *nodes: int) -> None:
        self._flush()
        counts = self.db.execute(
            f"SELECT inode, count(*) FROM nodes WHERE {condition} GROUP BY inode", nodes
        ).fetchall()
        self.db.executemany(
            "UPDATE inodes SET nlink = nlink - ? WHERE id = ?", [(count, inode) for inode, count in counts]
        )
        self.db.execute(f"DELETE FROM nodes WHERE {condition}", nodes)

    # -- files and directories --

    def _copy_descriptors(self) -> None:
        for number, data in self.index.descriptors():
            self.db.execute("INSERT OR IGNORE INTO security(data) VALUES (?)", (data,))
            (known,) = self.db.execute("SELECT id FROM security WHERE data = ?", (data,)).fetchone()
            self.security[number] = known

    def _add(self, row: EntryRow, streams: Sequence[StreamRow]) -> None:
        path = row.path
        parent_path, _, name = path.rpartition("/")
        if not path:
            return  # the layer's root itself: nothing sees its metadata
        parent = self.directories.get(parent_path)
        if parent is None:
            parent = self._directory(parent_path)
        key = fold_key(name)
        is_directory = row.code == EntryCode.DIRECTORY
        node, inode = self.next_node, self.next_inode
        cursor = self.db.execute(
            "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?, ?)",
            (node, parent, key, encode_wtf8(name), inode),
        )
        security = None if row.security is None else self.security[row.security]
        if cursor.rowcount:
            self.next_node = node + 1
        else:
            node, security = self._cover(parent, key, is_directory, security)
            self.db.execute("UPDATE nodes SET inode = ? WHERE id = ?", (inode, node))
        self.next_inode = inode + 1
        self._put_inode(inode, row, self.layer, security, streams, nlink=1)
        if is_directory:
            self._remember(path, node)
        if len(self.inodes) >= 1000:
            self._flush()

    def _put_inode(
        self,
        inode: int,
        row: EntryRow,
        layer: int,
        security: int | None,
        streams: Sequence[StreamRow],
        *,
        nlink: int,
    ) -> None:
        if streams:
            self.db.executemany(
                "INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (inode, fold_key(s.name), encode_wtf8(s.name), layer, s.source, s.offset, s.size)
                    for s in streams
                ],
            )
        kind = int(row.code == EntryCode.DIRECTORY)
        times = (row.btime, row.atime, row.mtime, row.ctime)
        place = (row.source, row.offset, row.size)
        self.inodes.append(
            (
                inode,
                kind,
                layer,
                row.attributes,
                *times,
                security,
                row.reparse,
                row.eas,
                *place,
                nlink,
                int(bool(streams)),
            )
        )

    def _cover(
        self, parent: int, key: bytes, is_directory: bool, security: int | None
    ) -> tuple[int, int | None]:
        """Clear the way for an entry over the node that is there; its id, and the descriptor to use."""
        self._flush()
        node, inode, was_directory, reparse, old_security = self.db.execute(
            "SELECT n.id, n.inode, i.kind, i.reparse IS NOT NULL, i.security"
            " FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.parent = ? AND n.key = ?",
            (parent, key),
        ).fetchone()
        self.db.execute("UPDATE inodes SET nlink = nlink - 1 WHERE id = ?", (inode,))
        if is_directory and was_directory:
            if security is None and not reparse:
                security = old_security
        elif was_directory:
            self._empty(node)
            self._forget_directories()
        return node, security

    def _directory(self, path: str) -> int:
        """The node of the directory at *path*, made where it is missing."""
        known = self.directories.get(path)
        if known is not None:
            return known
        self._flush()
        names = []
        above = path
        while known is None:
            above, _, name = above.rpartition("/")
            names.append(name)
            known = self.directories.get(above)
        for name in reversed(names):
            known = self._subdirectory(known, name)
        self._remember(path, known)
        return known

    def _subdirectory(self, parent: int, name: str) -> int:
        key = fold_key(name)
        row = self.db.execute(
            "SELECT n.id, i.kind, i.reparse IS NOT NULL, n.inode FROM nodes n JOIN inodes i ON i.id = n.inode"
            " WHERE n.parent = ? AND n.key = ?",
            (parent, key),
        ).fetchone()
        if row is not None and row[1] and not row[2]:
            return int(row[0])
        return self._make_directory(parent, key, name, None if row is None else (row[0], row[3]))

    def _remember(self, path: str, node: int) -> None:
        """Note a directory's node; what is noted stays within bounds, however long and many the paths are."""
        self.remembered += len(path)
        if self.remembered > _MOST_REMEMBERED:
            self._forget_directories()
        self.directories[path] = node

    def _forget_directories(self) -> None:
        self.directories = {"": ROOT}
        self.remembered = 0

    def _make_directory(self, parent: int, key: bytes, name: str, old: tuple[int, int] | None) -> int:
        """A plain directory that no entry describes, in the place of the *old* (node, inode) if any."""
        inode = self.next_inode
        self.next_inode += 1
        self.db.execute(
            "INSERT INTO inodes VALUES (?, 1, ?, ?, 0, 0, 0, 0, NULL, NULL, NULL, 0, 0, 0, 1, 0)",
            (inode, self.layer, _DIRECTORY),
        )
        if old is not None:
            self.db.execute("UPDATE inodes SET nlink = nlink - 1 WHERE id = ?", (old[1],))
            self.db.execute("UPDATE nodes SET inode = ? WHERE id = ?", (inode, old[0]))
            return old[0]
        node = int(self.next_node)
        self.next_node += 1
        self.db.execute(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, ?)", (node, parent, key, encode_wtf8(name), inode)
        )
        return node

    def _flush(self) -> None:
        if self.inodes:
            self.db.executemany(f"INSERT INTO inodes VALUES ({','.join('?' * 16)})", self.inodes)
            self.inodes.clear()

    # -- hard links --

    def _resolve_outer_links(self, links: Sequence[tuple[str, str]]) -> dict[str, int]:
        """The inodes that link targets name in the parents, before this layer deletes or covers them."""
        found = {}
        for _, target in links:
            if target in found:
                continue
            node = self._find(target)
            if node is not None:
                row = self.db.execute(
                    "SELECT i.id FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.id = ? AND i.kind = 0",
                    (node,),
                ).fetchone()
                if row is not None:
                    found[target] = row[0]
                    # It must outlive the deletions; the number is put right when the links are made.
                    self.db.execute("UPDATE inodes SET nlink = nlink + 1 WHERE id = ?", (row[0],))
        return found

    def _link(self, links: Sequence[tuple[str, str]], outer: dict[str, int]) -> None:
        # A link to a link waits until that is made; each is looked at anew only then.
        pending = collections.Counter(_path_key(path) for path, _ in links)
        waiting: dict[bytes, list[tuple[str, str]]] = {}
        ready = collections.deque(links)
        while ready:
            path, target = ready.popleft()
            key, target_key = _path_key(path), _path_key(target)
            inode = self._own_target(target)
            if inode is None and pending[target_key] and target_key != key:
                waiting.setdefault(target_key, []).append((path, target))
                continue
            if inode is None:
                inode = outer.get(target)
            if inode is None:
                inode = self._inode_of_hidden(target)
            if inode is None:
                raise LayerContentError(
                    f"hard link to {target!r}, which neither the layer nor any parent has",
                    layer=self.name,
                    path=path,
                )
            self._add_link(path, inode)
            pending[key] -= 1
            ready.extend(waiting.pop(key, ()))
        for (path, target), *_ in waiting.values():
            raise LayerContentError(f"hard link to {target!r} in a circle", layer=self.name, path=path)
        for inode in outer.values():
            self.db.execute("UPDATE inodes SET nlink = nlink - 1 WHERE id = ?", (inode,))

    def _own_target(self, target: str) -> int | None:
        """The inode of a file that this layer itself put at *target*."""
        node = self._find(target)
        if node is None:
            return None
        row = self.db.execute(
            "SELECT n.inode, i.kind FROM nodes n JOIN inodes i ON i.id = n.inode WHERE n.id = ?", (node,)
        ).fetchone()
        if row[1] == 1 or (row[0] < self.first_inode and node not in self.linked):
            return None
        return int(row[0])

    def _inode_of_hidden(self, target: str) -> int | None:
        """A new inode for a file that a parent holds but a layer between it and this one deletes."""
        found = self.hidden(target)
        if found is None:
            return None
        folder, row, streams = found
        (layer,) = self.db.execute("SELECT id FROM layers WHERE name = ?", (folder,)).fetchone()
        security = None
        if row.descriptor is not None:
            self.db.execute("INSERT OR IGNORE INTO security(data) VALUES (?)", (row.descriptor,))
            (security,) = self.db.execute(
                "SELECT id FROM security WHERE data = ?", (row.descriptor,)
            ).fetchone()
        inode = int(self.next_inode)
        self.next_inode += 1
        self._put_inode(inode, row, layer, security, streams, nlink=0)
        self._flush()  # the link to be made counts in the row
        return inode

    def _add_link(self, path: str, inode: int) -> None:
        parent_path, _, name = path.rpartition("/")
        parent = self._directory(parent_path)
        key = fold_key(name)
        cursor = self.db.execute(
            "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?, ?)",
            (self.next_node, parent, key, encode_wtf8(name), inode),
        )
        if cursor.rowcount:
            node = self.next_node
            self.next_node += 1
        else:
            node, _ = self._cover(parent, key, False, None)
            self.db.execute("UPDATE nodes SET inode = ? WHERE id = ?", (inode, node))
        self.linked.add(node)
        self.db.execute("UPDATE inodes SET nlink = nlink + 1 WHERE id = ?", (inode,))


def _path_key(path: str) -> bytes:
    return b"/".join(fold_key(part) for part in path.split("/"))
