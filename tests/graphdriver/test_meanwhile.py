"""What a driver does to mounts that other processes make and end while it works on the same layer."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import can_mount, require
from winlayers.errors import LayerCorruptError, LayerInUseError, LayerNotFoundError, LayerNotMountedError
from winlayers.graphdriver.contract import CreateOptions
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.portable.store import LayerStore
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


def test_a_layer_that_comes_just_before_it_is_mounted_has_its_chain(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.remove("box")
    activate = driver.service.activate

    def make_first(layer_id: str) -> None:
        other.create_read_write("box", "delta")
        activate(layer_id)

    monkeypatch.setattr(driver.service, "activate", make_first)
    assert_mounted(driver.get("box"))


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


@pytest.mark.parametrize("lost", ["base", "box/layerchain.json"])
def test_what_can_not_be_mounted_for_want_of_parents_is_not_in_use(
    driver: WindowsGraphDriver, tmp_path: Path, lost: str
) -> None:
    os.rename(tmp_path / lost, tmp_path / "lost")
    with pytest.raises((LayerNotFoundError, LayerCorruptError)):
        driver.get("box")
    driver.remove("box")


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


def test_a_view_that_is_ended_at_once_is_not_taken_for_the_layers_folder(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, driver, "prepare", lambda: other.put("box"))
    with pytest.raises(LayerNotMountedError, match="another process has unmounted"):
        driver.get("box")
    path = other.get("box")
    mount_path, acts = driver.service.mount_path, [lambda: other.put("box")]

    def end_first(layer_id: str) -> str:
        while acts:
            acts.pop()()
        return mount_path(layer_id)

    monkeypatch.setattr(driver.service, "mount_path", end_first)
    assert driver.get("box") == path
    assert_mounted(path)


@pytest.mark.parametrize("layer_id", ["box", "delta"])
def test_a_removal_takes_no_layer_that_came_in_the_place_of_the_one_it_began_with(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch, layer_id: str
) -> None:
    def make_again() -> None:
        other.remove(layer_id)
        if layer_id == "delta":
            other.apply_diff("delta", "base", io.BytesIO(DELTA))
        other.create_read_write("box", "delta")
        other.get("box")

    if layer_id == "delta":
        driver.remove("box")
    after(monkeypatch, driver, "prepare_removal", make_again)
    driver.remove(layer_id)
    assert_mounted(other.get("box"))
    assert list(driver.service.check()) == []  # type: ignore[attr-defined]  # the portable one


def test_a_removal_of_what_is_not_there_takes_no_layer_that_comes(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inactive = driver.service.mounts.inactive  # type: ignore[attr-defined]  # the portable one

    @contextlib.contextmanager
    def and_make_again(layer_id: str) -> Iterator[bool]:
        with inactive(layer_id) as is_there:
            if layer_id == "box":
                other.create_read_write("box", "delta")
            yield is_there

    other.remove("box")
    monkeypatch.setattr(driver.service.mounts, "inactive", and_make_again)  # type: ignore[attr-defined]
    driver.remove("box")
    assert_mounted(other.get("box"))


def test_a_removal_waits_while_another_one_marks_the_layer(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename() -> None:
        with contextlib.suppress(FileNotFoundError):  # the driver was faster
            other.service.set_aside("box", "box-removing")

    other.service.prepare_removal("box")
    renaming = threading.Thread(target=rename)
    refuse = LayerStore._refuse_children

    def meanwhile(store: LayerStore, layer_id: str) -> None:
        refuse(store, layer_id)
        if renaming.ident is None:
            renaming.start()
            renaming.join(0.5)  # it has to wait, or is done

    monkeypatch.setattr(LayerStore, "_refuse_children", meanwhile)
    driver.remove("box")
    renaming.join(60)
    assert not driver.exists("box")
    driver.cleanup()
    assert sorted(os.listdir(driver.info.home)) == [".lock", "base", "delta"]


def test_a_removal_finds_children_that_came_while_nobody_forbade_them(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_child() -> None:
        other.service.cancel_removal("delta")  # as sweeping does, where a killed process marked it as well
        other.create_read_write("child", "delta")

    driver.remove("box")
    after(monkeypatch, driver, "prepare_removal", make_child)
    with pytest.raises(LayerInUseError, match="child"):
        driver.remove("delta")
    other.create_read_write("second", "delta")


def test_a_removal_leaves_a_layer_that_was_mounted_while_nobody_forbade_it(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount() -> None:
        other.service.cancel_removal("box")  # as another process does, whose own removal of it has failed
        other.get("box")

    after(monkeypatch, driver, "prepare_removal", mount)
    with pytest.raises(LayerInUseError, match="box"):
        driver.remove("box")
    assert_mounted(other.get("box"))


def test_a_layer_that_is_removed_before_it_is_whole_is_said_to_be_gone(
    driver: WindowsGraphDriver, other: WindowsGraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(monkeypatch, driver, "create", lambda: other.remove("made"))
    with pytest.raises(LayerNotFoundError, match="made"):
        driver.create("made")
    after(monkeypatch, driver, "create_scratch", lambda: other.remove("made"))
    after(monkeypatch, driver, "expand_scratch", lambda: other.create_read_write("made", "delta"))
    with pytest.raises(LayerNotFoundError, match="made"):
        driver.create_read_write("made", "delta", CreateOptions({"size": "20GB"}))
    assert driver.exists("made")  # as the other process made it
