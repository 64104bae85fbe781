"""The recorded cases of go-winio's backuptar, and what the reference loses: the rest must be equal."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from pathlib import Path
from typing import Any

from tests.support import vector_cases
from winlayers.tar.fields import to_bytes
from winlayers.tar.header import TarHeader, Time
from winlayers.tar.layertar import LayerTarEntry
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata

CASES = [case for case in vector_cases("backuptar") if (case / "in.tar").is_file()]
SOURCES = [case for case in vector_cases("backuptar") if (case / "src" / "index.json").is_file()]

GO_ZERO_FILETIME = 48491090211286549
"""What the reference makes of a time that a header does not have."""

_EPOCH = 116_444_736_000_000_000


def index(case: Path) -> list[dict[str, Any]]:
    """The entries that the reference read."""
    entries: list[dict[str, Any]] = json.loads((case / "index.json").read_text())["entries"] or []
    return entries


def note(case: Path, start: str) -> str:
    """What comes after *start* in the line of the case's notes that begins with it."""
    for line in (case / "notes.txt").read_text().splitlines():
        if line.startswith(start):
            return line[len(start) :].strip(" :")
    return ""


def reference_filetime(time: Time | None) -> int:
    """A FILETIME as the reference computes it: nanoseconds wrap at 64 bits, no time is year 1, wrapped."""
    seconds, nanoseconds = time if time is not None else (-62135596800, 0)
    total = (seconds * 1_000_000_000 + nanoseconds + (1 << 63)) % (1 << 64) - (1 << 63)
    return (total // 100 if total >= 0 else -(-total // 100)) + _EPOCH


def metadata_of(entry: dict[str, Any]) -> FileMetadata:
    """Attributes and times of an entry of the index."""
    times = entry["filetimes"]
    return FileMetadata(
        FileAttributes(entry["attributes"]),
        creation_time=times["creation"],
        access_time=times["access"],
        write_time=times["write"],
        change_time=times["change"],
    )


def windows_path(entry: dict[str, Any], key: str = "win_name") -> str:
    """A path of the index as a layer reader would see it: cleaned, with slashes."""
    return posixpath.normpath(str(entry[key]).replace("\\", "/"))


def text(header: TarHeader) -> str:
    """A header's name as the index's JSON has it."""
    return to_bytes(header.name).decode("utf-8", "replace")


@dataclasses.dataclass
class Reference:
    """What the reference makes of one of our entries, losses and all."""

    kind: str
    path: str
    has_data: bool

    @classmethod
    def of(cls, entry: LayerTarEntry) -> Reference:
        """The reference's view of *entry*."""
        kind, path = entry.kind.value, entry.path
        name = text(entry.header)
        if kind == "opaque":
            kind, path = "whiteout", posixpath.join(path, ".wh..opq")
        elif kind == "whiteout" and name.endswith("/"):
            path = posixpath.join(name, posixpath.basename(path))  # path.Dir keeps the whole name
        return cls(
            "file" if kind == "directory" else kind, path.replace("/", "\\"), entry.header.typeflag == "0"
        )
