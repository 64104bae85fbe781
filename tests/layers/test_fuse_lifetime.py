"""FUSE mounts over time: bounds, crashes, other processes, other users, views that are made again."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import winlayers
from tests.faults.steps import fork, wait
from tests.layers.fusemounts import Drive, content, drive, require_fuse, small_view
from tests.layers.mountviews import ViewBuilder
from tests.support import REPOSITORY, require, require_tool
from winlayers import durable
from winlayers.errors import LayerCorruptError, MountError
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.contract import MountAttempt
from winlayers.layers.portable.mounts.fusefs import mounter, processes

__all__ = ["drive"]
pytestmark = pytest.mark.root


def kill(drive: Drive) -> None:
    """End the process that serves the drive, as badly as can be."""
    assert drive.record is not None
    os.kill(drive.pid, signal.SIGKILL)
    assert processes.wait_for_end(drive.pid, drive.record.details["start"], 60)


def state_of(pid: int) -> str:
    """Whether the process runs (R), sleeps (S), is stopped (T), ...: ``proc(5)``."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def fill(path: Path) -> None:
    """Write to the file for as long as there is room."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


class TestSize:
    def test_is_shown_and_enforced(self, drive: Drive) -> None:
        size = 4 << 20
        root = drive.mount(size=size)
        about = os.statvfs(root)
        assert about.f_blocks * about.f_frsize == size
        assert about.f_bavail <= about.f_blocks
        written = 0
        failure = 0
        with (root / "big").open("wb", buffering=0) as file:
            while not failure:
                try:
                    written += file.write(bytes(65_536))
                except OSError as error:
                    failure = error.errno or -1
        assert failure == errno.ENOSPC
        assert size - (256 << 10) < written <= size
        assert os.statvfs(root).f_bavail * 4096 < 65_536
        # What frees space is not refused, and the space is there again.
        (root / "Windows" / "win.ini").unlink()
        (root / "big").unlink()
        (root / "next").write_bytes(bytes(3 << 20))
        assert (drive.remount(size=size) / "next").stat().st_size == 3 << 20

    def test_holds_for_every_way_to_grow(self, drive: Drive) -> None:
        root = drive.mount(size=190_000)

        def fails(call: object, *arguments: object) -> None:
            assert callable(call)
            with pytest.raises(OSError) as caught:
                call(*arguments)
            assert caught.value.errno == errno.ENOSPC

        (root / "file").touch()
        fails(os.truncate, root / "file", 300_000)
        assert (root / "file").stat().st_size == 0
        for number in range(4):
            if number < 2:
                os.setxattr(root / "file", f"user.stream{number}", bytes(65_000))
            else:
                fails(os.setxattr, root / "file", f"user.stream{number}", bytes(65_000))
        os.removexattr(root / "file", "user.stream0")
        os.setxattr(root / "file", "user.stream2", bytes(65_000))
        made = failure = 0
        while not failure:
            try:
                (root / f"empty {made}").touch()
                made += 1
            except OSError as error:
                failure = error.errno or -1
        assert failure == errno.ENOSPC
        assert 0 < made < 200

    def test_what_was_deleted_is_free_for_what_is_written_next(self, drive: Drive) -> None:
        """Also where the server learns of the write first: the kernel tells late that it forgot a file."""
        root = drive.mount(size=1 << 20)
        with (root / "next").open("wb", buffering=0) as file:
            file.write(bytes(4096))  # the kernel's questions ahead of a file's first write are answered now
            with pytest.raises(OSError, match="No space left"):
                fill(root / "big")
            held = os.open(root / "big", os.O_PATH)  # ends without a word to the server
            (root / "big").unlink()
            written: list[int | None] = []
            writer = threading.Thread(target=lambda: written.append(file.write(bytes(65_536))))
            os.kill(drive.pid, signal.SIGSTOP)
            try:
                while state_of(drive.pid) != "T":
                    pass
                os.close(held)
                writer.start()
                writer.join(0.5)
            finally:
                os.kill(drive.pid, signal.SIGCONT)
            writer.join(60)
        assert written == [65_536]

    def test_counts_the_same_after_a_remount(self, drive: Drive) -> None:
        root = drive.mount(size=1 << 20)
        (root / "a").write_bytes(bytes(100_000))
        with (root / "kernel.dll").open("r+b") as file:
            file.write(b"x")
        os.setxattr(root / "Readme.txt", "user.s", bytes(1000))
        (root / "Windows" / "win.ini").unlink()
        free = os.statvfs(root).f_bavail
        assert abs(os.statvfs(drive.remount(size=1 << 20)).f_bavail - free) <= 1

    def test_grows_with_the_next_mount(self, drive: Drive) -> None:
        (drive.mount(size=100_000) / "a").write_bytes(bytes(50_000))
        root = drive.remount(size=1 << 20)
        (root / "b").write_bytes(bytes(500_000))
        assert (root / "a").stat().st_size == 50_000


class TestCrashes:
    def test_what_was_done_survives_a_kill(self, drive: Drive) -> None:
        root = drive.mount()
        (root / "made").write_bytes(b"made")
        (root / "Windows").rename(root / "W")
        with (root / "kernel.dll").open("r+b") as file:
            file.write(b"XX")
        (root / "Readme.txt").unlink()
        kill(drive)
        record = drive.record
        assert record is not None
        assert not drive.mounter.is_alive(record)
        with pytest.raises(OSError) as caught:
            os.listdir(root)
        assert caught.value.errno == errno.ENOTCONN
        assert {"made", "W", "Windows", "W/System32/kernel.dll", "Readme.txt"} <= set(drive.changes())
        drive.mounter.unmount(record)
        assert mountinfo.mounts_at(str(root)) == []
        root = drive.mount()
        assert (root / "made").read_bytes() == b"made"
        assert (root / "W" / "System32" / "kernel.dll").read_bytes()[:4] == b"XXMZ"
        assert not (root / "Readme.txt").exists()

    def test_dead_mount_is_mounted_over_at_once(self, drive: Drive) -> None:
        (drive.mount() / "made").write_bytes(b"made")
        kill(drive)
        assert (drive.mount() / "made").read_bytes() == b"made"
        assert len(mountinfo.mounts_at(str(drive.root))) == 1

    def test_synced_data_survives_a_kill_while_the_file_is_open(self, drive: Drive) -> None:
        root = drive.mount()
        fd = os.open(root / "log", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"synced")
        os.fsync(fd)
        kill(drive)
        with pytest.raises(OSError):
            os.close(fd)
        drive.mounter.unmount(drive.record)  # type: ignore[arg-type]
        assert (drive.mount() / "log").read_bytes() == b"synced"

    def test_written_data_is_noted_soon_without_any_sync(self, drive: Drive) -> None:
        root = drive.mount()
        fd = os.open(root / "log", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"written")
        deadline = time.monotonic() + 60
        while drive.changes()["log"].size != len(b"written") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert content(drive.changes()["log"]) == b"written"
        os.close(fd)

    def test_loss_of_power_brings_back_what_was_synced(self, drive: Drive) -> None:
        """Blocks that were never synced are the layers' again, not whatever the disk has there."""
        root = drive.mount()
        with (root / "kernel.dll").open("r+b") as file:
            file.write(b"synced")
            file.flush()
            os.fsync(file.fileno())
            file.seek(70_000)
            file.write(b"not synced")
        kill(drive)
        drive.mounter.unmount(drive.record)  # type: ignore[arg-type]
        with sqlite3.connect(drive.state / "record.db") as db:
            db.execute("UPDATE meta SET value = 'another boot' WHERE key = 'boot'")
        db.close()
        for file_path in (drive.state / "data").rglob("*"):
            if file_path.is_file():
                with file_path.open("r+b") as lost:
                    lost.truncate(65_536)
                    lost.truncate(131_072)
        expected = b"synced" + b"MZ" * 99_997
        assert (drive.mount() / "kernel.dll").read_bytes() == expected

    def test_killed_again_and_again(self, drive: Drive) -> None:
        """At any time, in the midst of work; each file that was closed is whole."""
        script = (
            "import os, sys\n"
            "root, first = sys.argv[1], int(sys.argv[2])\n"
            "for number in range(first, first + 100000):\n"
            "    with open(f'{root}/t', 'wb') as file: file.write(b'%d' % number * 1000)\n"
            "    os.rename(f'{root}/t', f'{root}/f{number % 50}')\n"
            "    print(number, flush=True)\n"
        )
        last = 0
        for wanted in (1, 7, 20, 40):
            root = drive.mount()
            with subprocess.Popen(
                [sys.executable, "-c", script, str(root), str(last + 1)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as worker:
                assert worker.stdout is not None
                done = [worker.stdout.readline() for _ in range(wanted)]
                kill(drive)
                done += worker.stdout.read().split()
            drive.mounter.unmount(drive.record)  # type: ignore[arg-type]
            drive.record = None
            last = int(done[-1])
            root = drive.mount()
            for number in range(max(1, last - 40), last + 1):
                found = (root / f"f{number % 50}").read_bytes()
                assert found in (b"%d" % number * 1000, b"%d" % (last + 1) * 1000), number
            drive.unmount()
        assert last >= 68

    def test_termination_unmounts(self, drive: Drive) -> None:
        root = drive.mount()
        (root / "made").write_bytes(b"made")
        record = drive.record
        assert record is not None
        os.kill(drive.pid, signal.SIGTERM)
        assert processes.wait_for_end(drive.pid, record.details["start"], 60)
        assert mountinfo.mounts_at(str(root)) == []
        assert (drive.mount() / "made").read_bytes() == b"made"


class TestUnmounting:
    def test_busy(self, drive: Drive) -> None:
        root = drive.mount()
        with (root / "Readme.txt").open("rb"), pytest.raises(MountError, match=f"busy.*{os.getpid()}"):
            drive.unmount()
        assert drive.record is not None
        assert drive.mounter.is_alive(drive.record)
        pid = drive.pid
        drive.unmount()
        assert durable.start_time(pid) == ""
        assert os.listdir(root) == []

    def test_twice_is_fine(self, drive: Drive) -> None:
        drive.mount()
        record = drive.record
        assert record is not None
        drive.unmount()
        drive.mounter.unmount(record)
        assert not drive.mounter.is_alive(record)

    def test_leaves_one_plain_record(self, drive: Drive) -> None:
        (drive.mount() / "Readme.txt").write_bytes(b"x")
        drive.unmount()
        assert not (drive.state / "record.db-wal").exists()
        assert (drive.state / "fuse.log").read_bytes() == b""

    def test_what_a_killed_command_left_is_taken_down(self, drive: Drive) -> None:
        (drive.mount() / "made").write_bytes(b"made")
        drive.mounter.recover(MountAttempt("fuse", str(drive.root), "", str(drive.state)))
        assert mountinfo.mounts_at(str(drive.root)) == []
        assert (drive.mount() / "made").read_bytes() == b"made"

    def test_server_whose_command_was_killed_leaves_by_itself(self, drive: Drive) -> None:
        order = {
            "view": drive.view.path,
            "home": str(Path(drive.view.path).parent.parent),
            "target": str(drive.root),
            "state_dir": str(drive.state),
            "size": None,
        }
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "winlayers.layers.portable.mounts.fusefs.daemon"]
        subprocess.run(command, input=json.dumps(order).encode(), stdout=writer, check=True)
        os.close(writer)
        drive.mounter.recover(MountAttempt("fuse", str(drive.root), "", str(drive.state)))
        deadline = time.monotonic() + 60
        while mountinfo.mounts_at(str(drive.root)) and time.monotonic() < deadline:
            time.sleep(0.01)
        drive.mount()

    def test_server_that_was_about_to_mount_is_waited_for(
        self, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its command is killed after it has seen that somebody waits for the mount."""
        monkeypatch.setattr(mounter, "_DAEMON", "tests.layers.late_daemon")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), SOURCE)))
        monkeypatch.setenv("WINLAYERS_LATE", str(tmp_path))
        for name in ("waits", "go"):
            os.mkfifo(tmp_path / name)

        def mount() -> None:
            drive.mount(writable=False)

        gone_on = threading.Event()

        def go_on() -> None:
            gone_on.set()
            (tmp_path / "go").write_bytes(b"")

        command = fork(mount)
        (tmp_path / "waits").read_bytes()
        os.kill(command, signal.SIGKILL)
        wait(command)
        timer = threading.Timer(0.3, go_on)
        timer.start()
        attempt = MountAttempt("fuse", str(drive.root), "", None, os.path.dirname(drive.view.path))
        drive.mounter.recover(attempt)
        assert gone_on.is_set()
        assert mountinfo.mounts_at(str(drive.root)) == []
        timer.join()

    def test_one_server_for_one_scratch_layer(self, drive: Drive, tmp_path: Path) -> None:
        drive.mount()
        other = tmp_path / "other"
        other.mkdir()
        second = Drive(other, drive.view)
        second.state = drive.state
        with pytest.raises(MountError, match="another process serves"):
            second.mount()
        assert mountinfo.mounts_at(str(second.root)) == []

    def test_what_is_no_folder(self, drive: Drive) -> None:
        drive.root.rmdir()
        with pytest.raises(MountError, match="No such file"):
            drive.mount()
        drive.root.mkdir()


class TestViewsMadeAgain:
    def rebuild(self, drive: Drive, *, complete: bool = True) -> None:
        """Make the same view with other numbers."""
        home = Path(drive.view.path).parent.parent
        drive.view.close()
        shutil.rmtree(home)
        b = ViewBuilder(home)
        for number in range(7):
            b.file(f"Files/before {number}")
        b.file("Files/Readme.txt", b"read me")
        b.directory("Files/Windows")
        b.file("Files/Windows/win.ini", b"[fonts]")
        b.directory("Files/Windows/System32")
        if complete:
            data = b"MZ" * 100_000
            b.file("Files/Windows/System32/kernel.dll", data, streams={"Zone.Identifier": b"[Zone]"})
            b.link("Files/kernel.dll", "Files/Windows/System32/kernel.dll")
        drive.view = b.finish()

    def test_changes_find_their_files(self, drive: Drive) -> None:
        root = drive.mount()
        with (root / "kernel.dll").open("r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
        (root / "Windows" / "System32").rename(root / "S")
        (root / "Readme.txt").unlink()
        (root / "S" / "new").write_bytes(b"new")
        drive.unmount()
        before = drive.changes()
        self.rebuild(drive)
        for _ in range(2):
            changes = drive.changes()
            assert {p: (e.kind, e.origin) for p, e in changes.items()} == {
                p: (e.kind, e.origin) for p, e in before.items()
            }
            assert content(changes["kernel.dll"])[100_000:100_007] == b"changed"
            root = drive.mount()
            assert (root / "S" / "kernel.dll").read_bytes()[99_998:100_009] == b"MZchangedZM"
            assert sorted(os.listdir(root / "S")) == ["kernel.dll", "new"]
            assert not (root / "Readme.txt").exists()
            drive.unmount()

    def test_layers_that_lack_them_are_refused(self, drive: Drive) -> None:
        with (drive.mount() / "kernel.dll").open("r+b") as file:
            file.write(b"x")
        drive.unmount()
        self.rebuild(drive, complete=False)
        with pytest.raises(LayerCorruptError, match="no longer have"):
            drive.changes()
        with pytest.raises(MountError, match="no longer have"):
            drive.mount()
        assert mountinfo.mounts_at(str(drive.root)) == []

    def test_record_that_is_none(self, drive: Drive) -> None:
        (drive.state / "record.db").write_bytes(b"not a database" * 1000)
        with pytest.raises(LayerCorruptError, match="can't be read"):
            drive.changes()
        with pytest.raises(MountError, match="can't be read"):
            drive.mount()


def _work(root: str, worker: int, rounds: int) -> None:
    own = f"{root}/worker {worker}"
    os.mkdir(own)
    for number in range(rounds):
        path = f"{own}/{number}"
        with open(path, "wb") as file:
            file.write(b"%d" % number * 500)
        with open(f"{root}/shared", "ab") as file:
            file.write(b"%d\n" % worker)
        os.rename(path, f"{own}/R{number}")
        if number % 3 == 0:
            os.unlink(f"{own}/r{number}")
        assert len(os.listdir(own)) <= rounds
        with open(f"{root}/WINDOWS/system32/KERNEL.dll", "rb") as file:
            file.seek(number * 100)
            assert file.read(2) == b"MZ"


def test_many_processes_at_once(drive: Drive) -> None:
    root = drive.mount()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(str(root), number, 60)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 6
    root = drive.remount()
    assert sorted((root / "shared").read_bytes().split()) == sorted(b"%d" % (i % 6) for i in range(360))
    for number in range(6):
        names = set(os.listdir(root / f"worker {number}"))
        assert names == {f"R{n}" for n in range(60) if n % 3}
    assert drive.changes()["shared"].size == 720


SCRIPT = """
import os, sys
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.view import View
view = View(sys.argv[1] + "/home/view/view.db", sys.argv[1] + "/home")
mounter = FuseMounter()
assert os.geteuid() == int(sys.argv[2]), os.geteuid()
assert mounter.unavailable() is None, mounter.unavailable()
root = sys.argv[1] + "/mnt"
record = mounter.mount(MountRequest(view, sys.argv[1] + "/home/view", root, sys.argv[1] + "/state", 1 << 20))
assert mounter.is_alive(record)
assert open(root + "/README.txt").read() == "read me"
assert os.stat(root + "/Readme.txt").st_uid == os.geteuid()
open(root + "/made", "w").write("made by a user")
os.chmod(root + "/Readme.txt", 0o444)
try:
    if os.geteuid():
        open(root + "/Readme.txt", "a")
        raise SystemExit("a read-only file was opened for writing")
except PermissionError:
    pass
mounter.unmount(record)
assert not mounter.is_alive(record)
assert {e.path for e in mounter.changes(view, sys.argv[1] + "/state")} == {"made", "Readme.txt"}
print("done")
"""


SOURCE = str(Path(winlayers.__file__).resolve().parent.parent)
NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
OPEN_DEVICE = (
    "place=$(mktemp -d) && mount -t tmpfs none $place && mknod -m 666 $place/fuse c 10 229"
    " && mount --bind $place/fuse /dev/fuse && umount -l $place && rmdir $place"
    ' && exec "$@"'
)


def _run(prefix: list[str], python: str, folder: Path, user: int) -> subprocess.CompletedProcess[bytes]:
    command = [*prefix, python, "-B", "-c", SCRIPT, str(folder), str(user)]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(command, capture_output=True, timeout=60, check=False, cwd="/", env=environment)


def _python_for_all() -> str | None:
    """A Python that an ordinary user can run, with this package."""
    for python in (sys.executable, "/usr/bin/python3"):
        # It must be able to start itself, too; setpriv can start what its child can't.
        probe = (
            "import subprocess, sys, winlayers.layers.portable.mounts.select;"
            "subprocess.run([sys.executable, '-c', ''], check=True)"
        )
        command = [*AS_NOBODY, python, "-B", "-c", probe]
        environment = {**os.environ, "PYTHONPATH": SOURCE}
        ran = subprocess.run(command, capture_output=True, check=False, cwd="/", env=environment)
        if ran.returncode == 0:
            return python
    return None


def test_root_of_a_user_name_space(drive: Drive, tmp_path: Path) -> None:
    ran = _run([require_tool("unshare"), "-Urm"], sys.executable, tmp_path, 0)
    assert (ran.stdout, ran.stderr.decode()) == (b"done\n", "")


def test_ordinary_user() -> None:
    """Through ``fusermount3``, with a ``/dev/fuse`` that is open to all in a mount name space of its own."""
    require_fuse()
    for tool in ("unshare", "setpriv", "fusermount3", "mknod"):
        require_tool(tool)
    python = _python_for_all()
    require(python is not None, "no Python that an ordinary user can run has this package")
    folder = Path(tempfile.mkdtemp(prefix="winlayers-user-"))
    small_view(folder / "home").close()
    try:
        for name in ("mnt", "state"):
            (folder / name).mkdir()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        ran = _run(["unshare", "-m", "sh", "-c", OPEN_DEVICE, "sh", *AS_NOBODY], str(python), folder, NOBODY)
        assert (ran.stdout, ran.stderr.decode()) == (b"done\n", "")
    finally:
        shutil.rmtree(folder)
