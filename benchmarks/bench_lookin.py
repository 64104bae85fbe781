"""Looking into a large image without importing it, and after: time and memory of each look.

    python benchmarks/bench_lookin.py [SIZE_MB]

Makes an image of SIZE_MB (2048) of data in three layers, half of which compresses (see ``bench_images.py``),
and lists it, prints a small file of its largest layer, compares it and reports on it: in an OCI layout, in a
registry on loopback where docker-registry is installed, and imported.  Each step runs as a user would run it
and is measured from outside: seconds, and the most memory that the process held.  Memory over 200 MiB fails.

Then the ways to seek in gzip are compared on the largest blob: seconds for the pass that makes the index,
its size, and the median time of reads of 4 KiB at random places.  indexed_gzip and rapidgzip take part if
they are installed.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))
sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

from bench_images import make_image, measure
from tests.images.registries import docker_registry

from winlayers.images.exporter import copy
from winlayers.inspection.seekable import SeekableBlob, scan
from winlayers.inspection.seekpoints import Points, PointWriter

_READS = 30


def looks(work: Path, layout: str) -> None:
    """Each command, as a user would run it."""
    for name, place in (("layout", layout), *_registry(work, layout)):
        root = work / f"store-{name}"
        small = f"{place}:/layer0/small.txt"
        last = f"{place}:/layer0/00100.bin"
        measure(f"{name}: first ls (every blob is read once)", root, "ls", "-lR", place)
        measure(f"{name}: second ls", root, "ls", "-lR", place)
        measure(f"{name}: cat of one small file", root, "cat", small)
        measure(f"{name}: cat of 1 MiB in the middle", root, "cat", last)
        measure(f"{name}: find", root, "find", place, "-name", "*.txt")
        measure(f"{name}: report", root, "report", place, "-o", os.fspath(work / "report.html"))
        print(f"{'':44} cache {_size(root / 'cache') / 1e6:.1f} MB")
    root = work / "store-layout"
    measure("imported: load", root, "load", layout, "--name", "large")
    measure("imported: ls", root, "ls", "-lR", "large")
    measure("imported: cat of one small file", root, "cat", "large:/layer0/small.txt")
    measure("imported: diff with the layout", root, "diff", "large", layout)


def _registry(work: Path, layout: str) -> list[tuple[str, str]]:
    if shutil.which("docker-registry") is None:
        print("docker-registry is not installed: no looks into a registry")
        return []
    registry = docker_registry(work / "registry")
    host = registry.__enter__()
    _open.append(lambda: registry.__exit__(None, None, None))
    copy(layout, f"docker://{host}/large:1")
    return [("registry", f"docker://{host}/large:1")]


_open: list[Callable[[], object]] = []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# -- seeking --


def compare(blob: Path, work: Path) -> None:
    """The ways to seek in gzip, on one blob."""
    print(f"\nseeking in a blob of {blob.stat().st_size / 1e6:.0f} MB")
    print(f"{'':16}{'index made in':>16}{'index':>12}{'4 KiB at random':>20}")
    for name, run in (("winlayers", _own), ("indexed_gzip", _indexed_gzip), ("rapidgzip", _rapidgzip)):
        if name != "winlayers" and importlib.util.find_spec(name) is None:
            print(f"{name:16}not installed")
            continue
        index = work / f"{name}.index"
        seconds, size, read, close = run(blob, index)
        places = random.Random(1)
        times = []
        for _ in range(_READS):
            offset = places.randrange(size - 4096)
            begin = time.perf_counter()
            data = read(offset)
            times.append(time.perf_counter() - begin)
            if len(data) != 4096:
                raise SystemExit(f"{name}: {len(data)} bytes at {offset}")
        close()
        median = statistics.median(times) * 1000
        print(f"{name:16}{seconds:14.2f} s{index.stat().st_size / 1e6:9.1f} MB{median:17.1f} ms")


Peer = tuple[float, int, Callable[[int], bytes], Callable[[], object]]


def _own(blob: Path, index: Path) -> Peer:
    writer = PointWriter(os.fspath(index))
    begin = time.perf_counter()
    with blob.open("rb") as file:
        for _ in scan(file, writer):
            pass
    seconds = time.perf_counter() - begin

    def open_at(offset: int) -> BinaryIO:
        opened = blob.open("rb", buffering=0)
        opened.seek(offset)
        return opened  # type: ignore[return-value]  # a raw file has all that is used

    seekable = SeekableBlob(Points(os.fspath(index), "blob"), open_at, "blob")
    return seconds, seekable.size, lambda offset: seekable.read(offset, 4096), seekable.close


def _indexed_gzip(blob: Path, index: Path) -> Peer:
    import indexed_gzip  # type: ignore[import-not-found]  # there only if installed

    return _peer(
        indexed_gzip.IndexedGzipFile(os.fspath(blob), spacing=4 << 20),
        index,
        lambda: indexed_gzip.IndexedGzipFile(os.fspath(blob), index_file=os.fspath(index)),
    )


def _rapidgzip(blob: Path, index: Path) -> Peer:
    import rapidgzip  # type: ignore[import-not-found]  # there only if installed

    def again() -> Any:
        file = rapidgzip.open(os.fspath(blob), parallelization=1)
        file.import_index(os.fspath(index))
        return file

    return _peer(rapidgzip.open(os.fspath(blob), parallelization=1), index, again)


def _peer(file: Any, index: Path, again: Callable[[], Any]) -> Peer:
    """Read to the end, as whoever needs the data too must; then begin anew with the index."""
    begin = time.perf_counter()
    size = 0
    while data := file.read(1 << 20):
        size += len(data)
    file.export_index(os.fspath(index))
    seconds = time.perf_counter() - begin
    file.close()
    reopened = again()

    def read(offset: int) -> bytes:
        reopened.seek(offset)
        return bytes(reopened.read(4096))

    return seconds, size, read, reopened.close


def main() -> None:
    """Run all."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    work = Path(tempfile.mkdtemp(prefix="bench-lookin-"))
    try:
        layout = work / "layout"
        begin = time.monotonic()
        make_image(layout, megabytes)
        print(f"made an image of {megabytes} MB in {time.monotonic() - begin:.0f} s")
        looks(work, f"oci:{layout}:large")
        largest = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        compare(largest, work)
    finally:
        for close in _open:
            close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
