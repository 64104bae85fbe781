"""Counted mounts: who uses a layer's view, and where it is.

dockerd counts with ``mountref.Counter`` and keeps paths beside it, so that a second caller can see the count
before there is a path, and gets an empty one.  Here the count and the path are one record under one lock.

Views may outlive the process that made them.  Whenever this table has no count for a layer, it asks the
service; a view that is there then counts as one use by someone else (moby's ``Counter`` does the same with
its ``isMounted``).  So a ``put`` that pays back nothing of ours takes that view down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

from winlayers.errors import LayerInUseError, LayerNotMountedError

PREPARE_LOCK = threading.Lock()
"""Held while a layer is prepared: one PrepareLayer at a time per process (source: hcsshim ``wclayer``)."""


@dataclasses.dataclass(slots=True)
class _Entry:
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    users: int = 0  # threads inside, or waiting for the lock
    count: int = 0
    path: str = ""
    foreign: bool = False  # one of the count is another process's
    prepared: bool = False
    suspended: int = 0

    def clear(self) -> None:
        self.count, self.path, self.foreign, self.prepared = 0, "", False, False


class MountTable:
    """The mounts of one driver.

    The callables that its methods take run under the layer's own lock: other callers of the same layer wait
    for them, callers of other layers do not.
    """

    def __init__(self, is_prepared: Callable[[str], bool], mount_path: Callable[[str], str]) -> None:
        self._is_prepared = is_prepared
        self._mount_path = mount_path
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def acquire(self, layer_id: str, mount: Callable[[], str]) -> str:
        """Count one use; the first calls *mount*, whose answer is the path for all.

        If *mount* raises, nothing is counted, and a caller that waited tries for itself.  A view that another
        process made meanwhile is shared like one that was there before.
        """
        with self._entry(layer_id) as entry:
            self._look(layer_id, entry)
            if not entry.count:
                try:
                    entry.path = mount()
                    entry.prepared = True
                except LayerInUseError:
                    self._look(layer_id, entry)
                    if not entry.count:
                        raise
            entry.count += 1
            return entry.path

    def release(self, layer_id: str, unmount: Callable[[], None]) -> None:
        """Take one use back; the last calls *unmount*.  A layer that is not mounted is fine.

        If *unmount* raises, the use stays counted.
        """
        with self._entry(layer_id) as entry:
            self._look(layer_id, entry, for_path=False)
            if entry.count == 1:
                unmount()
                entry.clear()
            elif entry.count:
                entry.count -= 1
                self._forget_foreign(entry)

    @contextlib.contextmanager
    def unused(self, layer_id: str) -> Iterator[bool]:
        """Say whether nobody uses the layer, and let nobody begin to while the block runs."""
        with self._entry(layer_id) as entry:
            yield not (entry.count or entry.suspended or self._is_prepared(layer_id))

    def suspend(self, layer_id: str, unprepare: Callable[[], None], *, always: bool = False) -> bool:
        """Take the layer out of its view for a while; return whether it was mounted.

        *unprepare* is called if it was, or *always*: a view that nobody knows of may be left from a crash.
        Each suspend that did not raise must be followed by one :meth:`resume`.
        """
        with self._entry(layer_id) as entry:
            self._look(layer_id, entry)
            mounted = entry.count > 0
            if entry.prepared or always:
                unprepare()
                entry.prepared = False
            entry.suspended += 1
            return mounted

    def resume(self, layer_id: str, prepare: Callable[[], None]) -> None:
        """End a suspend; the last calls *prepare* if the layer is still counted as mounted.

        If *prepare* raises, the layer is no longer mounted for anyone: the next use mounts it afresh.
        """
        with self._entry(layer_id) as entry:
            entry.suspended -= 1
            if entry.count and not entry.prepared and not entry.suspended:
                try:
                    prepare()
                except BaseException:
                    entry.clear()
                    raise
                entry.prepared = True
            self._forget_foreign(entry)

    def _look(self, layer_id: str, entry: _Entry, *, for_path: bool = True) -> None:
        if not entry.count and self._is_prepared(layer_id):
            try:
                entry.path = self._mount_path(layer_id) if for_path else ""
            except LayerNotMountedError:
                return  # it has ended just now
            entry.count, entry.foreign, entry.prepared = 1, True, True

    @staticmethod
    def _forget_foreign(entry: _Entry) -> None:
        # What is left is not ours, and may end without our knowing: the next caller asks again.
        if entry.foreign and entry.count == 1 and not entry.suspended:
            entry.clear()

    @contextlib.contextmanager
    def _entry(self, layer_id: str) -> Iterator[_Entry]:
        with self._lock:
            entry = self._entries.setdefault(layer_id, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                yield entry
        finally:
            with self._lock:
                entry.users -= 1
                if not (entry.users or entry.count or entry.suspended):
                    del self._entries[layer_id]
