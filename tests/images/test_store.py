"""Images into the store and out of it; and what a failure leaves: nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.images.support import Layout, everything, sample_layout, tree_digest
from tests.layers.tars import LayerTar
from tests.support import PYTHON_APP
from winlayers.errors import (
    DigestMismatchError,
    ImageError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidReferenceError,
    LayerContentError,
    LayerNotFoundError,
    PlatformError,
    StoreError,
    TarTruncatedError,
    WinlayersError,
)
from winlayers.images import mediatypes
from winlayers.images.editing import ConfigChanges
from winlayers.images.mediatypes import OCI_LAYER
from winlayers.store import Store, open_store


def export_digest(store: Store, layer: str) -> str:
    """The digest of a layer's exported tar."""
    hasher = hashlib.sha256()
    stream = store.export_layer(layer)
    try:
        while chunk := stream.read(1 << 16):
            hasher.update(chunk)
    finally:
        stream.close()
    return f"sha256:{hasher.hexdigest()}"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_an_image_goes_in_and_comes_out_byte_for_byte(
    store: Store, tmp_path: Path, compression: str, docker: bool
) -> None:
    source = sample_layout(tmp_path / "layout", compression=compression, docker=docker)
    image = store.load(source)
    assert image.references == ("docker.io/library/layout:sample",)
    for info in store.layers("layout:sample"):
        assert export_digest(store, info.id) == info.diff_id
        assert info.entries
        assert info.size
    store.save("layout:sample", f"oci:{tmp_path / 'out'}:x")
    before, after = Layout(tmp_path / "layout"), Layout(tmp_path / "out", "x")
    assert before.descriptor["digest"] == after.descriptor["digest"] == image.digest
    for folder in ("blobs/sha256",):
        names = sorted(p.name for p in (before.folder / folder).iterdir())
        assert names == sorted(p.name for p in (after.folder / folder).iterdir())
        for name in names:
            assert (before.folder / folder / name).read_bytes() == (after.folder / folder / name).read_bytes()


def test_the_real_image(store: Store, tmp_path: Path) -> None:
    if not PYTHON_APP.is_dir():
        pytest.skip(f"the real image is not at {PYTHON_APP}")
    store.load(f"oci:{PYTHON_APP}:3.13")
    infos = store.layers("python-app:3.13")
    assert [export_digest(store, info.chain_id) for info in infos] == [info.diff_id for info in infos]
    assert infos[0].entries == 968
    store.save("python-app:3.13", f"oci:{tmp_path / 'out'}:3.13")
    assert tree_digest(tmp_path / "out" / "blobs") == tree_digest(PYTHON_APP / "blobs")


def test_a_second_load_changes_nothing(store: Store, layout: Layout) -> None:
    store.load(layout.name)
    store.layers("layout:sample")
    before = tree_digest(store.root)
    store.load(layout.name)
    assert tree_digest(store.root) == before


def test_equal_chains_are_stored_once(store: Store, tmp_path: Path) -> None:
    store.load(sample_layout(tmp_path / "a", compression="gzip"))
    layers = store.driver.layer_path("x")
    there = {p.name for p in Path(layers).parent.iterdir()}
    store.load(sample_layout(tmp_path / "b", compression="zstd"))
    assert {p.name for p in Path(layers).parent.iterdir()} == there
    assert len(store.images.images()) == 2


def truncate(layout: Layout) -> None:
    path = layout.layer(1)
    path.write_bytes(path.read_bytes()[:-100])


def swap_content(layout: Layout) -> None:
    path = layout.layer(2)
    path.write_bytes(bytes(reversed(path.read_bytes())))


def remove_blob(layout: Layout) -> None:
    layout.layer(2).unlink()


def wrong_diff_id(layout: Layout) -> None:
    layout.change_config(lambda c: c["rootfs"]["diff_ids"].__setitem__(2, "sha256:" + "0" * 64))


def too_few_diff_ids(layout: Layout) -> None:
    layout.change_config(lambda c: c["rootfs"]["diff_ids"].pop())


def linux(layout: Layout) -> None:
    layout.change_config(lambda c: c.update(os="linux"))


def no_tar(layout: Layout) -> None:
    data = b"this is no tar" * 1000
    stored = layout.put(data)
    layout.change_config(lambda c: c["rootfs"]["diff_ids"].__setitem__(2, stored["digest"]))
    layout.change_manifest(lambda m: m["layers"][2].update(stored))


def replace_tar(layout: Layout, data: bytes) -> None:
    stored = layout.put(data)
    layout.change_config(lambda c: c["rootfs"]["diff_ids"].__setitem__(2, stored["digest"]))
    layout.change_manifest(lambda m: m["layers"][2].update(stored, mediaType=OCI_LAYER))


def cut_tar(layout: Layout) -> None:
    replace_tar(layout, zlib.decompress(layout.layer(2).read_bytes(), 31)[:2000])


def link_to_nothing(layout: Layout) -> None:
    replace_tar(layout, LayerTar().directory("Files").link("Files/l", "Files/nothing there").bytes())


def no_image(layout: Layout) -> None:
    shutil.rmtree(layout.folder)


def other_tag(layout: Layout) -> None:
    index = layout.folder / "index.json"
    index.write_text(index.read_text().replace(f'"{layout.tag}"', '"another"'))


def artifact(layout: Layout) -> None:
    layout.change_manifest(lambda m: m["config"].update(mediaType="application/vnd.example+json"))


def damaged_manifest(layout: Layout) -> None:
    path = layout.blob(layout.descriptor["digest"])
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))


def missing_manifest(layout: Layout) -> None:
    layout.blob(layout.descriptor["digest"]).unlink()


def no_index(layout: Layout) -> None:
    (layout.folder / "index.json").unlink()


def broken_index(layout: Layout) -> None:
    (layout.folder / "index.json").write_text("{")


def no_layout(layout: Layout) -> None:
    (layout.folder / "oci-layout").unlink()


def other_version(layout: Layout) -> None:
    (layout.folder / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (truncate, DigestMismatchError, "is truncated"),
        (swap_content, DigestMismatchError, "has other content"),
        (remove_blob, ImageNotFoundError, "is missing"),
        (wrong_diff_id, DigestMismatchError, "has the diff id"),
        (too_few_diff_ids, ImageError, "3 layers, but the configuration names 2"),
        (linux, PlatformError, "an image for linux"),
        (no_tar, WinlayersError, "tar"),
        (cut_tar, TarTruncatedError, "ends inside"),
        (link_to_nothing, LayerContentError, "hard link to"),
        (no_image, ImageError, "does not exist"),
        (other_tag, ImageNotFoundError, "has no image tagged"),
        (artifact, ImageError, "artifact"),
        (damaged_manifest, DigestMismatchError, "has other content"),
        (missing_manifest, ImageNotFoundError, "is missing"),
        (no_index, ImageError, "no index.json"),
        (broken_index, ImageError, "not JSON"),
        (no_layout, ImageError, "not an OCI image layout"),
        (other_version, ImageError, "of a version"),
    ],
)
@pytest.mark.parametrize("state", ["fresh", "empty", "with another image", "with its base"])
def test_a_wrong_image_leaves_the_store_as_it_was(
    store: Store,
    layout: Layout,
    tmp_path: Path,
    damage: Callable[[Layout], None],
    error: type[WinlayersError],
    message: str,
    state: str,
) -> None:
    """As it was to the last lock file; what is not there yet is made as an empty store."""
    before = everything(store.root)
    root = tmp_path / "fresh" if state == "fresh" else store.root
    if state.startswith("with"):
        sample_layout(tmp_path / "other", compression="zstd")
        other = Layout(tmp_path / "other")
        if state == "with its base":
            other.change_config(lambda c: c["rootfs"]["diff_ids"].pop())
            other.change_config(lambda c: c["history"].pop())
            other.change_manifest(lambda m: m["layers"].pop())
        store.load(other.name, name="other:1")
        layout.change_config(lambda c: c.update(author="so that it is another image"))
        before = everything(store.root)
    damage(layout)
    with pytest.raises(error, match=message) as caught:
        open_store(root).load(layout.name)
    assert "\n" not in str(caught.value)
    after = everything(root)
    assert after.keys() == before.keys()
    assert after == before


def test_a_store_that_can_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"driver": "none"}, {"driver_options": ["sise=1"]}]
    for options in wrong:
        with pytest.raises(WinlayersError):
            open_store(tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(WinlayersError):
            open_store(tmp_path / "there", **options)
        assert list((tmp_path / "there").iterdir()) == []
    open_store(tmp_path / "there")


def test_what_is_not_there_is_said(store: Store, layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match="it has sample"):
        store.load(f"oci:{layout.folder}:other")
    with pytest.raises(ImageError, match="does not exist"):
        store.load(f"oci:{tmp_path / 'nowhere'}:x")
    with pytest.raises(ImageError, match="no such file"):
        store.load(str(tmp_path / "nowhere"))
    with pytest.raises(ImageNotFoundError, match="no such image"):
        store.image("nothing:1")
    with pytest.raises(ImageNotFoundError, match="no such image"):
        store.save("nothing:1", f"oci:{tmp_path / 'x'}:y")
    with pytest.raises(LayerNotFoundError):
        store.export_layer("0123456789ab")
    with pytest.raises(InvalidReferenceError):
        store.load("docker-daemon:app")


def test_a_bare_folder_and_several_images(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "My Layout"
    sample_layout(folder, tag="1.0")
    assert store.load(str(folder)).references == ("docker.io/library/my-layout:1.0",)
    sample_layout(folder, tag="2.0", compression="zstd")
    with pytest.raises(ImageNotFoundError, match=r"name one of 1\.0, 2\.0"):
        store.load(str(folder))
    assert store.load(f"{folder}:2.0").references == ("docker.io/library/my-layout:2.0",)
    sample_layout(folder, tag="mcr.example/windows/app:3", docker=True)
    loaded = store.load_all(str(folder))
    assert [i.references for i in loaded] == [
        ("docker.io/library/my-layout:1.0",),
        ("docker.io/library/my-layout:2.0",),
        ("mcr.example/windows/app:3",),
    ]


def test_an_index_offers_platforms(store: Store, layout: Layout) -> None:
    def entry(version: str, architecture: str = "amd64") -> dict[str, Any]:
        def change(config: dict[str, Any]) -> None:
            config.update({"os.version": version, "architecture": architecture})

        layout.change_config(change)
        platform = {"os": "windows", "architecture": architecture, "os.version": version}
        fields = {k: layout.descriptor[k] for k in ("mediaType", "digest", "size")}
        return {**fields, "platform": platform}

    manifests = [entry("10.0.17763.1"), entry("10.0.20348.5"), entry("10.0.26100.1", "arm64")]
    linux_entry = {**manifests[0], "platform": {"os": "linux", "architecture": "amd64"}}
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [linux_entry, *manifests]}
    stored = layout.put(json.dumps(index).encode())
    layout.change_index({"mediaType": mediatypes.OCI_INDEX, **stored})
    assert store.load(layout.name).digest == manifests[1]["digest"]

    from winlayers.images.platforms import Platform

    older = store.load(layout.name, platform=Platform.parse("windows/amd64:10.0.17763"), name="old:1")
    assert older.digest == manifests[0]["digest"]
    with pytest.raises(PlatformError, match="it offers linux/amd64, windows/amd64"):
        store.load(layout.name, platform=Platform.parse("windows/386"))


def test_many_loads_at_once(tmp_path: Path) -> None:
    """Threads with stores of their own, as processes have; some images are wrong at the last layer."""
    good = sample_layout(tmp_path / "good")
    sample_layout(tmp_path / "bad")
    bad = Layout(tmp_path / "bad")
    bad.change_config(lambda c: c.update(author="x"))
    wrong_diff_id(bad)
    open_store(tmp_path / "store")
    errors: list[BaseException] = []

    def load(source: str) -> None:
        try:
            open_store(tmp_path / "store").load(source)
        except WinlayersError as error:
            errors.append(error)

    threads = [threading.Thread(target=load, args=(good if i % 2 else bad.name,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [type(e) for e in errors] == [DigestMismatchError] * 4
    store = open_store(tmp_path / "store")
    assert [i.references for i in store.images.images()] == [("docker.io/library/good:sample",)]
    infos = store.layers("good:sample")
    assert [export_digest(store, info.id) for info in infos] == [info.diff_id for info in infos]
    for path in (tmp_path / "store" / "images" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert len(list((tmp_path / "store" / "images" / "blobs" / "sha256").iterdir())) == 5
    assert not list((tmp_path / "store" / "leases").iterdir())


def test_references_move_and_images_go_with_their_last_one(store: Store, tmp_path: Path) -> None:
    assert store.driver.name == "windowsfilter"
    empty = tree_digest(store.root)
    first = store.load(sample_layout(tmp_path / "a"), name="app:1")
    sample_layout(tmp_path / "b")
    changed = Layout(tmp_path / "b")
    changed.change_config(lambda c: c.update(author="another"))
    second = store.load(changed.name, name="app:1")
    assert first.digest != second.digest
    assert [i.references for i in store.images.images()] == [("docker.io/library/app:1",), ()]
    store.tag("app:1", "registry.example/app:2")
    assert store.image("registry.example/app:2").digest == second.digest
    assert store.image(first.id[7:19]).digest == first.digest
    assert store.image(f"app@{second.digest}").digest == second.digest
    with pytest.raises(ImageInUseError, match="2 references"):
        store.remove_image(second.id)
    removed = store.remove_image("app:1")
    assert (removed.untagged, removed.images, removed.layers) == (["docker.io/library/app:1"], [], [])
    removed = store.remove_image("registry.example/app:2")
    assert removed.images == [second.id]
    assert removed.layers == []  # the first image stands on the same
    removed = store.images.prune()
    assert removed.images == [first.id]
    assert len(removed.layers) == 3
    assert tree_digest(store.root) == empty


def test_an_image_under_a_container_stays(store: Store, layout: Layout) -> None:
    image = store.load(layout.name)
    store.create("layout:sample", name="box")
    with pytest.raises(ImageInUseError, match="box"):
        store.remove_image("layout:sample")
    assert store.remove_image("layout:sample", force=True).images == []
    removed = store.images.prune(everything=True)
    assert (removed.images, removed.layers) == ([], [])
    assert store.commit("box", "layout:again").manifest.layers[:3] == image.manifest.layers
    store.remove_container("box")
    store.remove_image("layout:again")
    removed = store.images.prune()
    assert removed.images == [image.id]
    assert len(removed.layers) == 3


def test_a_container_keeps_its_own_image_alone(store: Store, layout: Layout) -> None:
    """Another image of the same layers, with another configuration, goes like any other."""
    store.load(layout.name)
    store.create("layout:sample", name="box")
    other = store.configure("layout:sample", ConfigChanges(user="somebody"), "other:1")
    assert store.images.users(store.image("layout:sample")) == ["box"]
    assert store.images.users(other) == []
    assert store.remove_image("other:1").images == [other.id]
    again = store.configure("layout:sample", ConfigChanges(user="somebody"), "other:1")
    assert store.images.prune(everything=True).images == [again.id]
    assert (
        store.commit("box", "layout:again").manifest.layers[:-1]
        == store.image("layout:sample").manifest.layers
    )


def test_blobs_that_were_left_out_are_not_missed(store: Store, layout: Layout) -> None:
    unkept = store.root / "unkept"
    image = store.load(layout.name, keep_blobs=False)
    blobs = {descriptor.digest for descriptor in image.manifest.layers}
    assert list(store.check()) == []
    assert len(list(unkept.iterdir())) == len(blobs)
    store.create(image.digest, name="box")
    store.commit("box", "made:1")
    assert list(store.check()) == []  # the new image stands on the same blobs

    store.load(layout.name)
    assert list(unkept.iterdir()) == []
    missing = image.manifest.layers[0].digest
    store.images.content.delete(missing)
    assert {finding.problem for finding in store.check()} == {
        f"the blob {missing} is missing or has another size"
    }


def test_what_is_left_out_is_forgotten_with_its_image(store: Store, layout: Layout) -> None:
    image = store.load(layout.name, keep_blobs=False)
    removed = store.remove_image(image.digest)
    assert sorted(removed.blobs) == sorted([image.digest, image.manifest.config.digest])
    assert list((store.root / "unkept").iterdir()) == []
    replace_tar(layout, b"no tar at all")
    with pytest.raises(WinlayersError):
        store.load(layout.name, keep_blobs=False)
    assert list((store.root / "unkept").iterdir()) == []


def test_a_failed_save_leaves_no_layout(store: Store, layout: Layout, tmp_path: Path) -> None:
    image = store.load(layout.name)
    path = store.images.content.blob_path(image.manifest.layers[1].digest)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DigestMismatchError):
        store.save("layout:sample", f"oci:{tmp_path / 'out'}:x")
    assert not (tmp_path / "out").exists()
    sample_layout(tmp_path / "existing", compression="zstd")
    before = tree_digest(tmp_path / "existing")
    with pytest.raises(DigestMismatchError):
        store.save("layout:sample", f"oci:{tmp_path / 'existing'}:x")
    assert tree_digest(tmp_path / "existing") == before


def test_a_folder_with_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="neither empty nor a winlayers store"):
        open_store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "winlayers.json").write_text('{"version": 99}')
    with pytest.raises(StoreError, match="newer version"):
        open_store(tmp_path / "newer")
    open_store(tmp_path / "s")
    with pytest.raises(StoreError, match="was made with"):
        open_store(tmp_path / "s", driver="windowsdiff")
