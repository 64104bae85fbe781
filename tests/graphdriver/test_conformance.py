"""The shipped suites on the drivers of this project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from tests.support import can_mount
from winlayers.graphdriver import GraphDriver, open_driver
from winlayers.testing import GraphDriverSuite


class TestOnTheRecordingService(GraphDriverSuite):
    """The driver by itself: the service does next to nothing."""

    writable_views = False
    tells_additions = False

    @pytest.fixture
    def driver(self, tmp_path: Path) -> GraphDriver:
        return Kit(tmp_path / "home").driver


class TestOnThePortableService(GraphDriverSuite):
    can_mount = can_mount()

    @pytest.fixture
    def driver(self, tmp_path: Path) -> GraphDriver:
        return open_driver(str(tmp_path), "windowsfilter", ["service=portable"])


class TestLikeTheReference(GraphDriverSuite):
    can_mount = can_mount()
    tells_additions = False

    @pytest.fixture
    def driver(self, tmp_path: Path) -> GraphDriver:
        return open_driver(str(tmp_path), "windowsfilter", ["service=portable", "reference_changes=true"])
