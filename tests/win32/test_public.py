"""The package's public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from winlayers import win32


def test_every_public_name_is_there() -> None:
    for name in win32.__all__:
        assert getattr(win32, name) is not None
        assert name in dir(win32)
    with pytest.raises(AttributeError):
        _ = win32.no_such_name  # type: ignore[attr-defined]  # that is what is tested


def test_importing_one_module_does_not_load_the_others() -> None:
    script = "import sys, winlayers.win32.filetime; print('winlayers.win32.backupstream' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
