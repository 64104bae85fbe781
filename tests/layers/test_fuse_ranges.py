"""Room for ranges, holes, and names that change places, in FUSE mounts."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import mmap
import os
import random
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.layers.fusemounts import Drive, content, drive
from tests.layers.posixcalls import exchange
from winlayers.layers.portable.mounts.contract import UpperKind
from winlayers.layers.portable.mounts.fusefs.cowfile import BLOCK
from winlayers.layers.portable.mounts.syscalls import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    allocate,
)

__all__ = ["drive"]
pytestmark = pytest.mark.root

PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
MODES = {"punch": PUNCH, "zero": FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, "reserve": FALLOC_KEEP_SIZE}
COLLAPSE, INSERT = 0x8, 0x20
KERNEL = "Windows/System32/kernel.dll"


def fails(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


class Opened:
    """A file that is open for reading and writing while the block runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def layout(fd: int) -> list[tuple[int, int]]:
    """Where the file has data, as who copies it finds out."""
    found = []
    hole, end = 0, os.fstat(fd).st_size
    with contextlib.suppress(OSError):  # ENXIO: there is no data any more
        while hole < end:
            offset = os.lseek(fd, hole, os.SEEK_DATA)
            hole = os.lseek(fd, offset, os.SEEK_HOLE)
            found.append((offset, hole))
    return found


def change_at_random(path: Path, seed: int) -> None:
    """Write to a file through a mapping and calls, and punch holes; it is always what it should be."""
    chosen = random.Random(seed)
    size = 1 << 20
    expected = bytearray(size)
    with Opened(path) as fd:
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as mapped:
            for _ in range(60):
                start, count = chosen.randrange(size - 200_000), chosen.randrange(1, 200_000)
                kind = chosen.choice(["map", "write", "punch", "zero", "reserve"])
                new = b"" if kind == "reserve" else bytes(count)
                if kind == "map":
                    new = b"m" * 10
                    mapped[start : start + 10] = new
                elif kind == "write":
                    new = b"w" * count
                    os.pwrite(fd, new, start)
                else:
                    allocate(fd, MODES[kind], start, count)
                expected[start : start + len(new)] = new
                copied = bytearray(size)
                for begin, end in layout(fd):
                    copied[begin:end] = os.pread(fd, end - begin, begin)
                assert copied == expected
            assert mapped[:] == expected


def used(root: Path) -> int:
    about = os.statvfs(root)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


class TestHoles:
    def test_what_the_layers_have_is_data(self, drive: Drive) -> None:
        for root in (drive.mount(writable=False), drive.remount()):
            fd = os.open(root / KERNEL, os.O_RDONLY)
            assert layout(fd) == [(0, 200_000)]
            fails(errno.ENXIO, partial(os.lseek, fd, 200_000, os.SEEK_DATA))
            assert os.lseek(fd, 0, os.SEEK_END) == 200_000
            os.close(fd)

    def test_punched(self, drive: Drive) -> None:
        root = drive.mount()
        expected = bytearray(b"MZ" * 100_000)
        with Opened(root / KERNEL) as fd:
            allocate(fd, PUNCH, BLOCK, BLOCK)
            expected[BLOCK : 2 * BLOCK] = bytes(BLOCK)
            assert layout(fd) == [(0, BLOCK), (2 * BLOCK, 200_000)]
            allocate(fd, PUNCH, 10, 20)  # too small for a hole
            expected[10:30] = bytes(20)
            allocate(fd, PUNCH, 190_000, 1 << 30)
            expected[190_000:] = bytes(10_000)
            assert os.pread(fd, 1 << 20, 0) == expected
        assert (drive.remount() / KERNEL).read_bytes() == expected
        drive.unmount()
        assert content(drive.changes()[KERNEL]) == expected

    def test_sparse_file(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / "sparse") as fd:
            os.ftruncate(fd, 100 * BLOCK)
            assert layout(fd) == []
            os.pwrite(fd, b"x" * BLOCK, 50 * BLOCK)
            assert layout(fd) == [(50 * BLOCK, 51 * BLOCK)]
            assert os.lseek(fd, 50 * BLOCK + 7, os.SEEK_DATA) == 50 * BLOCK + 7

    def test_what_a_mapping_wrote_is_no_hole(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / "sparse") as fd:
            os.ftruncate(fd, 10 * BLOCK)
            with mmap.mmap(fd, 10 * BLOCK) as mapped:
                mapped[3 * BLOCK] = 1
                mapped[7 * BLOCK + 5] = 2
                found = layout(fd)
                assert found[0][0] > 0
                for place in (3 * BLOCK, 7 * BLOCK + 5):
                    assert any(begin <= place < end for begin, end in found)
                mapped[0] = 3  # the kernel let go of the page, and takes it again
            assert os.pread(fd, 1, 0) == b"\3"
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0

    def test_mappings_writes_and_holes_agree(self, drive: Drive) -> None:
        root = drive.mount()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: change_at_random(root / f"file {seed}", seed), range(6)))

    def test_copied_as_it_is(self, drive: Drive, tmp_path: Path) -> None:
        root = drive.mount()
        with Opened(root / "sparse") as fd:
            os.pwrite(fd, b"a" * BLOCK, 20 * BLOCK)
            os.ftruncate(fd, 40 * BLOCK)
        for option in ("always", "auto", "never"):
            subprocess.run(
                ["cp", f"--sparse={option}", root / "sparse", tmp_path / option], check=True, timeout=60
            )
            assert (tmp_path / option).read_bytes() == (root / "sparse").read_bytes()


class TestRoom:
    def test_a_file_grows(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / "new") as fd:
            os.posix_fallocate(fd, 0, 100_000)
            assert os.fstat(fd).st_size == 100_000
            allocate(fd, FALLOC_KEEP_SIZE, 0, 1 << 20)
            assert os.fstat(fd).st_size == 100_000
            assert os.pread(fd, 1 << 20, 0) == bytes(100_000)
            allocate(fd, FALLOC_ZERO_RANGE, 50_000, 100_000)
            assert os.fstat(fd).st_size == 150_000
        drive.remount()
        assert (root / "new").read_bytes() == bytes(150_000)

    def test_room_in_a_file_of_the_layers(self, drive: Drive) -> None:
        root = drive.mount(size=1 << 20)
        with Opened(root / KERNEL) as fd:
            before = used(root)
            allocate(fd, FALLOC_KEEP_SIZE, 0, 200_000)
            # Nothing that is written there now can fail for want of space.
            assert used(root) >= before + 200_000
            now = used(root)
            os.pwrite(fd, b"!" * 200_000, 0)
            assert used(root) == now

    def test_data_that_was_not_changed_is_not_told(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / KERNEL) as fd:
            allocate(fd, FALLOC_KEEP_SIZE, 0, 400_000)
        assert (root / KERNEL).read_bytes() == b"MZ" * 100_000
        drive.unmount()
        entry = drive.changes()[KERNEL]
        assert not entry.data_changed
        assert entry.metadata_changed  # the time of the last write

    def test_beyond_the_size(self, drive: Drive) -> None:
        root = drive.mount(size=1 << 20)
        with Opened(root / "new") as fd:
            for mode in (0, FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE):
                fails(errno.ENOSPC, partial(allocate, fd, mode, 0, 1 << 20))
                fails(errno.ENOSPC, partial(allocate, fd, mode, 2 << 20, 4096))
            assert os.fstat(fd).st_size == 0
            allocate(fd, 0, 0, 900_000)
            os.pwrite(fd, b"x" * 900_000, 0)
        with Opened(root / KERNEL) as fd:  # a hole in what the layers have is new to the scratch layer
            fails(errno.ENOSPC, lambda: allocate(fd, PUNCH, 0, 200_000))
            assert os.pread(fd, 4, 0) == b"MZMZ"

    @pytest.mark.parametrize("mode", [COLLAPSE, INSERT, 0x40])
    def test_not_supported(self, drive: Drive, mode: int) -> None:
        root = drive.mount()
        with Opened(root / KERNEL) as fd:
            fails(errno.EOPNOTSUPP, lambda: allocate(fd, mode, 0, BLOCK))
            fails(errno.EFBIG, lambda: allocate(fd, 0, 1 << 45, BLOCK))

    def test_it_is_a_write(self, drive: Drive) -> None:
        root = drive.mount()
        os.utime(root / "Readme.txt", (1, 1))
        with Opened(root / "Readme.txt") as fd:
            allocate(fd, 0, 0, 100)
        assert (root / "Readme.txt").stat().st_mtime > 1


class TestCopying:
    def test_what_the_layers_have(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / KERNEL) as source, Opened(root / "new") as target:
            assert os.copy_file_range(source, target, 300_000, 1, 10) == 199_999
            assert os.copy_file_range(source, target, 300_000, 200_000, 0) == 0
        assert (root / "new").read_bytes() == bytes(10) + (b"MZ" * 100_000)[1:]
        drive.unmount()
        assert set(drive.changes()) == {"new"}

    def test_what_was_changed(self, drive: Drive) -> None:
        root = drive.mount()
        with Opened(root / KERNEL) as fd, Opened(root / "Readme.txt") as other:
            os.pwrite(fd, b"!" * 10, BLOCK - 5)
            with mmap.mmap(fd, 200_000) as mapped:
                mapped[BLOCK + 10] = ord("?")
                expected = mapped[BLOCK - 10 : BLOCK + 90]
                assert os.copy_file_range(fd, other, 100, BLOCK - 10, 3) == 100
            assert os.copy_file_range(fd, fd, 100, BLOCK - 10, 3 * BLOCK) == 100
            assert os.pread(fd, 100, 3 * BLOCK) == expected
        assert (root / "Readme.txt").read_bytes() == b"rea" + expected
        assert (drive.remount() / "Readme.txt").read_bytes() == b"rea" + expected

    def test_much(self, drive: Drive) -> None:
        root = drive.mount()
        data = os.urandom(5_000_000)
        (root / "new").write_bytes(data)
        copied = 0
        with Opened(root / "new") as source, Opened(root / "copy") as target:
            while count := os.copy_file_range(source, target, 1 << 30):
                copied += count
        assert copied == len(data)
        assert (root / "copy").read_bytes() == data

    def test_beyond_the_size(self, drive: Drive) -> None:
        root = drive.mount(size=1 << 20)
        with Opened(root / KERNEL) as source, Opened(root / "new") as target:
            fails(errno.ENOSPC, lambda: os.copy_file_range(source, target, 200_000, 0, 900_000))
            assert os.fstat(target).st_size == 0


class TestExchange:
    def test_files(self, drive: Drive) -> None:
        root = drive.mount()
        (root / "new").write_bytes(b"new")
        exchange(root / "new", root / "Readme.txt")
        for _ in range(2):
            assert (root / "new").read_bytes() == b"read me"
            assert (root / "Readme.txt").read_bytes() == b"new"
            drive.remount()
        drive.unmount()
        changes = drive.changes()
        assert set(changes) == {"new", "Readme.txt"}
        assert changes["new"].origin == "Readme.txt"
        assert changes["Readme.txt"].replaced
        assert content(changes["Readme.txt"]) == b"new"

    def test_there_and_back_is_no_change(self, drive: Drive) -> None:
        root = drive.mount()
        (root / "Other").mkdir()
        for _ in range(2):
            exchange(root / "Other", root / "Windows")
            exchange(root / "kernel.dll", root / "Readme.txt")
        (root / "Other").rmdir()
        drive.unmount()
        told = [path for path, entry in drive.changes().items() if entry.data_changed or entry.replaced]
        assert not told

    def test_directory_and_file(self, drive: Drive) -> None:
        root = drive.mount()
        exchange(root / "Windows/System32", root / "Readme.txt")
        assert (root / "Readme.txt/kernel.dll").stat().st_ino == (root / "kernel.dll").stat().st_ino
        assert (root / "Windows/System32").read_bytes() == b"read me"
        drive.unmount()
        changes = drive.changes()
        assert changes["Readme.txt"].kind is UpperKind.DIRECTORY
        assert changes["Readme.txt"].origin == "Windows/System32"
        assert changes["Windows/System32"].origin == "Readme.txt"
        assert changes["Readme.txt/kernel.dll"].identity == changes["kernel.dll"].identity

    def test_other_spellings(self, drive: Drive) -> None:
        root = drive.mount()
        for name in ("README.TXT", "Readme.txt", "WINDOWS", "Windows"):
            (root / name).stat()  # the kernel knows both spellings
        exchange(root / "README.txt", root / "WINDOWS/win.ini")
        for name in ("README.TXT", "Readme.txt"):
            assert (root / name).read_bytes() == b"[fonts]"
        assert sorted(os.listdir(root)) == ["Readme.txt", "Windows", "kernel.dll"]
        assert (root / "windows/WIN.INI").read_bytes() == b"read me"

    def test_refused(self, drive: Drive) -> None:
        root = drive.mount()
        fails(errno.ENOENT, lambda: exchange(root / "none", root / "Readme.txt"))
        fails(errno.ENOENT, lambda: exchange(root / "Readme.txt", root / "none"))
        fails(errno.EINVAL, lambda: exchange(root / "Windows", root / "Windows/System32"))
        fails(errno.EINVAL, lambda: exchange(root / "WINDOWS/system32", root / "Windows"))
        exchange(root / "kernel.dll", root / KERNEL)  # two names of one file
        exchange(root / "Readme.txt", root / "README.TXT")
        drive.unmount()
        assert not drive.changes()
