"""What a driver does to mounts that other processes make and end while it works on the same layer."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import can_mount, require
from winlayers.errors import LayerNotMountedError
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.testing.content import read_all
from winlayers.testing.tars import BASE, DELTA


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[WindowsGraphDriver]:
    """A driver with a writable layer, which is not mounted."""
    require(can_mount(), "layers can't be mounted here")
    driver = opened(tmp_path)
    driver.apply_diff("base", "", io.BytesIO(BASE))
    driver.apply_diff("delta", "base", io.BytesIO(DELTA))
    driver.create_read_write("box", "delta")
    yield driver
    driver.service.deactivate("box")


@pytest.fixture
def other(driver: WindowsGraphDriver, tmp_path: Path) -> WindowsGraphDriver:
    """A driver of the same home, as another process has it."""
    return opened(tmp_path)


def opened(home: Path) -> WindowsGraphDriver:
    return WindowsGraphDriver(str(home), options=["service=portable"])


def after(
    monkeypatch: pytest.MonkeyPatch, driver: WindowsGraphDriver, call: str, act: Callable[[], object]
) -> None:
    """Let *act* happen when the driver's layer service has done its next *call*, or has failed to."""
    acts, real = [act], getattr(driver.service, call)

    def acted(*arguments: object) -> object:
        try:
            return real(*arguments)
        finally:
            while acts:
                acts.pop()()

    monkeypatch.setattr(driver.service, call, acted)


def assert_mounted(path: str) -> None:
    assert (Path(path) / "new.txt").read_bytes() == b"new in the delta"


def test_of_two_that_mount_at_once_both_have_the_view(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, driver, "activate", lambda: other.get("box"))
    path = driver.get("box")
    assert path == other.get("box")
    assert_mounted(path)
    driver.put("box")
    assert_mounted(path)
    other.put("box")
    other.put("box")
    assert not driver.service.is_prepared("box")


def test_a_mount_that_fails_leaves_the_next_one_of_another(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount_and_end() -> None:
        other.get("box")
        other.put("box")

    def mount() -> None:
        other.service.activate("box")
        other.service.prepare("box", [other.layer_path(layer_id) for layer_id in ("delta", "base")])

    after(monkeypatch, driver, "activate", mount_and_end)
    after(monkeypatch, driver, "prepare", mount)
    with pytest.raises(LayerNotMountedError):
        driver.get("box")
    assert_mounted(other.service.mount_path("box"))


def test_a_view_that_is_made_while_its_layer_is_read_stays(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, caplog: pytest.LogCaptureFixture
) -> None:
    other.get("box")
    with contextlib.closing(driver.diff("box")) as stream:
        path = opened(Path(driver.info.home)).get("box")
        assert read_all(stream)
    assert_mounted(path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_of_two_that_read_at_once_neither_ends_the_mount(
    driver: WindowsGraphDriver,
    other: WindowsGraphDriver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = []
    path = opened(Path(driver.info.home)).get("box")
    unprepare, acts = driver.service.unprepare, [lambda: streams.append(other.diff("box"))]

    def read_too(layer_id: str) -> None:
        while acts:
            acts.pop()()
        unprepare(layer_id)

    monkeypatch.setattr(driver.service, "unprepare", read_too)
    with contextlib.closing(driver.diff("box")) as stream:
        assert read_all(stream)
    assert read_all(streams[0])
    streams[0].close()
    assert_mounted(path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
