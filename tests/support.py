"""What tests share: where the recorded vectors are, and skips that a full run turns into failures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from winlayers.errors import MountError
from winlayers.layers.portable.mounts import select

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("WINLAYERS_SHARED", REPOSITORY.parent / "shared"))
VECTORS = SHARED / "vectors"
PYTHON_APP = SHARED / "images" / "python-app"


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it where ``WINLAYERS_REQUIRE=all`` says that nothing may be missing."""
    if os.environ.get("WINLAYERS_REQUIRE") == "all":
        pytest.fail(f"required here, but missing: {reason}")
    pytest.skip(reason)


def require(condition: object, reason: str) -> None:
    """Go on only if *condition* holds; *reason* says what is missing otherwise."""
    if not condition:
        missing(reason)


def require_root() -> None:
    """Go on only as root (mounts, loop devices)."""
    require(hasattr(os, "geteuid") and os.geteuid() == 0, "needs root")


def require_tool(name: str) -> str:
    """The path of the peer tool *name*."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed")
    return path


def optional_tool(name: str, why: str) -> str:
    """The path of a peer tool that is never required, not even in a full run; *why* says why."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed, and never required: {why}")
    return path


def vector_cases(kind: str) -> list[Path]:
    """The folders of the recorded cases of *kind*; none where the vectors are not at hand."""
    root = VECTORS / kind
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def require_vectors(kind: str) -> Path:
    """The folder of the vectors of *kind*.  Never a failure: the vectors live outside the project."""
    root = VECTORS / kind
    if not root.is_dir():
        pytest.skip(f"recorded vectors are not at {root}")
    return root


def open_below(folder: Path) -> list[str]:
    """What this process has open in *folder* (Linux); others' descriptors come and go meanwhile."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except FileNotFoundError:  # the one that lists them
            continue
    return sorted(path for path in found if path == str(folder) or path.startswith(f"{folder}/"))


def can_mount() -> bool:
    """Whether the portable service can mount layers here; always said where nothing may be missing."""
    if os.environ.get("WINLAYERS_REQUIRE") == "all":
        return True
    try:
        select.pick()
    except MountError:
        return False
    return True
