"""The differencing flavour on the portable service: plain tars in, plain files seen, plain tars out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from winlayers.errors import LayerInUseError
from winlayers.graphdriver import GraphDriver, get_driver
from winlayers.layers import ChangeKind


def plain_layer(layer_id: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (
            (f"{layer_id}/sub/file.txt", b"content"),
            (f"{layer_id}/sandbox.vhdx", b"disk" * 999),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o640, 1700000000
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(f"{layer_id}/link")
        link.type, link.linkname = tarfile.SYMTYPE, "sub/file.txt"
        tar.addfile(link)
        hard = tarfile.TarInfo(f"{layer_id}/hard.txt")
        hard.type, hard.linkname = tarfile.LNKTYPE, f"{layer_id}/sub/file.txt"
        tar.addfile(hard)
    return buffer.getvalue()


def members(data: bytes) -> dict[str, tuple[bytes, str, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: (m.type, m.linkname, m.mode) for m in tar.getmembers()}


@pytest.fixture
def driver(tmp_path: Path) -> GraphDriver:
    return get_driver("windowsdiff", str(tmp_path / "home"), ["service=portable"])


def test_what_is_applied_is_there_and_comes_out(driver: GraphDriver, tmp_path: Path) -> None:
    driver.create("layer", "")
    assert driver.apply_diff("layer", "", io.BytesIO(plain_layer("layer"))) > 0
    assert driver.exists("layer")
    where = driver.get("layer")
    assert Path(where, "sub", "file.txt").read_bytes() == b"content"
    driver.put("layer")
    stream = driver.diff("layer", "")
    data = stream.read()
    stream.close()
    found = members(data)
    assert found["layer/link"] == (tarfile.SYMTYPE, "sub/file.txt", found["layer/link"][2])
    assert {found["layer/sub/file.txt"][0], found["layer/hard.txt"][0]} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert not [name for name in found if "layer.json" in name or "layerchain" in name]

    other = get_driver("windowsdiff", str(tmp_path / "other"), ["service=portable"])
    other.create("layer", "")
    other.apply_diff("layer", "", io.BytesIO(data))
    again = other.diff("layer", "")
    assert again.read() == data
    again.close()


def test_its_changes_and_size(driver: GraphDriver) -> None:
    driver.create("layer", "")
    driver.apply_diff("layer", "", io.BytesIO(plain_layer("layer")))
    changes = {change.path: change for change in driver.changes("layer", "")}
    assert changes["sub/file.txt"].kind is ChangeKind.ADD
    assert changes["sandbox.vhdx"].size == 4 * 999
    assert "layer.json" not in changes


def test_a_layer_without_create_is_known_by_its_files(driver: GraphDriver, tmp_path: Path) -> None:
    driver.apply_diff("layer", "", io.BytesIO(plain_layer("layer")))
    assert driver.exists("layer")
    assert not driver.exists("other")
    driver.remove("layer")
    assert not driver.exists("layer")
    assert not os.path.exists(tmp_path / "home" / "layer")


def test_parents_stay_while_children_stand_on_them(driver: GraphDriver) -> None:
    driver.create("base", "")
    driver.apply_diff("base", "", io.BytesIO(plain_layer("base")))
    driver.create("top", "base")
    driver.apply_diff("top", "base", io.BytesIO(plain_layer("top")))
    with pytest.raises(LayerInUseError):
        driver.remove("base")
    driver.remove("top")
    driver.remove("base")
