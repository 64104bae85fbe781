"""What the benchmarks share: made layers, clocks, tables, and a word on the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar import TarWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.security import sddl_to_bytes

FILES_PER_FOLDER = 100
_TIME = 133_486_272_001_234_567
_DESCRIPTORS = [
    sddl_to_bytes(f"O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;S-1-5-21-1-2-3-{n})")
    for n in range(200)
]


def path_of(number: int) -> str:
    """The path of the file *number* of a made layer: some levels down, as in WinSxS."""
    folder = number // FILES_PER_FOLDER
    return f"Files/Windows/WinSxS/amd64_component-{folder % 50}/folder-{folder}/file-{number}.dll"


def _metadata(number: int, attributes: FileAttributes) -> FileMetadata:
    time_ = _TIME + number
    return FileMetadata(attributes, time_, time_ + 1, time_ + 2, time_ + 3, _DESCRIPTORS[number % 200])


def write_layer(path: Path, numbers: Sequence[int], *, data: bytes = b"MZ" + bytes(198)) -> int:
    """Write a layer's tar with the files of these numbers and their folders; the number of entries."""
    made: set[str] = set()
    entries = 0
    with open(path, "wb", buffering=1 << 20) as file:
        writer = TarWriter(file)
        for number in numbers:
            name = path_of(number)
            parts = name.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    entry = LayerEntry(
                        folder, EntryKind.DIRECTORY, _metadata(number, FileAttributes.DIRECTORY)
                    )
                    entries += _write(writer, entry, ())
            content = data if number % 4 == 0 else b""
            entry = LayerEntry(name, EntryKind.FILE, _metadata(number, FileAttributes.ARCHIVE), len(content))
            entries += _write(writer, entry, [DataStream("", len(content), (content,))])
        writer.close()
    return entries


def _write(writer: TarWriter, entry: LayerEntry, streams: Sequence[DataStream]) -> int:
    for _ in write_layer_entry(writer, entry, streams):
        pass
    return 1


Clock = Callable[[], float]


@contextlib.contextmanager
def clock(now: Clock = time.perf_counter) -> Iterator[Callable[[], float]]:
    """Gives the seconds that the block took, once it has ended: by the wall, or of CPU (`process_time`)."""
    begun = now()
    ended: list[float] = []
    yield lambda: ended[0] - begun
    ended.append(now())


def best(times: int, run: Callable[[], object], now: Clock = time.perf_counter) -> float:
    """The least of the seconds that *run* takes in *times* attempts."""
    found = []
    for _ in range(times):
        with clock(now) as took:
            run()
        found.append(took())
    return min(found)


def in_child(run: Callable[[], object]) -> int:
    """Run in a child process; its peak memory in bytes."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError("the child process failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_memory() -> int:
    """This process's peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def drop_caches() -> bool:
    """Let the kernel forget what it has read; False where that is not allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    return True


def machine() -> str:
    """One line on the machine."""
    model = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{os.cpu_count()} x {model}, {memory} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all but the first column are aligned to the right."""
    lines = [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join(["---", *["---:"] * (len(head) - 1)]) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)
