"""A large image through a registry on loopback: time, memory, and which blobs move.

    python benchmarks/bench_images.py [SIZE_MB]

Makes an image of SIZE_MB (2048) of data in three layers, half of which compresses; copies it to a
docker-registry, pulls it, lists it, pulls it again, pushes it to another repository.  Each step runs as a
user would run it, and is measured from outside: seconds, and the most memory that the process held (MiB).
What must hold is checked: memory under 200 MiB, a second pull and a push to another repository move no layer,
a pull whose connection breaks goes on where it was.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from isal import igzip

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

from tests.images.registries import Proxy, docker_registry, proxied

from winlayers.images import mediatypes
from winlayers.images.digest import digest_of
from winlayers.images.documents import Descriptor, compact_json, manifest_bytes
from winlayers.images.layout import OciLayout
from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar import TarWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata

MEMORY_LIMIT = 200.0
FILE_SIZE = 1 << 20
_DIRECTORY = FileMetadata(FileAttributes.DIRECTORY, *(133_444_736_000_000_000,) * 4)
_FILE = FileMetadata(FileAttributes.ARCHIVE, *(133_444_736_000_000_000,) * 4)


def entries(number: int, files: int) -> Iterator[tuple[LayerEntry, list[DataStream]]]:
    """A layer of *files* files of one MiB, and a small one."""
    made = random.Random(number)
    for path in ("Files", f"Files/layer{number}"):
        yield LayerEntry(path, EntryKind.DIRECTORY, _DIRECTORY), []
    small = f"small file of layer {number}\r\n".encode()
    yield (
        LayerEntry(f"Files/layer{number}/small.txt", EntryKind.FILE, _FILE, len(small)),
        [DataStream("", len(small), [small])],
    )
    for index in range(files):
        half = made.randbytes(FILE_SIZE // 2)
        data = half + half[:4096] * (FILE_SIZE // 2 // 4096)
        entry = LayerEntry(f"Files/layer{number}/{index:05}.bin", EntryKind.FILE, _FILE, len(data))
        yield entry, [DataStream("", len(data), [data])]


class Sink(Protocol):
    """Takes data."""

    def write(self, data: bytes | bytearray | memoryview, /) -> object: ...


class Hashing:
    """Passes on what it is given, and hashes it."""

    def __init__(self, sink: Sink) -> None:
        import hashlib

        self._sink = sink
        self.hasher = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.hasher.update(data)
        self._sink.write(data)


def make_image(folder: Path, megabytes: int) -> None:
    """Write the image into a layout, in bounded memory."""
    import hashlib

    layout = OciLayout.create(folder)
    layers, diff_ids = [], []
    for number in range(3):
        hidden = folder / f".tmp-{os.getpid()}-layer"
        opener: Any = igzip.IGzipFile  # has no type hints
        with hidden.open("wb") as raw, opener(fileobj=raw, mode="wb", compresslevel=1) as packed:
            plain = Hashing(packed)
            writer = TarWriter(plain)
            for entry, streams in entries(number, megabytes * (6, 3, 1)[number] // 10):
                for _ in write_layer_entry(writer, entry, streams):
                    pass
            writer.close()
        diff_ids.append(f"sha256:{plain.hasher.hexdigest()}")
        with hidden.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        size = hidden.stat().st_size
        hidden.rename(layout.blob_path(digest))
        layers.append(Descriptor(mediatypes.OCI_LAYER_GZIP, digest, size))
    config = compact_json(
        {
            "architecture": "amd64",
            "os": "windows",
            "os.version": "10.0.20348.1",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    kind = mediatypes.OCI_MANIFEST
    blob = Descriptor(mediatypes.OCI_CONFIG, layout.write(config), len(config))
    raw_manifest = manifest_bytes(kind, blob, layers)
    layout.write(raw_manifest)
    layout.tag("large", Descriptor(kind, digest_of(raw_manifest), len(raw_manifest)))


def measure(label: str, root: Path, *arguments: str) -> float:
    """Run the program; print and return the most memory that it held, in MiB."""
    sys.stdout.flush()
    begin = time.monotonic()
    command = [sys.executable, "-m", "winlayers", "--root", os.fspath(root), "--quiet", *arguments]
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - begin
    memory = usage.ru_maxrss / 1024
    print(f"{label:44} {seconds:8.2f} s {memory:8.1f} MiB")
    if status:
        raise SystemExit(f"{label}: exit status {os.waitstatus_to_exitcode(status)}")
    if memory > MEMORY_LIMIT:
        raise SystemExit(f"{label}: {memory:.0f} MiB is more than {MEMORY_LIMIT:.0f}")
    return memory


def moved(proxy: Proxy, label: str, most: int) -> None:
    """Check how many bytes went through the proxy since the last look."""
    count = proxy.uploaded + proxy.downloaded
    proxy.uploaded = proxy.downloaded = 0
    print(f"{'':44} {count / 1e6:10.3f} MB through the network")
    if count > most:
        raise SystemExit(f"{label}: {count} bytes moved, at most {most} should")


def main() -> None:
    """Run all steps."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    folder = Path(tempfile.mkdtemp(prefix="winlayers-bench-"))
    try:
        begin = time.monotonic()
        make_image(folder / "layout", megabytes)
        packed = sum(p.stat().st_size for p in (folder / "layout/blobs/sha256").iterdir())
        seconds = time.monotonic() - begin
        print(f"image: {megabytes} MiB, {packed / 2**20:.0f} MiB packed, made in {seconds:.1f} s")
        with docker_registry(folder / "registry") as host, proxied(host) as proxy:
            root, source = folder / "store", f"oci:{folder / 'layout'}:large"
            measure("copy to the registry", root, "copy", source, f"docker://{host}/large/one:1")
            measure("pull", root, "pull", f"{host}/large/one:1")
            measure("layers", root, "layers", f"{host}/large/one:1")
            measure("images", root, "images")
            # Through a proxy that counts from here on: what moves, not how fast.
            proxy.downloaded = 0
            measure("pull again", root, "pull", f"{proxy.host}/large/one:1")
            moved(proxy, "pull again", 100_000)
            measure(
                "push to another repository",
                root,
                "push",
                f"{proxy.host}/large/one:1",
                f"{proxy.host}/large/two:1",
            )
            moved(proxy, "push to another repository", 100_000)
            breaks = 0

            def spoil(exchange: object) -> str:
                nonlocal breaks
                request = f"{getattr(exchange, 'command', '')} {getattr(exchange, 'path', '')}"
                if request.startswith("GET") and "/blobs/" in request and breaks < 3:
                    breaks += 1
                    return "cut download"
                return ""

            proxy.spoil = spoil
            proxy.cut_download = packed // 8
            measure("pull, broken in mid-blob", folder / "second", "pull", f"{proxy.host}/large/two:1")
            moved(proxy, "pull, broken in mid-blob", int(packed * 1.01))
            resumed = sum("Range" in headers for _, _, headers in proxy.requests)
            print(f"{'':44} {breaks} breaks, {resumed} resumed")
            if not resumed:
                raise SystemExit("nothing was resumed")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
