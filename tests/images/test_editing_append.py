"""Folders and tars as layers on images."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.images.editing import data, inode, shown
from tests.images.support import tree_digest
from tests.layers.tars import LayerTar
from winlayers.errors import (
    ImageError,
    InvalidNameError,
    LayerContentError,
    TarError,
)
from winlayers.images.editing import AppendOptions, TarForm
from winlayers.images.editing.append import drive_path
from winlayers.images.image import Image
from winlayers.store import Store
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.security import bytes_to_sddl, inherit

EPOCH = 1_700_000_000


class TestAppend:
    def test_a_folder_becomes_a_windows_layer(self, store: Store, app: Image, tree: Path) -> None:
        made = store.append("app:1", [tree], "app:2", AppendOptions(destination="C:\\app"))
        assert made.manifest.layers[:3] == app.manifest.layers
        assert made.references == ("docker.io/library/app:2",)
        assert data(store, made, "Files/app/bin/tool.exe") == b"MZ tool"
        tool = inode(store, made, "Files/app/bin/tool.exe")
        assert (tool.nlink, tool.metadata.attributes) == (2, FileAttributes.ARCHIVE)
        link = inode(store, made, "Files/app/latest")
        assert link.metadata.reparse is not None
        assert link.is_directory
        before = shown(store, app)
        assert {p: s for p, s in shown(store, made).items() if p in before and p != "Hives"} == {
            p: s for p, s in before.items() if p != "Hives"
        }

    def test_descriptors_come_from_the_folders_there(self, store: Store, app: Image, tree: Path) -> None:
        made = store.append("app:1", [tree], "app:2", AppendOptions(destination="/Windows/System32/new"))
        parent = inode(store, app, "Files/Windows/System32").metadata.security
        folder = inode(store, made, "Files/Windows/System32/new").metadata.security
        file = inode(store, made, "Files/Windows/System32/new/read me.txt").metadata.security
        assert folder == inherit(parent, is_directory=True)
        assert file == inherit(folder, is_directory=False)
        at_root = store.append("app:1", [tree], "app:3", AppendOptions(destination="/Users/Public"))
        users = inode(store, app, "Files/Users/Public").metadata.security
        assert inode(store, at_root, "Files/Users/Public/read me.txt").metadata.security == inherit(
            users, is_directory=False
        )

    def test_a_descriptor_can_be_given(self, store: Store, app: Image, tree: Path) -> None:
        made = store.append(
            "app:1", [tree], None, AppendOptions(destination="x", sddl="O:BAG:SYD:(A;;FA;;;WD)")
        )
        assert made.references == ()
        for path in ("Files/x", "Files/x/bin", "Files/x/bin/tool.exe"):
            security = inode(store, made, path).metadata.security
            assert security is not None
            assert bytes_to_sddl(security) == "O:BAG:SYD:(A;;FA;;;WD)"

    def test_the_same_twice_is_the_same_image(
        self, store: Store, app: Image, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
        first = store.append("app:1", [tree], "app:2", AppendOptions(destination="app"))
        os.utime(tree / "read me.txt", (EPOCH + 9, EPOCH + 9))
        second = store.append("app:1", [tree], "app:3", AppendOptions(destination="C:/app/"))
        assert first.digest == second.digest
        assert first.config.created == "2023-11-14T22:13:20Z"
        (tree / "read me.txt").write_text("other")
        assert store.append("app:1", [tree], "app:4").digest != first.digest

    @pytest.mark.parametrize("compression", ["", "gz"])
    def test_plain_tars(self, store: Store, app: Image, tree: Path, tmp_path: Path, compression: str) -> None:
        path = tmp_path / "source.tar"
        with tarfile.open(path, f"w:{compression}") as tar:  # type: ignore[call-overload]  # its modes are literals
            tar.add(tree, arcname=".")
        made = store.append("app:1", [path], "app:2", AppendOptions(destination="app"))
        assert data(store, made, "Files/app/bin/tool.exe") == b"MZ tool"
        assert inode(store, made, "Files/app/tool-again.exe").nlink == 2

    def test_layer_tars_are_taken_as_they_are(self, store: Store, app: Image, tmp_path: Path) -> None:
        tar = LayerTar().directory("Files").remove("Files/app/app.exe").file("Files/n", b"n").bytes()
        (tmp_path / "layer.tar").write_bytes(tar)
        made = store.append("app:1", [tmp_path / "layer.tar"], "app:2")
        assert store.export_layer(made.layer_ids[-1]).read(-1) == tar
        assert data(store, made, "Files/app/app.exe") is None

    def test_a_layers_roots_alone_make_a_layer_unless_told_otherwise(
        self, store: Store, app: Image, tmp_path: Path
    ) -> None:
        path = tmp_path / "crane.tar"
        with tarfile.open(path, "w") as tar:
            for name in ("Files", "Hives"):
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            info = tarfile.TarInfo("Files/x")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        assert data(store, store.append("app:1", [path]), "Files/x") == b"x"
        plain = store.append("app:1", [path], None, AppendOptions(form=TarForm.PLAIN))
        assert data(store, plain, "Files/Files/x") == b"x"

    def test_several_sources_are_several_layers(self, store: Store, app: Image, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "same.txt").write_text(name)
            (tmp_path / name / f"{name}.txt").write_text(name)
        made = store.append("app:1", [tmp_path / "one", tmp_path / "two"], "app:2")
        assert len(made.manifest.layers) == 5
        assert data(store, made, "Files/same.txt") == b"two"
        assert data(store, made, "Files/one.txt") == b"one"
        assert [step.created_by for step in made.config.history][-2:] == [
            "winlayers append one C:\\",
            "winlayers append two C:\\",
        ]

    def test_nothing_is_put_into_a_junction(self, store: Store, app: Image, tree: Path) -> None:
        before = tree_digest(store.root / "images")
        with pytest.raises(LayerContentError, match="junction"):
            store.append("app:1", [tree], "app:2", AppendOptions(destination="Documents and Settings/x"))
        assert tree_digest(store.root / "images") == before

    def test_hostile_and_wrong_sources(self, store: Store, app: Image, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="can't be read"):
            store.append("app:1", [tmp_path / "missing"])
        (tmp_path / "text").write_text("not a tar" * 1000)
        with pytest.raises(TarError):
            store.append("app:1", [tmp_path / "text"])
        with tarfile.open(tmp_path / "up.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("../../etc/passwd"))
        with pytest.raises(InvalidNameError):
            store.append("app:1", [tmp_path / "up.tar"])
        with pytest.raises(ImageError, match="nothing to append"):
            store.append("app:1", [])

    @pytest.mark.parametrize(
        ("text", "path"),
        [("C:\\a\\b", "a/b"), ("/a//b/", "a/b"), ("c:/", ""), ("", ""), ("a b\\.\\c", "a b/c")],
    )
    def test_folders_of_the_drive(self, text: str, path: str) -> None:
        assert drive_path(text) == path

    @pytest.mark.parametrize("text", ["D:\\x", "a/../b", "a:b", "C:\\a?"])
    def test_what_is_no_folder_of_the_drive(self, text: str) -> None:
        with pytest.raises(InvalidNameError):
            drive_path(text)
