"""What the fuzz targets share: seeds from the recorded vectors, and the run itself.

A target imports what it fuzzes under ``atheris.instrument_imports()``, before it calls `fuzz`.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import atheris

REPOSITORY = Path(__file__).resolve().parent.parent
VECTORS = Path(os.environ.get("WINLAYERS_SHARED", REPOSITORY.parent / "shared")) / "vectors"

MAX_SEED = 64 << 10


def vector_files(pattern: str) -> Iterator[bytes]:
    """The recorded files that match *pattern* and are not too large for a seed; none where there are none."""
    for path in sorted(VECTORS.glob(pattern)):
        if path.stat().st_size <= MAX_SEED:
            yield path.read_bytes()


def backup_streams() -> Iterator[bytes]:
    """The recorded backup streams."""
    yield from vector_files("backuptar/**/*.bs")


def stream_contents(wanted: int) -> Iterator[bytes]:
    """The data of each stream with the id *wanted* in the recorded backup streams."""
    header = struct.Struct("<IIQI")
    for data in backup_streams():
        position = 0
        while position + header.size <= len(data):
            stream_id, _, size, name_size = header.unpack_from(data, position)
            position += header.size + name_size
            if stream_id == wanted:
                yield data[position : position + size]
            position += size


def fuzz(test_one: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Run *test_one* on what libFuzzer makes of *seeds*, with the options of the command line.

    ``-max_total_time=120`` and the like go to libFuzzer; folders named on the command line are corpora that
    are kept, otherwise what is found is forgotten at the end, but for what crashed.
    """
    with tempfile.TemporaryDirectory(prefix="winlayers-fuzz-") as folder:
        seed_folder = Path(folder)
        for number, seed in enumerate(seeds):
            (seed_folder / f"seed-{number:05d}").write_bytes(seed)
        arguments = [*sys.argv, "-timeout=10", "-rss_limit_mb=1024", str(seed_folder)]
        atheris.Setup(arguments, test_one)
        atheris.Fuzz()
