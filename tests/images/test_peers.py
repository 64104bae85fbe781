"""What skopeo and umoci make of layouts that are written here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.images.support import Layout, sample_layout
from tests.support import require_tool
from winlayers.store import Store


def run(*command: str) -> str:
    """Run a peer; return what it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Layout:
    """A layout with a committed image, saved."""
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.create("app:1", name="box")
    drive = Path(store.mount("box"))
    try:
        (drive / "added.txt").write_text("x")
        store.commit("box", "app:2")
    finally:
        store.remove_container("box", force=True)
    store.save("app:2", f"oci:{tmp_path / 'saved'}:2")
    return Layout(tmp_path / "saved", "2")


def test_skopeo_inspects_what_was_saved(saved: Layout) -> None:
    inspected: dict[str, Any] = json.loads(run(require_tool("skopeo"), "inspect", saved.name))
    assert inspected["Digest"] == saved.descriptor["digest"]
    assert inspected["Os"] == "windows"
    assert inspected["Layers"] == [layer["digest"] for layer in saved.manifest["layers"]]
    config = json.loads(run("skopeo", "inspect", "--config", saved.name))
    assert config["rootfs"]["diff_ids"] == saved.config["rootfs"]["diff_ids"]


def test_skopeo_copies_what_was_saved_and_it_is_loaded_again(
    saved: Layout, store: Store, tmp_path: Path
) -> None:
    skopeo = require_tool("skopeo")
    run(skopeo, "--override-os", "windows", "copy", "-q", saved.name, f"oci:{tmp_path / 'copy'}:2")
    assert store.load(f"oci:{tmp_path / 'copy'}:2", name="copy:2").digest == saved.descriptor["digest"]


def test_umoci_lists_and_stats_what_was_saved(saved: Layout) -> None:
    umoci = require_tool("umoci")
    assert run(umoci, "ls", "--layout", str(saved.folder)).split() == ["2"]
    stat = json.loads(run(umoci, "stat", "--image", f"{saved.folder}:2", "--json"))
    assert len([step for step in stat["history"] if not step.get("empty_layer")]) == 4


def test_the_store_itself_is_a_layout_that_peers_read(saved: Layout, store: Store) -> None:
    umoci = require_tool("umoci")
    names = run(umoci, "ls", "--layout", str(store.root / "images")).split()
    assert names == ["docker.io/library/app:1", "docker.io/library/app:2"]
    name = f"oci:{store.root / 'images'}:docker.io/library/app:2"
    inspected = json.loads(run(require_tool("skopeo"), "inspect", name))
    assert inspected["Digest"] == saved.descriptor["digest"]
