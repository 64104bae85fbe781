"""The ``fuse`` kind of mount."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers.durable import FileLock
from winlayers.errors import MountError
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.contract import (
    MountAttempt,
    Mounter,
    MountRecord,
    MountRequest,
    UpperEntry,
)
from winlayers.layers.portable.mounts.fusefs import device, processes
from winlayers.layers.portable.mounts.fusefs.changes import record_changes
from winlayers.layers.portable.view import View

_DAEMON = "winlayers.layers.portable.mounts.fusefs.daemon"
_LOG = "fuse.log"
_START = 300.0
_END = 600.0
_RETRIES = 20
_PAUSE = 0.05
_READ_AHEAD_KB = "1024"


class FuseMounter(Mounter):
    """Serves a view from a process of its own, with NTFS's rules for names, links, metadata and size."""

    kind = "fuse"
    enforces_size = True

    def unavailable(self) -> str | None:
        """Why this kind can't be used here and now; None: it can."""
        if sys.platform != "linux":
            return "this speaks to Linux's FUSE only"
        return device.unavailable()

    def mount(self, request: MountRequest) -> MountRecord:
        """Make the mount.

        Raises:
            MountError: it can't be made; nothing is left mounted or running.
        """
        device.clear_target(request.target)
        layers = request.view.layers
        home = os.path.dirname(layers[0].folder) if layers else os.path.dirname(request.view_dir)
        order: dict[str, object] = {
            "view": request.view.path,
            "home": home,
            "target": request.target,
            "state_dir": request.state_dir,
            "size": request.size,
        }
        if request.state_dir is not None:
            lock = processes.take_lock(request.state_dir)
            if lock is None:
                raise MountError("another process serves this scratch layer", path=request.state_dir)
        else:
            # There is nothing to be locked for as long as it serves; but `recover` must not be too early.
            order["starting"] = lock = processes.mark_start(request.view_dir)
        try:
            answer = _start(order, lock)
        finally:
            if lock is not None:
                os.close(lock)
        if "error" in answer:
            raise MountError(str(answer["error"]))
        details = {"pid": str(answer["pid"]), "start": str(answer["start"])}
        found = mountinfo.mounts_at(request.target)
        if not found or found[-1].kind != device.KIND:
            raise MountError("the mount was gone at once", path=request.target)
        details["mount_id"] = str(found[-1].id)
        details["name_space"] = mountinfo.name_space()
        _read_ahead(request.target)
        writable = request.state_dir is not None
        return MountRecord(self.kind, request.target, writable, mountinfo.boot_id(), details)

    def recover(self, attempt: MountAttempt) -> None:
        """Take down what is at the target, and wait for the process that serves it.

        Raises:
            MountError: it can't be taken down, or the process does not end.
        """
        # One that was being started may be about to mount, before it finds that nobody wants it any more.
        unmarked = attempt.state_dir is not None or not attempt.view_dir
        if not unmarked and not processes.wait_for_starts(attempt.view_dir, _END):
            raise MountError("a process is still being started to serve it", path=attempt.target)
        while there := mountinfo.mounts_at(attempt.target):
            try:
                device.unmount(attempt.target, lazy=True)
            except OSError as failure:
                if mountinfo.mounts_at(attempt.target) != there:
                    continue  # a server that finds itself unwanted does the same
                raise MountError(
                    f"what a killed process mounted can't be unmounted: {failure.strerror}",
                    path=attempt.target,
                ) from failure
        if attempt.state_dir is not None and os.path.isdir(attempt.state_dir):
            lock = FileLock(os.path.join(attempt.state_dir, processes.LOCK), timeout=_END)
            if not lock.acquire():
                raise MountError("a process still serves the scratch layer", path=attempt.state_dir)
            lock.release()

    def unmount(self, record: MountRecord) -> None:
        """Take the mount down, with all changes written.

        Raises:
            MountError: it is busy.
        """
        if record.boot_id != mountinfo.boot_id():
            return
        pid, start = int(record.details["pid"]), record.details["start"]
        if mountinfo.find(record.target, int(record.details["mount_id"])) is not None:
            try:
                _unmount(record.target, lazy=not processes.is_alive(pid, start))
            except OSError as failure:
                raise MountError(
                    f"can't be unmounted: {failure.strerror}",
                    path=record.target,
                    hint=mountinfo.holders(record.target),
                ) from failure
        if not processes.wait_for_end(pid, start, _END):
            raise MountError(f"process {pid} still serves files of the mount", path=record.target)

    def is_alive(self, record: MountRecord) -> bool:
        """Whether the mount is there, in this process's mount name space, and served."""
        details = record.details
        if record.boot_id != mountinfo.boot_id() or not details.get("mount_id", "").isdigit():
            return False
        found = mountinfo.find(record.target, int(details["mount_id"]))
        if found is None or found.kind != device.KIND:
            return False
        return processes.is_alive(int(details["pid"]), details["start"])

    def changes(self, view: View, state_dir: str) -> Iterator[UpperEntry]:
        """What the scratch layer changes; it may be mounted meanwhile."""
        return record_changes(view, state_dir)


def _start(order: dict[str, object], lock: int | None) -> dict[str, object]:
    """Start the process that serves the mount, and is given the descriptor of a lock to hold; its answer."""
    state_dir = order["state_dir"]
    log = os.devnull if state_dir is None else os.path.join(str(state_dir), _LOG)
    with open(log, "ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", _DAEMON],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    with process:
        if process.stdin is None or process.stdout is None:
            raise MountError("no pipe to the process that serves the mount")
        try:
            process.stdin.write(json.dumps(order).encode("ascii"))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died; there is no answer then
        if not processes.wait_to_read(process.stdout.fileno(), _START):
            raise MountError(f"the process that serves the mount is not ready after {_START:.0f} seconds")
        line = process.stdout.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise MountError("the process that serves the mount died", hint=f"see {log}") from None
    if not isinstance(answer, dict):
        raise MountError("the process that serves the mount answered nonsense", hint=f"see {log}")
    return answer


def _unmount(target: str, *, lazy: bool) -> None:
    for attempt in range(_RETRIES):
        try:
            device.unmount(target, lazy=lazy)
            return
        except OSError as failure:
            if failure.errno != errno.EBUSY or attempt == _RETRIES - 1:
                raise
            time.sleep(_PAUSE)  # indexers and the like hold files for moments only


def _read_ahead(target: str) -> None:
    """Let the kernel ask for large pieces, where this user may tell it to; its default is 128 KiB."""
    number = os.stat(target).st_dev
    try:
        with open(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb", "w") as file:
            file.write(_READ_AHEAD_KB)
    except OSError:
        pass  # a matter of speed alone
