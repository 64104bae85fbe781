"""df and prune: their numbers against the files on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.images.support import Layout, sample_layout
from winlayers import durable
from winlayers.cli.main import cli
from winlayers.images.usage import folder_size
from winlayers.inspection import open_image
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
    settle(opened)
    return opened


def settle(store: Store) -> None:
    """Let files have their blocks: a file system that gives them late may count others till then."""
    durable.fsync_tree(str(store.root))


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
    unnamed = next(image for image in store.images.images() if not image.references)
    assert (rows["blobs"]["total"], rows["blobs"]["active"]) == (7, 5)
    assert rows["blobs"]["reclaimable"] == unnamed.descriptor.size + unnamed.manifest.config.size
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


def looked_into(store: Store, folder: Path) -> str:
    """An image that is not imported, looked into with the store's cache; its transport name."""
    name = sample_layout(folder)
    assert "/" in run(store, "ls", "-R", name)
    settle(store)
    return name


def test_the_cache_of_looks_is_counted_and_goes(store: Store, tmp_path: Path) -> None:
    def row() -> dict[str, int]:
        rows = json.loads(run(store, "df", "--json"))["usage"]
        found: dict[str, int] = next(row for row in rows if row.pop("kind") == "cache")
        return found

    assert row() == {"total": 0, "active": 0, "size": 0, "reclaimable": 0}
    name = looked_into(store, tmp_path / "other")
    there = row()
    assert (there["total"], there["active"]) == (3, 0)
    assert there["size"] == there["reclaimable"] == folder_size(str(store.root / "cache")) > 0
    assert any(line.startswith("Cache ") for line in run(store, "df").splitlines())
    listed = run(store, "ls", "-lR", name)

    leftover = store.root / "cache" / "blobs" / ".tmp-0.0-left"
    leftover.mkdir()
    (leftover / "index.db").write_bytes(bytes(100_000))
    text = run(store, "prune", answer="y\n")
    assert "Removed 0 layers" in text
    assert text.splitlines()[-1].endswith("of cache")
    assert not list((store.root / "cache").rglob("*.db"))
    after = row()
    assert (after["total"], after["active"]) == (0, 0)
    assert run(store, "ls", "-lR", name) == listed


def test_the_cache_alone_goes_on_request(store: Store, tmp_path: Path) -> None:
    looked_into(store, tmp_path / "other")
    store.remove_container("box")
    removed = json.loads(run(store, "prune", "--cache", "--force", "--json"))
    assert removed["cache_freed"] > 0
    assert removed["deleted"] == removed["blobs"] == removed["layers"] == []
    assert len(store.images.images()) == 2
    assert "Removed 0B of cache" in run(store, "prune", "--cache", "--force")
    refused = CliRunner().invoke(cli, ["--root", str(store.root), "prune", "--cache", "--all", "--force"])
    assert refused.exit_code == 2


def test_a_cache_that_is_looked_through_stays(store: Store, tmp_path: Path) -> None:
    """In another process, as well as in this one; and what it opens later is there, too."""
    name = looked_into(store, tmp_path / "other")
    code = (
        "import sys, winlayers\n"
        "from winlayers.inspection import open_image\n"
        "with open_image(sys.argv[2], store=winlayers.open_store(sys.argv[1])) as tree:\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print(len(list(tree.children(tree.find('/Windows')))), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.root), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        size = folder_size(str(store.root / "cache"))
        rows = json.loads(run(store, "df", "--json"))["usage"]
        assert rows[-1] == {"kind": "cache", "total": 3, "active": 3, "size": size, "reclaimable": 0}
        assert store.prune().cache_freed == 0
        assert folder_size(str(store.root / "cache")) == size
        other.stdin.write("\n")
        other.stdin.flush()
        assert int(other.stdout.readline()) > 0
    with open_image(name, store=store):
        assert store.cache.clear() == 0
    assert store.cache.clear() > 0


def test_files_with_several_names_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    durable.fsync_tree(str(tmp_path))
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
    text = run(store, "prune", answer="y\n")  # the container stands on the other image
    assert text.splitlines()[-1].startswith("Removed 0 layers and 2 blobs")
    removed = json.loads(run(store, "prune", "--all", "--force", "--json"))
    assert removed["deleted"] == removed["untagged"] == []
    store.remove_container("box")
    removed = json.loads(run(store, "prune", "--all", "--force", "--json"))
    assert removed["untagged"] == ["app:1"]
    assert len(removed["layers"]) == 3
    assert list(store.images.content.digests()) == []
