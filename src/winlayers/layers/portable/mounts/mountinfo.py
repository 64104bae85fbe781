"""Which mounts there are: ``/proc/self/mountinfo``, and the ids that tell one mount from its successor."""

from __future__ import annotations

import dataclasses
import os
import re

from winlayers.errors import MountError

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of ``mountinfo`` (source: Linux, ``proc(5)``)."""

    id: int
    root: str
    target: str
    kind: str
    source: str
    options: str


def mounts() -> list[MountInfo]:
    """The mounts of this process's name space, in the order in which they were made."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [parse_line(os.fsdecode(line)) for line in file]


def parse_line(line: str) -> MountInfo:
    """One line; a blank and a line feed alone part fields and lines, all else may be in a name as it is."""
    fields = line.rstrip("\n").split(" ")
    dash = fields.index("-", 6)
    return MountInfo(
        int(fields[0]),
        _unescape(fields[3]),
        _unescape(fields[4]),
        fields[dash + 1],
        _unescape(fields[dash + 2]),
        fields[dash + 3] if len(fields) > dash + 3 else "",
    )


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)


def find(target: str, mount_id: int) -> MountInfo | None:
    """The mount of that id at *target*."""
    real = os.path.realpath(target)
    return next((m for m in mounts() if m.id == mount_id and m.target == real), None)


def mounts_at(target: str) -> list[MountInfo]:
    """All mounts at *target*, the topmost last."""
    real = os.path.realpath(target)
    return [mount for mount in mounts() if mount.target == real]


def id_of_descriptor(fd: int) -> int:
    """The id of the mount that an open file lies on."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise MountError("the kernel does not tell mounts' ids")


def boot_id() -> str:
    """This boot's id; "" where there is none (not Linux)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def name_space() -> str:
    """The mount name space that this process is in; "" where there is none."""
    try:
        return os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""


def lives(space: str) -> bool:
    """Whether some process that can be seen from here is in the mount name space *space*."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == space:
                return True
        except OSError:  # gone, or another user's
            continue
    return False


def holders(target: str) -> str | None:
    """Which processes use the mount at *target*, in words; None: none that can be seen."""
    found = []
    prefix = f"{target}/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
        try:
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        for link in links:
            try:
                place = os.readlink(link)
            except OSError:
                continue
            if place == target or place.startswith(prefix):
                found.append(pid)
                break
    return f"used by process {', '.join(found[:5])}" if found else None
