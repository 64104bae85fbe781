"""df and prune: their numbers against the files on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.images.support import Layout, sample_layout
from winlayers.cli.main import cli
from winlayers.images.usage import folder_size
from winlayers.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with an image under two contents (same layers), and one container."""
    opened = open_store(tmp_path / "store")
    opened.load(sample_layout(tmp_path / "layout"), name="app:1")
    changed = Layout(tmp_path / "layout")
    changed.change_config(lambda c: c.update(author="another"))
    opened.load(changed.name, name="app:1")  # the first one has no name now
    opened.create("app:1", name="box")
    return opened


def run(store: Store, *arguments: str, answer: str = "") -> str:
    """Run the command line on the store."""
    done = CliRunner().invoke(cli, ["--root", str(store.root), *arguments], input=answer)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_df_counts_what_is_on_disk(store: Store) -> None:
    facts = json.loads(run(store, "df", "--json"))
    rows = {row["kind"]: row for row in facts["usage"]}
    on_disk = sum(p.stat().st_size for p in (store.root / "images" / "blobs" / "sha256").iterdir())
    assert rows["blobs"]["size"] == on_disk
    assert (rows["blobs"]["total"], rows["blobs"]["active"], rows["blobs"]["reclaimable"]) == (7, 7, 0)
    assert (rows["layers"]["total"], rows["layers"]["active"]) == (3, 3)
    layers = sum(folder_size(store.driver.layer_path(name)) for name in store.image("app:1").layer_ids)
    assert rows["layers"]["size"] == layers > 0
    assert rows["containers"]["total"] == 1
    first, second = facts["images"]
    assert first["references"] == ["app:1"]
    assert second["references"] == []
    assert first["shared"] == second["shared"] == sum(d.size for d in store.image("app:1").manifest.layers)
    assert first["unique"] + first["shared"] == first["size"]
    text = run(store, "df", "--verbose")
    assert "RECLAIMABLE" in text
    assert "<none>" in text


def test_files_with_several_names_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    before = folder_size(str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to("/")
    assert before <= folder_size(str(tmp_path)) <= before + 4096
    assert folder_size(str(tmp_path / "missing")) == 0


def test_prune_asks_and_spares_what_is_used(store: Store) -> None:
    declined = CliRunner().invoke(cli, ["--root", str(store.root), "prune"], input="n\n")
    assert declined.exit_code != 0
    assert len(store.images.images()) == 2
    removed = json.loads(run(store, "prune", "--all", "--force", "--json"))
    assert removed["deleted"] == removed["untagged"] == []  # the container's layers are those of both images
    store.remove_container("box")
    text = run(store, "prune", answer="y\n")
    assert text.splitlines()[-1].startswith("Removed 0 layers and 2 blobs")
    removed = json.loads(run(store, "prune", "--all", "--force", "--json"))
    assert removed["untagged"] == ["app:1"]
    assert len(removed["layers"]) == 3
    assert list(store.images.content.digests()) == []
