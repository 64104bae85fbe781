"""What can be done to the drive: names made, moved and removed; data and metadata changed.

All times and descriptors are as NTFS would have them: a new file inherits its descriptor from its directory,
a changed one is marked ARCHIVE, one that is moved keeps all it has.  Each function that changes something
leaves it noted in the record; the caller commits.
"""

from __future__ import annotations

import errno
import functools
import stat
import sys

assert sys.platform != "win32"

from winlayers.errors import InvalidNameError, SecurityDescriptorError
from winlayers.layers.portable.mounts.fusefs import protocol
from winlayers.layers.portable.mounts.fusefs.cowfile import DataFiles
from winlayers.layers.portable.mounts.fusefs.protocol import Valid
from winlayers.layers.portable.mounts.fusefs.record import Inode, Kind, Mark, Name, Record
from winlayers.layers.portable.mounts.fusefs.space import INODE_COST, Space, cost_of, data_cost
from winlayers.layers.portable.mounts.fusefs.tree import Found, Tree, error, now
from winlayers.layers.portable.posix import EXECUTE_BITS, MAX_TARGET, WRITE_BITS
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import filetime_from_unix
from winlayers.win32.names import MAX_COMPONENT_UNITS, decode_wtf8, fold_key, utf16_length, validate_component

MAX_LINKS = 1024
"""As many names as a file on NTFS can have."""

MAX_SIZE = (1 << 44) - (1 << 16)
"""The largest file of NTFS with clusters of 4 KiB."""

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_READONLY = int(FileAttributes.READONLY)
_ARCHIVE = int(FileAttributes.ARCHIVE)


@functools.lru_cache(maxsize=256)
def inherited(parent: bytes | None, is_directory: bool) -> bytes | None:
    """The descriptor of a new file in a directory that has *parent*; None where that can't be told."""
    if parent is None:
        return None
    # A quarter of the time that it takes to mount; and who only reads never needs it.
    from winlayers.win32.security import inherit

    try:
        return inherit(parent, is_directory=is_directory)
    except SecurityDescriptorError:
        return None


class Operations:
    """Changes a tree that has a record.  For use by one thread."""

    def __init__(self, tree: Tree, record: Record, data: DataFiles, space: Space) -> None:
        self.tree = tree
        self.record = record
        self.data = data
        self.space = space
        self.lazy: set[int] = set()
        """Files whose size, times or blocks are changed, but not noted in the record yet."""
        self._next_id = record.next_id()
        self._next_seq = record.next_seq()

    # -- names --

    def make(
        self, parent: int, raw: bytes, kind: Kind, mode: int = 0o644, target: str | None = None
    ) -> Inode:
        """A new file, directory or symbolic link.

        Raises:
            OSError: EEXIST, EINVAL or ENAMETOOLONG (no name for NTFS), ENOSPC, ENOENT (no directory).
        """
        name = self._new_name(parent, raw)
        directory = self.raise_inode(parent)
        if not directory.nlink:
            raise error(errno.ENOENT)
        self.space.charge(INODE_COST)
        time = now()
        is_directory = kind is Kind.DIRECTORY
        attributes = int(FileAttributes.DIRECTORY) if is_directory else _ARCHIVE
        if kind is Kind.FILE and not mode & WRITE_BITS:
            attributes |= _READONLY
        marks = Mark.DATA | Mark.METADATA
        if kind is Kind.FILE and mode & EXECUTE_BITS:
            marks |= Mark.EXECUTABLE
        inode = Inode(
            id=self._next_id,
            kind=kind,
            parent=parent,
            name=name,
            attributes=attributes,
            creation_time=time,
            access_time=time,
            write_time=time,
            change_time=time,
            security=inherited(directory.security, is_directory),
            marks=marks,
            target=target,
        )
        self._next_id += 1
        self.record.put(inode)
        self._set_name(parent, name, inode)
        return inode

    def symlink(self, parent: int, raw: bytes, target: bytes) -> Inode:
        """A new symbolic link."""
        try:
            text = target.decode("utf-8")
        except UnicodeDecodeError:
            raise error(errno.EILSEQ) from None
        if len(target) > MAX_TARGET:
            raise error(errno.ENAMETOOLONG)
        return self.make(parent, raw, Kind.SYMLINK, target=text)

    def link(self, node_id: int, parent: int, raw: bytes) -> Inode:
        """Another name for a file."""
        name = self._new_name(parent, raw)
        inode = self.raise_inode(node_id)
        if not inode.nlink:
            raise error(errno.ENOENT)
        if inode.nlink >= MAX_LINKS:
            raise error(errno.EMLINK)
        inode.nlink += 1
        inode.change_time = now()
        inode.marks |= Mark.LINKS
        self.record.put(inode)
        self._set_name(parent, name, inode)
        return inode

    def unlink(self, parent: int, raw: bytes) -> Found:
        """Remove the name of what is no directory."""
        found = self._existing(parent, raw)
        if stat.S_ISDIR(self.tree.mode(found.id, found.row)):
            raise error(errno.EISDIR)
        self._remove(parent, found)
        return found

    def rmdir(self, parent: int, raw: bytes) -> Found:
        """Remove an empty directory."""
        found = self._existing(parent, raw)
        if not stat.S_ISDIR(self.tree.mode(found.id, found.row)):
            raise error(errno.ENOTDIR)
        if not self.tree.is_empty(found.id):
            raise error(errno.ENOTEMPTY)
        self._remove(parent, found)
        return found

    def rename(self, parent: int, raw: bytes, new_parent: int, new_raw: bytes, flags: int) -> list[Found]:
        """Move a name; what was found at both places."""
        if flags == RENAME_EXCHANGE:
            return self._exchange(parent, raw, new_parent, new_raw)
        if flags & ~RENAME_NOREPLACE:
            raise error(errno.EINVAL)
        source = self._existing(parent, raw)
        name = self._valid_name(new_raw)
        target = self.tree.find(new_parent, new_raw)
        touched = [source]
        same = target is not None and (parent, source.key) == (new_parent, target.key)
        if target is not None and not same:
            if flags:
                raise error(errno.EEXIST)
            if target.id == source.id:
                return touched
            self._check_replace(source, target)
            touched.append(target)
        inode = self.raise_inode(source.id)
        if target is not None and not same:
            self._remove(new_parent, target, touch=False)
        self._clear_name(parent, source.key)
        inode.parent, inode.name = new_parent, name
        inode.change_time = now()
        if inode.nlink > 1 and inode.kind is not Kind.DIRECTORY:
            inode.marks |= Mark.LINKS
        self.record.put(inode)
        if parent != new_parent:
            self._touch(parent)
        self._set_name(new_parent, name, inode)
        return touched

    def _exchange(self, parent: int, raw: bytes, new_parent: int, new_raw: bytes) -> list[Found]:
        """Let two names change places with what is behind them; the directories keep their spellings."""
        first, second = self._existing(parent, raw), self._existing(new_parent, new_raw)
        touched = [first, second]
        if first.id == second.id:
            return touched
        for number in (first.id, second.id):
            self.raise_inode(number)
        for found, directory, name in ((first, new_parent, second.name), (second, parent, first.name)):
            inode = self.tree.inodes[found.id]
            inode.parent, inode.name = directory, name
            inode.change_time = now()
            if inode.nlink > 1 and inode.kind is not Kind.DIRECTORY:
                inode.marks |= Mark.LINKS
            self.record.put(inode)
        self._set_name(new_parent, second.name, self.tree.inodes[first.id])
        self._set_name(parent, first.name, self.tree.inodes[second.id])
        return touched

    def _check_replace(self, source: Found, target: Found) -> None:
        source_is_directory = stat.S_ISDIR(self.tree.mode(source.id, source.row))
        if stat.S_ISDIR(self.tree.mode(target.id, target.row)):
            if not source_is_directory:
                raise error(errno.EISDIR)
            if not self.tree.is_empty(target.id):
                raise error(errno.ENOTEMPTY)
        elif source_is_directory:
            raise error(errno.ENOTDIR)

    def _existing(self, parent: int, raw: bytes) -> Found:
        found = self.tree.find(parent, raw)
        if found is None:
            raise error(errno.ENOENT)
        return found

    def _new_name(self, parent: int, raw: bytes) -> str:
        name = self._valid_name(raw)
        if self.tree.find(parent, raw) is not None:
            raise error(errno.EEXIST)
        return name

    def _valid_name(self, raw: bytes) -> str:
        name = self.tree.decode(raw)
        if name is None:
            name = raw.decode("utf-8")
        if utf16_length(name) > MAX_COMPONENT_UNITS:
            raise error(errno.ENAMETOOLONG)
        try:
            return validate_component(name)
        except InvalidNameError:
            raise error(errno.EINVAL) from None

    def _set_name(self, parent: int, name: str, inode: Inode) -> None:
        key = fold_key(name)
        node = self.tree.lower.directory_node(parent)
        row = self.tree.lower.find(node, key) if node else None
        at_home = row is not None and row.inode == inode.id and decode_wtf8(row.name) == name
        if at_home:
            # Back where the view has it: nothing is left to be said.
            if key in self.tree.names.get(parent, ()):
                self.record.drop_name(parent, key)
        else:
            self.record.put_name(parent, key, Name(name, inode.id, self._next_seq))
            self._next_seq += 1
        self._touch(parent)

    def _clear_name(self, parent: int, key: bytes) -> None:
        node = self.tree.lower.directory_node(parent)
        if node and self.tree.lower.find(node, key) is not None:
            self.record.put_name(parent, key, Name("", 0, self._next_seq))
            self._next_seq += 1
        else:
            self.record.drop_name(parent, key)
        self.tree.forget_listing(parent)

    def _remove(self, parent: int, found: Found, *, touch: bool = True) -> None:
        inode = self.raise_inode(found.id, removing=True)
        self._clear_name(parent, found.key)
        inode.nlink = 0 if inode.kind is Kind.DIRECTORY else inode.nlink - 1
        inode.change_time = now()
        self.record.put(inode)
        if not inode.nlink:
            self.lazy.discard(inode.id)
            for key in list(self.tree.names.get(inode.id, ())):
                self.record.drop_name(inode.id, key)
        if touch:
            self._touch(parent)

    def _touch(self, directory: int) -> None:
        inode = self.raise_inode(directory, removing=True)
        inode.write_time = inode.change_time = now()
        self.record.put(inode)
        self.tree.forget_listing(directory)

    def raise_inode(self, node_id: int, *, removing: bool = False) -> Inode:
        """The file's record.  Making one counts, but what frees space is never refused for want of it."""
        inode = self.tree.inodes.get(node_id)
        if inode is None:
            if removing:
                self.space.used += INODE_COST
            else:
                self.space.charge(INODE_COST)
            inode = self.tree.upper(node_id)
        return inode

    # -- files --

    def write(self, node_id: int, offset: int, data: memoryview) -> None:
        """Write to a file; nothing at all changes nothing, wherever it is written (write(2))."""
        if not data:
            return
        inode = self.raise_inode(node_id)
        if inode.kind is not Kind.FILE:
            raise error(errno.EINVAL)
        if offset + len(data) > MAX_SIZE:
            raise error(errno.EFBIG)
        held = inode.size - inode.lent
        more = self.data.cost(inode, offset, len(data))
        self.space.charge(data_cost(held + more) - data_cost(held))
        try:
            self.data.write(inode, offset, data)
        finally:
            self.space.charge(data_cost(inode.size - inode.lent) - data_cost(held + more))
        self.wrote(inode)
        self.lazy.add(node_id)

    def truncate(self, node_id: int, size: int) -> None:
        """Cut a file, or let it grow with zeros."""
        inode = self.raise_inode(node_id)
        if inode.kind is not Kind.FILE:
            raise error(errno.EINVAL)
        if size > MAX_SIZE:
            raise error(errno.EFBIG)
        held = data_cost(inode.size - inode.lent)
        if size > inode.size:
            self.space.charge(data_cost(size - inode.lent) - held)
            held = data_cost(size - inode.lent)
        self.data.truncate(inode, size)
        self.space.charge(data_cost(inode.size - inode.lent) - held)
        self.wrote(inode)
        self.record.put(inode)

    @staticmethod
    def wrote(inode: Inode) -> None:
        """The file is as if it was written to just now; that is not noted yet."""
        inode.write_time = inode.change_time = now()
        inode.attributes |= _ARCHIVE

    def set_attributes(self, node_id: int, body: memoryview) -> None:
        """SETATTR: size, mode, owner and times."""
        fields = protocol.SETATTR_IN.unpack_from(body)
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields
        owner = self.tree.lower.owner
        if (valid & Valid.UID and uid != owner.uid) or (valid & Valid.GID and gid != owner.gid):
            raise error(errno.EPERM)
        if valid & Valid.SIZE:
            self.truncate(node_id, size)
        inode = self.raise_inode(node_id)
        time = now()
        if valid & Valid.MODE and inode.kind is Kind.FILE:
            read_only = 0 if mode & WRITE_BITS else _READONLY
            if inode.attributes & _READONLY != read_only:
                inode.attributes ^= _READONLY
                inode.marks |= Mark.ATTRIBUTES | Mark.METADATA
            inode.marks &= ~Mark.EXECUTABLE
            if mode & EXECUTE_BITS:
                inode.marks |= Mark.EXECUTABLE
        if valid & Valid.ATIME:
            inode.access_time = time if valid & Valid.ATIME_NOW else filetime_from_unix(atime, atime_ns)
            inode.marks |= Mark.METADATA
        if valid & Valid.MTIME:
            inode.write_time = time if valid & Valid.MTIME_NOW else filetime_from_unix(mtime, mtime_ns)
            inode.marks |= Mark.METADATA
        inode.change_time = time
        self.record.put(inode)

    # -- bringing it to disk --

    def note(self, node_id: int | None = None) -> None:
        """Note the sizes and blocks of files that were written to: of one, or of all."""
        for number in list(self.lazy) if node_id is None else [node_id] if node_id in self.lazy else []:
            self.lazy.discard(number)
            inode = self.tree.inodes.get(number)
            if inode is not None:
                self.record.put(inode)

    def forget(self, node_id: int) -> None:
        """The kernel knows the file no more: if it has no name either, its data goes."""
        inode = self.tree.inodes.get(node_id)
        if inode is None or inode.nlink:
            return
        self.space.charge(-cost_of(inode))
        self.lazy.discard(node_id)
        self.data.remove(inode)
        del self.tree.inodes[node_id]
