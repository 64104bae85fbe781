"""EROFS images and overlays: mounted, compared, changed, taken down."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.steps import fork, wait
from tests.layers.mountviews import ViewBuilder, assert_mounted, names_that_leave, odd_view, real_view
from tests.support import require, require_root
from winlayers.errors import LayerCorruptError, MountError, UnsupportedError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts import anchored, erofs, loop, mountinfo, overlay, scratch, syscalls
from winlayers.layers.portable.mounts.contract import MountRecord, MountRequest
from winlayers.layers.portable.mounts.erofs import ErofsMounter
from winlayers.layers.portable.view import Source, View

pytestmark = pytest.mark.root


class Mounted:
    """Mounts views below a folder, and takes all down at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[tuple[ErofsMounter, MountRecord]] = []

    def mount(
        self, view: View, *, writable: bool = False, size: int | None = None, use_loop: bool = False
    ) -> tuple[str, MountRecord]:
        mounter = ErofsMounter(use_loop=use_loop)
        why = mounter.unavailable()
        require(why is None, str(why))
        target = self.folder / "mnt"
        target.mkdir(exist_ok=True)
        state = self.folder / "state"
        if writable:
            state.mkdir(exist_ok=True)
        request = MountRequest(
            view, os.path.dirname(view.path), str(target), str(state) if writable else None, size
        )
        record = mounter.mount(request)
        self.records.append((mounter, record))
        return str(target), record

    def unmount(self, record: MountRecord) -> None:
        ErofsMounter().unmount(record)

    def close(self) -> None:
        for mounter, record in reversed(self.records):
            mounter.unmount(record)
        assert not mountinfo.mounts_at(str(self.folder / "mnt"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    require_root()
    mounts = Mounted(tmp_path)
    yield mounts
    mounts.close()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


@pytest.mark.parametrize("use_loop", [False, True])
def test_a_read_only_mount_shows_all_that_the_view_holds(
    mounted: Mounted, view: View, use_loop: bool
) -> None:
    target, record = mounted.mount(view, use_loop=use_loop)
    assert assert_mounted(view, target) == view.count() - 1
    assert not record.writable
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "new").write_bytes(b"")


def test_links_lead_to_their_files(mounted: Mounted, view: View) -> None:
    root = Path(mounted.mount(view)[0])
    assert (root / "to-file").read_bytes() == b"MZ" * 5000
    assert (root / "junction" / "a.dll").read_bytes() == b"MZ" * 5000
    assert (root / "to-drive" / "b.dll").stat().st_nlink == 2
    assert not (root / "elsewhere").exists()
    assert os.getxattr(root / "to-file", "trusted.ntfs_attrib", follow_symlinks=False) == b"\0\x04\0\0"


def test_a_writable_mount_shows_the_same(mounted: Mounted, view: View) -> None:
    target, record = mounted.mount(view, writable=True)
    assert record.writable
    assert_mounted(view, target, room=xattrs.WRITABLE_ROOM)


def test_128_layers_and_their_side_files(mounted: Mounted, tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "many", 128)
    for layer in range(128):
        b.file(f"Files/tar {layer}", b"%d" % layer, layer=layer)
        b.file(f"Files/side {layer}", bytes([layer]) * 5000, layer=layer, source=Source.SIDE)
    with b.finish() as view:
        target, _ = mounted.mount(view, writable=True)
        assert assert_mounted(view, target, room=xattrs.WRITABLE_ROOM) == 256


def test_a_deep_tree_with_long_names_in_a_long_folder(mounted: Mounted, tmp_path: Path) -> None:
    # Longer than an option of fsconfig(2) can be, and with what separates options.
    home = tmp_path / ("long," * 40) / ("colon:" * 20)
    home.mkdir(parents=True)
    b = ViewBuilder(home / "home")
    path = "Files"
    for depth in range(60):
        path += f"/directory {depth} " + "x" * 80
        b.directory(path)
    b.file(f"{path}/file", b"deep")
    with b.finish() as view:
        target, record = mounted.mount(view)
        directory = os.open(target, os.O_RDONLY)
        for part in path.split("/")[1:]:
            below = os.open(part, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = below
        with open(os.open("file", os.O_RDONLY, dir_fd=directory), "rb") as file:
            os.close(directory)
            assert file.read() == b"deep"
        mounted.unmount(record)
        state = home / "state"
        state.mkdir()
        request = MountRequest(view, os.path.dirname(view.path), target, str(state))
        record = ErofsMounter().mount(request)
        try:
            Path(target, "new").write_bytes(b"x")
            assert [e.path for e in ErofsMounter().changes(view, str(state))] == ["new"]
        finally:
            ErofsMounter().unmount(record)


@pytest.mark.parametrize("writable", [False, True])
def test_directories_that_end_anywhere_in_their_block(
    mounted: Mounted, tmp_path: Path, writable: bool
) -> None:
    b = ViewBuilder(tmp_path / "home")
    expected = {}
    for blocks in (1, 2, 3):
        for gap in range(70):
            folder = f"{blocks}-{gap}"
            expected[folder] = names_that_leave(gap, blocks)
            b.directory(f"Files/{folder}")
            for name in expected[folder]:
                b.file(f"Files/{folder}/{name}", name.encode())
    with b.finish() as view:
        root, record = mounted.mount(view, writable=writable)
        assert {folder: sorted(os.listdir(f"{root}/{folder}")) for folder in os.listdir(root)} == expected
        for folder, names in expected.items():
            for name in names:
                assert Path(root, folder, name).read_bytes() == name.encode()
            with pytest.raises(FileNotFoundError):
                os.stat(f"{root}/{folder}/{names[-1]}x")
        mounted.unmount(record)


def test_an_empty_view(mounted: Mounted, tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "empty")
    b.db.execute("DELETE FROM nodes WHERE id = ?", (b.nodes["Files"],))
    with b.finish() as view:
        assert view.drive is None
        target, _ = mounted.mount(view, writable=True)
        assert os.listdir(target) == []
        Path(target, "new").write_bytes(b"x")


def test_a_large_file_in_several_chunks(mounted: Mounted, tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "large")
    b.file("Files/large", b"start")
    size = (5 << 30) + 777
    (offset,) = b.db.execute("SELECT offset FROM inodes WHERE id = ?", (b.inodes["Files/large"],)).fetchone()
    b.db.execute("UPDATE inodes SET size = ? WHERE id = ?", (size, b.inodes["Files/large"]))
    tar = tmp_path / "large" / "layer0" / "layer.tar"
    marks = [1 << 30, (1 << 30) - 3, 4 << 30, size - 5]
    with open(tar, "r+b") as file:
        file.truncate(offset + size + 512 - size % 512)
        for mark in marks:
            file.seek(offset + mark)
            file.write(b"mark!")
    with b.finish() as view:
        target, _ = mounted.mount(view)
        path = Path(target, "large")
        assert path.stat().st_size == size
        with open(path, "rb") as file:
            assert file.read(5) == b"start"
            for mark in marks[2:] + marks[1:2]:
                file.seek(mark)
                assert file.read(5) == b"mark!"


def test_the_mount_outlives_and_is_found_by_its_id(mounted: Mounted, view: View) -> None:
    _, record = mounted.mount(view, writable=True)
    again = MountRecord(**json.loads(json.dumps(dataclasses.asdict(record))))
    mounter = ErofsMounter()
    assert mounter.is_alive(again)
    assert not mounter.is_alive(dataclasses.replace(again, boot_id="another"))
    assert not mounter.is_alive(dataclasses.replace(again, details={**again.details, "mount_id": "1"}))
    mounter.unmount(dataclasses.replace(again, boot_id="another"))
    assert mounter.is_alive(again)
    mounter.unmount(again)
    assert not mounter.is_alive(again)
    mounter.unmount(again)


def test_a_mount_is_not_for_devices_and_set_user_id(mounted: Mounted, view: View) -> None:
    for writable in (False, True):
        target, record = mounted.mount(view, writable=writable)
        flags = os.statvfs(target).f_flag
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOSUID
        mounted.unmount(record)


def test_a_busy_mount_stays_and_names_who_uses_it(
    mounted: Mounted, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erofs, "_RETRIES", 2)
    target, record = mounted.mount(view, writable=True)
    with open(Path(target, "one"), "rb"):
        with pytest.raises(MountError, match=rf"busy .*process {os.getpid()}"):
            ErofsMounter().unmount(record)
        assert ErofsMounter().is_alive(record)


def test_changes_survive_unmounting_and_mounting_again(mounted: Mounted, view: View) -> None:
    target, record = mounted.mount(view, writable=True)
    Path(target, "new").write_bytes(b"kept")
    Path(target, "one").unlink()
    mounted.unmount(record)
    target, _ = mounted.mount(view, writable=True)
    assert Path(target, "new").read_bytes() == b"kept"
    assert not Path(target, "one").exists()


def test_origins_are_found_after_the_image_was_made_again(mounted: Mounted, view: View) -> None:
    target, record = mounted.mount(view, writable=True)
    os.rename(Path(target, "one"), Path(target, "uno"))
    with open(Path(target, "block"), "ab") as file:
        file.write(b"!")
    mounted.unmount(record)
    state = str(mounted.folder / "state")
    folder = os.path.dirname(view.path)
    before = [(e.path, e.origin) for e in ErofsMounter().changes(view, state)]
    assert ("uno", "one") in before
    for name in os.listdir(folder):
        if name.endswith(".erofs"):
            os.unlink(os.path.join(folder, name))
    target, record = mounted.mount(view, writable=True)
    assert [(e.path, e.origin) for e in ErofsMounter().changes(view, state)] == before


def test_what_a_killed_attempt_left_is_cleaned_up(mounted: Mounted, view: View, tmp_path: Path) -> None:
    target, _ = mounted.mount(view)  # a read-only image, as left between the steps of a writable mount
    target, _ = mounted.mount(view, writable=True)
    assert [mount.kind for mount in mountinfo.mounts_at(target)] == ["overlay"]
    with pytest.raises(MountError, match="mounted there already"):
        mounted.mount(view)


@pytest.mark.parametrize("call", ["create", "mount", "move_mount"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_failure_leaves_nothing_mounted(
    mounted: Mounted,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    call: str,
    which: int,
) -> None:
    where = syscalls if call == "move_mount" else syscalls.Context
    real = getattr(where, call)
    calls = 0

    def fail_once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == which + 1:
            raise syscalls.MountCallError(errno.EIO, "made up", call)
        return real(*arguments)

    monkeypatch.setattr(where, call, fail_once)
    with pytest.raises(MountError, match="made up"):
        mounted.mount(view, writable=True)
    # Other tests may be mounting elsewhere meanwhile.
    assert not [mount for mount in mountinfo.mounts() if mount.target.startswith(str(tmp_path))]


def test_data_beyond_a_layer_s_end_is_damage(mounted: Mounted, view: View, tmp_path: Path) -> None:
    os.truncate(tmp_path / "home" / "layer1" / "layer.tar", 512)
    with pytest.raises(LayerCorruptError, match="layer1"):
        mounted.mount(view)


def test_a_scratch_layer_on_an_overlay_is_refused_with_advice(mounted: Mounted, view: View) -> None:
    target, _ = mounted.mount(view, writable=True)
    state, second = Path(target, "state"), mounted.folder / "second"
    state.mkdir()
    second.mkdir()
    request = MountRequest(view, os.path.dirname(view.path), str(second), str(state))
    with pytest.raises(MountError, match=r"says: overlay: .*no overlay itself"):
        ErofsMounter().mount(request)
    assert not mountinfo.mounts_at(str(second))


# -- sizes --


def test_a_size_is_enforced_and_can_grow(mounted: Mounted, view: View) -> None:
    why = scratch.cannot_enforce()
    require(why is None, str(why))
    target, record = mounted.mount(view, writable=True, size=16 << 20)
    with pytest.raises(OSError, match="No space left"):
        Path(target, "fill").write_bytes(bytes(20 << 20))
    written = Path(target, "fill").stat().st_size
    assert 4 << 20 < written < 16 << 20
    mounted.unmount(record)
    state = str(mounted.folder / "state")
    assert not mountinfo.mounts_at(os.path.join(state, scratch.MOUNT))
    entries = list(ErofsMounter().changes(view, state))
    assert [(e.path, e.size) for e in entries] == [("fill", written)]
    with entries[0].open() as file:  # type: ignore[misc]  # a file has one
        assert len(file.read()) == written
    del entries
    target, record = mounted.mount(view, writable=True, size=64 << 20)
    Path(target, "more").write_bytes(bytes(20 << 20))
    mounted.unmount(record)
    mounted.mount(view, writable=True)
    assert Path(target, "more").stat().st_size == 20 << 20


@pytest.mark.parametrize("tool", ["mkfs.ext4", "resize2fs"])
def test_a_tool_that_outlives_its_command_is_waited_for(
    mounted: Mounted, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    """Two at a time would ruin the file system; the first tells when it begins, and waits to be told more."""
    why = scratch.cannot_enforce()
    require(why is None, str(why))
    if tool == "resize2fs":
        _, record = mounted.mount(view, writable=True, size=16 << 20)
        mounted.unmount(record)
    real = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("begins", "go"):
        os.mkfifo(folder / name)
    wait_once = f'mkdir "{folder}/once" 2>/dev/null && {{ : > "{folder}/begins"; cat "{folder}/go"; }}'
    note = f'>> "{folder}/log"'
    (folder / tool).write_text(
        f'#!/bin/sh\necho begin {note}\n{wait_once}\n{real} "$@"; s=$?\necho end {note}\nexit $s\n'
    )
    (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def mount() -> None:
        mounted.mount(view, writable=True, size=32 << 20)

    command = fork(mount)
    (folder / "begins").read_bytes()
    os.kill(command, signal.SIGKILL)
    wait(command)
    timer = threading.Timer(1, lambda: (folder / "go").write_bytes(b""))
    timer.start()
    mount()
    timer.join()
    log = (folder / "log").read_text().split()
    assert log == ["begin", "end"] * (len(log) // 2)  # never two at once


@pytest.fixture
def bounded(mounted: Mounted, view: View) -> str:
    """The folder of a scratch layer of 16 MiB that is not mounted and holds the file ``kept``."""
    why = scratch.cannot_enforce()
    require(why is None, str(why))
    target, record = mounted.mount(view, writable=True, size=16 << 20)
    Path(target, "kept").write_bytes(b"kept")
    mounted.unmount(record)
    return str(mounted.folder / "state")


def test_who_ends_reading_takes_nothing_from_others(
    bounded: str, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ErofsMounter().changes(view, bounded)
    assert next(first).path == "kept"
    anchor = anchored.Anchor

    def end_first(path: str) -> anchored.Anchor:
        first.close()  # type: ignore[attr-defined]  # a generator
        return anchor(path)

    monkeypatch.setattr(anchored, "Anchor", end_first)
    assert [entry.path for entry in ErofsMounter().changes(view, bounded)] == ["kept"]


def test_changes_go_where_they_belong_when_a_reader_ends_meanwhile(
    mounted: Mounted, bounded: str, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ErofsMounter().changes(view, bounded)
    assert next(reader).path == "kept"
    prepare = overlay.prepare_upper

    def end_reader(upper: str, view: View) -> None:
        reader.close()  # type: ignore[attr-defined]  # a generator
        prepare(upper, view)

    monkeypatch.setattr(erofs, "prepare_upper", end_reader)
    target, _ = mounted.mount(view, writable=True)
    assert Path(target, "kept").read_bytes() == b"kept"


def test_a_file_never_has_two_loop_devices(bounded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = os.path.join(bounded, scratch.IMAGE)
    found: list[tuple[str, int]] = []
    other = threading.Thread(target=lambda: found.append(loop.attach(image, read_only=False, unique=True)))
    find = loop.find

    def begin_other(path: str, **options: bool) -> str | None:
        device = find(path, **options)
        if threading.current_thread() is not other and other.ident is None:
            other.start()
            other.join(0.5)  # it has to wait, or is done
        return device

    monkeypatch.setattr(loop, "find", begin_other)
    found.append(loop.attach(image, read_only=False, unique=True))
    other.join(60)
    try:
        assert len({device for device, _ in found}) == 1
    finally:
        for _, fd in found:
            os.close(fd)


def test_who_can_only_read_keeps_nobody_from_writing(mounted: Mounted, bounded: str, view: View) -> None:
    """A reader elsewhere, to whom the store is on a read-only mount, has a device that can't be written."""
    _, fd = loop.attach(os.path.join(bounded, scratch.IMAGE))
    try:
        target, _ = mounted.mount(view, writable=True)
        Path(target, "kept").write_bytes(b"changed")
    finally:
        os.close(fd)


def test_a_store_whose_file_system_has_no_locks(
    mounted: Mounted, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS for one: there a descriptor that only reads can't be locked exclusively."""
    why = scratch.cannot_enforce()
    require(why is None, str(why))

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr("fcntl.flock", flock)
    _, record = mounted.mount(view, writable=True, size=16 << 20)
    mounted.unmount(record)
    target, _ = mounted.mount(view, writable=True, size=32 << 20)
    Path(target, "new").write_bytes(b"new")


def test_a_loop_device_that_went_over_to_another_file_is_not_taken(
    bounded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_bytes(bytes(1 << 20))
    taken, other = loop.attach(str(tmp_path / "other"))
    find, answers = loop.find, [taken]
    monkeypatch.setattr(loop, "find", lambda path, **_: answers.pop() if answers else find(path))
    device, fd = loop.attach(os.path.join(bounded, scratch.IMAGE), read_only=False, unique=True)
    try:
        assert device != taken
        assert find(os.path.join(bounded, scratch.IMAGE)) == device
    finally:
        os.close(fd)
        os.close(other)


def test_a_size_that_bounds_nothing_takes_no_file_system(mounted: Mounted, view: View) -> None:
    mounted.mount(view, writable=True, size=127 << 30)
    assert not (mounted.folder / "state" / scratch.IMAGE).exists()
    assert not scratch.is_bound(None, str(mounted.folder))
    about = os.statvfs(mounted.folder)
    assert not scratch.is_bound(about.f_blocks * about.f_frsize, str(mounted.folder))
    assert scratch.is_bound(1 << 20, str(mounted.folder))


def test_sizes_that_can_t_be_are_refused(
    mounted: Mounted, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedError, match="too small"):
        mounted.mount(view, writable=True, size=1 << 20)
    target, record = mounted.mount(view, writable=True)
    Path(target, "new").write_bytes(b"")
    mounted.unmount(record)
    with pytest.raises(UnsupportedError, match="holds changes"):
        mounted.mount(view, writable=True, size=32 << 20)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UnsupportedError, match="not installed"):
        mounted.mount(view, writable=True, size=32 << 20)
    assert not mountinfo.mounts_at(target)


# -- a real image --


def test_the_merged_view_of_a_real_image(mounted: Mounted, tmp_path: Path) -> None:
    with real_view(tmp_path / "store") as view:
        target, _ = mounted.mount(view, writable=True)
        assert assert_mounted(view, target, room=xattrs.WRITABLE_ROOM) > 700
        root = Path(target)
        assert [name for name in os.listdir(root) if name.lower() == "windows"] == ["Windows"]
        assert (root / "Windows" / "win.ini").is_dir()
        assert os.listdir(root / "Windows" / "Globalization") == ["new.nls"]
