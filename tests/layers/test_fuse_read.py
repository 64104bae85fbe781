"""What a FUSE mount shows: everything of the view, by names without case."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.layers.fusemounts import Drive, drive, odd_drive, require_fuse
from tests.layers.mountviews import PLAIN, ViewBuilder, assert_mounted
from tests.support import require_tool
from winlayers.errors import MountError
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.fusefs.attributes import ROOM
from winlayers.layers.portable.posix import posix_nanoseconds

__all__ = ["drive", "odd_drive"]
pytestmark = pytest.mark.root


@pytest.mark.parametrize("writable", [False, True], ids=["read-only", "writable"])
def test_everything_is_shown(odd_drive: Drive, writable: bool) -> None:
    root = odd_drive.mount(writable=writable)
    assert assert_mounted(odd_drive.view, str(root), room=ROOM) == 336


def test_moved_links_still_lead_to_their_place(odd_drive: Drive) -> None:
    root = odd_drive.mount()
    assert os.readlink(root / "junction") == "Windows/System32"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "junction").rename(root / "deep" / "er" / "junction")
    assert os.readlink(root / "deep" / "er" / "junction") == "../../Windows/System32"
    assert (root / "deep" / "er" / "junction" / "a.dll").stat().st_size == 10_000


def test_names_have_no_case(drive: Drive) -> None:
    root = drive.mount()
    for spelling in ("Readme.txt", "README.TXT", "readme.txt", "rEADME.tXT"):
        assert (root / spelling).read_bytes() == b"read me"
        assert (root / spelling).stat().st_ino == (root / "Readme.txt").stat().st_ino
    assert (root / "WINDOWS" / "system32" / "KERNEL.DLL").stat().st_size == 200_000
    assert sorted(os.listdir(root / "WINDOWS")) == ["System32", "win.ini"]
    assert not (root / "readme.tx").exists()


def test_case_is_upcase_not_folding(drive: Drive) -> None:
    root = drive.mount()
    (root / "straße").write_bytes(b"sharp")
    assert not (root / "STRASSE").exists()
    (root / "éß").write_bytes(b"1")
    assert (root / "Éß").exists()
    assert not (root / "ÉẞS").exists()


def test_read_only_is_read_only(drive: Drive) -> None:
    root = drive.mount(writable=False)
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").touch()
    with pytest.raises(OSError, match="Read-only"):
        (root / "Readme.txt").write_bytes(b"x")
    about = os.statvfs(root)
    assert about.f_flag & os.ST_RDONLY
    assert about.f_namemax == 255
    assert not (root / "missing").exists()
    assert not (root / "missing").exists()


def test_birth_is_the_creation_time(drive: Drive) -> None:
    tool = require_tool("stat")
    root = drive.mount()
    shown = subprocess.run([tool, "-c", "%W", str(root / "Readme.txt")], capture_output=True, check=True)
    assert int(shown.stdout) == posix_nanoseconds(PLAIN.creation_time) // 1_000_000_000


def test_mount_table_names_it(drive: Drive) -> None:
    root = drive.mount()
    (mount,) = mountinfo.mounts_at(str(root))
    assert (mount.kind, mount.source) == ("fuse.winlayers", "winlayers")
    with pytest.raises(MountError, match="mounted there already"):
        Drive.mount(drive)


def test_large_directories_are_listed_once_and_whole(tmp_path: Path) -> None:
    require_fuse()
    b = ViewBuilder(tmp_path / "home")
    b.directory("Files/many")
    names = {f"file number {number:05d} of many" for number in range(5000)}
    for name in names:
        b.file(f"Files/many/{name}")
    many = Drive(tmp_path, b.finish())
    try:
        root = many.mount() / "many"
        listed = os.listdir(root)
        assert len(listed) == 5000
        assert set(listed) == names
        with os.scandir(root) as entries:
            for number, entry in enumerate(entries):  # what is removed meanwhile makes nothing be skipped
                assert entry.is_file(follow_symlinks=False)
                os.unlink(entry.path)
                if number % 10 == 0:
                    (root / f"new {number}").touch()
        left = os.listdir(root)
        assert all(name.startswith("new ") for name in left)
    finally:
        many.unmount()


def test_reading_at_random_and_by_mapping(drive: Drive) -> None:
    import mmap
    import random

    root = drive.mount()
    expected = b"MZ" * 100_000
    picks = random.Random(1)
    with (root / "kernel.dll").open("rb", buffering=0) as file:
        for _ in range(200):
            offset, size = picks.randrange(210_000), picks.randrange(70_000)
            assert os.pread(file.fileno(), size, offset) == expected[offset : offset + size]
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == expected


def test_layer_cut_short_is_an_error(drive: Drive) -> None:
    layer = drive.view.layers[0].tar
    os.truncate(layer, 2048)
    root = drive.mount()
    with pytest.raises(OSError, match="Input/output error"):
        (root / "kernel.dll").read_bytes()
    assert stat.S_ISREG((root / "kernel.dll").stat().st_mode)
    assert (root / "Windows").is_dir()
