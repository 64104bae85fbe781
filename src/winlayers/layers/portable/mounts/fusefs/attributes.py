"""Extended attributes of files in the mount: NTFS metadata and alternate streams, shown and set.

The names and values are those of :mod:`winlayers.layers.portable.xattrs`.  Here nothing is copied to another
file system, so all attributes have room; only streams over 64 KiB are not shown.
"""

from __future__ import annotations

import errno
import functools
import stat
import sys

assert sys.platform != "win32"

from winlayers.errors import FormatError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.record import Inode, Kind, Mark
from winlayers.layers.portable.mounts.fusefs.tree import Tree, error, now
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import fold_key

ROOM = 1 << 30
"""What the attributes of one file may take: all that there are."""

XATTR_CREATE = 1
XATTR_REPLACE = 2

_USER = xattrs.USER.encode("ascii")
_TRUSTED = xattrs.TRUSTED.encode("ascii")
_KEPT = int(FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT)
_MARKS = {xattrs.ACL: Mark.SECURITY, xattrs.EA: Mark.EAS, xattrs.REPARSE: Mark.REPARSE}
_NO_SUCH = errno.ENODATA


def streams_of(tree: Tree, node_id: int) -> list[xattrs.StreamSource]:
    """The file's alternate streams."""
    inode = tree.inodes.get(node_id)
    sources = []
    seen: set[bytes] = set()
    if inode is None or not inode.is_new:
        view = tree.lower.view
        for stream in tree.lower.inode(node_id).streams:
            key = fold_key(stream.name)
            if inode is not None and key in inode.streams:
                seen.add(key)
                name, data = inode.streams[key]
                if data is not None:
                    sources.append(_set_stream(name, data))
            else:
                read = functools.partial(view.read, stream.extent)
                sources.append(xattrs.StreamSource(stream.name, stream.extent.size, read))
    if inode is not None:
        sources += [
            _set_stream(name, data)
            for key, (name, data) in inode.streams.items()
            if data is not None and key not in seen
        ]
    return sources


def _set_stream(name: str, data: bytes) -> xattrs.StreamSource:
    return xattrs.StreamSource(name, len(data), lambda: data)


class Attributes:
    """The extended attributes of a tree's files; without *operations* they can only be read."""

    def __init__(self, tree: Tree, operations: Operations | None = None) -> None:
        self._tree = tree
        self._operations = operations

    # -- reading --

    def get(self, node_id: int, name: bytes) -> bytes:
        """The value of the attribute *name* (with its name space).

        Raises:
            OSError: ENODATA: there is none; EOPNOTSUPP: another name space.
        """
        bare = self._bare(node_id, name, missing=_NO_SUCH)
        metadata = self._metadata(node_id)
        if bare == xattrs.ATTRIB or bare == xattrs.TIMES or bare == xattrs.CRTIME:
            return xattrs.shown_attributes(metadata, (), ROOM)[0][bare]
        if bare == xattrs.ACL and metadata.security is not None:
            return metadata.security
        value = self._shown(node_id, metadata).get(bare)
        if value is None:
            raise error(_NO_SUCH)
        return value

    def list(self, node_id: int) -> bytes:
        """The names of all the file's attributes, each with a NUL after it."""
        space = self._space(node_id)
        names = self._shown(node_id, self._metadata(node_id))
        return b"".join(space + name + b"\0" for name in names)

    def _metadata(self, node_id: int) -> FileMetadata:
        inode = self._tree.inodes.get(node_id)
        return inode.metadata() if inode is not None else self._tree.lower.inode(node_id).metadata

    def _shown(self, node_id: int, metadata: FileMetadata) -> dict[bytes, bytes]:
        return xattrs.shown_attributes(metadata, streams_of(self._tree, node_id), ROOM)[0]

    def _space(self, node_id: int) -> bytes:
        # Linux lets symbolic links have no attributes in "user.".
        return _TRUSTED if stat.S_ISLNK(self._tree.mode(node_id)) else _USER

    def _bare(self, node_id: int, name: bytes, missing: int) -> bytes:
        space = self._space(node_id)
        if name.startswith(space):
            return name[len(space) :]
        raise error(missing if name.startswith((_USER, _TRUSTED)) else errno.EOPNOTSUPP)

    # -- changing --

    def set(self, node_id: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an attribute, if it says what NTFS can hold.

        Raises:
            OSError: EINVAL: it does not; EPERM: it is only there to be read; EEXIST, ENODATA: as *flags* ask.
        """
        if self._operations is None:
            raise error(errno.EROFS)
        bare = self._bare(node_id, name, missing=errno.EOPNOTSUPP)
        if bare == xattrs.STREAMS:
            raise error(errno.EPERM)
        try:
            parsed = xattrs.parse_attributes({bare: value})
        except FormatError:
            raise error(errno.EINVAL) from None
        if flags:
            self._check_flags(node_id, bare, flags)
        is_directory = stat.S_ISDIR(self._tree.mode(node_id))
        if bare == xattrs.REPARSE and is_directory and not self._tree.is_empty(node_id):
            raise error(errno.ENOTEMPTY)
        if parsed.streams:
            self._set_stream(self._operations, node_id, *parsed.streams[0])
            return
        inode = self._operations.raise_inode(node_id)
        metadata = parsed.metadata
        inode.change_time = now()
        if bare == xattrs.ATTRIB:
            inode.attributes = int(metadata.attributes) & ~_KEPT | inode.attributes & _KEPT
            inode.marks |= Mark.ATTRIBUTES
        elif bare == xattrs.TIMES:
            inode.creation_time, inode.access_time = metadata.creation_time, metadata.access_time
            inode.write_time, inode.change_time = metadata.write_time, metadata.change_time
        elif bare == xattrs.CRTIME:
            inode.creation_time = metadata.creation_time
        else:
            self._set_blob(inode, bare, metadata)
        inode.marks |= Mark.METADATA
        self._operations.record.put(inode)

    def remove(self, node_id: int, name: bytes) -> None:
        """Remove an attribute.

        What every file has can't be gone, but programs that make a file's attributes those of another must
        not fail by it: the attribute bits become those of a new file, and times stay.

        Raises:
            OSError: ENODATA: there is none; EPERM: it is only there to be read.
        """
        if self._operations is None:
            raise error(errno.EROFS)
        bare = self._bare(node_id, name, missing=errno.EOPNOTSUPP)
        if bare not in self._shown(node_id, self._metadata(node_id)):
            raise error(_NO_SUCH)
        if bare == xattrs.STREAMS:
            raise error(errno.EPERM)
        if bare in (xattrs.TIMES, xattrs.CRTIME):
            return
        stream = xattrs.stream_of_attribute(bare)
        if stream is not None:
            self._set_stream(self._operations, node_id, stream, None)
            return
        inode = self._operations.raise_inode(node_id)
        if bare == xattrs.ATTRIB:
            archive = 0 if inode.kind is Kind.DIRECTORY else FileAttributes.ARCHIVE
            inode.attributes = inode.attributes & (_KEPT | FileAttributes.READONLY) | archive
            inode.marks |= Mark.ATTRIBUTES
        else:
            self._set_blob(inode, bare, FileMetadata())
        inode.change_time = now()
        inode.marks |= Mark.METADATA
        self._operations.record.put(inode)

    def _check_flags(self, node_id: int, bare: bytes, flags: int) -> None:
        there = bare in self._shown(node_id, self._metadata(node_id))
        if flags & XATTR_CREATE and there:
            raise error(errno.EEXIST)
        if flags & XATTR_REPLACE and not there:
            raise error(_NO_SUCH)

    @staticmethod
    def _set_blob(inode: Inode, bare: bytes, metadata: FileMetadata) -> None:
        if bare == xattrs.ACL:
            inode.security = metadata.security
        elif bare == xattrs.EA:
            inode.eas = metadata.eas
        else:
            inode.reparse = metadata.reparse
            bit = int(FileAttributes.REPARSE_POINT)
            inode.attributes = inode.attributes & ~bit if metadata.reparse is None else inode.attributes | bit
        inode.marks |= _MARKS[bare]

    def _set_stream(self, operations: Operations, node_id: int, name: str, data: bytes | None) -> None:
        key = fold_key(name)
        inode = operations.raise_inode(node_id)
        own = inode.streams.get(key)
        before = len(own[1]) if own is not None and own[1] is not None else 0
        operations.space.charge((0 if data is None else len(data)) - before)
        of_view = None
        if not inode.is_new:
            of_view = next(
                (s for s in self._tree.lower.inode(node_id).streams if fold_key(s.name) == key), None
            )
        if data is None and of_view is None:
            inode.streams.pop(key, None)
        else:
            kept = own[0] if own is not None else of_view.name if of_view is not None else name
            inode.streams[key] = (kept, data)
        time = now()
        inode.change_time = time
        if inode.kind is not Kind.DIRECTORY:
            inode.attributes |= int(FileAttributes.ARCHIVE)
        inode.marks |= Mark.STREAMS | Mark.METADATA
        operations.record.put_streams(inode)
