"""A plain model of a drive: what NTFS, seen through POSIX calls, does to names, data and metadata.

Nothing is stored, merged or cached; each operation is a few lines on dictionaries.  What it
refuses, it refuses with the error number that Linux gives.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator

from winlayers.layers.portable.view import View, ViewInode, ViewNode
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.names import fold_key
from winlayers.win32.security import inherit

READONLY = int(FileAttributes.READONLY)
ARCHIVE = int(FileAttributes.ARCHIVE)
DIRECTORY = int(FileAttributes.DIRECTORY)
HIDDEN = int(FileAttributes.HIDDEN)

Path = tuple[str, ...]


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclasses.dataclass(eq=False)
class Node:
    """A file, directory or symbolic link; hard links share it.

    Attributes:
        children: of a directory: its names and nodes, by key.
        target: of a symbolic link.
        write_time: in nanoseconds since 1970, where it was set; None: whatever the clock said.
    """

    is_directory: bool = False
    data: bytearray = dataclasses.field(default_factory=bytearray)
    attributes: int = ARCHIVE
    security: bytes | None = None
    streams: dict[bytes, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    children: dict[bytes, tuple[str, Node]] = dataclasses.field(default_factory=dict)
    target: str | None = None
    write_time: int | None = None
    links: int = 1


class Model:
    """A drive.

    Args:
        case_blind: whether names that NTFS takes for one are one; else only equal names are.
    """

    def __init__(self, *, case_blind: bool = True) -> None:
        self.root = Node(is_directory=True, attributes=DIRECTORY)
        self.key: Callable[[str], bytes] = (
            fold_key if case_blind else lambda name: name.encode("utf-8", "surrogatepass")
        )

    @classmethod
    def of_view(cls, view: View, *, case_blind: bool = True) -> Model:
        """The drive of a view, which must have no reparse points."""
        model = cls(case_blind=case_blind)
        drive = view.drive
        if drive is None:
            return model
        known: dict[int, Node] = {}

        def copy(node: ViewNode, inode: ViewInode) -> Node:
            if inode.id in known:
                known[inode.id].links += 1
                return known[inode.id]
            copied = Node(inode.is_directory, bytearray(view.read(inode.extent)))
            copied.attributes = int(inode.metadata.attributes)
            copied.security = inode.metadata.security
            copied.streams = {fold_key(s.name): (s.name, view.read(s.extent)) for s in inode.streams}
            known[inode.id] = copied
            if inode.is_directory:
                for child, child_inode in view.entries(node.id):
                    copied.children[model.key(child.name)] = (child.name, copy(child, child_inode))
            return copied

        model.root = copy(drive, view.inode(drive.inode))
        return model

    # -- looking --

    def find(self, path: Path) -> Node:
        """The node at *path*; links are not followed."""
        node = self.root
        for name in path:
            if not node.is_directory:
                raise _fail(errno.ENOTDIR)
            entry = node.children.get(self.key(name))
            if entry is None:
                raise _fail(errno.ENOENT)
            node = entry[1]
        return node

    def walk(self) -> Iterator[tuple[Path, Node]]:
        """Every path with its node, parents first."""
        stack: list[tuple[Path, Node]] = [((), self.root)]
        while stack:
            path, node = stack.pop()
            for name, child in node.children.values():
                yield (*path, name), child
                if child.is_directory:
                    stack.append(((*path, name), child))

    def directories(self) -> list[Path]:
        """The paths of all directories."""
        return [(), *(path for path, node in self.walk() if node.is_directory)]

    def _parent(self, path: Path) -> Node:
        parent = self.find(path[:-1])
        if not parent.is_directory:
            raise _fail(errno.ENOTDIR)
        return parent

    # -- changing --

    def _add(self, path: Path, node: Node) -> None:
        parent = self._parent(path)
        if self.key(path[-1]) in parent.children:
            raise _fail(errno.EEXIST)
        if parent.security is not None:
            node.security = inherit(parent.security, is_directory=node.is_directory)
        parent.children[self.key(path[-1])] = (path[-1], node)

    def create(self, path: Path) -> None:
        self._add(path, Node())

    def mkdir(self, path: Path) -> None:
        self._add(path, Node(is_directory=True, attributes=DIRECTORY))

    def symlink(self, path: Path, target: str) -> None:
        self._add(path, Node(target=target))

    def link(self, old: Path, new: Path) -> None:
        node = self.find(old)
        parent = self._parent(new)
        if self.key(new[-1]) in parent.children:
            raise _fail(errno.EEXIST)
        if node.is_directory:
            raise _fail(errno.EPERM)
        parent.children[self.key(new[-1])] = (new[-1], node)
        node.links += 1

    def _file(self, path: Path) -> Node:
        node = self.find(path)
        if node.is_directory:
            raise _fail(errno.EISDIR)
        if node.target is not None:
            raise _fail(errno.ELOOP)
        return node

    def write(self, path: Path, offset: int, data: bytes) -> None:
        node = self._file(path)
        if data:
            node.data.extend(bytes(max(0, offset - len(node.data))))
            node.data[offset : offset + len(data)] = data
            node.attributes |= ARCHIVE
            node.write_time = None

    def append(self, path: Path, data: bytes) -> None:
        self.write(path, len(self._file(path).data), data)

    def truncate(self, path: Path, size: int) -> None:
        node = self._file(path)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.attributes |= ARCHIVE
        node.write_time = None

    def zero(self, path: Path, offset: int, size: int, *, grows: bool) -> None:
        """Zeros in a range, beyond the end only if the file *grows*."""
        node = self._file(path)
        end = offset + size if grows else min(offset + size, len(node.data))
        node.data.extend(bytes(max(0, end - len(node.data))))
        node.data[offset:end] = bytes(max(0, end - offset))
        node.attributes |= ARCHIVE
        node.write_time = None

    def reserve(self, path: Path, end: int) -> None:
        """Room up to *end*."""
        node = self._file(path)
        node.data.extend(bytes(max(0, end - len(node.data))))
        node.attributes |= ARCHIVE
        node.write_time = None

    def unlink(self, path: Path) -> None:
        parent = self._parent(path)
        node = self.find(path)
        if node.is_directory:
            raise _fail(errno.EISDIR)
        del parent.children[self.key(path[-1])]
        node.links -= 1

    def rmdir(self, path: Path) -> None:
        parent = self._parent(path)
        node = self.find(path)
        if not node.is_directory:
            raise _fail(errno.ENOTDIR)
        if node.children:
            raise _fail(errno.ENOTEMPTY)
        del parent.children[self.key(path[-1])]

    def rename(self, old: Path, new: Path) -> None:
        old_parent, new_parent = self._parent(old), self._parent(new)
        node = self.find(old)
        target = new_parent.children.get(self.key(new[-1]))
        if node.is_directory and (node is new_parent or any(n is node for n in self._ancestors(new))):
            raise _fail(errno.EINVAL)
        if target is not None:
            if any(n is target[1] for n in self._ancestors(old)):
                raise _fail(errno.ENOTEMPTY)
            if target[1] is node:
                return
            self._check_replace(node, target[1])
            target[1].links -= 1
        del old_parent.children[self.key(old[-1])]
        new_parent.children[self.key(new[-1])] = (new[-1], node)

    def exchange(self, old: Path, new: Path) -> None:
        old_parent, new_parent = self._parent(old), self._parent(new)
        first, second = self.find(old), self.find(new)
        if any(n is first for n in self._ancestors(new)) or any(n is second for n in self._ancestors(old)):
            raise _fail(errno.EINVAL)
        for parent, path, node in ((old_parent, old, second), (new_parent, new, first)):
            name, _ = parent.children[self.key(path[-1])]
            parent.children[self.key(path[-1])] = (name, node)

    def _ancestors(self, path: Path) -> list[Node]:
        return [self.find(path[:count]) for count in range(len(path))]

    @staticmethod
    def _check_replace(node: Node, target: Node) -> None:
        if node.is_directory and not target.is_directory:
            raise _fail(errno.ENOTDIR)
        if target.is_directory and not node.is_directory:
            raise _fail(errno.EISDIR)
        if target.children:
            raise _fail(errno.ENOTEMPTY)

    def chmod(self, path: Path, *, read_only: bool) -> None:
        node = self._file(path)
        node.attributes = node.attributes & ~READONLY | (READONLY if read_only else 0)

    def utime(self, path: Path, nanoseconds: int) -> None:
        self._file(path).write_time = nanoseconds

    def set_attributes(self, path: Path, attributes: int) -> None:
        node = self.find(path)
        node.attributes = attributes & ~DIRECTORY | node.attributes & DIRECTORY

    def set_security(self, path: Path, descriptor: bytes) -> None:
        self.find(path).security = descriptor

    def set_stream(self, path: Path, name: str, data: bytes) -> None:
        node = self.find(path)
        key = fold_key(name)
        kept = node.streams.get(key, (name, b""))[0]
        node.streams[key] = (kept, data)
        if not node.is_directory:
            node.attributes |= ARCHIVE

    def remove_stream(self, path: Path, name: str) -> None:
        node = self.find(path)
        if fold_key(name) not in node.streams:
            raise _fail(errno.ENODATA)
        del node.streams[fold_key(name)]
        if not node.is_directory:
            node.attributes |= ARCHIVE
