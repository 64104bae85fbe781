"""Plain Docker layers applied to a folder: whiteouts, links, and nothing outside of the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.graphdriver.conftest import Kit
from winlayers.errors import (
    InvalidNameError,
    LayerContentError,
    LayerNotFoundError,
    StoreError,
    TarError,
    WinlayersError,
)
from winlayers.graphdriver.windows.docker_layer import apply_layer
from winlayers.layers.service import Flavour
from winlayers.testing.tars import Member, make_tar

OUT = Member("s", symlink="../secret")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a secret beside it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    return tmp_path / "root"


def apply(root: Path, *members: Member) -> int:
    return apply_layer(str(root), io.BytesIO(make_tar(*members)))


def tree(root: Path) -> dict[str, object]:
    """Files by content, links by target, directories as None."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("->", os.readlink(path))
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def test_files_directories_and_links(root: Path) -> None:
    size = apply(
        root,
        Member("a/"),
        Member("a/f", b"data"),
        Member("implied/parent/f", b"deep"),
        Member("/absolute", b"x"),
        Member("./dotted/../f", b"y"),
        Member("hard", link="a/f"),
        Member("hard2", link="/a/f"),
        Member("sym", symlink="/etc/passwd"),
    )
    assert size == 4 + 4 + 1 + 1
    assert tree(root) == {
        "a": None, "a/f": b"data", "absolute": b"x", "f": b"y", "hard": b"data", "hard2": b"data",
        "implied": None, "implied/parent": None, "implied/parent/f": b"deep", "sym": ("->", "/etc/passwd"),
    }  # fmt: skip
    assert (root / "a" / "f").stat().st_nlink == 3


def test_modes_and_times(root: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, mode, mtime in (("d", 0o500, 5), ("d/f", 0o4751, 7), ("old", 0o600, -5)):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, mtime
            info.type = tarfile.DIRTYPE if name == "d" else tarfile.REGTYPE
            info.pax_headers = {"atime": "3"}
            out.addfile(info)
    apply_layer(str(root), io.BytesIO(tar.getvalue()))
    folder, file, old = (os.stat(root / name) for name in ("d", "d/f", "old"))
    assert stat.S_IMODE(folder.st_mode) == 0o500
    assert stat.S_IMODE(file.st_mode) == 0o751
    assert (folder.st_mtime, file.st_mtime, old.st_mtime) == (5, 7, 0)
    os.chmod(root / "d", 0o700)


def test_entries_replace_what_is_there(root: Path) -> None:
    apply(root, Member("a/f", b"1"), Member("b", b"2"), Member("c/x/y", b"3"), Member("s", symlink="a"))
    apply(root, Member("a/", mtime=9), Member("b/"), Member("c", b"5"), Member("s", b"6"))
    assert tree(root) == {"a": None, "a/f": b"1", "b": None, "c": b"5", "s": b"6"}


def test_whiteouts(root: Path) -> None:
    apply(
        root,
        Member("a/f", b"1"),
        Member("a/g", b"2"),
        Member("b/x/y", b"3"),
        Member("s", symlink="../secret"),
    )
    apply(root, Member("a/.wh.f"), Member(".wh.b"), Member(".wh.never"), Member(".wh.s"), Member("n/.wh.x"))
    assert tree(root) == {"a": None, "a/g": b"2", "n": None}
    assert (root.parent / "secret" / "file").exists()


def test_opaque_directory_keeps_what_the_layer_has(root: Path) -> None:
    apply(
        root, Member("d/old", b"1"), Member("d/sub/old", b"2"), Member("d/both/old", b"3"), Member("x", b"4")
    )
    apply(root, Member("d/both/new", b"5"), Member("d/.wh..wh..opq"), Member("d/later", b"6"))
    assert tree(root) == {"d": None, "d/both": None, "d/both/new": b"5", "d/later": b"6", "x": b"4"}


def test_opaque_root(root: Path) -> None:
    apply(root, Member("old", b"1"))
    apply(root, Member("new", b"2"), Member(".wh..wh..opq"))
    assert tree(root) == {"new": b"2"}


def test_aufs_metadata_is_not_content(root: Path) -> None:
    size = apply(
        root,
        Member(".wh..wh.aufs", b"12"),
        Member(".wh..wh.orph/"),
        Member(".wh..wh.orph/x", b"345"),
        Member(".wh..wh.plnk/"),
        Member(".wh..wh.plnk/17.4", b"linked"),
        Member("first", link=".wh..wh.plnk/17.4"),
        Member("second", link=".wh..wh.plnk/17.4"),
    )
    assert size == 2 + 3 + 6
    assert tree(root) == {"first": b"linked", "second": b"linked"}
    with pytest.raises(LayerContentError, match="AUFS"):
        apply(root, Member("third", link=".wh..wh.plnk/18"))


def test_devices_and_fifos_are_passed_over(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"dev{number}")
            info.type = kind
            out.addfile(info)
        out.addfile(tarfile.TarInfo("f"))
    apply_layer(str(root), io.BytesIO(tar.getvalue()))
    assert tree(root) == {"f": b""}
    assert caplog.text.count("device or FIFO") == 3


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([Member("../secret/file", b"x")], id="dots"),
        pytest.param([Member("a/../../secret/file", b"x")], id="dots within"),
        pytest.param([Member("/../secret/file", b"x")], id="dots after a slash"),
        pytest.param([Member("..", b"x")], id="only dots"),
        pytest.param([Member("s", symlink="../secret"), Member("s/file", b"x")], id="through a link"),
        pytest.param([Member("s", symlink="../secret"), Member("s/.wh.file")], id="whiteout through a link"),
        pytest.param(
            [Member("s", symlink="../secret"), Member("s/.wh..wh..opq")], id="opaque through a link"
        ),
        pytest.param(
            [Member("s", symlink="../secret"), Member("h", link="s/file")], id="link through a link"
        ),
        pytest.param([Member("h", link="../secret/file")], id="link out"),
        pytest.param([Member("s", symlink="."), Member("s/x", b"x")], id="even a link that stays inside"),
        pytest.param([Member(".wh...")], id="whiteout of the parent"),
        pytest.param([Member("a/.wh.")], id="whiteout of nothing"),
        pytest.param([Member("h", link="none")], id="link to nothing"),
        pytest.param([Member("d/"), Member("h", link="d")], id="link to a directory"),
        pytest.param([Member("f", b"x"), Member("f", link="f")], id="link to itself"),
        pytest.param([Member("f", b"x"), Member("f/g", b"y")], id="below a file"),
        pytest.param([Member("/".join("d" * 300), b"x")], id="too deep"),
        pytest.param([Member("n" * 256, b"x")], id="too long a name"),
    ],
)
def test_breaking_out_is_refused(root: Path, members: list[Member]) -> None:
    with pytest.raises((LayerContentError, InvalidNameError)):
        apply(root, *members)
    assert (root.parent / "secret" / "file").read_text() == "secret"
    assert sorted(os.listdir(root.parent)) == ["root", "secret"]


def test_links_of_an_earlier_layer_are_not_followed(root: Path) -> None:
    (root / "s").symlink_to("../secret")
    with pytest.raises(LayerContentError, match="link"):
        apply(root, Member("s/file", b"x"))
    assert (root.parent / "secret" / "file").read_text() == "secret"


@pytest.mark.parametrize("tar", [b"\1" * 512, make_tar(Member("a", b"x" * 600))[:700], bytes(511) + b"\1"])
def test_broken_tars(root: Path, tar: bytes) -> None:
    with pytest.raises(TarError):
        apply_layer(str(root), io.BytesIO(tar))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LayerNotFoundError):
        apply_layer(str(tmp_path / "missing"), io.BytesIO(make_tar()))


def test_errors_of_the_file_system_are_ours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(StoreError, match=r"a/: can't unpack: No space left"):
        apply(root, Member("a/"))


NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", ".wh..wh.plnk"]), min_size=1
).map("/".join)
MEMBERS = st.one_of(
    st.builds(Member, NAMES, st.binary(max_size=8)),
    st.builds(lambda name: Member(f"{name}/"), NAMES),
    st.builds(lambda name, target: Member(name, link=target), NAMES, NAMES),
    st.builds(lambda name, target: Member(name, symlink=target), NAMES, NAMES),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(MEMBERS, max_size=8))
def test_nothing_ever_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    root = outside / "a"  # a name that members use
    root.mkdir()
    (outside / "b").write_text("secret")
    try:
        apply(root, *members)
    except WinlayersError:
        pass
    assert sorted(os.listdir(outside)) == ["a", "b"]
    assert (outside / "b").read_text() == "secret"
    assert (outside / "b").stat().st_nlink == 1


class TestDifferencingDiskFlavour:
    """``windowsdiff``: the tar is applied under the home, and begins with the layer's id."""

    @pytest.fixture
    def kit(self, tmp_path: Path) -> Kit:
        return Kit(tmp_path / "home", Flavour.DIFF)

    def test_layer_lands_under_the_home(self, kit: Kit) -> None:
        assert str(kit.driver) == "windowsdiff"
        tar = make_tar(Member("one/"), Member("one/disk.vhdx", b"disk"), Member("one/layerchain.json", b"[]"))
        assert kit.driver.apply_diff("one", "", io.BytesIO(tar)) == 6
        assert (kit.home / "one" / "disk.vhdx").read_bytes() == b"disk"
        assert kit.service.calls == []

    def test_nothing_lands_elsewhere(self, kit: Kit, tmp_path: Path) -> None:
        with pytest.raises(InvalidNameError):
            kit.driver.apply_diff("one", "", io.BytesIO(make_tar(Member("../escaped", b"x"))))
        assert os.listdir(tmp_path) == ["home"]

    def test_all_else_is_as_in_the_other(self, kit: Kit) -> None:
        kit.with_image()
        kit.driver.create_read_write("box", "top")
        assert kit.driver.get("box")
        kit.driver.put("box")
        kit.driver.remove("box")
        assert kit.names()[-2:] == ["prepare_removal", "destroy"]
