"""How drivers are made known, found and chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from winlayers.errors import DriverNotFoundError, DriverOptionError, GraphDriverError, UnsupportedError
from winlayers.graphdriver import (
    GraphDriver,
    driver_names,
    get_driver,
    has_prior_driver,
    is_registered,
    open_driver,
    prior_drivers,
    register,
    unregister,
)


class Made:
    """An init function that remembers what it was called with."""

    def __init__(self, tmp_path: Path) -> None:
        self.calls: list[tuple[str, Sequence[str]]] = []
        self.driver: GraphDriver = Kit(tmp_path / "kit").driver

    def __call__(self, home: str, options: Sequence[str]) -> GraphDriver:
        self.calls.append((home, options))
        return self.driver


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    init = Made(tmp_path)
    register("ours", init)
    yield init
    unregister("ours")


def test_built_in_drivers_are_registered() -> None:
    assert is_registered("windowsfilter")
    assert is_registered("windowsdiff")
    assert not is_registered("overlay2")


@pytest.mark.parametrize("name", ["windowsfilter", "windowsdiff"])
def test_built_in_drivers_work_at_their_home(name: str, tmp_path: Path) -> None:
    driver = get_driver(name, str(tmp_path / "home"), ["service=portable"])
    assert driver.name == str(driver) == name
    assert driver.layer_path("one") == str(tmp_path / "home" / "one")


def test_registered_driver_is_found(made: Made, tmp_path: Path) -> None:
    assert "ours" in driver_names()
    assert get_driver("ours", str(tmp_path / "home"), ["size=1g"]) is made.driver
    assert made.calls == [(str(tmp_path / "home"), ["size=1g"])]


@pytest.mark.parametrize("name", ["windowsfilter", "ours", "", "a/b", ".."])
def test_names_that_are_taken_or_no_names(made: Made, name: str) -> None:
    with pytest.raises(GraphDriverError):
        register(name, made)


def test_unknown_driver_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DriverNotFoundError, match="windowsdiff, windowsfilter") as caught:
        get_driver("overlay2", str(tmp_path))
    assert "overlay2" in str(caught.value)


def test_entry_points_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's package on the path, as pip leaves it there."""
    (tmp_path / "third_party.py").write_text("def init(home, options):\n    return (home, options)\n")
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[winlayers.graphdrivers]\nthird = third_party:init\nbroken = third_party:missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"third", "broken"} <= set(driver_names())
    made: object = get_driver("third", str(tmp_path), ["a=b"])
    assert made == (str(tmp_path), ["a=b"])
    with pytest.raises(GraphDriverError, match=r"broken.*third_party:missing"):
        get_driver("broken", str(tmp_path))


def test_named_driver_gets_its_folder_under_the_root(made: Made, tmp_path: Path) -> None:
    open_driver(str(tmp_path), "ours")
    assert made.calls[0][0] == str(tmp_path / "ours")


def test_prior_driver_is_used(made: Made, tmp_path: Path) -> None:
    (tmp_path / "ours" / "layer").mkdir(parents=True)
    assert prior_drivers(str(tmp_path)) == ["ours"]
    assert has_prior_driver(str(tmp_path))
    assert open_driver(str(tmp_path)) is made.driver


def test_empty_folders_are_no_state(made: Made, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "windowsfilter").mkdir()
    (tmp_path / "unknown" / "layer").mkdir(parents=True)
    assert prior_drivers(str(tmp_path)) == []
    assert not has_prior_driver(str(tmp_path / "missing"))


def test_folder_that_can_not_be_listed_is_state(made: Made, tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("not a folder")
    assert prior_drivers(str(tmp_path)) == ["ours"]


def test_several_prior_drivers_need_a_choice(made: Made, tmp_path: Path) -> None:
    for name in ("ours", "windowsdiff", "windowsfilter"):
        (tmp_path / name / "layer").mkdir(parents=True)
    assert prior_drivers(str(tmp_path)) == ["windowsfilter", "windowsdiff", "ours"]
    with pytest.raises(GraphDriverError, match="several graph drivers: windowsfilter, windowsdiff, ours"):
        open_driver(str(tmp_path))
    assert open_driver(str(tmp_path), "ours") is made.driver


def test_prior_driver_that_fails_is_not_replaced(tmp_path: Path) -> None:
    def refuse(home: str, options: Sequence[str]) -> GraphDriver:
        raise UnsupportedError("not here any more")

    register("ours", refuse)
    try:
        (tmp_path / "ours" / "layer").mkdir(parents=True)
        with pytest.raises(UnsupportedError, match="any more"):
            open_driver(str(tmp_path))
    finally:
        unregister("ours")


def test_without_state_the_first_of_the_list_is_used(tmp_path: Path) -> None:
    assert open_driver(str(tmp_path), options=["service=portable"]).name == "windowsfilter"


def test_drivers_that_can_not_work_are_passed_over(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(home: str, options: Sequence[str]) -> GraphDriver:
        raise UnsupportedError("not here")

    monkeypatch.setattr("winlayers.graphdriver.windows.driver.init_filter", refuse)
    monkeypatch.setattr("winlayers.graphdriver.windows.driver.init_diff", refuse)
    assert open_driver(str(tmp_path)) is made.driver
    unregister("ours")
    with pytest.raises(GraphDriverError, match="no graph driver works here"):
        open_driver(str(tmp_path))


def test_option_errors_end_the_search(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DriverOptionError):
        open_driver(str(tmp_path), options=["size=plenty"])
    assert not os.path.exists(tmp_path / "windowsfilter")
