"""What can be done in a FUSE mount, call by call, and what is refused with which error."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layers.fusemounts import Drive, drive
from tests.layers.mountviews import DESCRIPTOR, TIME
from winlayers.layers.portable import xattrs
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.ea import build_eas, parse_eas
from winlayers.win32.filetime import filetime_from_nanoseconds
from winlayers.win32.metadata import ExtendedAttribute
from winlayers.win32.reparse import MountPoint
from winlayers.win32.security import inherit, sddl_to_bytes

__all__ = ["drive"]
pytestmark = pytest.mark.root

OWN = "O:SYG:SYD:AI(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)(A;CI;FR;;;WD)"


@pytest.fixture
def root(drive: Drive) -> Path:
    return drive.mount()


def fails(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


def data_files(drive: Drive) -> list[Path]:
    return [path for path in drive.state.joinpath("data").rglob("*") if path.is_file()]


def attribute(path: Path, name: bytes) -> bytes:
    return os.getxattr(path, b"user." + name)


class TestNames:
    @pytest.mark.parametrize("name", ["a:b", "a*", "a?", 'a"', "a<", "a>", "a|", "a\\b", "a\x01", "\x1f"])
    def test_ntfs_refuses(self, root: Path, name: str) -> None:
        fails(errno.EINVAL, lambda: (root / name).touch())
        fails(errno.EINVAL, lambda: (root / name).mkdir())
        fails(errno.EINVAL, lambda: (root / "Readme.txt").rename(root / name))
        fails(errno.EINVAL, lambda: os.link(root / "Readme.txt", root / name))
        fails(errno.EINVAL, lambda: os.symlink("x", root / name))
        assert not (root / name).exists()

    @pytest.mark.parametrize("name", ["x" * 256, "\U0001f600" * 128, "é" * 256])
    def test_too_long(self, root: Path, name: str) -> None:
        fails(errno.ENAMETOOLONG, lambda: (root / name).touch())

    @pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "con", "dot.", " blank ", "日本"])
    def test_accepted(self, drive: Drive, root: Path, name: str) -> None:
        (root / name).write_bytes(b"odd")
        assert name in os.listdir(root)
        assert (drive.remount() / name).read_bytes() == b"odd"

    def test_longer_in_bytes_than_a_directory_can_show(self, drive: Drive, root: Path) -> None:
        name = "語" * 255
        (root / name).write_bytes(b"long")
        assert (root / name).read_bytes() == b"long"
        (shown,) = (n for n in os.listdir(root) if n.startswith("語"))
        assert (root / shown).read_bytes() == b"long"
        assert name in drive.changes()

    def test_not_utf8(self, root: Path) -> None:
        bad = os.fsencode(root) + b"/\xff\xfe"
        fails(errno.EILSEQ, lambda: os.mkdir(bad))
        fails(errno.ENOENT, lambda: os.stat(bad))

    def test_exclusive(self, root: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        fails(errno.EEXIST, lambda: os.open(root / "readme.TXT", flags))
        fails(errno.EEXIST, lambda: os.mkdir(root / "windows"))
        fails(errno.EEXIST, lambda: os.symlink("x", root / "WINDOWS"))

    def test_overwriting_keeps_the_spelling(self, root: Path) -> None:
        (root / "README.TXT").write_bytes(b"new")
        assert "Readme.txt" in os.listdir(root)
        assert (root / "Readme.txt").read_bytes() == b"new"


class TestStaleSpellings:
    """The kernel keeps names; those that are gone must not be found by any spelling."""

    def spellings(self, root: Path, *names: str) -> list[bool]:
        return [(root / name).exists() for name in names]

    def test_unlinked(self, root: Path) -> None:
        assert self.spellings(root, "Readme.txt", "README.TXT", "readme.txt") == [True] * 3
        os.unlink(root / "README.TXT")
        assert self.spellings(root, "Readme.txt", "README.TXT", "readme.txt") == [False] * 3

    def test_renamed(self, root: Path) -> None:
        assert self.spellings(root, "Readme.txt", "README.TXT") == [True] * 2
        (root / "README.TXT").rename(root / "other")
        assert self.spellings(root, "Readme.txt", "README.TXT", "other", "OTHER") == [
            False,
            False,
            True,
            True,
        ]

    def test_replaced(self, root: Path) -> None:
        (root / "new").write_bytes(b"new")
        assert self.spellings(root, "Readme.txt", "README.TXT", "new") == [True] * 3
        (root / "new").rename(root / "README.TXT")
        assert (root / "Readme.txt").read_bytes() == b"new"
        assert "README.TXT" in os.listdir(root)

    def test_made_after_it_was_missed(self, root: Path) -> None:
        assert self.spellings(root, "made", "MADE") == [False] * 2
        (root / "Made").touch()
        assert self.spellings(root, "made", "MADE", "Made") == [True] * 3

    def test_directories(self, root: Path) -> None:
        (root / "dir").mkdir()
        (root / "DIR" / "x").touch()
        assert self.spellings(root, "dir/x", "Dir/X") == [True] * 2
        os.unlink(root / "DIR/X")
        os.rmdir(root / "DIR")
        assert self.spellings(root, "dir", "DIR", "Dir/x") == [False] * 3

    def test_only_the_case_changes_in_two_steps(self, drive: Drive, root: Path) -> None:
        for name in ("Readme.txt", "Windows"):
            (root / name).rename(root / "between")
            (root / "between").rename(root / name.upper())
        assert sorted(os.listdir(root)) == ["README.TXT", "WINDOWS", "kernel.dll"]
        changes = drive.changes()
        assert changes["README.TXT"].origin == "Readme.txt"
        assert changes["WINDOWS"].replaced
        assert changes["WINDOWS/win.ini"].origin == "Windows/win.ini"


class TestData:
    def test_write_seek_append_truncate(self, drive: Drive, root: Path) -> None:
        path = root / "Windows" / "System32" / "kernel.dll"
        expected = bytearray(b"MZ" * 100_000)
        with path.open("r+b") as file:
            for offset, data in (
                (5, b"five"),
                (65_530, b"x" * 20),
                (199_999, b"end and more"),
                (300_000, b"gap"),
            ):
                file.seek(offset)
                file.write(data)
                expected.extend(bytes(max(0, offset - len(expected))))
                expected[offset : offset + len(data)] = data
        with path.open("ab") as file:
            file.write(b"appended")
        expected += b"appended"
        assert path.read_bytes() == expected
        os.truncate(path, 70_000)
        os.truncate(path, 150_000)
        expected[70_000:] = bytes(80_000)
        assert path.read_bytes() == expected
        assert (root / "kernel.dll").read_bytes() == expected  # its other name
        assert (drive.remount() / "KERNEL.DLL").read_bytes() == expected

    def test_a_byte_of_a_large_file_takes_one_block(self, drive: Drive, tmp_path: Path) -> None:
        root = drive.mount(size=1 << 20)
        before = os.statvfs(root).f_bavail
        with (root / "kernel.dll").open("r+b") as file:
            file.seek(100_000)
            file.write(b"!")
        taken = (before - os.statvfs(root).f_bavail) * 4096
        assert 0 < taken <= 65_536 + 8192
        stored = sum(path.stat().st_blocks * 512 for path in data_files(drive))
        assert stored <= 65_536

    def test_open_with_truncation(self, root: Path) -> None:
        (root / "Readme.txt").write_bytes(b"")
        assert (root / "Readme.txt").stat().st_size == 0
        (root / "Readme.txt").write_bytes(b"more than there was before")
        assert (root / "Readme.txt").read_bytes() == b"more than there was before"

    def test_appenders_do_not_overwrite_each_other(self, root: Path) -> None:
        files = [(root / "log").open("ab", buffering=0) for _ in range(3)]
        for number in range(30):
            files[number % 3].write(b"%02d\n" % number)
        for file in files:
            file.close()
        assert (root / "log").read_bytes() == b"".join(b"%02d\n" % number for number in range(30))

    def test_shared_mappings(self, drive: Drive, root: Path) -> None:
        with (root / "kernel.dll").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[70_000:70_004] = b"mmap"
            mapped.flush()
        assert (root / "kernel.dll").read_bytes()[69_999:70_005] == b"ZmmapM"
        expected = b"MZ" * 35_000 + b"mmap" + b"MZ" * 64_998
        assert (drive.remount() / "kernel.dll").read_bytes() == expected

    def test_deleted_files_live_on_while_open(self, drive: Drive, root: Path) -> None:
        with (root / "Readme.txt").open("r+b") as old, (root / "new").open("w+b") as new:
            new.write(b"fresh")
            new.flush()
            os.unlink(root / "Readme.txt")
            os.unlink(root / "new")
            old.write(b"READ")
            old.seek(0)
            new.seek(0)
            assert old.read() == b"READ me"
            assert new.read() == b"fresh"
            assert os.fstat(new.fileno()).st_nlink == 0
            os.fsync(new.fileno())
        deadline = time.monotonic() + 60  # the kernel forgets files in its own time
        while data_files(drive) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert data_files(drive) == []
        assert set(drive.changes()) == {"Readme.txt"}

    def test_too_large(self, root: Path) -> None:
        with (root / "new").open("wb") as file:
            fails(errno.EFBIG, lambda: os.ftruncate(file.fileno(), 1 << 45))

    def test_sync(self, root: Path) -> None:
        with (root / "Readme.txt").open("r+b") as file:
            file.write(b"SYNC")
            file.flush()
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
        fd = os.open(root, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert (root / "Readme.txt").read_bytes() == b"SYNC me"


class TestTree:
    def test_rename_of_a_directory_of_the_layers(self, drive: Drive, root: Path) -> None:
        (root / "Windows" / "new.txt").write_bytes(b"new")
        (root / "Windows").rename(root / "Moved")
        assert not (root / "Windows").exists()
        assert (root / "moved" / "system32" / "kernel.dll").stat().st_size == 200_000
        (root / "Moved" / "win.ini").unlink()
        (root / "Windows").mkdir()
        (root / "Windows" / "win.ini").write_bytes(b"other")
        root = drive.remount()
        assert sorted(os.listdir(root / "Moved")) == ["System32", "new.txt"]
        assert os.listdir(root / "Windows") == ["win.ini"]
        assert (root / "Windows" / "win.ini").read_bytes() == b"other"

    def test_rename_over(self, root: Path) -> None:
        (root / "empty").mkdir()
        (root / "full").mkdir()
        (root / "full" / "x").touch()
        fails(errno.ENOTEMPTY, lambda: (root / "empty").rename(root / "full"))
        fails(errno.ENOTEMPTY, lambda: (root / "empty").rename(root / "WINDOWS"))
        fails(errno.ENOTDIR, lambda: (root / "empty").rename(root / "Readme.txt"))
        fails(errno.EISDIR, lambda: (root / "Readme.txt").rename(root / "empty"))
        fails(errno.EINVAL, lambda: (root / "Windows").rename(root / "WINDOWS" / "System32" / "x"))
        (root / "full").rename(root / "empty")
        assert os.listdir(root / "empty") == ["x"]

    def test_there_and_back_again_is_no_change_of_place(self, drive: Drive, root: Path) -> None:
        (root / "Windows").rename(root / "W")
        (root / "W").rename(root / "Windows")
        (root / "Readme.txt").rename(root / "Windows" / "r")
        (root / "Windows" / "r").rename(root / "Readme.txt")
        assert {entry.origin for entry in drive.changes().values()} <= {None}

    def test_remove(self, root: Path) -> None:
        fails(errno.ENOTEMPTY, lambda: (root / "Windows").rmdir())
        fails(errno.ENOTDIR, lambda: (root / "Readme.txt").rmdir())
        fails(errno.EISDIR, lambda: os.unlink(root / "Windows"))
        fails(errno.ENOENT, lambda: os.unlink(root / "nothing"))
        for path in ("Windows/System32/kernel.dll", "Windows/win.ini"):
            (root / path).unlink()
        (root / "Windows" / "System32").rmdir()
        (root / "Windows").rmdir()
        assert sorted(os.listdir(root)) == ["Readme.txt", "kernel.dll"]
        assert (root / "kernel.dll").stat().st_nlink == 1

    def test_hard_links(self, drive: Drive, root: Path) -> None:
        os.link(root / "Readme.txt", root / "Windows" / "second")
        assert (root / "Readme.txt").stat().st_nlink == 2
        assert (root / "Readme.txt").stat().st_ino == (root / "Windows" / "second").stat().st_ino
        (root / "Windows" / "second").write_bytes(b"through the second")
        assert (root / "Readme.txt").read_bytes() == b"through the second"
        fails(errno.EPERM, lambda: os.link(root / "Windows", root / "W"))
        fails(errno.EEXIST, lambda: os.link(root / "Readme.txt", root / "WINDOWS" / "SECOND"))
        (root / "Readme.txt").unlink()
        assert (root / "Windows" / "second").stat().st_nlink == 1
        assert (drive.remount() / "Windows" / "second").read_bytes() == b"through the second"

    def test_links_end_somewhere(self, root: Path) -> None:
        for number in range(1023):
            os.link(root / "Readme.txt", root / f"link {number}")
        fails(errno.EMLINK, lambda: os.link(root / "Readme.txt", root / "one more"))

    def test_symbolic_links(self, drive: Drive, root: Path) -> None:
        os.symlink("Windows/WIN.INI", root / "link")
        os.symlink("/absolute\\odd", root / "odd")
        assert (root / "link").read_bytes() == b"[fonts]"
        assert (root / "link").lstat().st_size == 15
        root = drive.remount()
        assert os.readlink(root / "link") == "Windows/WIN.INI"
        assert os.readlink(root / "odd") == "/absolute\\odd"
        assert drive.changes()["link"].posix_target == "Windows/WIN.INI"

    def test_what_no_layer_can_hold(self, root: Path) -> None:
        fails(errno.EPERM, lambda: os.mkfifo(root / "pipe"))
        fails(errno.EPERM, lambda: os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
        fails(errno.EPERM, lambda: os.chown(root / "Readme.txt", 1234, -1))
        os.chown(root / "Readme.txt", os.geteuid(), os.getegid())

    def test_no_replace(self, root: Path) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        (root / "new").touch()
        for flags, number in ((1, errno.EEXIST), (4, errno.EINVAL)):  # NOREPLACE, WHITEOUT
            result = libc.renameat2(
                -100, os.fsencode(root / "new"), -100, os.fsencode(root / "README.TXT"), flags
            )
            assert (result, ctypes.get_errno()) == (-1, number)


class TestMetadata:
    def test_times(self, drive: Drive, root: Path) -> None:
        for path in ("Readme.txt", "Windows", "Windows/System32/kernel.dll"):
            for ns in (1_234_567_890_123_456_700, -5_000_000_000_000_000_000, 20_000_000_000_000_000_000):
                os.utime(root / path, ns=(ns + 100, ns))
                assert (root / path).stat().st_mtime_ns == ns
                assert (root / path).stat().st_atime_ns == ns + 100
        times = attribute(drive.remount() / "Readme.txt", xattrs.TIMES)
        assert int.from_bytes(times[8:16], "little") == filetime_from_nanoseconds(ns)
        assert int.from_bytes(times[:8], "little") == TIME  # the creation time stays

    def test_writing_sets_times_and_archive(self, root: Path) -> None:
        os.setxattr(root / "Readme.txt", b"user.ntfs_attrib", bytes(4))
        before = (root / "Readme.txt").stat().st_mtime_ns
        (root / "Readme.txt").write_bytes(b"now")
        assert (root / "Readme.txt").stat().st_mtime_ns > before
        assert attribute(root / "Readme.txt", xattrs.ATTRIB) == (0x20).to_bytes(4, "little")

    def test_mode_is_the_readonly_bit(self, root: Path) -> None:
        path = root / "Readme.txt"
        path.chmod(0o444)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert attribute(path, xattrs.ATTRIB)[0] & FileAttributes.READONLY
        path.chmod(0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        os.setxattr(path, b"user.ntfs_attrib", (0x21).to_bytes(4, "little"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        (root / "Windows").chmod(0o500)
        assert stat.S_IMODE((root / "Windows").stat().st_mode) == 0o755
        fd = os.open(root / "born read-only", os.O_CREAT | os.O_WRONLY, 0o400)
        os.write(fd, b"still written through this descriptor")
        os.close(fd)
        assert stat.S_IMODE((root / "born read-only").stat().st_mode) == 0o444

    def test_programs_can_run(self, drive: Drive, root: Path) -> None:
        fd = os.open(root / "born", os.O_CREAT | os.O_WRONLY, 0o700)
        os.write(fd, b"#!/bin/sh\nexit 7\n")
        os.close(fd)
        path = root / "Readme.txt"
        before = path.stat().st_mtime_ns
        path.chmod(0o755)
        (root / "kernel.dll").chmod(0o755)
        (root / "kernel.dll").chmod(0o644)
        drive.remount()
        assert stat.S_IMODE((root / "kernel.dll").stat().st_mode) == 0o644
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.stat().st_mtime_ns == before
        assert subprocess.run([root / "born"], check=False, timeout=60).returncode == 7
        drive.unmount()
        assert set(drive.changes()) == {"born"}
        drive.mount()
        path.chmod(0o555)
        assert stat.S_IMODE(path.stat().st_mode) == 0o555

    def test_descriptors_are_inherited(self, drive: Drive, root: Path) -> None:
        own = sddl_to_bytes(OWN)
        os.setxattr(root / "Windows", b"user.ntfs_acl", own)
        (root / "Windows" / "dir").mkdir()
        (root / "Windows" / "dir" / "file").touch()
        directory = inherit(own, is_directory=True)
        file = inherit(directory, is_directory=False)
        root = drive.remount()
        assert attribute(root / "Windows", xattrs.ACL) == own
        assert attribute(root / "Windows" / "dir", xattrs.ACL) == directory
        assert attribute(root / "Windows" / "dir" / "file", xattrs.ACL) == inherit(
            directory, is_directory=False
        )
        (root / "Windows" / "dir" / "file").rename(root / "file")  # what is moved keeps its own
        assert attribute(root / "file", xattrs.ACL) == file

    def test_attributes_are_set_and_kept(self, drive: Drive, root: Path) -> None:
        path = root / "Readme.txt"
        ea = ExtendedAttribute("LXUID", b"\0\0\0\0")
        eas = build_eas((ea,))
        junction = MountPoint.to(r"C:\Windows").to_bytes()
        os.mkdir(root / "mountpoint")
        os.setxattr(path, b"user.ntfs_ea", eas)
        os.setxattr(path, b"user.ntfs_crtime", (TIME - 1).to_bytes(8, "little"))
        os.setxattr(path, b"user.ntfs_acl", DESCRIPTOR)
        os.setxattr(root / "mountpoint", b"user.ntfs_reparse_data", junction)
        root = drive.remount()
        assert parse_eas(attribute(root / "Readme.txt", xattrs.EA)) == (
            ExtendedAttribute("LXUID", b"\0\0\0\0"),
        )
        assert attribute(root / "Readme.txt", xattrs.CRTIME) == (TIME - 1).to_bytes(8, "little")
        assert attribute(root / "mountpoint", xattrs.REPARSE) == junction
        assert int.from_bytes(attribute(root / "mountpoint", xattrs.ATTRIB), "little") == 0x410
        os.removexattr(root / "mountpoint", b"user.ntfs_reparse_data")
        assert int.from_bytes(attribute(root / "mountpoint", xattrs.ATTRIB), "little") == 0x10
        changes = drive.changes()
        assert changes["Readme.txt"].creation_time == TIME - 1
        assert not changes["Readme.txt"].data_changed
        assert {"eas", "security"} <= changes["Readme.txt"].overridden

    def test_what_every_file_has_goes_back_to_what_a_new_file_has(self, root: Path) -> None:
        path = root / "Readme.txt"
        os.setxattr(path, "user.ntfs_attrib", (0x2007).to_bytes(4, "little"))
        os.setxattr(root / "Windows", "user.ntfs_attrib", (0x12).to_bytes(4, "little"))
        times = attribute(path, xattrs.TIMES)[:24]
        for name in ("ntfs_attrib", "ntfs_times", "ntfs_crtime"):
            os.removexattr(path, f"user.{name}")
            os.removexattr(root / "Windows", f"user.{name}")
        assert attribute(path, xattrs.ATTRIB) == (0x21).to_bytes(4, "little")  # READONLY is the mode's
        assert attribute(root / "Windows", xattrs.ATTRIB) == (0x10).to_bytes(4, "little")
        assert attribute(path, xattrs.TIMES)[:24] == times

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ntfs_acl", b"\x01"),
            ("ntfs_acl", bytes(40)),
            ("ntfs_attrib", b"123"),
            ("ntfs_times", b"short"),
            ("ntfs_crtime", b""),
            ("ntfs_ea", b"\xff" * 9),
            ("ntfs_reparse_data", b"\0" * 4),
            ("ntfs_unknown", b""),
            ("bad:name", b""),
            ("overlay.opaque", b"y"),
        ],
    )
    def test_malformed_is_refused(self, root: Path, name: str, value: bytes) -> None:
        before = {n: os.getxattr(root / "Readme.txt", n) for n in os.listxattr(root / "Readme.txt")}
        fails(errno.EINVAL, lambda: os.setxattr(root / "Readme.txt", f"user.{name}", value))
        assert {n: os.getxattr(root / "Readme.txt", n) for n in os.listxattr(root / "Readme.txt")} == before

    def test_what_attributes_can_not_do(self, root: Path) -> None:
        path = root / "Readme.txt"
        fails(errno.EPERM, lambda: os.setxattr(path, "user.ntfs_streams", b"[]"))
        fails(errno.EOPNOTSUPP, lambda: os.setxattr(path, "security.x", b""))
        fails(errno.ENODATA, lambda: os.getxattr(path, "user.none"))
        fails(errno.ENODATA, lambda: os.removexattr(path, "user.none"))
        fails(errno.ENODATA, lambda: os.setxattr(path, "user.none", b"", os.XATTR_REPLACE))
        os.setxattr(path, "user.some", b"1", os.XATTR_CREATE)
        fails(errno.EEXIST, lambda: os.setxattr(path, "user.some", b"2", os.XATTR_CREATE))
        os.setxattr(path, "user.some", b"3", os.XATTR_REPLACE)
        assert attribute(path, b"some") == b"3"
        junction = MountPoint.to(r"C:\x").to_bytes()
        fails(errno.ENOTEMPTY, lambda: os.setxattr(root / "Windows", "user.ntfs_reparse_data", junction))

    def test_streams(self, drive: Drive, root: Path) -> None:
        path = root / "kernel.dll"
        assert attribute(path, b"Zone.Identifier") == b"[Zone]"
        os.setxattr(path, "user.ZONE.identifier", b"[changed]")  # one stream, whatever its case
        os.setxattr(path, "user.second", b"2" * 65_535)
        root = drive.remount()
        path = root / "Windows" / "System32" / "kernel.dll"
        assert attribute(path, b"Zone.Identifier") == b"[changed]"
        entry = drive.changes()["kernel.dll"]
        assert entry.streams == (("Zone.Identifier", b"[changed]"), ("second", b"2" * 65_535))
        assert not entry.data_changed
        os.removexattr(path, "user.Zone.Identifier")
        os.removexattr(path, "user.second")
        assert drive.changes()["kernel.dll"].streams == ()
        assert [n for n in os.listxattr(path) if "ntfs_" not in n] == []
