"""Conformance suites for layer services and graph drivers, for this project's own and for anyone's.

Subclass a suite in a pytest module, give it the fixture that it asks for, and pytest collects its tests::

    from winlayers.testing import LayerServiceSuite

    class TestMyService(LayerServiceSuite):
        @pytest.fixture
        def service(self, tmp_path):
            return MyService(DriverInfo(str(tmp_path / "home")))

pytest is needed here alone; nothing else of the package imports this module.
"""

import pytest

# Before the import of the suites: their assertions are to say what differs.
pytest.register_assert_rewrite(
    *(f"winlayers.testing.{name}" for name in ("content", "graph_driver", "layer_service", "layer_views"))
)

from winlayers.testing.fakes import RecordingLayerService  # noqa: E402
from winlayers.testing.graph_driver import GraphDriverSuite  # noqa: E402
from winlayers.testing.layer_service import LayerServiceSuite  # noqa: E402

__all__ = ["GraphDriverSuite", "LayerServiceSuite", "RecordingLayerService"]
