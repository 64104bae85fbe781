"""The drive as it is now: the view, with the record of changes over it."""

from __future__ import annotations

import bisect
import collections
import errno
import itertools
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

assert sys.platform != "win32"

from winlayers.layers.portable.mounts.fusefs import protocol
from winlayers.layers.portable.mounts.fusefs.cowfile import DataFiles, bitmap
from winlayers.layers.portable.mounts.fusefs.lower import (
    FOLDER_MODE,
    SYMLINK_MODE,
    Lower,
    Row,
    pack_attr,
    shown_name,
)
from winlayers.layers.portable.mounts.fusefs.record import Inode, Kind, Mark, Name, Record
from winlayers.layers.portable.posix import EXECUTE_BITS, file_mode
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import NANOSECONDS_PER_TICK, UNIX_EPOCH
from winlayers.win32.names import decode_wtf8, encode_wtf8, fold_key, host_original

_LOWER_COOKIE = 16
_UPPER_COOKIE = 1 << 41
_CACHED_LISTINGS = 8


def now() -> int:
    """The time as a FILETIME."""
    return time.time_ns() // NANOSECONDS_PER_TICK + UNIX_EPOCH


def error(number: int) -> OSError:
    """The error of that number."""
    return OSError(number, os.strerror(number))


class Found(NamedTuple):
    """What a lookup found.

    Attributes:
        id: the node id.
        key: the folded name.
        name: the name as the directory has it.
        exact: whether that is how it was asked for.
        row: the view's row, if nothing about the file is changed.
    """

    id: int
    key: bytes
    name: str
    exact: bool
    row: Row | None


class Entry(NamedTuple):
    """One name in a listing; ``cookie`` is where the listing goes on after it."""

    cookie: int
    shown: bytes
    id: int
    row: Row | None


class Tree:
    """The merged drive.  Without *record* it is the view alone.  For use by one thread."""

    def __init__(self, lower: Lower, record: Record | None = None, data: DataFiles | None = None) -> None:
        self.lower = lower
        self.record = record
        self.data = data
        self.inodes: dict[int, Inode] = record.inodes if record is not None else {}
        self.names: dict[int, dict[bytes, Name]] = record.names if record is not None else {}
        self._listings: collections.OrderedDict[int, tuple[list[Entry], list[int]]] = (
            collections.OrderedDict()
        )
        if lower.drive is None:
            root = Inode(protocol.ROOT_ID, Kind.DIRECTORY, 0, "", int(FileAttributes.DIRECTORY))
            self.inodes.setdefault(protocol.ROOT_ID, root)

    # -- names --

    @staticmethod
    def decode(raw: bytes) -> str | None:
        """The name that was asked for; None: it is one that was cut.

        Raises:
            OSError: EILSEQ: it is not UTF-8.
        """
        try:
            return host_original(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise error(errno.EILSEQ) from None

    def find(self, parent: int, raw: bytes) -> Found | None:
        """What the directory has under a name, by NTFS's rules."""
        name = self.decode(raw)
        if name is None:
            return self._find_cut(parent, raw)
        key = fold_key(name)
        changed = self.names.get(parent)
        if changed is not None:
            own = changed.get(key)
            if own is not None:
                if not own.inode:
                    return None
                exact = shown_name(encode_wtf8(own.name)) == raw
                return Found(own.inode, key, own.name, exact, None)
        directory = self.lower.directory_node(parent)
        if not directory:
            return None
        row = self.lower.find(directory, key)
        if row is None:
            return None
        number = row.inode
        return Found(
            number,
            key,
            decode_wtf8(row.name),
            shown_name(row.name) == raw,
            None if number in self.inodes else row,
        )

    def _find_cut(self, parent: int, raw: bytes) -> Found | None:
        for entry in self.listing(parent)[0]:
            if entry.shown == raw:
                name = self._true_name(parent, entry)
                return Found(entry.id, fold_key(name), name, True, entry.row)
        return None

    def _true_name(self, parent: int, entry: Entry) -> str:
        if entry.cookie < _UPPER_COOKIE:
            rows = self.lower.listing(self.lower.directory_node(parent))
            place = bisect.bisect_left(rows, entry.cookie - _LOWER_COOKIE, key=lambda row: row.node)
            return decode_wtf8(rows[place].name)
        names = self.names[parent].values()
        return next(name.name for name in names if name.seq + _UPPER_COOKIE == entry.cookie)

    # -- listings --

    def listing(self, directory: int) -> tuple[list[Entry], list[int]]:
        """All in the directory, and the cookies alone, in their order."""
        found = self._listings.get(directory)
        if found is not None:
            self._listings.move_to_end(directory)
            return found
        changed = self.names.get(directory, {})
        inodes = self.inodes
        node = self.lower.directory_node(directory)
        entries = [
            Entry(
                row.node + _LOWER_COOKIE,
                shown_name(row.name),
                row.inode,
                None if row.inode in inodes else row,
            )
            for row in (self.lower.listing(node) if node else ())
            if row.key not in changed
        ]
        entries += [
            Entry(name.seq + _UPPER_COOKIE, shown_name(encode_wtf8(name.name)), name.inode, None)
            for name in changed.values()
            if name.inode
        ]
        found = entries, [entry.cookie for entry in entries]
        self._listings[directory] = found
        if len(self._listings) > _CACHED_LISTINGS:
            self._listings.popitem(last=False)
        return found

    def after(self, directory: int, cookie: int) -> Iterator[Entry]:
        """What the listing of the directory has after *cookie*."""
        entries, cookies = self.listing(directory)
        return itertools.islice(entries, bisect.bisect_right(cookies, cookie), None)

    def forget_listing(self, directory: int) -> None:
        """The directory's names changed."""
        self._listings.pop(directory, None)

    def is_empty(self, directory: int) -> bool:
        """Whether nothing is in the directory."""
        changed = self.names.get(directory, {})
        if any(name.inode for name in changed.values()):
            return False
        node = self.lower.directory_node(directory)
        return not node or all(row.key in changed for row in self.lower.listing(node))

    # -- files --

    def attr(self, node_id: int, row: Row | None = None) -> bytes:
        """``struct fuse_attr`` of the file."""
        inode = self.inodes.get(node_id)
        if inode is None:
            return self.lower.attr(row if row is not None else self.lower.row(node_id))
        size = inode.size
        if inode.kind is Kind.SYMLINK:
            size = len(self.target(node_id))
        return pack_attr(
            self.lower.owner,
            node_id,
            self.mode(node_id),
            size,
            min(inode.nlink, 1) if inode.kind is Kind.DIRECTORY else inode.nlink,
            inode.access_time,
            inode.write_time,
            inode.change_time,
        )

    def mode(self, node_id: int, row: Row | None = None) -> int:
        """The file's mode."""
        inode = self.inodes.get(node_id)
        if inode is None:
            return self.lower.mode(row if row is not None else self.lower.row(node_id))
        if inode.kind is Kind.FILE:
            mode = file_mode(inode.attributes)
            return mode | EXECUTE_BITS if inode.marks & Mark.EXECUTABLE else mode
        return FOLDER_MODE if inode.kind is Kind.DIRECTORY else SYMLINK_MODE

    def target(self, node_id: int) -> bytes:
        """A symbolic link's target.

        Raises:
            OSError: EINVAL: it is not one.
        """
        inode = self.inodes.get(node_id)
        if inode is not None and inode.target is not None:
            return encode_wtf8(inode.target)
        row = self.lower.row(node_id)
        path = None
        if self.inodes:
            parent = inode.parent if inode is not None else self.lower.parent_of(node_id)[0]
            path = f"{self.path(parent)}/-".lstrip("/")
        target = self.lower.link(row, path)
        if target is None:
            target = self.lower.link(row)
        if target is None:
            raise error(errno.EINVAL)
        return target

    def path(self, directory: int) -> str:
        """Where the directory is now, relative to the drive."""
        parts: list[str] = []
        while directory != protocol.ROOT_ID:
            inode = self.inodes.get(directory)
            if inode is not None:
                directory, name = inode.parent, inode.name
            else:
                directory, name = self.lower.parent_of(directory)
            parts.append(name)
        return "/".join(reversed(parts))

    def upper(self, node_id: int) -> Inode:
        """The file's record, made from the view if it has none yet; it is not on disk until it is put."""
        inode = self.inodes.get(node_id)
        if inode is not None:
            return inode
        view_inode = self.lower.inode(node_id)
        metadata = view_inode.metadata
        row = self.lower.row(node_id)
        if self.lower.link(row) is not None:
            kind = Kind.SYMLINK
        else:
            kind = Kind.DIRECTORY if view_inode.is_directory else Kind.FILE
        parent, name = (0, "") if node_id == protocol.ROOT_ID else self.lower.parent_of(node_id)
        size = view_inode.size if kind is Kind.FILE else 0
        inode = Inode(
            id=node_id,
            kind=kind,
            parent=parent,
            name=name,
            attributes=int(metadata.attributes),
            creation_time=metadata.creation_time,
            access_time=metadata.access_time,
            write_time=metadata.write_time,
            change_time=metadata.change_time,
            security=metadata.security,
            eas=metadata.eas,
            reparse=metadata.reparse,
            nlink=view_inode.nlink,
            size=size,
            base=size,
            lent=size,
            held=bitmap(size),
            marks=Mark(0),
            origin=self.lower.origin_of(node_id),
        )
        self.inodes[node_id] = inode
        return inode

    def read(self, node_id: int, offset: int, size: int) -> bytes:
        """Up to *size* bytes of a changed file from *offset*."""
        if self.data is None:
            raise error(errno.EIO)
        return self.data.read(self.inodes[node_id], offset, size)
