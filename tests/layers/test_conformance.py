"""The shipped suite on the portable layer service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import can_mount
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo, LayerService
from winlayers.testing import LayerServiceSuite


class TestPortableService(LayerServiceSuite):
    can_mount = can_mount()

    @pytest.fixture
    def service(self, tmp_path: Path) -> LayerService:
        service = PortableLayerService(DriverInfo(str(tmp_path / "home")))
        service.check_home()
        return service
