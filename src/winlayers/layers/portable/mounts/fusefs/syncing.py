"""Brings what was changed to the disk, beside the thread that serves."""

from __future__ import annotations

import os
import sys
import threading

assert sys.platform != "win32"

from winlayers.durable import fsync_dir
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.record import Inode


def sync(operations: Operations, lock: threading.Lock) -> None:
    """Make everything that was changed until now durable.

    In this order: the data, then the record that speaks of it.  Blocks of data files are recorded as synced
    only when they are, so that after a loss of power none that was not is taken for what it should be.

    Args:
        lock: what the serving thread holds while it works; not held by the caller.

    Raises:
        OSError: the disk says that it can't.
    """
    with lock:
        operations.note()
        operations.record.commit()
        files = [(i, bytes(i.held), os.dup(operations.data.descriptor(i))) for i in _unsynced(operations)]
        folders = operations.data.folders() if operations.data.new_files else []
        operations.data.unsynced.clear()
        operations.data.new_files = False
        log = operations.record.log_descriptor()
    try:
        try:
            for _, _, fd in files:
                os.fsync(fd)
            for folder in folders:
                fsync_dir(folder)
        except OSError:
            with lock:
                operations.data.unsynced.update(inode.id for inode, _, _ in files)
                operations.data.new_files = True
            raise
        with lock:
            for inode, held, _ in files:
                if held and inode.synced != held and inode.id in operations.tree.inodes:
                    inode.synced = held
                    operations.record.put(inode)
            operations.record.commit()
        os.fsync(log)
    finally:
        os.close(log)
        for _, _, fd in files:
            os.close(fd)


def _unsynced(operations: Operations) -> list[Inode]:
    inodes = operations.tree.inodes
    return [inodes[number] for number in operations.data.unsynced if number in inodes and inodes[number].file]
