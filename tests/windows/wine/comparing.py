"""What of a scenario's course is compared: calls, folders and results, in a form that is kept as JSON."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.windows.wine.scenarios import OLD, Setup
from winlayers.tar import TarReader


def prepare(home: Path, setup: Setup) -> None:
    """Lay *setup* out in *home*, all of it at the time `OLD`."""
    for name, content in setup.items():
        path = home / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        elif isinstance(content, str):
            os.link(home / content, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for folder, folders, files in os.walk(home, topdown=False):
        for name in [*folders, *files]:
            os.utime(os.path.join(folder, name), (OLD, OLD))


def folder_digest(home: Path) -> dict[str, str]:
    """What lies in the home: kind or digest, the time if it is not that of the run, and what is one file."""
    found: dict[str, str] = {}
    first: dict[int, str] = {}
    for path in sorted(home.rglob("*"), key=lambda path: path.as_posix()):
        name = path.relative_to(home).as_posix()
        status = os.lstat(path)
        time = f" {status.st_mtime_ns // 100}" if status.st_mtime < OLD + 100 else ""
        if path.is_dir():
            found[name] = f"folder{time}"
            continue
        digest = hashlib.sha1(path.read_bytes()).hexdigest()[:16]
        same = first.setdefault(status.st_ino, name)
        found[name] = f"{digest}{time}" + (f" = {same}" if same != name else "")
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What *after* has otherwise than *before*; None: no more."""
    return {
        name: after.get(name)
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def change_lines(text: str) -> list[str]:
    """Changes as Go prints them, in the order of their paths: ``[{Files/a C} {Files/b D}]``."""
    return sorted(text.strip("[{}]").split("} {"))


def tar_lines(tar: bytes) -> list[str]:
    """What two exports of a layer must share, one line an entry: no times but what the records keep."""
    lines = []
    reader = TarReader(io.BytesIO(tar))
    for header in reader:
        kept = [
            f"{key.removeprefix('MSWINDOWS.')}={value}"
            for key, value in sorted(header.pax.items())
            if key.startswith("MSWINDOWS.")
        ]
        digest = hashlib.sha1(reader.read()).hexdigest()[:16]
        lines.append(" ".join([header.name, str(header.typeflag), header.linkname, digest, *kept]))
    return lines


_ORDER = dict.fromkeys(("fn", "flavour", "home", "id", "name", "parent", "path", "count", "layers")).keys()
_LEFT_OUT = {"streams", "complete"}


def one_line(call: Mapping[str, Any]) -> str:
    """A call with its arguments, as one line; of a backup stream its digest."""
    parts = []
    for key in [*_ORDER, *sorted(call.keys() - _ORDER - _LEFT_OUT)]:
        if key not in call:
            continue
        value = call[key]
        if key == "layers":
            value = [f"{item['path']}:{item['flags']}" for item in value]
        parts.append(str(value) if key == "fn" else f"{key}={value}")
    return " ".join(parts)
