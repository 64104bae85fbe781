"""Each kind of mount against plain files in the same run: until the first byte, stat, readdir, reads.

    python benchmarks/bench_mounts.py
    python benchmarks/bench_mounts.py --entries 100000 --large 1024

All is read once before it is measured, so that it is the file systems that are compared and not the disk.
Mounting needs root, and kinds that can't be used here are left out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import best, machine, path_of, table, write_layer

from winlayers.layers.portable.mounts import select
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo
from winlayers.tar import TarHeader, TarWriter

_CHUNK = 1 << 20
_RANDOM = 4096
_RANDOM_READS = 20_000
_ROUNDS = 3
LARGE = "large.bin"


def walk(root: str) -> int:
    """Read every directory."""
    count = 0
    stack = [root]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return count


def stat_all(root: str, paths: list[str]) -> None:
    """Look at every file."""
    for path in paths:
        os.stat(f"{root}/{path}")


def read_small(root: str, paths: list[str]) -> None:
    """Open and read files, whole."""
    for path in paths:
        with open(f"{root}/{path}", "rb", buffering=0) as file:
            file.read()


def sequential(root: str) -> None:
    """Read the large file from its beginning to its end."""
    with open(f"{root}/{LARGE}", "rb", buffering=0) as file:
        buffer = bytearray(_CHUNK)
        while file.readinto(buffer):
            pass


def random_reads(root: str, size: int) -> None:
    """Read small pieces of the large file, anywhere."""
    chance = random.Random(1)
    fd = os.open(f"{root}/{LARGE}", os.O_RDONLY)
    for _ in range(_RANDOM_READS):
        os.pread(fd, _RANDOM, chance.randrange(size // _RANDOM) * _RANDOM)
    os.close(fd)


def measure(root: str, paths: list[str], size: int) -> dict[str, float]:
    """Seconds of each piece of work, the best of some rounds."""
    work: dict[str, Callable[[], object]] = {
        "readdir, per name": lambda: walk(root),
        "stat, per file": lambda: stat_all(root, paths),
        "open and read, per small file": lambda: read_small(root, paths[::10]),
        "sequential read, per MiB": lambda: sequential(root),
        "random read of 4 KiB": lambda: random_reads(root, size),
    }
    counts = (walk(root), len(paths), len(paths[::10]), size >> 20, _RANDOM_READS)
    for run in work.values():
        run()
    return {name: best(_ROUNDS, run) / count for (name, run), count in zip(work.items(), counts, strict=True)}


def first_byte(service: PortableLayerService, layer_id: str, chain: list[str], path: str) -> float:
    """Seconds from the call that mounts to the first byte of a file."""
    service.activate(layer_id)
    begun = time.perf_counter()
    service.prepare(layer_id, chain)
    with open(f"{service.mount_path(layer_id)}/{path}", "rb", buffering=0) as file:
        file.read(1)
    return time.perf_counter() - begun


def prepare_layers(folder: Path, entries: int, size: int) -> tuple[str, list[str]]:
    """A store's home with one layer of many small files and one large one; the home and the files' paths."""
    tar = folder / "layer.tar"
    write_layer(tar, range(entries))
    with open(tar, "r+b", buffering=_CHUNK) as file:
        file.seek(-1024, os.SEEK_END)  # over the two blocks of zeros that end it
        writer = TarWriter(file)
        header = TarHeader(f"Files/{LARGE}")
        header.size = size
        writer.write_header(header)
        chunk = os.urandom(_CHUNK)
        for _ in range(size // _CHUNK):
            writer.write(chunk)
        writer.close()
    home = os.fspath(folder / "home")
    service = PortableLayerService(DriverInfo(home))
    service.check_home()
    with open(tar, "rb", buffering=0) as source:
        service.import_tar("base", [], source)
    tar.unlink()
    return home, [path_of(number).removeprefix("Files/") for number in range(entries)]


def measure_kind(kind: str, home: str, paths: list[str], size: int, plain: Path) -> dict[str, float]:
    """Mount by *kind*, writable, measure, and unmount; with *plain* still empty, fill it."""
    service = PortableLayerService(DriverInfo(home), mount=kind)
    chain = [service.layer_path("base")]
    service.views.forget("base")
    found: dict[str, float] = {}
    try:
        for label in ("first byte of the first mount", "first byte of another mount"):
            layer_id = f"{kind}-{label.split()[-2]}"
            service.create_scratch(layer_id, chain)
            found[label] = first_byte(service, layer_id, chain, paths[0])
        root = service.mount_path(layer_id)
        found |= measure(root, paths, size)
        if not plain.exists():
            shutil.copytree(root, plain, copy_function=shutil.copyfile)
    finally:
        for layer_id in service.store.ids():
            if layer_id != "base":
                service.deactivate(layer_id)
                service.destroy(layer_id)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=20_000, help="number of small files (20000)")
    parser.add_argument("--large", type=int, default=256, metavar="MIB", help="size of the large file (256)")
    parser.add_argument("--folder", help="where to work (a temporary folder)")
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    size = arguments.large << 20
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(os.path.realpath(name))
        home, paths = prepare_layers(folder, arguments.entries, size)
        plain = folder / "plain"
        kinds = {}
        for mounter in select.mounters():
            why = mounter.unavailable()
            if why is None:
                kinds[mounter.kind] = measure_kind(mounter.kind, home, paths, size, plain)
            else:
                print(f"no {mounter.kind}: {why}")
        bare = measure(os.fspath(plain), paths, size)
    rows = []
    for label in next(iter(kinds.values())):
        base = bare.get(label)
        cells = [_microseconds(base) if base is not None else ""]
        for found in kinds.values():
            ratio = f" ({found[label] / base:.1f}x)" if base else ""
            cells.append(f"{_microseconds(found[label])}{ratio}")
        rows.append((label, *cells))
    print(table(("", "plain files", *kinds), rows))


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e6:.2f} µs"


if __name__ == "__main__":
    main()
