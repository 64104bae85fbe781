"""What the tests under Wine share."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.windows.wine.standin import StandIn
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo

HOME = Path("C:\\lay")
"""The home of the recorded traces."""


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    """The stand-in, logging and without scripted failures."""
    handle = StandIn(tmp_path)
    yield handle
    handle.close()


def _writable(remove: Callable[[str], object], path: str, _: BaseException) -> None:
    os.chmod(path, stat.S_IWRITE)
    remove(path)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder, onexc=_writable)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home folder, the same for all tests."""
    _remove(HOME)
    HOME.mkdir()
    yield HOME
    _remove(HOME)


@pytest.fixture
def service(home: Path, standin: StandIn) -> NativeLayerService:
    """The native service on an empty home, importing within this process."""
    return NativeLayerService(DriverInfo(str(home)), import_inline=True)
