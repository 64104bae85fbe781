"""How long it takes to make and mount EROFS images of views: microseconds per entry, at several sizes.

Run as ``python benchmarks/bench_erofs.py [--entries N ...] [--flat] [--mount]``.  The views are made up:
files of one block with a descriptor out of a hundred, four times and an attribute word each, in directories
of a hundred (or all in one).  ``--mount`` needs root: it mounts what it made, and times the first read and
a walk.
"""

from __future__ import annotations

import argparse
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator

from winlayers.layers.portable.erofs.image import read_facts, write_image
from winlayers.layers.portable.merge import build_view
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.mounts.erofs import ErofsMounter
from winlayers.layers.portable.view import ROOT, View

_TIME = 133_444_736_001_234_567
_DESCRIPTORS = 100
_DRIVE = ROOT + 1


def make_view(home: str, entries: int, *, flat: bool) -> View:
    """A view of that many names below the drive."""
    folder = os.path.join(home, "view")
    os.makedirs(os.path.join(home, "layer0"))
    os.makedirs(folder)
    with open(os.path.join(home, "layer0", "layer.tar"), "wb") as file:
        file.truncate((entries + 1) * 1024)
    path = os.path.join(folder, "view.db")
    build_view(path, None, [])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("BEGIN")
    db.execute("INSERT INTO layers VALUES (0, 'layer0')")
    db.executemany(
        "INSERT INTO security VALUES (?, ?)",
        ((n + 1, n.to_bytes(2, "big") * 100) for n in range(_DESCRIPTORS)),
    )
    inodes = (inode for inode, _ in _rows(entries, flat))
    db.executemany(f"INSERT INTO inodes VALUES ({','.join('?' * 16)})", inodes)
    db.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?, ?)", (node for _, node in _rows(entries, flat)))
    db.execute("COMMIT")
    db.close()
    return View(path, home)


def _rows(entries: int, flat: bool) -> Iterator[tuple[tuple[object, ...], tuple[object, ...]]]:
    yield _directory(_DRIVE, ROOT, b"Files")
    parent = _DRIVE
    for number in range(entries):
        this = _DRIVE + 1 + number
        if not flat and number % 101 == 0:
            yield _directory(this, _DRIVE, b"directory %d" % number)
            parent = this
            continue
        name = b"some file %d.dll" % number
        times = (_TIME + number, _TIME, _TIME + number * 7, _TIME)
        rest = (1 + number % _DESCRIPTORS, None, None, 1, number * 1024, 512, 1, 0)
        yield (this, 0, 0, 32, *times, *rest), (this, parent, name.upper(), name, this)


def _directory(number: int, parent: int, name: bytes) -> tuple[tuple[object, ...], tuple[object, ...]]:
    times = (_TIME, _TIME, _TIME, _TIME)
    return (number, 1, 0, 16, *times, 1, None, None, 0, 0, 0, 1, 0), (
        number,
        parent,
        name.upper(),
        name,
        number,
    )


def measure(entries: int, *, flat: bool, mount: bool) -> None:
    """Make one view, its image and perhaps its mount, and print the figures."""
    with tempfile.TemporaryDirectory() as home, make_view(home, entries, flat=flat) as view:
        image = os.path.join(home, "view", "view.erofs")
        start = time.perf_counter()
        write_image(view, image)
        took = time.perf_counter() - start
        facts = read_facts(image)
        assert facts is not None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{entries:>9,} entries{' in one directory' if flat else '':17}"
            f"  image {took / entries * 1e6:6.2f} us each"
            f"  {os.path.getsize(image) / entries:5.0f} bytes each  peak {peak} MiB"
        )
        if mount:
            _measure_mount(view, home, entries)


def _measure_mount(view: View, home: str, entries: int) -> None:
    target = os.path.join(home, "mnt")
    os.mkdir(target)
    mounter = ErofsMounter()
    start = time.perf_counter()
    record = mounter.mount(MountRequest(view, os.path.join(home, "view"), target))
    try:
        first = next(path for path in _files(target) if path.endswith(".dll"))
        with open(first, "rb") as file:
            file.read(1)
        until_read = time.perf_counter() - start
        start = time.perf_counter()
        count = 0
        for path in _files(target):
            os.lstat(path)
            count += 1
        walk = time.perf_counter() - start
        print(f"{'':37}mount to first byte {until_read * 1e3:.1f} ms  walk {walk / count * 1e6:.2f} us each")
    finally:
        mounter.unmount(record)


def _files(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.join(folder, name)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--flat", action="store_true", help="all in one directory")
    parser.add_argument("--mount", action="store_true", help="mount the images too (as root)")
    arguments = parser.parse_args()
    for entries in arguments.entries:
        measure(entries, flat=arguments.flat, mount=arguments.mount)


if __name__ == "__main__":
    main()
