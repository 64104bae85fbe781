"""A service without streaming (Windows Server 2016 TP4): layers go through a temporary folder."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from winlayers.errors import HcsError, InvalidNameError, LayerContentError, LayerCorruptError, TarError
from winlayers.testing.content import read_all
from winlayers.testing.tars import Member, make_tar

PACKED = make_tar(
    Member("Files/"),
    Member("Files/big", b"big " * 50_000),
    Member("Files/empty"),
    Member("Files.$wcidirs$", b"\x10\0\0\0"),
    Member("tombstones.txt", b"\xef\xbb\xbfVersion 1.0\n\\gone\n"),
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def kit(tmp_path: Path, temporary: Path) -> Kit:
    kit = Kit(tmp_path / "home").with_image()
    kit.service.can_stream = False
    return kit


def test_import_goes_through_a_folder(kit: Kit, temporary: Path) -> None:
    size = kit.driver.apply_diff("one", "top", io.BytesIO(PACKED))
    assert size == 200_000 + 4 + 21
    assert kit.service.calls == [
        ("mount_path", "top"),
        ("import_folder", "one", kit.path("top"), kit.path("base")),
    ]
    content = kit.home / "one" / "content"
    assert (content / "Files" / "big").read_bytes() == b"big " * 50_000
    assert (content / "Files.$wcidirs$").read_bytes() == b"\x10\0\0\0"
    assert os.listdir(temporary) == []
    assert kit.service.chain_of("one") == [kit.path("top"), kit.path("base")]


@pytest.mark.parametrize("tar", [b"\1" * 512, make_tar(Member("../x", b"x"))])
def test_import_of_what_is_no_layer(kit: Kit, temporary: Path, tar: bytes) -> None:
    with pytest.raises((TarError, InvalidNameError)):
        kit.driver.apply_diff("one", "top", io.BytesIO(tar))
    assert kit.names() == ["mount_path"]
    assert os.listdir(temporary) == []


def test_import_that_fails_leaves_no_folder(kit: Kit, temporary: Path) -> None:
    kit.service.fail["import_folder"] = HcsError("no", function="ImportLayer")
    with pytest.raises(HcsError):
        kit.driver.apply_diff("one", "top", io.BytesIO(PACKED))
    assert os.listdir(temporary) == []


def test_export_packs_the_folder(kit: Kit, temporary: Path) -> None:
    kit.driver.apply_diff("one", "top", io.BytesIO(PACKED))
    kit.driver.get("one")
    kit.service.calls.clear()
    data = read_all(kit.driver.diff("one"), 1000)
    assert kit.service.calls == [
        ("unprepare", "one"),
        ("export_folder", "one", kit.path("top"), kit.path("base")),
        ("prepare", "one", kit.path("top"), kit.path("base")),
    ]
    assert os.listdir(temporary) == []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        big = tar.extractfile("Files/big")
        assert big is not None
        assert big.read() == b"big " * 50_000
    assert set(names) == {"Files", "Files/big", "Files/empty", "Files.$wcidirs$", "tombstones.txt"}
    assert names.index("Files") < names.index("Files/big")
    # And what was packed is a layer again.
    assert kit.driver.apply_diff("two", "top", io.BytesIO(data)) == 200_000 + 4 + 21


def test_export_left_early_removes_the_folder(kit: Kit, temporary: Path) -> None:
    kit.driver.apply_diff("one", "top", io.BytesIO(PACKED))
    stream = kit.driver.diff("one")
    assert len(os.listdir(temporary)) == 1
    stream.read(10)
    stream.close()
    assert os.listdir(temporary) == []


def test_export_that_fails_removes_the_folder_and_mounts_again(kit: Kit, temporary: Path) -> None:
    kit.driver.get("top")
    kit.service.fail["export_folder"] = LayerCorruptError("broken")
    with pytest.raises(LayerCorruptError):
        kit.driver.diff("top")
    assert os.listdir(temporary) == []
    assert kit.service.prepared == {"top"}


def test_getter_reads_an_exported_folder(kit: Kit, temporary: Path) -> None:
    kit.driver.apply_diff("one", "top", io.BytesIO(PACKED))
    getter = kit.driver.diff_getter("one")
    with getter.get("Files/big") as file:
        assert file.read(4) == b"big "
    for path in ("Files", "none", "../x", "Files/big/x"):
        with pytest.raises((LayerContentError, InvalidNameError)):
            getter.get(path).close()
    assert len(os.listdir(temporary)) == 1
    getter.close()
    getter.close()
    assert os.listdir(temporary) == []
