"""``winlayers check``: what it finds, what it mends, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Program
from tests.images.support import sample_layout


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path / "store")
    program.run("load", sample_layout(tmp_path / "layout"))
    return program


def findings(program: Program, *arguments: str, code: int) -> list[dict[str, object]]:
    done = program.run("check", *arguments, "--json", code=code)
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def top_layer(program: Program) -> Path:
    (image,) = program.json("images")
    return program.root / "layers" / str(program.json("layers", image["reference"])[-1]["id"])


def test_a_good_store(program: Program) -> None:
    assert program.out("check") == "nothing wrong"
    assert findings(program, code=0) == []


def test_a_layer_is_restored_from_its_images_blob(program: Program) -> None:
    tar = top_layer(program) / "layer.tar"
    good = tar.read_bytes()
    tar.write_bytes(good[:700])
    assert "truncated" in str(findings(program, "--quick", code=1))
    (finding,) = findings(program, "--repair", code=0)
    assert finding["mended"] is True
    assert tar.read_bytes() == good
    assert program.out("check") == "nothing wrong"


def test_a_changed_byte_is_found_by_digest_alone(program: Program) -> None:
    tar = top_layer(program) / "layer.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1
    tar.write_bytes(data)
    assert findings(program, "--quick", code=0) == []
    assert "digest" in str(findings(program, code=1))


def test_a_damaged_blob_is_removed_and_comes_again_by_a_load(program: Program, tmp_path: Path) -> None:
    (image,) = program.json("images")
    blob = program.json("layers", image["reference"])[0]["blob"]
    path = program.root / "images" / "blobs" / "sha256" / blob.partition(":")[2]
    path.write_bytes(path.read_bytes() + b"x")
    assert blob in str(findings(program, code=1))
    assert "load" in str(findings(program, "--repair", code=1))
    assert not path.exists()
    program.run("load", f"oci:{tmp_path / 'layout'}:sample")
    assert program.out("check") == "nothing wrong"


def test_a_container_without_its_layer(program: Program) -> None:
    (image,) = program.json("images")
    container = program.out("create", image["reference"], "--name", "box")
    (program.root / "layers" / container).rename(program.root / "gone")
    (finding,) = findings(program, code=1)
    assert finding["subject"] == "container box"
