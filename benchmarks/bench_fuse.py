"""How fast a FUSE mount is, against the same files on the bare file system, in the same run.

Run as root: ``python benchmarks/bench_fuse.py [--files N] [--megabytes N] [--folder PATH]``.  Each line is
one kind of work: microseconds per operation (or MB/s) on the bare file system and through the mount, and how
many times longer the mount takes.  *cold* is after the kernel's caches were dropped; *known* is done again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from winlayers.layers.portable.merge import build_view
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.view import ROOT, View

_TIME = 133_444_736_001_234_567
_PER_DIRECTORY = 100
_SIZE = 4096


def make(folder: Path, files: int, megabytes: int) -> tuple[View, Path]:
    """A view of that many files and a large one, and a folder with the same on the bare file system."""
    home, bare = folder / "home", folder / "bare"
    (home / "view").mkdir(parents=True)
    (home / "layer").mkdir()
    bare.mkdir()
    path = home / "view" / "view.db"
    build_view(str(path), None, [])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN")
    db.execute("INSERT INTO layers VALUES (0, 'layer')")
    number = ROOT

    def add(parent: int, name: str, size: int, offset: int, *, is_directory: bool = False) -> int:
        nonlocal number
        number += 1
        attributes, source = (16, 0) if is_directory else (32, 1)
        times = (_TIME, _TIME, _TIME, _TIME)
        row = (number, int(is_directory), 0, attributes, *times, None, None, None, source, offset, size, 1, 0)
        db.execute(f"INSERT INTO inodes VALUES ({','.join('?' * 16)})", row)
        key = name.upper().encode("ascii")
        db.execute("INSERT INTO nodes VALUES (?, ?, ?, ?, ?)", (number, parent, key, name.encode(), number))
        return number

    drive = add(ROOT, "Files", 0, 0, is_directory=True)
    with open(home / "layer" / "layer.tar", "wb") as tar:
        for first in range(0, files, _PER_DIRECTORY):
            directory = add(drive, f"dir{first}", 0, 0, is_directory=True)
            (bare / f"dir{first}").mkdir()
            for count in range(first, min(first + _PER_DIRECTORY, files)):
                data = os.urandom(64) * (_SIZE // 64)
                add(directory, f"file{count}.dll", _SIZE, tar.tell())
                tar.write(data)
                (bare / f"dir{first}" / f"file{count}.dll").write_bytes(data)
        block = os.urandom(1 << 20)
        add(drive, "large", megabytes << 20, tar.tell())
        with open(bare / "large", "wb") as large:
            for _ in range(megabytes):
                tar.write(block)
                large.write(block)
    db.execute("COMMIT")
    db.close()
    os.sync()
    return View(str(path), str(home)), bare


def drop_caches() -> None:
    """Let the kernel forget what it has read."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def walk(root: str) -> int:
    """List and stat everything."""
    count = 0
    for entry in os.scandir(root):
        entry.stat(follow_symlinks=False)
        count += 1
        if entry.is_dir(follow_symlinks=False):
            count += walk(entry.path)
    return count


class Bench:
    """Runs each kind of work on both."""

    def __init__(self, bare: str, mounted: str) -> None:
        self.bare = bare
        self.mounted = mounted

    def compare(
        self,
        title: str,
        work: Callable[[str], int],
        *,
        cold: bool = False,
        known: bool = False,
        unit: str = "us",
    ) -> None:
        """Print one line; *work* returns how many operations (or bytes, for MB/s) it did."""
        figures = []
        for root in (self.bare, self.mounted):
            if cold:
                drop_caches()
            elif known:
                work(root)
            begun = time.perf_counter()
            done = work(root)
            took = time.perf_counter() - begun
            figures.append(done / took / 1e6 if unit == "MB/s" else took / done * 1e6)
        ratio = figures[0] / figures[1] if unit == "MB/s" else figures[1] / figures[0]
        print(f"{title:44} {figures[0]:10.1f} {figures[1]:10.1f} {unit:5} {ratio:7.1f}x")


def reading(bench: Bench, files: int, megabytes: int) -> None:
    """Names, attributes and data that are there."""
    paths = [f"dir{n // _PER_DIRECTORY * _PER_DIRECTORY}/file{n}.dll" for n in range(files)]
    picks = random.Random(1).sample(paths, min(2000, files))

    def stat(root: str) -> int:
        for path in picks:
            os.stat(f"{root}/{path}")
        return len(picks)

    def contents(root: str) -> int:
        for path in picks:
            with open(f"{root}/{path}", "rb", buffering=0) as file:
                file.read()
        return len(picks)

    def sequential(root: str) -> int:
        with open(f"{root}/large", "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        return megabytes << 20

    def at_random(root: str) -> int:
        places = random.Random(2)
        with open(f"{root}/large", "rb", buffering=0) as file:
            for _ in range(2000):
                os.pread(file.fileno(), 4096, places.randrange((megabytes << 20) - 4096))
        return 2000

    bench.compare("stat by name, cold (a request each)", stat, cold=True)
    bench.compare("walk with stat, cold (READDIRPLUS)", walk, cold=True)
    bench.compare("walk with stat, known", walk, known=True)
    bench.compare("stat by name, known", stat, known=True)
    bench.compare("open, read 4 KiB, close, cold", contents, cold=True)
    bench.compare("open, read 4 KiB, close, known", contents, known=True)
    bench.compare("sequential read, cold", sequential, cold=True, unit="MB/s")
    bench.compare("sequential read, known", sequential, known=True, unit="MB/s")
    bench.compare("random reads of 4 KiB, cold", at_random, cold=True)
    bench.compare("random reads of 4 KiB, known", at_random, known=True)


def writing(bench: Bench, megabytes: int) -> None:
    """New names and data."""
    count = 2000

    def create(root: str) -> int:
        os.mkdir(f"{root}/new")
        for number in range(count):
            with open(f"{root}/new/{number}", "wb", buffering=0) as file:
                file.write(b"x" * 1000)
        return count

    def rename(root: str) -> int:
        for number in range(count):
            os.rename(f"{root}/new/{number}", f"{root}/new/renamed {number}")
        return count

    def remove(root: str) -> int:
        for number in range(count):
            os.unlink(f"{root}/new/renamed {number}")
        return count

    def write(root: str) -> int:
        block = os.urandom(1 << 20)
        with open(f"{root}/written", "wb", buffering=0) as file:
            for _ in range(megabytes):
                file.write(block)
        return megabytes << 20

    def touch_large(root: str) -> int:
        with open(f"{root}/large", "r+b", buffering=0) as file:
            for number in range(200):
                os.pwrite(file.fileno(), b"x", number * (megabytes << 20) // 200)
        return 200

    bench.compare("create, write 1 kB, close", create)
    bench.compare("rename", rename)
    bench.compare("unlink", remove)
    bench.compare("sequential write of 1 MiB pieces", write, unit="MB/s")
    bench.compare("a byte here and there in a large file", touch_large)


def main() -> None:
    """Parse the arguments and run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--folder", help="where to work; a file system with room")
    arguments = parser.parse_args()
    mounter = FuseMounter()
    why = mounter.unavailable() or (None if os.geteuid() == 0 else "dropping caches needs root")
    if why is not None:
        print(f"not run: {why}")
        return
    folder = Path(tempfile.mkdtemp(prefix="winlayers-bench-", dir=arguments.folder))
    try:
        view, bare = make(folder, arguments.files, arguments.megabytes)
        for name in ("mnt", "state"):
            (folder / name).mkdir()
        request = MountRequest(
            view, str(folder / "home" / "view"), str(folder / "mnt"), str(folder / "state")
        )
        begun = time.perf_counter()
        record = mounter.mount(request)
        print(f"mounted in {(time.perf_counter() - begun) * 1e3:.0f} ms")
        print(f"{'':44} {'bare':>10} {'FUSE':>10}")
        try:
            bench = Bench(str(bare), str(folder / "mnt"))
            reading(bench, arguments.files, arguments.megabytes)
            writing(bench, arguments.megabytes)
        finally:
            mounter.unmount(record)
            view.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
