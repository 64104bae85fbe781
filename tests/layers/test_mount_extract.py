"""Extracted views: compared, shared, changed, taken away."""

from __future__ import annotations

import codecs
import errno
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import assert_mounted, odd_view
from tests.support import require, require_root
from winlayers import durable
from winlayers.errors import LayerCorruptError, UnsupportedError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.mounts.extract import ExtractMounter
from winlayers.layers.portable.mounts.extractor import can_clone
from winlayers.layers.portable.view import View

_USER = 65534


@pytest.fixture
def user_folder() -> Iterator[Path]:
    """A folder that ordinary users can reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


def test_a_try_at_cloning_is_nobody_s_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "below", tmp_path / "scratch"]
    seen: list[Path] = []

    def clone(*_: object) -> None:
        for folder in folders:
            seen.extend(folder.iterdir())
            assert durable.sweep(str(folder)) == []

    monkeypatch.setattr("winlayers.layers.portable.mounts.extractor.fcntl.ioctl", clone)
    for folder in folders:
        folder.mkdir()
    assert can_clone(*map(str, folders))
    assert len(seen) == len(folders)
    assert not any(path.exists() for path in seen)


def test_a_writable_tree_shows_all_that_the_view_holds(tmp_path: Path, view: View) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    request = MountRequest(view, os.path.dirname(view.path), str(tmp_path / "mnt"), str(tmp_path / "state"))
    mounter = ExtractMounter()
    record = mounter.mount(request)
    assert mounter.is_alive(record)
    assert_mounted(view, record.target, room=xattrs.WRITABLE_ROOM, link_attributes=False, oldest=-(2**31))
    assert list(mounter.changes(view, str(tmp_path / "state"))) == []
    mounter.unmount(record)
    assert os.listdir(tmp_path / "mnt") == []
    assert not mounter.is_alive(record)
    assert list(mounter.changes(view, str(tmp_path / "state"))) == []


def _as_user(tmp_path: Path, action: Callable[[], None]) -> None:
    """Run *action* in a child process as an ordinary user, to whom the folder belongs."""
    require_root()
    codecs.lookup("ascii")  # its module may lie where only root can read, and be wanted only by then
    for folder, names, files in os.walk(tmp_path):
        for path in [folder, *(os.path.join(folder, name) for name in names + files)]:
            os.chown(path, _USER, _USER, follow_symlinks=False)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(_USER)
            os.setuid(_USER)
            action()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as a second test run
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_read_only_mounts_of_a_user_share_their_files(
    user_folder: Path,
) -> None:
    with odd_view(user_folder / "home") as view:
        path, home = view.path, str(user_folder / "home")

    def mount_twice() -> None:
        mounter = ExtractMounter()
        records = []
        with View(path, home) as view:
            for name in ("first", "second"):
                (user_folder / name).mkdir()
                target = str(user_folder / name)
                records.append(mounter.mount(MountRequest(view, os.path.dirname(path), target)))
                assert_mounted(
                    view,
                    target,
                    room=xattrs.WRITABLE_ROOM,
                    link_attributes=False,
                    oldest=-(2**31),
                    hidden_bits=0o222,
                )
        first, second = (os.stat(user_folder / name / "block") for name in ("first", "second"))
        assert first.st_ino == second.st_ino
        for attempt in ("block", "Windows/new"):
            with pytest.raises(PermissionError):
                (user_folder / "first" / attempt).write_bytes(b"")
        for record in records:
            assert mounter.is_alive(record)
            mounter.unmount(record)
            assert os.listdir(record.target) == []
        assert not [n for n in os.listdir(user_folder / "home/view/extract") if n.startswith("mount-")]

    _as_user(user_folder, mount_twice)


def test_a_user_s_scratch_layer(user_folder: Path) -> None:
    with odd_view(user_folder / "home") as view:
        path, home = view.path, str(user_folder / "home")

    def change() -> None:
        mounter = ExtractMounter()
        with View(path, home) as view:
            for name in ("mnt", "state"):
                (user_folder / name).mkdir()
            request = MountRequest(
                view, os.path.dirname(path), str(user_folder / "mnt"), str(user_folder / "state")
            )
            record = mounter.mount(request)
            (user_folder / "mnt" / "one").write_bytes(b"changed")
            mounter.unmount(record)
            assert [e.path for e in mounter.changes(view, str(user_folder / "state"))] == ["one"]

    _as_user(user_folder, change)


def test_root_s_read_only_mounts_have_files_of_their_own(tmp_path: Path, view: View) -> None:
    require_root()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    mounter = ExtractMounter()
    records = [
        mounter.mount(MountRequest(view, os.path.dirname(view.path), str(tmp_path / name)))
        for name in ("first", "second")
    ]
    assert (tmp_path / "first" / "block").stat().st_ino != (tmp_path / "second" / "block").stat().st_ino
    for record in records:
        mounter.unmount(record)


def test_a_target_on_another_file_system_becomes_a_link(tmp_path: Path, view: View) -> None:
    other = Path("/dev/shm")
    require(other.is_dir() and other.stat().st_dev != tmp_path.stat().st_dev, "needs a second file system")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        target = Path(folder, "mnt")
        target.mkdir()
        (tmp_path / "state").mkdir()
        mounter = ExtractMounter()
        record = mounter.mount(
            MountRequest(view, os.path.dirname(view.path), str(target), str(tmp_path / "state"))
        )
        assert target.is_symlink()
        assert mounter.is_alive(record)
        (target / "one").write_bytes(b"changed")
        assert [e.path for e in mounter.changes(view, str(tmp_path / "state"))] == ["one"]
        mounter.unmount(record)
        assert target.is_dir()
        assert not target.is_symlink()


def test_a_file_system_without_attributes(tmp_path: Path, view: View) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    mounter = ExtractMounter()
    request = MountRequest(view, os.path.dirname(view.path), str(tmp_path / "mnt"), str(tmp_path / "state"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "setxattr", refuse)
        patch.setattr(os, "listxattr", refuse)
        record = mounter.mount(request)
        os.chmod(tmp_path / "mnt" / "one", 0o444)
        os.utime(tmp_path / "mnt" / "streams", ns=(1, 1))
        changes = {e.path: e for e in mounter.changes(view, str(tmp_path / "state"))}
        assert set(changes) == {"one", "streams"}
        assert changes["streams"].streams is None
        assert changes["streams"].overridden == frozenset()
        mounter.unmount(record)


def test_a_mount_that_was_killed_is_found_again(tmp_path: Path, view: View) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "state").mkdir()
    mounter = ExtractMounter()
    state = str(tmp_path / "state")
    folder = os.path.dirname(view.path)
    mounter.mount(MountRequest(view, folder, str(tmp_path / "mnt"), state))  # and its record is lost
    (tmp_path / "mnt" / "one").write_bytes(b"changed")
    assert [e.path for e in mounter.changes(view, state)] == ["one"]
    record = mounter.mount(MountRequest(view, folder, str(tmp_path / "other"), state))
    assert (tmp_path / "other" / "one").read_bytes() == b"changed"
    mounter.unmount(record)


def test_a_size_is_refused_but_not_one_that_bounds_nothing(tmp_path: Path, view: View) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    mounter = ExtractMounter()
    target, state = str(tmp_path / "mnt"), str(tmp_path / "state")
    with pytest.raises(UnsupportedError, match="can't be enforced"):
        mounter.mount(MountRequest(view, os.path.dirname(view.path), target, state, 1 << 20))
    assert os.listdir(target) == []
    mounter.unmount(mounter.mount(MountRequest(view, os.path.dirname(view.path), target, state, 1 << 60)))


def test_a_failure_leaves_nothing(tmp_path: Path, view: View) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    os.truncate(tmp_path / "home" / "layer0" / "layer.tar", 4096)
    mounter = ExtractMounter()
    with pytest.raises(LayerCorruptError, match="layer0"):
        mounter.mount(
            MountRequest(view, os.path.dirname(view.path), str(tmp_path / "mnt"), str(tmp_path / "state"))
        )
    assert os.listdir(tmp_path / "mnt") == []
    assert [n for n in os.listdir(tmp_path / "state") if n != "stamps.db.new"] == []
