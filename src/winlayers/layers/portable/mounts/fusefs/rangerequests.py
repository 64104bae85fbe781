"""Answers the requests for ranges of files: ``fallocate``, ``SEEK_HOLE`` and ``copy_file_range``.

What may take long runs beside the thread that serves, which may have the lock between any two steps.
"""

from __future__ import annotations

import concurrent.futures
import os
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

assert sys.platform != "win32"

from winlayers.errors import WinlayersError
from winlayers.layers.portable.mounts.fusefs import protocol, ranges
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.tree import Tree
from winlayers.layers.portable.view import Source

_WORKERS = 4
_BETWEEN_STEPS = 0.0001
_MOST_TO_COPY = 1 << 20

_FAILURES = (OSError, WinlayersError, sqlite3.Error, MemoryError)


class Channel(Protocol):
    """The way back to the kernel; for use by any thread."""

    def reply(self, unique: int, body: bytes) -> None:
        """Answer a request."""

    def fail(self, unique: int, failure: BaseException) -> None:
        """Say that a request failed."""

    def notify(self, code: protocol.Notify, body: bytes) -> None:
        """Tell the kernel something that it has not asked for."""


class RangeRequests:
    """The requests for ranges of one tree's files.  They are all answered later, through the channel."""

    def __init__(
        self,
        tree: Tree,
        operations: Operations | None,
        lock: threading.Lock,
        channel: Channel,
    ) -> None:
        """Prepare to answer.

        Args:
            operations: what changes the tree; None: only holes can be asked for.
            lock: what all that use the tree hold; held when a request comes.
        """
        self._tree = tree
        self._operations = operations
        self._lock = lock
        # Threads of their own: the kernel, told to let go of pages, waits for reads of them to be answered.
        self._pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, "winlayers-fuse-ranges")
        self._channel = channel

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()

    def seek(self, unique: int, node_id: int, body: memoryview) -> bytes | None:
        """LSEEK: where there is data, or a hole.  What needs no second look is answered at once."""
        _, offset, whence, _ = protocol.LSEEK_IN.unpack_from(body)
        data = whence == os.SEEK_DATA
        found = ranges.seek(self._tree, node_id, offset, data=data)
        if found.hole == found.end:
            return protocol.LSEEK_OUT.pack(found.offset)
        self._pool.submit(self._seek, unique, node_id, offset, data)
        return None

    def _seek(self, unique: int, node_id: int, offset: int, data: bool) -> None:
        def find() -> ranges.Place:
            with self._lock:
                return ranges.seek(self._tree, node_id, offset, data=data)

        def write_back(start: int, size: int) -> None:
            # The kernel writes what is new in the pages that it is to let go of.
            body = protocol.INVAL_INODE.pack(node_id, start, size)
            self._channel.notify(protocol.Notify.INVAL_INODE, body)

        try:
            answer = ranges.seek_surely(find, offset, write_back)
        except _FAILURES as failure:
            self._channel.fail(unique, failure)
        else:
            self._channel.reply(unique, protocol.LSEEK_OUT.pack(answer))

    def allocate(self, unique: int, node_id: int, body: memoryview) -> None:
        """FALLOCATE."""
        assert self._operations is not None
        _, offset, size, mode, _ = protocol.FALLOCATE_IN.unpack_from(body)
        steps = ranges.allocate(self._operations, node_id, mode, offset, size)
        self._pool.submit(self._in_steps, unique, self._operations, steps)

    def _in_steps(self, unique: int, operations: Operations, steps: Iterator[None]) -> None:
        more = True
        try:
            while more:
                with self._lock:
                    more = next(steps, steps) is None
                    operations.record.commit()
                time.sleep(_BETWEEN_STEPS)  # or the thread that serves might never get the lock
        except _FAILURES as failure:
            self._channel.fail(unique, failure)
        else:
            self._channel.reply(unique, b"")

    def copy(self, unique: int, node_id: int, body: memoryview, answer: struct.Struct) -> None:
        """COPY_FILE_RANGE, in pieces: who asks goes on after what was copied.

        Args:
            answer: what the number of bytes is packed with.
        """
        assert self._operations is not None
        _, offset, target, _, to, size, _ = protocol.COPY_FILE_RANGE_IN.unpack_from(body)
        size = min(size, _MOST_TO_COPY)
        self._pool.submit(self._copy, unique, self._operations, (node_id, offset), (target, to), size, answer)

    def _copy(
        self,
        unique: int,
        operations: Operations,
        source: tuple[int, int],
        target: tuple[int, int],
        size: int,
        answer: struct.Struct,
    ) -> None:
        node_id, offset = source
        lower = self._tree.lower
        try:
            with self._lock:
                changed = node_id in self._tree.inodes
                if changed:
                    data = self._tree.read(node_id, offset, size)
                else:
                    extent = lower.extent(node_id)
                    if extent.source is not Source.NONE:
                        lower.view.open_source(extent.layer, extent.source)
            if not changed:  # this may have to wait for the disk
                data = lower.view.read(extent, offset, size)
            with self._lock:
                operations.write(target[0], target[1], memoryview(data))
        except _FAILURES as failure:
            self._channel.fail(unique, failure)
        else:
            self._channel.reply(unique, answer.pack(len(data)))
