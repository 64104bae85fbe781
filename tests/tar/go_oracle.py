"""Asks Go's own archive/tar, through the small program in ``oracle/``, where a Go toolchain is on PATH."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import require_tool
from winlayers.errors import TarError, TarTruncatedError
from winlayers.tar.fields import to_bytes
from winlayers.tar.header import TarHeader, Time
from winlayers.tar.reader import TarReader
from winlayers.tar.writer import TarWriter

DATA_LIMIT = 1 << 20

Answer = dict[str, Any]


@functools.cache
def _program() -> str:
    go = require_tool("go")
    folder = tempfile.mkdtemp(prefix="tar-oracle-")
    binary = os.path.join(folder, "oracle")
    source = Path(__file__).parent / "oracle" / "main.go"
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", binary, str(source)], check=True, cwd=folder, env=environment)
    return binary


def go_read(streams: Sequence[bytes]) -> list[Answer]:
    """What Go reads from each of *streams*."""
    question = b"".join(struct.pack(">I", len(stream)) + stream for stream in streams)
    done = subprocess.run([_program(), "read"], input=question, stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        for entry in answer["Entries"]:
            entry["Pax"] = dict(entry["Pax"])
            entry.pop("Data")
    return answers


def go_write(archives: Sequence[Sequence[tuple[TarHeader, bytes]]]) -> list[tuple[bytes, str]]:
    """What Go writes for each of *archives*, and the first error ("" for none)."""
    lines = []
    for archive in archives:
        entries = []
        for header, data in archive:
            entry = describe(header)
            entry["Pax"] = [[key, value] for key, value in entry["Pax"].items()]
            entry["Data"] = data.hex()
            entries.append(entry)
        lines.append(json.dumps(entries).encode())
    done = subprocess.run([_program(), "write"], input=b"\n".join(lines), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(bytes.fromhex(answer["Data"]), answer["Error"]) for answer in answers]


def _hex(text: str) -> str:
    return to_bytes(text).hex()


def _time(time: Time | None) -> list[int] | None:
    return None if time is None or time == (-62135596800, 0) else list(time)


def describe(header: TarHeader) -> Answer:
    """*header* in the oracle's terms."""
    return {
        "Name": _hex(header.name),
        "Linkname": _hex(header.linkname),
        "Uname": _hex(header.uname),
        "Gname": _hex(header.gname),
        "Typeflag": ord(header.typeflag),
        "Size": header.size,
        "Mode": header.mode,
        "UID": header.uid,
        "GID": header.gid,
        "Devmajor": header.devmajor,
        "Devminor": header.devminor,
        "Mtime": _time(header.mtime),
        "Atime": _time(header.atime),
        "Ctime": _time(header.ctime),
        "Pax": {_hex(key): _hex(value) for key, value in header.pax.items()},
        "Format": int(header.format),
    }


class ChunkedSource:
    """A stream that gives at most *limit* bytes at a time."""

    def __init__(self, data: bytes, limit: int) -> None:
        self._file = io.BytesIO(data)
        self._limit = limit

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._limit))


def our_read(stream: bytes, chunk_size: int = 1 << 30) -> Answer:
    """What our reader reads from *stream*, in the oracle's terms."""
    entries: list[Answer] = []
    kind = ""
    reader = TarReader(ChunkedSource(stream, chunk_size))
    try:
        for header in reader:
            entry = describe(header)
            entries.append(entry)
            data = reader.read(DATA_LIMIT)
            entry["Length"], entry["Digest"] = len(data), hashlib.sha256(data).hexdigest()
    except TarTruncatedError:
        kind = "truncated"
    except TarError:
        kind = "invalid"
    return {"Entries": entries, "Kind": kind}


def our_write(archive: Sequence[tuple[TarHeader, bytes]]) -> tuple[bytes, bool]:
    """What our writer writes for *archive*, and whether it refused something."""
    sink = io.BytesIO()
    writer = TarWriter(sink)
    try:
        for header, data in archive:
            writer.write_header(header)
            if data:
                writer.write(data)
        writer.close()
    except TarError:
        return sink.getvalue(), True
    return sink.getvalue(), False
