"""Looking into layouts and archives where no store can be made or written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.images.support import sample_layout
from winlayers.cli.main import run
from winlayers.store import open_store


@pytest.fixture
def place(tmp_path: Path) -> str:
    """An image in a layout."""
    return sample_layout(tmp_path / "layout")


@pytest.mark.parametrize(
    "command",
    [["ls", "-R", "{}"], ["cat", "{}:/app/app.exe"], ["find", "{}"], ["history", "{}"], ["inspect", "{}"]],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("broken", ["no store", "no cache"])
def test_a_place_needs_no_store(
    place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str], broken: str
) -> None:
    arguments = [argument.format(place) for argument in command]
    assert run(["-q", "--root", os.fspath(tmp_path / "good"), *arguments]) == 0
    expected = capfd.readouterr().out
    root = tmp_path / "bad"
    if broken == "no store":
        root.write_text("this is a file")
        root /= "store"
    else:
        open_store(root)
        if (root / "cache").is_dir():
            (root / "cache").rmdir()
        (root / "cache").write_text("this is a file")
    assert run(["--root", os.fspath(root), *arguments]) == 0
    output = capfd.readouterr()
    assert output.out == expected
    documents_alone = command[0] in ("history", "inspect")
    if broken == "no store" or not documents_alone:
        assert "looking without a store" in output.err


def test_a_name_needs_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["--root", os.fspath(tmp_path / "file" / "store"), "inspect", "app:1"]) == 1
    output = capfd.readouterr()
    assert json.loads(output.out) == []
    assert "Not a directory" in output.err
