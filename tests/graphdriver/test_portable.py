"""The driver on the portable service: mounts that outlive a process, and an image of the real world."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.support import PYTHON_APP, can_mount, require
from winlayers.errors import DriverOptionError, LayerInUseError
from winlayers.graphdriver import GraphDriver, open_driver
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import ChangeKind
from winlayers.testing.content import read_all
from winlayers.testing.tars import BASE, DELTA, Member, make_tar


def at(root: Path, *options: str) -> GraphDriver:
    return open_driver(str(root), "windowsfilter", ["service=portable", *options])


@pytest.fixture
def driver(tmp_path: Path) -> GraphDriver:
    driver = at(tmp_path)
    driver.apply_diff("base", "", io.BytesIO(BASE))
    driver.apply_diff("delta", "base", io.BytesIO(DELTA))
    return driver


def mounted(driver: GraphDriver, layer_id: str) -> Path:
    require(can_mount(), "layers can't be mounted here")
    return Path(driver.get(layer_id))


def run(root: Path, statement: str) -> str:
    """Run *statement* on a driver of its own in another process; what it printed."""
    program = (
        "import sys\n"
        "from winlayers.graphdriver import open_driver\n"
        "driver = open_driver(sys.argv[1], 'windowsfilter', ['service=portable'])\n"
        f"{statement}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_mount_outlives_its_process(driver: GraphDriver, tmp_path: Path) -> None:
    driver.create_read_write("box", "delta")
    mounted(driver, "box")
    driver.put("box")
    path = Path(run(tmp_path, "print(driver.get('box'))"))
    assert (path / "new.txt").read_bytes() == b"new in the delta"
    (path / "made.txt").write_bytes(b"made")
    with pytest.raises(LayerInUseError):
        driver.remove("box")
    # A get here shares that view, and its put leaves it; a put without a get takes it down.
    assert Path(driver.get("box")) == path
    driver.put("box")
    assert (path / "made.txt").exists()
    assert read_all(driver.diff("box"))
    assert (path / "made.txt").exists()
    run(tmp_path, "driver.put('box')")
    assert not (path / "made.txt").exists()
    driver.remove("box")
    assert not driver.exists("box")


def test_view_comes_back_where_it_was(driver: GraphDriver, tmp_path: Path) -> None:
    driver.create_read_write("box", "delta")
    mounted(driver, "box")
    driver.put("box")
    chosen = tmp_path / "chosen"
    assert isinstance(driver, WindowsGraphDriver)
    assert isinstance(driver.service, PortableLayerService)
    driver.service.set_mount_target("box", str(chosen))
    assert Path(driver.get("box")) == chosen
    assert read_all(driver.diff("box"))
    assert (chosen / "new.txt").read_bytes() == b"new in the delta"
    driver.put("box")
    assert Path(driver.get("box")) != chosen
    driver.put("box")


def test_layer_mounted_by_itself_is_read_only(driver: GraphDriver) -> None:
    path = mounted(driver, "delta")
    try:
        assert (path / "new.txt").read_bytes() == b"new in the delta"
        with pytest.raises(OSError, match=r"Read-only|denied"):
            (path / "x").write_text("x")
        driver.create_read_write("box", "delta")
        assert driver.layer_chain("box") == [driver.layer_path("delta"), driver.layer_path("base")]
        assert Path(driver.get("box"), "new.txt").read_bytes() == b"new in the delta"
        driver.put("box")
        driver.apply_diff("next", "delta", io.BytesIO(make_tar(Member("Files/x", b"x"))))
        assert driver.layer_chain("next") == driver.layer_chain("box")
    finally:
        driver.put("delta")


def test_reference_changes(driver: GraphDriver, tmp_path: Path) -> None:
    def kinds(driver: GraphDriver) -> set[ChangeKind]:
        return {change.kind for change in driver.changes("base")}

    assert kinds(driver) == {ChangeKind.ADD}
    assert kinds(at(tmp_path, "reference_changes=true")) == {ChangeKind.MODIFY}


def test_unknown_kind_of_mount_is_told(tmp_path: Path) -> None:
    with pytest.raises(DriverOptionError, match="teleport"):
        at(tmp_path, "mount=teleport")
    with pytest.raises(DriverOptionError):
        at(tmp_path, "mounts=auto")


def test_what_is_left_of_a_removal_is_swept(driver: GraphDriver, tmp_path: Path) -> None:
    os.rename(driver.layer_path("delta"), driver.layer_path("delta-removing"))  # a crash right after
    assert not driver.exists("delta")
    fresh = at(tmp_path)
    fresh.cleanup()
    assert not os.path.lexists(fresh.layer_path("delta-removing"))
    fresh.remove("base")


def test_store_can_be_moved(driver: GraphDriver, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "windowsfilter", tmp_path / "elsewhere" / "windowsfilter")
    moved = at(tmp_path / "elsewhere")
    assert read_all(moved.diff("delta")) == DELTA
    moved.create_read_write("box", "delta")
    path = mounted(moved, "box")
    assert (path / "keep.txt").read_bytes() == b"kept " * 1000
    moved.put("box")


def test_diff_size_counts_hard_links_once(driver: GraphDriver) -> None:
    tar = make_tar(
        Member("Files/a", b"12345"),
        Member("Files/b", link="Files/a"),
        Member("Files/c", link="Files/keep.txt"),
    )
    driver.apply_diff("links", "base", io.BytesIO(tar))
    assert driver.diff_size("links") == 5


@pytest.mark.skipif(not PYTHON_APP.is_dir(), reason=f"the image is not at {PYTHON_APP}")
def test_real_image_goes_through(tmp_path: Path) -> None:
    driver = at(tmp_path)

    def blob(digest: str) -> bytes:
        return (PYTHON_APP / "blobs" / digest.replace(":", "/")).read_bytes()

    index = json.loads((PYTHON_APP / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    diff_ids = json.loads(blob(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    parent = ""
    for number, (layer, diff_id) in enumerate(zip(manifest["layers"], diff_ids, strict=True)):
        tar = blob(layer["digest"])
        if "gzip" in layer["mediaType"]:
            tar = zlib.decompress(tar, 47)
        elif "zstd" in layer["mediaType"]:
            import zstandard

            tar = zstandard.ZstdDecompressor().decompressobj().decompress(tar)
        layer_id = f"layer{number}"
        driver.create(layer_id, parent)
        size = driver.apply_diff(layer_id, parent, io.BytesIO(tar))
        out = read_all(driver.diff(layer_id), 1 << 16)
        assert f"sha256:{hashlib.sha256(out).hexdigest()}" == diff_id
        assert driver.diff_size(layer_id) == size
        parent = layer_id
    driver.create_read_write("box", parent)
    path = mounted(driver, "box")
    try:
        assert [p.name for p in path.iterdir()].count("Windows") == 1
        assert sum(p.name.lower() == "windows" for p in path.iterdir()) == 1
        assert (path / "Windows" / "win.ini").is_dir()
        assert [p.name for p in (path / "Windows" / "Globalization").iterdir()] == ["new.nls"]
        (path / "made.txt").write_bytes(b"made")
    finally:
        driver.put("box")
    assert [(c.kind, c.path) for c in driver.changes("box") if not c.is_directory] == [
        (ChangeKind.ADD, "Files/made.txt")
    ]
