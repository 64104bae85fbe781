"""The script behind ``make test-windows`` where something that it needs is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY


@pytest.mark.skipif("sys.platform == 'win32'", reason="the script runs where Wine does")
@pytest.mark.parametrize(("required", "code"), [("", 0), ("all", 1)])
def test_without_wine_it_says_so(tmp_path: Path, required: str, code: int) -> None:
    script = REPOSITORY / "tests" / "windows" / "run.py"
    environment = {**os.environ, "PATH": str(tmp_path), "WINLAYERS_REQUIRE": required}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr.strip() == "the tests under Wine were not run: wine is not installed"
