"""Microseconds of CPU per entry in the portable store at growing numbers of entries; memory of an import.

python benchmarks/bench_store.py                      # 10,000 and 100,000 entries
python benchmarks/bench_store.py --entries 1000000    # takes some minutes and 8 GB of disk
python benchmarks/bench_store.py --memory 2048        # peak memory of the import of a layer of 2 GiB
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import Clock, best, clock, in_child, machine, path_of, table, write_layer

from winlayers.layers.portable.erofs.image import write_image
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo
from winlayers.tar.layertar import entries_from_tar
from winlayers.tar.reader import TarReader

_CHUNK = 1 << 20


def parse(path: Path) -> int:
    """Read a layer's tar, and do nothing with it."""
    with open(path, "rb", buffering=0) as file:
        return sum(1 for _ in entries_from_tar(TarReader(file, buffer_size=_CHUNK)))


def export(service: PortableLayerService, layer_id: str) -> None:
    """Read a layer's tar out of the store."""
    stream = service.export_tar(layer_id, [])
    while stream.read(_CHUNK):
        pass
    stream.close()


def measure(entries: int, folder: Path, now: Clock) -> dict[str, float]:
    """Microseconds per entry of each piece of work; of the delta's, per entry of the delta."""
    base, delta = folder / "base.tar", folder / "delta.tar"
    found: dict[str, float] = {}
    count = write_layer(base, range(entries))
    changed = write_layer(delta, [*range(0, entries, 10), *range(entries, entries + entries // 10)])
    parse(base)
    found["parse alone"] = best(1, lambda: parse(base), now) / count
    service = PortableLayerService(DriverInfo(os.fspath(folder / "home")))
    service.check_home()
    with clock(now) as took, open(base, "rb", buffering=0) as file:
        service.import_tar("base", [], file)
    found["import"] = took() / count
    parents = [service.layer_path("base")]
    with clock(now) as took, open(delta, "rb", buffering=0) as file:
        service.import_tar("delta", parents, file)
    found["import of the delta"] = took() / changed
    with clock(now) as took:
        service.views.open("base").close()
    found["merge of the base"] = took() / count
    with clock(now) as took:
        service.views.open("delta").close()
    found["merge of the delta over it"] = took() / changed
    with service.views.open("delta") as view:
        nodes = view.count()
        found["merged listing"] = best(1, lambda: sum(1 for _ in view.walk()), now) / nodes
        image = folder / "view.erofs"
        found["EROFS image"] = best(1, lambda: write_image(view, os.fspath(image)), now) / nodes
    found["changes of the base"] = best(1, lambda: sum(1 for _ in service.changes("base", [])), now) / count
    changes: Callable[[], object] = lambda: sum(1 for _ in service.changes("delta", parents))  # noqa: E731
    found["changes of the delta"] = best(1, changes, now) / changed
    found["export"] = best(2, lambda: export(service, "base"), now) / count
    with clock(now) as took:
        service.destroy("delta")
        service.destroy("base")
    found["removal of both"] = took() / (count + changed)
    base.unlink()
    delta.unlink()
    return {name: seconds * 1e6 for name, seconds in found.items()}


class Endless:
    """A layer with one large file, made as it is read."""

    def __init__(self, size: int) -> None:
        self._head = b""
        self._left = size
        self._chunk = os.urandom(_CHUNK)
        self._state = "head"
        self._size = size

    def read(self, n: int = -1, /) -> bytes:
        if self._state == "head":
            self._state = "data"
            return _header(path_of(0), self._size)
        if self._left:
            data = self._chunk[: min(self._left, _CHUNK if n < 0 else min(n, _CHUNK))]
            self._left -= len(data)
            return data
        if self._state == "data":
            self._state = "done"
            return bytes(1024)
        return b""

    def close(self) -> None:
        """Nothing is open."""


def _header(name: str, size: int) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def import_large(folder: Path, size: int) -> None:
    """Import a layer of one file of *size* bytes."""
    service = PortableLayerService(DriverInfo(os.fspath(folder / "large")))
    service.check_home()
    service.import_tar("large", [], Endless(size))
    service.destroy("large")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, action="append", help="numbers of entries (10000, 100000)")
    parser.add_argument("--memory", type=int, metavar="MIB", help="measure the memory of such an import")
    parser.add_argument("--wall", action="store_true", help="measure time that passes, not CPU time")
    parser.add_argument("--folder", help="where to work (a temporary folder)")
    arguments = parser.parse_args()
    now = time.perf_counter if arguments.wall else time.process_time
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.memory:
            peaks = []
            for size in (0, arguments.memory << 20):
                with clock() as took:
                    memory = in_child(lambda size=size: import_large(folder, size))  # type: ignore[misc]
                peaks.append((f"{size >> 20} MiB", f"{memory / (1 << 20):.0f} MiB", f"{took():.1f} s"))
            print(table(("layer", "peak memory", "time"), peaks))
            return
        columns = []
        for entries in arguments.entries or (10_000, 100_000):
            columns.append((entries, in_folder(folder / str(entries), entries, now)))
    rows = [(name, *(f"{found[name]:.1f}" for _, found in columns)) for name in columns[0][1]]
    print(
        table(
            (
                f"µs of {'time' if arguments.wall else 'CPU'} per entry",
                *(f"{entries:,}" for entries, _ in columns),
            ),
            rows,
        )
    )


def in_folder(folder: Path, entries: int, now: Clock) -> dict[str, float]:
    """Measure in a folder of its own."""
    folder.mkdir()
    return measure(entries, folder, now)


if __name__ == "__main__":
    main()
