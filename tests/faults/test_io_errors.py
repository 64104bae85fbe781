"""EIO from every single call that touches the store, by a preloaded library: clear errors, whole stores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.operations import OPERATIONS
from tests.faults.recovery import require_mount
from tests.support import REPOSITORY, require, require_tool

STRIDE = int(os.environ.get("WINLAYERS_FAULT_STRIDE", "3"))
"""Every how manieth call is let fail; 1 for a full run."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, built."""
    require(sys.platform == "linux", "needs Linux")
    path = tmp_path_factory.mktemp("library") / "failing_io.so"
    source = Path(__file__).with_name("failing_io.c")
    command = [
        require_tool("gcc"),
        "-O2",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(path),
        str(source),
    ]
    subprocess.run([*command, "-ldl"], check=True, timeout=120)
    return path


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[operation.name for operation in OPERATIONS])
def test_every_call_fails_in_turn(number: int, library: Path, tmp_path: Path) -> None:
    operation = OPERATIONS[number]
    if operation.mount is not None:
        require_mount(operation)
    command = [sys.executable, "-m", "tests.faults.io_errors", str(tmp_path), str(number), str(STRIDE)]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=280
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    found = re.search(r"(\d+) runs, 0 failures", run.stdout)
    assert found is not None
    assert int(found[1]) >= 3
