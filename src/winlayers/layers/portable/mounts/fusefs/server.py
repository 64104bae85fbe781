"""Answers the kernel's requests for one mount.

One thread does all that works on memory and on pages that are cached, under one lock; what must wait for the
disk (reads of what is not cached, ``fsync``) goes to a few others.  More serving threads would gain nothing:
the interpreter runs one at a time, and a request takes some 20 microseconds.

What the kernel may keep, it keeps for good, since nobody but this server changes what it serves: entries,
attributes, listings, data.  Two things follow from names without case:

- A name asked for in another spelling than the directory has is answered, but not to be kept: each use asks
  again.
- When such a spelling is removed or renamed, the kernel still has the directory's own.  It is told to
  look at every name anew (Linux 6.16), or else to drop that one, which takes a moment.
"""

from __future__ import annotations

import concurrent.futures
import errno
import functools
import os
import select
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable

assert sys.platform != "win32"

from winlayers.errors import WinlayersError
from winlayers.layers.portable.mounts.fusefs import protocol
from winlayers.layers.portable.mounts.fusefs.attributes import Attributes
from winlayers.layers.portable.mounts.fusefs.lower import BLOCK_SIZE, Owner
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.protocol import Init, Op
from winlayers.layers.portable.mounts.fusefs.rangerequests import RangeRequests
from winlayers.layers.portable.mounts.fusefs.record import Kind
from winlayers.layers.portable.mounts.fusefs.replies import FOREVER, dirent, errno_of, sized, statx
from winlayers.layers.portable.mounts.fusefs.space import NoRoomError
from winlayers.layers.portable.mounts.fusefs.syncing import sync
from winlayers.layers.portable.mounts.fusefs.tree import Entry, Found, Tree, error
from winlayers.layers.portable.view import Extent, Source
from winlayers.win32.names import MAX_HOST_BYTES, encode_wtf8, host_safe

MAX_WRITE = 1 << 20
_BUFFER = MAX_WRITE + (1 << 16)
_IDLE = 0.1
_REQUESTS_BETWEEN = 64
"""Requests, at most, before one that there was no room for is tried again; of them many can forget files."""
_CACHED_EXTENTS = 8192
_WORKERS = 4

_WANTED = (
    Init.ASYNC_READ
    | Init.BIG_WRITES
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.NO_OPEN_SUPPORT
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
    | Init.NO_OPENDIR_SUPPORT
    | Init.HANDLE_KILLPRIV_V2
    | Init.INIT_EXT
)
_MISSING = protocol.ENTRY_PREFIX.pack(0, 0, FOREVER, 0, 0, 0) + bytes(protocol.ATTR.size)
_ATTR_PREFIX = protocol.ATTR_PREFIX.pack(FOREVER, 0, 0)
_OPENED = protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE, 0)
_NOT_LISTED = bytes(protocol.ENTRY.size)
_CHANGING = frozenset(
    {
        Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2, Op.LINK,
        Op.SETXATTR, Op.REMOVEXATTR, Op.CREATE, Op.FLUSH, Op.FORGET, Op.BATCH_FORGET,
    }
)  # fmt: skip
_SILENT = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
_Handler = Callable[[int, memoryview], bytes | None]


class Server:
    """Serves a tree on an open ``/dev/fuse`` until it is unmounted."""

    def __init__(self, fd: int, tree: Tree, operations: Operations | None, owner: Owner) -> None:
        """Prepare to serve.

        Args:
            operations: what changes the tree; None: serve it read-only.
        """
        self._fd = fd
        self._tree = tree
        self._changes = operations
        self._owner = owner
        self._attributes = Attributes(tree, operations)
        self._lock = threading.Lock()
        self._pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, "winlayers-fuse")
        self._ranges = RangeRequests(tree, operations, self._lock, self)
        self._extents: dict[int, Extent] = {}
        self._unique = 0
        self._minor = 0
        self._refused: list[bytes] = []
        self._patience = 0
        self._nowait = getattr(os, "RWF_NOWAIT", 0)
        self._handlers = self._reading_handlers()
        if operations is not None:
            self._handlers.update(self._changing_handlers(operations))

    def _reading_handlers(self) -> dict[int, _Handler]:
        return {
            Op.INIT: self._init,
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._forget_many,
            Op.GETATTR: self._getattr,
            Op.STATX: self._statx,
            Op.READLINK: lambda node_id, _: self._tree.target(node_id),
            Op.READ: self._read,
            Op.STATFS: self._statfs,
            Op.GETXATTR: self._getxattr,
            Op.LISTXATTR: self._listxattr,
            Op.LSEEK: lambda node_id, body: self._ranges.seek(self._unique, node_id, body),
            Op.READDIR: self._readdir,
            Op.READDIRPLUS: self._readdirplus,
            Op.RELEASE: lambda _, __: b"",
            Op.RELEASEDIR: lambda _, __: b"",
            Op.DESTROY: lambda _, __: b"",
            Op.INTERRUPT: lambda _, __: None,
        }

    def _changing_handlers(self, operations: Operations) -> dict[int, _Handler]:
        return {
            Op.SETATTR: self._setattr,
            Op.SYMLINK: self._symlink,
            Op.MKNOD: self._mknod,
            Op.MKDIR: self._mkdir,
            Op.CREATE: self._create,
            Op.LINK: self._link,
            Op.UNLINK: lambda parent, body: self._removed(parent, operations.unlink, body),
            Op.RMDIR: lambda parent, body: self._removed(parent, operations.rmdir, body),
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.WRITE: self._write,
            Op.FALLOCATE: lambda node_id, body: self._ranges.allocate(self._unique, node_id, body),
            Op.COPY_FILE_RANGE: functools.partial(self._copy, protocol.WRITE_OUT),
            Op.COPY_FILE_RANGE_64: functools.partial(self._copy, protocol.COPY_FILE_RANGE_OUT),
            Op.FLUSH: self._flush,
            Op.FSYNC: self._fsync,
            Op.FSYNCDIR: self._fsync,
            Op.SETXATTR: self._setxattr,
            Op.REMOVEXATTR: self._removexattr,
        }

    # -- the loop --

    def serve(self, ready: Callable[[], None]) -> None:
        """Serve until the mount is gone; *ready* is called when the kernel has been greeted."""
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        greeted = False
        try:
            while True:
                if self._refused and (self._patience == 0 or not poll.poll(0)):
                    self._try_again()
                self._patience = max(0, self._patience - 1)
                if self._changes is not None and self._changes.lazy and not poll.poll(_IDLE * 1000):
                    self._note()
                try:
                    size = os.readv(self._fd, [buffer])
                except OSError as failure:
                    if failure.errno == errno.ENODEV:
                        return
                    if failure.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                        continue
                    raise
                with self._lock:
                    self._answer(view[:size])
                if not greeted:
                    greeted = True
                    ready()
        finally:
            self._ranges.close()
            self._pool.shutdown()

    def _try_again(self) -> None:
        """Answer the requests that there was no room for, now that all that was waiting is answered.

        The kernel tells after others that it has forgotten a file, which is when a deleted one's space is
        free; whoever deletes a file and then writes another counts on it.
        """
        refused, self._refused = self._refused, []
        for request in refused:
            with self._lock:
                self._answer(memoryview(request), again=True)

    def _note(self) -> None:
        if self._changes is not None:
            with self._lock:
                try:
                    self._changes.note()
                    self._changes.record.commit()
                except sqlite3.Error:
                    pass  # it stays noted; who syncs or closes will be told

    def _answer(self, request: memoryview, *, again: bool = False) -> None:
        _, opcode, unique, node_id, *_ = protocol.IN_HEADER.unpack_from(request)
        self._unique = unique
        handler = self._handlers.get(opcode)
        if handler is None:
            self._reply_error(unique, errno.ENOSYS)
            return
        try:
            body = handler(node_id, request[protocol.IN_HEADER.size :])
            if opcode in _CHANGING and self._changes is not None:
                self._changes.record.commit()
        except (OSError, WinlayersError, sqlite3.Error, MemoryError, struct.error) as failure:
            if isinstance(failure, NoRoomError) and not again:
                self._refused.append(bytes(request))
                self._patience = _REQUESTS_BETWEEN
                return
            if opcode not in _SILENT:
                self.fail(unique, failure)
            return
        if body is not None:
            self.reply(unique, body)

    def reply(self, unique: int, body: bytes | memoryview) -> None:
        """Answer a request."""
        header = protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(body), 0, unique)
        self._send(header, body)

    def fail(self, unique: int, failure: BaseException) -> None:
        """Say that a request failed."""
        self._reply_error(unique, errno_of(failure))

    def _reply_error(self, unique: int, number: int) -> None:
        self._send(protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size, -number, unique))

    def notify(self, code: protocol.Notify, body: bytes = b"") -> None:
        """Tell the kernel something that it has not asked for."""
        self._send(protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(body), code, 0), body)

    def _send(self, *parts: bytes | memoryview) -> None:
        try:
            os.writev(self._fd, [part for part in parts if len(part)])
        except OSError as failure:
            # The request was given up, the mount is gone, or there was nothing to invalidate.
            if failure.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EINVAL):
                raise

    # -- greeting --

    def _init(self, _: int, body: memoryview) -> bytes:
        major, minor, read_ahead, flags = protocol.INIT_IN.unpack_from(body)
        if major != protocol.MAJOR or minor < protocol.MIN_MINOR:
            raise error(errno.EPROTO)
        self._minor = min(minor, protocol.MINOR)
        wanted = _WANTED
        if self._changes is None:
            wanted |= Init.CACHE_SYMLINKS
        return protocol.INIT_OUT.pack(
            protocol.MAJOR, self._minor, read_ahead, int(flags & wanted), 64, 48, MAX_WRITE, 100,
            MAX_WRITE // 4096, 0, 0, 0,
        )  # fmt: skip

    # -- names and attributes --

    def _entry(self, node_id: int, found: Found | None = None) -> bytes:
        valid = FOREVER if found is None or found.exact else 0
        prefix = protocol.ENTRY_PREFIX.pack(node_id, 0, valid, FOREVER, 0, 0)
        return prefix + self._tree.attr(node_id, None if found is None else found.row)

    def _lookup(self, parent: int, body: memoryview) -> bytes:
        try:
            found = self._tree.find(parent, protocol.name_of(body))
        except OSError:  # what is not UTF-8 is nobody's name
            found = None
        if found is not None:
            return self._entry(found.id, found)
        if self._changes is None:
            return _MISSING
        raise error(errno.ENOENT)

    def _forget(self, node_id: int, _: memoryview) -> None:
        if self._changes is not None:
            self._changes.forget(node_id)

    def _forget_many(self, _: int, body: memoryview) -> None:
        if self._changes is not None:
            count, _ = protocol.BATCH_FORGET_IN.unpack_from(body)
            start = protocol.BATCH_FORGET_IN.size
            for number in range(count):
                node_id, _ = protocol.FORGET_ONE.unpack_from(body, start + number * protocol.FORGET_ONE.size)
                self._changes.forget(node_id)

    def _getattr(self, node_id: int, _: memoryview) -> bytes:
        return _ATTR_PREFIX + self._tree.attr(node_id)

    def _statx(self, node_id: int, _: memoryview) -> bytes:
        inode = self._tree.inodes.get(node_id)
        metadata = inode.metadata() if inode is not None else self._tree.lower.inode(node_id).metadata
        return statx(self._tree.attr(node_id), metadata.creation_time)

    def _statfs(self, _: int, __: memoryview) -> bytes:
        total = free = 0
        if self._changes is not None:
            total, free = self._changes.space.totals()
        blocks = total // BLOCK_SIZE
        available = free // BLOCK_SIZE
        return protocol.STATFS_OUT.pack(
            blocks, available, available, 0, 0, BLOCK_SIZE, MAX_HOST_BYTES, BLOCK_SIZE, 0
        )

    def _getxattr(self, node_id: int, body: memoryview) -> bytes:
        size, _ = protocol.XATTR_IN.unpack_from(body)
        name = protocol.name_of(body[protocol.XATTR_IN.size :])
        return sized(self._attributes.get(node_id, name), size)

    def _listxattr(self, node_id: int, body: memoryview) -> bytes:
        size, _ = protocol.XATTR_IN.unpack_from(body)
        return sized(self._attributes.list(node_id), size)

    # -- listings --

    def _readdir(self, directory: int, body: memoryview) -> bytes:
        def header(_: Entry) -> bytes:
            return b""

        return self._list(directory, body, header, b"")

    def _readdirplus(self, directory: int, body: memoryview) -> bytes:
        tree = self._tree
        pack = protocol.ENTRY_PREFIX.pack

        def header(entry: Entry) -> bytes:
            return pack(entry.id, 0, FOREVER, FOREVER, 0, 0) + tree.attr(entry.id, entry.row)

        return self._list(directory, body, header, _NOT_LISTED)

    def _list(
        self, directory: int, body: memoryview, header: Callable[[Entry], bytes], plain: bytes
    ) -> bytes:
        _, offset, size, *_ = protocol.READ_IN.unpack_from(body)
        parts: list[bytes] = []
        for cookie, name in ((1, b"."), (2, b"..")):
            if offset < cookie:
                parts.append(plain + dirent(directory, cookie, name, 4))
        left = size - sum(map(len, parts))
        overhead = len(plain) + protocol.DIRENT.size
        for entry in self._tree.after(directory, offset):
            left -= overhead + protocol.align8(len(entry.shown))
            if left < 0:
                break
            mode = self._tree.mode(entry.id, entry.row)
            parts.append(header(entry))
            parts.append(dirent(entry.id, entry.cookie, entry.shown, mode >> 12))
        return b"".join(parts)

    # -- data --

    def _read(self, node_id: int, body: memoryview) -> bytes | None:
        _, offset, size, *_ = protocol.READ_IN.unpack_from(body)
        if node_id in self._tree.inodes:
            return self._tree.read(node_id, offset, size)
        extent = self._extents.get(node_id)
        if extent is None:
            if len(self._extents) >= _CACHED_EXTENTS:
                self._extents.clear()
            extent = self._extents[node_id] = self._tree.lower.extent(node_id)
        size = min(size, extent.size - offset)
        if size <= 0 or extent.source is Source.NONE:
            return b""
        fd = self._tree.lower.view.open_source(extent.layer, extent.source).fileno()
        data = bytearray(size)
        if self._nowait:
            try:
                if os.preadv(fd, [data], extent.offset + offset, self._nowait) == size:
                    return memoryview(data)  # type: ignore[return-value]
            except OSError as failure:
                if failure.errno == errno.EOPNOTSUPP:
                    self._nowait = 0
                elif failure.errno != errno.EAGAIN:
                    raise
        self._pool.submit(self._read_slowly, self._unique, fd, data, extent.offset + offset)
        return None

    def _read_slowly(self, unique: int, fd: int, data: bytearray, offset: int) -> None:
        try:
            count = os.preadv(fd, [data], offset)
        except OSError as failure:
            self.fail(unique, failure)
            return
        if count == len(data):
            self.reply(unique, memoryview(data))
        else:  # the layer's file is cut short
            self._reply_error(unique, errno.EIO)

    def _write(self, node_id: int, body: memoryview) -> bytes:
        _, offset, size, *_ = protocol.WRITE_IN.unpack_from(body)
        data = body[protocol.WRITE_IN.size : protocol.WRITE_IN.size + size]
        self._writable().write(node_id, offset, data)
        return protocol.WRITE_OUT.pack(size)

    def _copy(self, answer: struct.Struct, node_id: int, body: memoryview) -> None:
        self._ranges.copy(self._unique, node_id, body, answer)

    def _flush(self, node_id: int, _: memoryview) -> bytes:
        self._writable().note(node_id)
        return b""

    def _fsync(self, _: int, __: memoryview) -> None:
        self._pool.submit(self._sync, self._unique)

    def _sync(self, unique: int) -> None:
        try:
            sync(self._writable(), self._lock)
        except (OSError, sqlite3.Error) as failure:
            self.fail(unique, failure)
        else:
            self.reply(unique, b"")

    # -- changes --

    def _writable(self) -> Operations:
        if self._changes is None:
            raise error(errno.EROFS)
        return self._changes

    def _made(self, parent: int, name: bytes, kind: Kind, mode: int) -> bytes:
        return self._entry(self._writable().make(parent, name, kind, mode).id, self._spelling(parent, name))

    def _spelling(self, parent: int, name: bytes) -> Found | None:
        return self._tree.find(parent, name)

    def _symlink(self, parent: int, body: memoryview) -> bytes:
        name, target = protocol.two_names(body)
        inode = self._writable().symlink(parent, name, target)
        return self._entry(inode.id, self._spelling(parent, name))

    def _mknod(self, parent: int, body: memoryview) -> bytes:
        mode, *_ = protocol.MKNOD_IN.unpack_from(body)
        if mode & 0o170000 not in (0, 0o100000):
            raise error(errno.EPERM)  # no Windows layer can hold devices, pipes and sockets
        return self._made(parent, protocol.name_of(body[protocol.MKNOD_IN.size :]), Kind.FILE, mode)

    def _mkdir(self, parent: int, body: memoryview) -> bytes:
        return self._made(parent, protocol.name_of(body[protocol.MKDIR_IN.size :]), Kind.DIRECTORY, 0)

    def _create(self, parent: int, body: memoryview) -> bytes:
        _, mode, *_ = protocol.CREATE_IN.unpack_from(body)
        name = protocol.name_of(body[protocol.CREATE_IN.size :])
        return self._made(parent, name, Kind.FILE, mode) + _OPENED

    def _link(self, parent: int, body: memoryview) -> bytes:
        (node_id,) = protocol.LINK_IN.unpack_from(body)
        name = protocol.name_of(body[protocol.LINK_IN.size :])
        self._writable().link(node_id, parent, name)
        return self._entry(node_id, self._spelling(parent, name))

    def _removed(self, parent: int, remove: Callable[[int, bytes], Found], body: memoryview) -> bytes:
        self._expire(parent, remove(parent, protocol.name_of(body)))
        return b""

    def _rename(self, parent: int, body: memoryview) -> bytes:
        (new_parent,) = protocol.RENAME_IN.unpack_from(body)
        return self._moved(parent, new_parent, 0, body[protocol.RENAME_IN.size :])

    def _rename2(self, parent: int, body: memoryview) -> bytes:
        new_parent, flags, _ = protocol.RENAME2_IN.unpack_from(body)
        return self._moved(parent, new_parent, flags, body[protocol.RENAME2_IN.size :])

    def _moved(self, parent: int, new_parent: int, flags: int, names: memoryview) -> bytes:
        name, new_name = protocol.two_names(names)
        touched = self._writable().rename(parent, name, new_parent, new_name, flags)
        for directory, found in zip((parent, new_parent), touched, strict=False):
            self._expire(directory, found)
        return b""

    def _expire(self, parent: int, found: Found) -> None:
        """A name that the kernel may have in another spelling is no more."""
        if found.exact:
            return
        if self._minor >= protocol.EPOCH_MINOR:
            self.notify(protocol.Notify.INC_EPOCH)
            return
        name = encode_wtf8(host_safe(found.name))
        body = protocol.INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
        # The kernel holds the directory until it has its answer, so this must not be waited for.
        self._pool.submit(self.notify, protocol.Notify.INVAL_ENTRY, body)

    def _setattr(self, node_id: int, body: memoryview) -> bytes:
        self._writable().set_attributes(node_id, body)
        return _ATTR_PREFIX + self._tree.attr(node_id)

    def _setxattr(self, node_id: int, body: memoryview) -> bytes:
        size, flags = protocol.XATTR_IN.unpack_from(body)
        rest = bytes(body[protocol.XATTR_IN.size :])
        name, _, value = rest.partition(b"\0")
        self._attributes.set(node_id, name, value[:size], flags)
        self._attributes_changed(node_id)
        return b""

    def _removexattr(self, node_id: int, body: memoryview) -> bytes:
        self._attributes.remove(node_id, protocol.name_of(body))
        self._attributes_changed(node_id)
        return b""

    def _attributes_changed(self, node_id: int) -> None:
        """Times or the mode may be others now; the kernel does not expect that of these requests."""
        self.notify(protocol.Notify.INVAL_INODE, protocol.INVAL_INODE.pack(node_id, -1, 0))
