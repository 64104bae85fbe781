"""Turns a view's rows into inodes and directories of an EROFS image.

The rows are read from the view's file directly: at a million entries each microsecond counts, and most
entries need nothing but numbers moved from one layout to another.  What is unusual (alternate streams,
reparse points, attributes that find no room, files of several chunks) goes through
:class:`~winlayers.layers.portable.view.View` and :mod:`~winlayers.layers.portable.xattrs`.
"""

from __future__ import annotations

import functools
import stat
import struct
from array import array
from typing import IO, Any

from winlayers.errors import LayerCorruptError, UnsupportedError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs import format as fs
from winlayers.layers.portable.erofs.writer import (
    Output,
    SharedAttributes,
    check_position,
    pack_name,
    put_directory,
)
from winlayers.layers.portable.frozen import connect_frozen
from winlayers.layers.portable.index import unpack_eas
from winlayers.layers.portable.posix import DIRECTORY_MODE, file_mode, link_text, posix_time
from winlayers.layers.portable.view import Extent, View, ViewInode, ViewNode
from winlayers.win32.ea import build_eas
from winlayers.win32.filetime import TICKS_PER_SECOND, UNIX_EPOCH
from winlayers.win32.names import decode_wtf8, host_safe

_ROWS = (
    "SELECT n.name, n.id, i.id, i.kind, i.attributes, i.btime, i.atime, i.mtime, i.ctime, i.security,"
    " i.reparse, i.eas, i.layer, i.source, i.offset, i.size, i.nlink, i.has_streams"
    " FROM nodes n JOIN inodes i ON i.id = n.inode WHERE "
)
_DIRECTORY = stat.S_IFDIR | DIRECTORY_MODE
_SYMLINK = stat.S_IFLNK | 0o777
_USER = fs.XATTR_USER
_TIMES_BIT = fs.filter_bit(_USER, xattrs.TIMES)
_CRTIME_BIT = fs.filter_bit(_USER, xattrs.CRTIME)
_ALWAYS = 0xFFFFFFFF & ~(_TIMES_BIT | _CRTIME_BIT | fs.filter_bit(_USER, xattrs.ATTRIB))
_ACL_BIT = fs.filter_bit(_USER, xattrs.ACL)
_EA_BIT = fs.filter_bit(_USER, xattrs.EA)
_FIXED_COST = xattrs.cost(xattrs.TIMES, 32) + xattrs.cost(xattrs.CRTIME, 8) + xattrs.cost(xattrs.ATTRIB, 4)

_LARGEST = fs.MAX_CHUNK_BITS - fs.BLOCK_BITS
_UNALIGNED = fs.BLOCK - 1
_FARTHEST = (fs.MAX_DEVICE_BLOCKS - 1 << fs.BLOCK_BITS) - (1 << fs.MAX_CHUNK_BITS)

# An inode whose attributes are some shared ones, ntfs_times and ntfs_crtime: all that most files have.
_COMMON = "<HHHHQIIIIqII16xIB7x{shared}IBBH10s4q2xBBH11sqx"
_COMMON_SIZE = fs.INODE_SIZE + fs.XATTR_HEADER.size + 48 + 24
_COMMON_WORDS = (48 + 24) // 4 + 1


def _common(shared: int, tail: str, tail_size: int) -> struct.Struct:
    size = _COMMON_SIZE + 4 * shared
    gap = -size % 8 if tail else 0
    end = -(size + gap + tail_size) % (1 << fs.SLOT_BITS)
    return struct.Struct(f"{_COMMON.format(shared=shared)}{gap}x{tail}{end}x")


_PLAIN = tuple(_common(shared, "", 0) for shared in range(4))
_CHUNKED = tuple(_common(shared, "HHI", 8) for shared in range(4))


class Tree:
    """The tree of one image on its way.

    Attributes:
        table: where the device table begins, in bytes; there is room for all the view's files.
        root: the root's nid.
        inodes: the number of inodes written.
        devices: (layer, source) to device numbers, from 1, in order.
        ends: by device, where the last extent in it ends.
        complete: whether all attributes fit into `xattrs.WRITABLE_ROOM`.
        shared_block, digest: set by `write`.
    """

    def __init__(self, view: View, file: IO[bytes], room: int) -> None:
        self.view = view
        self.room = room
        self.table = fs.SUPER_OFFSET + fs.BLOCK
        slots = 2 * len(view.layers) * fs.DEVICE_SLOT.size
        file.truncate(self.table)
        self.output = Output(file, self.table + slots + -slots % fs.BLOCK)
        self.shared = SharedAttributes()
        self.root = 0
        self.inodes = 0
        self.devices: dict[tuple[int, int], int] = {}
        self.ends = [0]
        self.complete = True
        self.shared_block = 0
        self.digest = b""
        self._linked: dict[int, list[int]] = {}  # by inode: nid, links and type of files with several names
        self._stack = array("q")  # triples: directory node, its nid, its parent's nid
        self._attribute_ids: dict[int, int] = {}
        self._security_ids: dict[int, tuple[int, int]] = {}
        self._ea_ids: dict[bytes, tuple[int, int]] = {}

    def write(self) -> None:
        """Write the tree and the shared attributes."""
        self._db = connect_frozen(self.view.path)
        try:
            self._put_root()
            while self._stack:
                parent, nid, node = self._stack.pop(), self._stack.pop(), self._stack.pop()
                self._directory(node, nid, parent)
        finally:
            self._db.close()
        for nid, links, _ in self._linked.values():
            self.output.patch_links(nid, links)
        self.shared_block = self.shared.write(self.output)
        check_position(self.output)
        self.digest = self.output.finish()

    # -- directories --

    def _put_root(self) -> None:
        drive = self.view.drive
        if drive is not None and drive.is_directory:
            row = self._db.execute(f"{_ROWS}n.id = ?", (drive.id,)).fetchone()
            self.root = self._common(row, _DIRECTORY, 0)
            self._stack.extend((drive.id, self.root, self.root))
            return
        self.root = self._put(_DIRECTORY, 0, 0, 0, b"", 0, fs.FORMAT_EXTENDED_PLAIN, b"")
        size, block = put_directory(self.output, _dots(self.root, self.root))
        self.output.patch_directory(self.root, size, block, 2)

    def _directory(self, node: int, nid: int, parent: int) -> None:
        """Write the inodes of all in the directory, and its entries."""
        entries = _dots(nid, parent)
        links = 2
        for row in self._db.execute(f"{_ROWS}n.parent = ?", (node,)):
            name = row[0]
            if len(name) > 255 or not name.isascii() or b"%{" in name or name in (b".", b".."):
                name = host_safe(decode_wtf8(name)).encode("utf-8")
            if row[16] == 1 or row[3] == 1:
                if row[10] is None and row[3] == 0:
                    child, kind = self._common(row, file_mode(row[4]), row[15]), fs.TYPE_FILE
                else:
                    child, kind = self._entry(row)
            else:
                child, kind = self._linked_entry(row)
            if kind == fs.TYPE_DIRECTORY:
                links += 1
                self._stack.extend((row[1], child, nid))
            entries.append(pack_name(name, child, kind))
        size, block = put_directory(self.output, entries)
        self.output.patch_directory(nid, size, block, links)

    def _linked_entry(self, row: tuple[Any, ...]) -> tuple[int, int]:
        """`_entry` for a file with several names, whose inode may be there already."""
        known = self._linked.get(row[2])
        if known is None:
            nid, kind = self._entry(row)
            self._linked[row[2]] = [nid, 1, kind]
            return nid, kind
        known[1] += 1
        return known[0], known[2]

    def _entry(self, row: tuple[Any, ...]) -> tuple[int, int]:
        """Write the row's inode; return its nid and type."""
        if row[10] is not None:
            node = ViewNode(row[1], self._parent(row[1]), decode_wtf8(row[0]), row[2], row[3] == 1)
            target = link_text(self.view, node, row[10])
            if target is not None:
                return self._symlink(row, target.encode("utf-8")), fs.TYPE_SYMLINK
        if row[3] == 1:
            return self._common(row, _DIRECTORY, 0), fs.TYPE_DIRECTORY
        return self._common(row, file_mode(row[4]), row[15]), fs.TYPE_FILE

    def _parent(self, node: int) -> int:
        (parent,) = self._db.execute("SELECT parent FROM nodes WHERE id = ?", (node,)).fetchone()
        return int(parent)

    # -- inodes --

    def _common(self, row: tuple[Any, ...], mode: int, size: int) -> int:
        """Write the inode of a file or directory, in one go where its attributes are the common ones."""
        (_, _, number, _, attributes, btime, atime, mtime, ctime, security, reparse, eas) = row[:12]
        if row[17] or reparse is not None:
            return self._unusual(row, mode, size)
        first = self._attribute_ids.get(attributes)
        shared = [self._attribute_id(attributes) if first is None else first]
        filtered = _ALWAYS
        cost = _FIXED_COST
        if security is not None:
            found = self._security_ids.get(security) or self._security_id(security)
            shared.append(found[0])
            cost += found[1]
            filtered &= ~_ACL_BIT
        if eas:
            found = self._ea_ids.get(eas) or self._ea_id(eas)
            shared.append(found[0])
            cost += found[1]
            filtered &= ~_EA_BIT
        if cost > xattrs.WRITABLE_ROOM:
            return self._unusual(row, mode, size)
        chunk: tuple[int, ...] = ()
        if size:
            # `_chunks` for the one chunk that nearly all files are.
            offset = row[14]
            bits = (size - 1 >> fs.BLOCK_BITS).bit_length()
            device = self.devices.get((row[12], row[13]))
            if device is None or bits > _LARGEST or offset & _UNALIGNED or not 0 <= offset < _FARTHEST:
                return self._unusual(row, mode, size)
            if offset + size > self.ends[device]:
                self.ends[device] = offset + size
            chunk = (0, device, offset >> fs.BLOCK_BITS)
            packer, layout, start = _CHUNKED[len(shared)], fs.FORMAT_EXTENDED_CHUNKED, fs.CHUNK_INDEXES | bits
        else:
            packer, layout, start = _PLAIN[len(shared)], fs.FORMAT_EXTENDED_PLAIN, 0
        seconds, ticks = divmod(mtime - UNIX_EPOCH, TICKS_PER_SECOND) if mtime else (0, 0)
        self.inodes += 1
        # fmt: off
        return self.output.put(packer.pack(
            layout, _COMMON_WORDS + len(shared), mode, 0, size, start, number, 0, 0, seconds, ticks * 100, 1,
            filtered, len(shared), *shared,
            10, _USER, 32, xattrs.TIMES, btime, mtime, atime, ctime, 11, _USER, 8, xattrs.CRTIME, btime,
            *chunk,
        )) >> fs.SLOT_BITS
        # fmt: on

    def _unusual(self, row: tuple[Any, ...], mode: int, size: int) -> int:
        """Write the inode of any file or directory."""
        attributes = self._attributes(self.view.inode(row[2]), fs.XATTR_USER)
        if not size:
            return self._put(mode, 0, row[7], row[2], attributes, 0, fs.FORMAT_EXTENDED_PLAIN, b"")
        indexes, start = self._chunks(Extent(row[12], row[13], row[14], size))
        tail = bytes(-(fs.INODE_SIZE + len(attributes)) % 8)
        tail += b"".join(fs.CHUNK_INDEX.pack(*index) for index in indexes)
        return self._put(mode, size, row[7], row[2], attributes, start, fs.FORMAT_EXTENDED_CHUNKED, tail)

    def _symlink(self, row: tuple[Any, ...], target: bytes) -> int:
        """Write a symbolic link; a target that fits lies behind the inode, within one block."""
        attributes = self._attributes(self.view.inode(row[2]), fs.XATTR_TRUSTED)
        head = fs.INODE_SIZE + len(attributes)
        size = len(target)
        if size > fs.BLOCK:
            block = self.output.align(fs.BLOCK) >> fs.BLOCK_BITS
            self.output.put(target)
            self.output.align(fs.BLOCK)
            return self._put(_SYMLINK, size, row[7], row[2], attributes, block, fs.FORMAT_EXTENDED_PLAIN, b"")
        while (self.output.position + head) % fs.BLOCK + size > fs.BLOCK:
            self.output.put(bytes(1 << fs.SLOT_BITS))
        return self._put(_SYMLINK, size, row[7], row[2], attributes, 0, fs.FORMAT_EXTENDED_INLINE, target)

    def _put(
        self,
        mode: int,
        size: int,
        mtime: int,
        number: int,
        attributes: bytes,
        start: int,
        layout: int,
        tail: bytes,
    ) -> int:
        """Write one inode: its 64 bytes, its attributes and what its layout puts behind them."""
        seconds, nanoseconds = posix_time(mtime)
        words = (len(attributes) - fs.XATTR_HEADER.size) // 4 + 1 if attributes else 0
        head = fs.INODE.pack(layout, words, mode, 0, size, start, number, 0, 0, seconds, nanoseconds, 1)
        self.inodes += 1
        nid = self.output.put(head + attributes + tail) >> fs.SLOT_BITS
        self.output.align(1 << fs.SLOT_BITS)
        return nid

    def _chunks(self, extent: Extent) -> tuple[list[tuple[int, int, int]], int]:
        """The chunk indexes of an extent that is not empty, and the layout's word that goes with them."""
        bits = fs.chunk_bits(extent.size)
        chunk = fs.BLOCK << bits
        count = -(-extent.size // chunk)
        if not extent.source:
            return [(0, 0, fs.CHUNK_HOLE)] * count, fs.CHUNK_INDEXES | bits
        place = (extent.layer, extent.source)
        if not 0 <= extent.layer < len(self.view.layers):
            raise LayerCorruptError(f"the view points into layer {extent.layer}", layer=self.view.path)
        device = self.devices.get(place)
        if device is None:
            device = self.devices[place] = len(self.ends)
            self.ends.append(0)
        end = extent.offset + extent.size
        if end > self.ends[device]:
            self.ends[device] = end
        if extent.offset % fs.BLOCK or extent.offset < 0 or extent.size < 0:
            raise LayerCorruptError(
                f"a file's data begins at {extent.offset}, not on a block",
                layer=self.view.layers[extent.layer].name,
            )
        first = extent.offset >> fs.BLOCK_BITS
        if end >> fs.BLOCK_BITS >= fs.MAX_DEVICE_BLOCKS:
            raise UnsupportedError(
                "an EROFS image can't point beyond 2 TiB", layer=self.view.layers[extent.layer].name
            )
        step = chunk >> fs.BLOCK_BITS
        return [(0, device, first + n * step) for n in range(count)], fs.CHUNK_INDEXES | bits

    # -- attributes --

    def _attribute_id(self, attributes: int) -> int:
        value = (attributes & 0xFFFFFFFF).to_bytes(4, "little")
        number = self.shared.add(fs.xattr_entry(_USER, xattrs.ATTRIB, value))
        self._attribute_ids[attributes] = number
        return number

    def _security_id(self, security: int) -> tuple[int, int]:
        """The shared attribute of a descriptor, and what it costs."""
        row = self._db.execute("SELECT data FROM security WHERE id = ?", (security,)).fetchone()
        if row is None:
            raise LayerCorruptError(f"descriptor {security} is missing from the view", layer=self.view.path)
        data = bytes(row[0])
        if len(data) > xattrs.WRITABLE_ROOM:
            return 0, xattrs.WRITABLE_ROOM
        found = self.shared.add(fs.xattr_entry(_USER, xattrs.ACL, data)), xattrs.cost(xattrs.ACL, len(data))
        self._security_ids[security] = found
        return found

    def _ea_id(self, packed: bytes) -> tuple[int, int]:
        """The same for a view's blob of extended attributes."""
        data = build_eas(unpack_eas(packed))
        if len(data) > xattrs.WRITABLE_ROOM or self.shared.full:
            return 0, xattrs.WRITABLE_ROOM
        found = self.shared.add(fs.xattr_entry(_USER, xattrs.EA, data)), xattrs.cost(xattrs.EA, len(data))
        self._ea_ids[packed] = found
        return found

    def _attributes(self, inode: ViewInode, index: int) -> bytes:
        """The attributes of any inode, as they lie behind it; large ones that recur are shared."""
        sources = stream_sources(self.view, inode)
        shown, complete = xattrs.shown_attributes(inode.metadata, sources, self.room)
        if complete and self.complete:
            complete = xattrs.shown_attributes(inode.metadata, sources, xattrs.WRITABLE_ROOM)[1]
        self.complete &= complete
        shared = b""
        inline = b""
        filtered = 0xFFFFFFFF
        for name, value in shown.items():
            entry = fs.xattr_entry(index, name, value)
            filtered &= ~fs.filter_bit(index, name)
            if name in (xattrs.ACL, xattrs.ATTRIB) and not self.shared.full:
                shared += fs.U32.pack(self.shared.add(entry))
            else:
                inline += entry
        return fs.XATTR_HEADER.pack(filtered, len(shared) // 4) + shared + inline


def stream_sources(view: View, inode: ViewInode) -> list[xattrs.StreamSource]:
    """The inode's alternate streams, as `xattrs.shown_attributes` takes them."""
    return [
        xattrs.StreamSource(stream.name, stream.extent.size, functools.partial(view.read, stream.extent))
        for stream in inode.streams
    ]


def _dots(nid: int, parent: int) -> list[bytes]:
    return [pack_name(b".", nid, fs.TYPE_DIRECTORY), pack_name(b"..", parent, fs.TYPE_DIRECTORY)]
