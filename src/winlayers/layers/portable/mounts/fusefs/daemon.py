"""The process that serves one mount: ``python -m winlayers.layers.portable.mounts.fusefs.daemon``.

It is told what to do in JSON on its standard input, says on its standard output in one line of JSON that the
mount can be used, or why there is none, and then lives until the mount is gone.  It is started with the
scratch layer's lock held, and holds it as long as it lives; where there is no scratch layer, with the mark of
its start (`processes.mark_start`), which it takes away when it has given its answer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from typing import Any

assert sys.platform != "win32"

from winlayers.durable import start_time
from winlayers.errors import MountError, WinlayersError
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.fusefs import device
from winlayers.layers.portable.mounts.fusefs.cowfile import DataFiles
from winlayers.layers.portable.mounts.fusefs.lower import Lower, Owner
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.record import Record
from winlayers.layers.portable.mounts.fusefs.server import Server
from winlayers.layers.portable.mounts.fusefs.space import Space, cost_of
from winlayers.layers.portable.mounts.fusefs.syncing import sync
from winlayers.layers.portable.mounts.fusefs.tree import Tree
from winlayers.layers.portable.view import View


def main() -> int:
    """Serve the mount that standard input describes; the exit code."""
    request = json.load(sys.stdin)
    if os.fork():
        os._exit(0)  # whoever waits for this process need not wait for the mount's end
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    answer = _Answer()
    try:
        _serve(request, answer)
    except (WinlayersError, OSError, sqlite3.Error) as failure:
        answer.give({"error": str(failure)})
        return 1
    return 0


def _unmount_soon(target: str, mount_id: int) -> None:
    """Leave as the system goes down; the thread that serves must go on serving meanwhile."""

    def unmount() -> None:
        there = mountinfo.mounts_at(target)
        if there and there[-1].id == mount_id:
            with contextlib.suppress(OSError):
                device.unmount(target, lazy=True)

    threading.Thread(target=unmount, daemon=True).start()


class _Answer:
    """The one line for whoever asked for the mount; what comes later goes to the log."""

    def __init__(self) -> None:
        self._given = False

    def is_unwanted(self) -> bool:
        """Whether who asked is gone already."""
        poll = select.poll()
        poll.register(1, 0)
        return bool(poll.poll(0))

    def give(self, answer: dict[str, Any]) -> bool:
        """Give the answer; False: nobody listens any more."""
        line = json.dumps(answer).encode("ascii") + b"\n"
        heard = True
        try:
            os.write(2 if self._given else 1, line)
        except OSError:
            heard = False
        if not self._given:
            self._given = True
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1):
                os.dup2(null, standard)
            os.close(null)
        return heard


def _serve(request: dict[str, Any], answer: _Answer) -> None:
    target, state_dir = request["target"], request["state_dir"]
    owner = Owner(os.geteuid(), os.getegid())
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(View(request["view"], request["home"]))
        lower = Lower(view, owner)
        stack.callback(lower.close)
        operations = None
        tree = Tree(lower)
        if state_dir is not None:
            operations = stack.enter_context(_opened(lower, state_dir, request["size"]))
            tree = operations.tree
        if answer.is_unwanted():
            raise MountError("who asked for the mount is gone", path=target)
        real = os.path.realpath(target)
        fd = device.mount(target, read_only=state_dir is None)
        # From here on this thread must not look at the target: nobody would answer.
        mount_id = [0, *(mount.id for mount in mountinfo.mounts() if mount.target == real)][-1]
        signal.signal(signal.SIGTERM, lambda *_: _unmount_soon(target, mount_id))
        gc.collect()
        gc.freeze()
        server = Server(fd, tree, operations, owner)

        def ready() -> None:
            # Who asked may have been killed meanwhile; nobody would know of this mount.
            if not answer.give({"pid": os.getpid(), "start": start_time(os.getpid())}):
                _unmount_soon(target, mount_id)
            elif request.get("starting") is not None:
                os.close(request["starting"])

        try:
            server.serve(ready)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _opened(lower: Lower, state_dir: str, size: int | None) -> Iterator[Operations]:
    """A scratch layer's changes; when the block ends they are on disk, whole."""
    record = Record(state_dir, lower, mountinfo.boot_id())
    data = DataFiles(state_dir, lower, record)
    data.sweep(record)
    space = Space(state_dir, size, sum(map(cost_of, record.inodes.values())))
    operations = Operations(Tree(lower, record, data), record, data, space)
    yield operations
    sync(operations, threading.Lock())
    data.sweep(record)
    data.close()
    record.close()


if __name__ == "__main__":
    sys.exit(main())
