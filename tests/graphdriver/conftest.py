"""Drivers on the recording service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.service import DriverInfo, Flavour
from winlayers.testing import RecordingLayerService


class Kit:
    """A driver on a recording service, with the image layers ``base`` and ``top`` and its calls forgotten."""

    def __init__(self, home: Path, flavour: Flavour = Flavour.FILTER, options: tuple[str, ...] = ()) -> None:
        self.home = home
        self.made_with: Mapping[str, str] = {}
        services: list[RecordingLayerService] = []

        def factory(info: DriverInfo, rest: Mapping[str, str]) -> RecordingLayerService:
            services.append(RecordingLayerService(info))
            self.made_with = rest
            return services[-1]

        self.driver = WindowsGraphDriver(str(home), flavour, options, service_factory=factory)
        (self.service,) = services

    def with_image(self) -> Kit:
        self.driver.create("base")
        self.driver.create("top", "base")
        self.service.calls.clear()
        return self

    def path(self, layer_id: str) -> str:
        return str(self.home / layer_id)

    def names(self) -> list[str]:
        """The names of the calls since the last time."""
        names = [call[0] for call in self.service.calls]
        self.service.calls.clear()
        return names


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path / "home").with_image()
