"""Fresh stores for the fault tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.operations import mounts_below
from winlayers.layers.portable.mounts import syscalls


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes fresh homes; what is mounted in them in the end is taken down."""
    made: list[str] = []

    def fresh() -> str:
        folder = tempfile.mkdtemp(dir=tmp_path)
        made.append(folder)
        return os.path.join(folder, "home")

    yield fresh
    for folder in made:
        for target in reversed(mounts_below(folder)):
            syscalls.unmount(target, syscalls.UMOUNT_DETACH)
