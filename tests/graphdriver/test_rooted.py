"""Files below a root, and the default way in which services open single files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import open_below, require
from winlayers.errors import InvalidNameError, LayerContentError, LayerNotFoundError
from winlayers.layers.rooted import BCD_COPIES, Root
from winlayers.layers.service import DriverInfo, LayerService
from winlayers.testing import RecordingLayerService


class OpensInFolders(RecordingLayerService):
    open_file = LayerService.open_file


@pytest.fixture
def service(tmp_path: Path) -> LayerService:
    (tmp_path / "outside").write_text("secret")
    service = OpensInFolders(DriverInfo(str(tmp_path / "home")))
    service.create("one", "")
    folder = tmp_path / "home" / "one"
    (folder / "Files" / "dir").mkdir(parents=True)
    (folder / "Files" / "dir" / "f").write_bytes(b"data")
    (folder / "Files" / "link").symlink_to("dir/f")
    (folder / "Files" / "out").symlink_to("../../../outside")
    (folder / "Files" / "linked").symlink_to("dir")
    os.mkfifo(folder / "Files" / "fifo")
    return service


def test_file_is_opened(service: LayerService) -> None:
    with service.open_file("one", "Files/dir/f") as file:
        assert file.read() == b"data"


@pytest.mark.parametrize(
    "path",
    ["Files/link", "Files/out", "Files/linked/f", "Files/fifo", "Files/dir", "Files/none", "Files/dir/f/g",
     "none/none", "../one/Files/dir/f", "/etc/passwd", "", ".", "Files//dir", "Files/\0",
     "/".join("d" * 300)],
    ids=range(15),
)  # fmt: skip
def test_what_is_not_a_file_of_the_layer(service: LayerService, path: str) -> None:
    with pytest.raises((LayerContentError, InvalidNameError)):
        service.open_file("one", path).close()


def test_missing_layer(service: LayerService) -> None:
    with pytest.raises(LayerNotFoundError):
        service.open_file("missing", "Files/f").close()


@pytest.mark.parametrize("path", BCD_COPIES)
def test_boot_files_are_read_from_their_copies(service: LayerService, path: str) -> None:
    changed = Path(service.layer_path("one"), path)
    changed.parent.mkdir(parents=True)
    changed.write_bytes(b"changed by the import")
    with service.open_file("one", path) as file:
        assert file.read() == b"changed by the import"
    Path(service.layer_path("one"), BCD_COPIES[path]).write_bytes(b"as it came")
    with service.open_file("one", path) as file:
        assert file.read() == b"as it came"


def test_root_does_not_hold_on_to_a_directory_that_was_replaced(tmp_path: Path) -> None:
    with Root(str(tmp_path)) as root:
        root.make_parents("a/b/c")
        root.create_file("a/b/c").close()
        root.remove("a")
        root.make_parents("a/b/c")
        with root.create_file("a/b/c") as file:
            file.write(b"second")
        root.remove("a/b")
        assert root.lstat("a/b/c") is None
        root.symlink("elsewhere", "a/b")
        with pytest.raises(LayerContentError):
            root.lstat("a/b/c")
    assert os.readlink(tmp_path / "a" / "b") == "elsewhere"


def test_root_leaks_no_descriptors(tmp_path: Path) -> None:
    require(os.path.isdir("/proc/self/fd"), "no /proc to count descriptors in")
    with Root(str(tmp_path)) as root:
        for number in range(20):
            root.make_parents(f"{number}/x/y")
            root.create_file(f"{number}/x/y").close()
            root.link(f"{number}/x/y", f"{number}/z")
            root.names(f"{number}/x")
            with pytest.raises(LayerContentError):
                root.open_file(f"{number}/x")
            with pytest.raises(LayerContentError):
                root.lstat(f"{number}/x/y/z/a")
        assert open_below(tmp_path)
    assert open_below(tmp_path) == []
