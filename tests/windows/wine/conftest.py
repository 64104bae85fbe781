"""What the tests under Wine share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.windows.wine.standin import StandIn
from winlayers.durable import remove_tree
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo

HOME = Path("C:\\lay")
"""The home of the recorded traces."""


@pytest.fixture(autouse=True)
def no_temporary_folder_stays() -> Iterator[None]:
    """Every test's temporary folders must be gone at its end."""
    folder = Path(os.environ["TEMP"])
    before = set(folder.glob("hcs*"))
    yield
    assert set(folder.glob("hcs*")) == before


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    """The stand-in, logging and without scripted failures."""
    handle = StandIn(tmp_path)
    yield handle
    handle.close()


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home folder, the same for all tests."""
    remove_tree(f"\\\\?\\{HOME}")
    HOME.mkdir()
    yield HOME
    remove_tree(f"\\\\?\\{HOME}")


@pytest.fixture
def service(home: Path, standin: StandIn) -> NativeLayerService:
    """The native service on an empty home, importing within this process."""
    return NativeLayerService(DriverInfo(str(home)), import_inline=True)


UNSTORABLE = {
    "test_odd_names_are_kept[127 pairs of surrogates]": "508 bytes of UTF-8 are more than the host allows",
    "test_odd_names_are_kept[a lone surrogate]": "Wine stores names as UTF-8, which has no lone surrogates",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the host's file system, below Wine's, can't hold."""
    for item in items:
        if item.name in UNSTORABLE:
            item.add_marker(pytest.mark.skip(reason=UNSTORABLE[item.name]))
