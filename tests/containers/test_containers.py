"""Containers: made, mounted, changed, committed, removed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.support import Layout, sample_layout, tree_digest
from winlayers.errors import (
    ContainerError,
    ContainerExistsError,
    ContainerNotFoundError,
    DriverOptionError,
    ImageNotFoundError,
    InvalidReferenceError,
    MountError,
    StoreError,
)
from winlayers.images.digest import digest_of
from winlayers.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with the sample image as app:1; nothing of it stays mounted."""
    opened = open_store(tmp_path / "store")
    opened.load(sample_layout(tmp_path / "layout"), name="app:1")
    yield opened
    for container in opened.containers.containers():
        opened.remove_container(container.id, force=True)


@pytest.fixture
def drive(store: Store) -> Path:
    """The mounted drive of a container called box; mounted until the store's end."""
    store.create("app:1", name="box")
    return Path(store.mount("box"))


def test_names_and_ids(store: Store) -> None:
    box = store.create("app:1", name="box")
    other = store.create("app:1")
    assert len(box.id) == 64
    assert "_" in other.name
    assert store.container("box") == store.container(box.id) == store.container(box.id[:12]) == box
    assert {c.name for c in store.containers.containers()} == {"box", other.name}
    with pytest.raises(ContainerExistsError, match=box.id[:12]):
        store.create("app:1", name="box")
    with pytest.raises(ContainerNotFoundError):
        store.container("nothing")
    with pytest.raises(InvalidReferenceError):
        store.create("app:1", name="no spaces")
    with pytest.raises(ImageNotFoundError):
        store.create("other:1")
    assert len(store.containers.containers()) == 2


def test_options_are_checked_and_kept(store: Store) -> None:
    before = tree_digest(store.root)
    for options in ({"colour": "red"}, {"size": "many"}):
        with pytest.raises(DriverOptionError):
            store.create("app:1", storage_opt=options)
    assert tree_digest(store.root) == before
    assert store.create("app:1", name="big", storage_opt={"size": "200GB"}).storage_opt == {"size": "200GB"}
    assert store.container("big").storage_opt == {"size": "200GB"}


def test_the_drive_is_one_tree_by_windows_rules(drive: Path) -> None:
    assert sorted(os.listdir(drive)) == ["Documents and Settings", "ProgramData", "Users", "Windows", "app"]
    assert os.listdir(drive / "Windows" / "Globalization") == ["new.nls"]
    system = {
        name.lower(): drive / "Windows" / "System32" / name for name in os.listdir(drive / "Windows/System32")
    }
    store = drive / "Windows" / "WinSxS"
    assert (
        system["kernel32.dll"].read_bytes()
        == (store / "amd64_kernel_10.0.20348.2227" / "kernel32.dll").read_bytes()
    )
    assert (
        system["ntdll.dll"].read_bytes() == (store / "amd64_kernel_10.0.20348.1" / "ntdll.dll").read_bytes()
    )
    assert system["cmd-copy.exe"].read_bytes() == system["cmd.exe"].read_bytes()


def change(drive: Path) -> None:
    """One addition, one change, one deletion."""
    (drive / "new").mkdir()
    (drive / "new" / "file.txt").write_bytes(b"new")
    (drive / "app" / "app.config.json").write_bytes(b"{}")
    (drive / "app" / "app.exe").unlink()


def test_changes_become_a_layer_of_a_new_image(store: Store, drive: Path, tmp_path: Path) -> None:
    assert store.changes("box") == []
    change(drive)
    kinds = {c.path: c.kind.value for c in store.changes("box")}
    assert kinds.pop("Files/app", "C") == "C"
    assert kinds == {
        "Files/new": "A",
        "Files/new/file.txt": "A",
        "Files/app/app.config.json": "C",
        "Files/app/app.exe": "D",
    }
    image = store.commit("box", "app:2", author="A. Engineer", message="as an example")
    assert drive.is_dir()
    assert (drive / "new" / "file.txt").read_bytes() == b"new"  # it is mounted as before

    base = store.image("app:1")
    assert image.manifest.layers[:-1] == base.manifest.layers
    assert image.config.diff_ids[:-1] == base.config.diff_ids
    assert image.manifest.media_type == base.manifest.media_type
    assert image.config.platform == base.config.platform
    assert image.config.run == base.config.run
    step = image.config.history[-1]
    assert (step.author, step.comment, step.empty_layer) == ("A. Engineer", "as an example", False)
    assert image.config.history[:-1] == base.config.history
    stream = store.export_layer(store.layers("app:2")[-1].id)
    assert digest_of(stream.read()) == image.config.diff_ids[-1]
    stream.close()

    other = open_store(tmp_path / "other")
    store.save("app:2", f"oci:{tmp_path / 'saved'}:2")
    assert other.load(f"oci:{tmp_path / 'saved'}:2").digest == image.digest
    other.create("saved:2", name="look")
    seen = Path(other.mount("look"))
    try:
        assert (seen / "new" / "file.txt").read_bytes() == b"new"
        assert os.listdir(seen / "app") == ["app.config.json"]
    finally:
        other.remove_container("look", force=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_same_changes_give_the_same_image(
    store: Store, drive: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    change(drive)
    store.unmount("box")
    first = store.commit("box", "app:2", compression=compression)
    assert store.commit("box", "app:3", compression=compression).digest == first.digest
    assert first.config.created == "2023-11-14T22:13:20Z"
    expected = {"gzip": "+gzip", "zstd": "+zstd", "none": ".tar"}[compression]
    assert first.manifest.layers[-1].media_type.endswith(expected)


def test_an_image_of_docker_family_stays_one(store: Store, tmp_path: Path) -> None:
    store.load(sample_layout(tmp_path / "docker", docker=True), name="docker:1")
    store.create("docker:1", name="d")
    image = store.commit("d")
    assert image.references == ()
    assert "docker" in image.manifest.media_type
    assert all("docker" in layer.media_type for layer in image.manifest.layers)


def test_what_is_mounted_is_not_removed_unasked(store: Store, drive: Path) -> None:
    change(drive)
    with pytest.raises(ContainerError, match="is mounted"):
        store.remove_container("box")
    with pytest.raises(ContainerExistsError):
        store.create("app:1", name="box")
    store.unmount("box")
    with pytest.raises(ContainerError, match="is not mounted"):
        store.unmount("box")
    assert len(store.changes("box")) >= 4  # they outlive the mount
    store.remove_container("box")
    assert store.containers.containers() == []


def test_a_folder_of_choice(store: Store, tmp_path: Path) -> None:
    store.create("app:1", name="box")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(MountError, match="not empty"):
        store.mount("box", str(tmp_path / "full"))
    with pytest.raises(MountError, match="no folder"):
        store.mount("box", str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert store.mount("box", str(tmp_path / "empty")) == str(tmp_path / "empty")
    assert "Windows" in os.listdir(tmp_path / "empty")
    with pytest.raises(MountError, match="is mounted at"):
        store.mount("box", str(tmp_path / "full"))
    store.unmount("box")
    assert os.listdir(tmp_path / "empty") == []


def test_a_folder_of_choice_when_another_process_is_faster(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = store.create("app:1", name="box")
    other = open_store(store.root)
    service = store.driver.service  # type: ignore[attr-defined]  # the portable one
    activate = service.activate

    def and_mount(layer_id: str) -> None:
        activate(layer_id)
        other.mount("box")

    monkeypatch.setattr(service, "activate", and_mount)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(MountError, match=r"mounted at .* already"):
        store.mount("box", str(folder))
    there = store.containers.mount_path(box)
    assert there is not None
    assert (Path(there) / "app").is_dir()
    assert os.listdir(folder) == []
    monkeypatch.undo()
    store.unmount("box")
    assert store.mount("box") == there


def test_a_folder_of_choice_is_not_the_next_mount_s(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(layer_id: str) -> None:
        raise StoreError("the disk is full")

    store.create("app:1", name="box")
    folder = tmp_path / "folder"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(store.driver.service, "activate", refuse)  # type: ignore[attr-defined]
        with pytest.raises(StoreError):
            store.mount("box", str(folder))
    path = store.mount("box")
    store.unmount("box")
    assert path != str(folder)


def test_mounts_outlive_the_process(store: Store, drive: Path, tmp_path: Path) -> None:
    """Another process sees the mount, and can take it down."""
    change(drive)
    other = open_store(store.root)
    assert other.mount("box") == str(drive)
    other.unmount("box")
    assert other.containers.mount_path(other.container("box")) in (None, str(drive))
    assert {c.path for c in other.changes("box")} >= {"Files/new/file.txt", "Files/app/app.exe"}


def test_a_damaged_record_is_named(store: Store) -> None:
    box = store.create("app:1", name="box")
    path = store.root / "containers" / f"{box.id}.json"
    content = path.read_bytes()
    for damaged in (b"{", b"[]", b'{"version": 1}', json.dumps({"version": 2}).encode()):
        path.write_bytes(damaged)
        with pytest.raises(ContainerError, match=box.id):
            store.containers.containers()
        with pytest.raises(ContainerError):
            store.images.prune()  # what containers need is unknown, so nothing is removed
    path.write_bytes(content)
    assert store.container("box") == box


def test_commit_after_the_layer_was_lost(store: Store) -> None:
    box = store.create("app:1", name="box")
    store.driver.remove(box.id)
    with pytest.raises((StoreError, LookupError)):
        store.commit("box", "app:2")
    assert [i.references for i in store.images.images()] == [("docker.io/library/app:1",)]


def test_base_layers_unchanged_in_a_layout(store: Store, drive: Path, tmp_path: Path) -> None:
    change(drive)
    store.commit("box", "app:2")
    store.save("app:2", f"oci:{tmp_path / 'layout'}:2")  # next to the image that it came from
    before, after = Layout(tmp_path / "layout"), Layout(tmp_path / "layout", "2")
    assert after.manifest["layers"][:-1] == before.manifest["layers"]
