"""Images on another base."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.editing import data, inode, part, run_of, shown, view_of, with_layer
from tests.images.support import sample_layout, tree_digest
from tests.layers.tars import LayerTar
from tests.support import PYTHON_APP
from winlayers.errors import (
    ImageError,
    PlatformError,
    RebaseConflictError,
)
from winlayers.images.editing import ConfigChanges
from winlayers.images.image import Image
from winlayers.store import Store


class TestRebase:
    def test_layers_are_the_same_and_the_view_is_right(
        self, store: Store, app: Image, bases: tuple[Image, Image]
    ) -> None:
        made = store.rebase("app:1", "base:2", "app:2")
        assert made.manifest.layers == (*bases[1].manifest.layers, app.manifest.layers[2])
        assert made.config.diff_ids == (*bases[1].config.diff_ids, app.config.diff_ids[2])
        assert data(store, made, "Files/Windows/win.ini") == b"new"
        assert data(store, made, "Files/Windows/patched.dll") == b"patched"
        assert data(store, made, "Files/app/app.exe") == data(store, app, "Files/app/app.exe")
        new, own = shown(store, bases[1]), shown(store, app)
        directories = {"Files", "Hives"}
        assert {p: s for p, s in shown(store, made).items() if p not in directories} == {
            **{p: s for p, s in new.items() if p not in directories},
            **{p: s for p, s in own.items() if p.startswith("Files/app")},
        }

    def test_documents(self, store: Store, app: Image, bases: tuple[Image, Image]) -> None:
        own = store.configure(
            "app:1", ConfigChanges(env=("A=1", "B=1", "OWN=1"), user="ContainerUser"), "app:own"
        )
        made = store.rebase("app:own", "base:2", "app:2")
        assert made.config.platform.os_version == "10.0.20348.9999"
        assert [step.created_by for step in made.config.history] == [
            *(step.created_by for step in bases[1].config.history),
            *(step.created_by for step in own.config.history[2:]),
        ]
        run = run_of(made)
        assert run["Env"] == ["A=2", "B=1", "OWN=1", "C=2"]
        assert run["Cmd"] == run_of(app)["Cmd"]
        assert made.manifest.annotations == {
            "org.opencontainers.image.base.digest": bases[1].digest,
            "org.opencontainers.image.base.name": "docker.io/library/base:2",
        }
        again = store.rebase("app:2", "base:1", "app:3")
        assert again.manifest.layers == app.manifest.layers, "and back, by the annotation"
        assert run_of(again)["Env"] == ["A=1", "B=1", "OWN=1"]

    def test_the_old_base_may_be_a_layer(self, store: Store, app: Image, bases: tuple[Image, Image]) -> None:
        made = store.rebase("app:1", "base:2", "app:2", old_base=app.layer_ids[1][:12])
        assert made.manifest.layers[-1] == app.manifest.layers[2]
        assert run_of(made) == run_of(app), "what the base had is not known"
        with pytest.raises(ImageError, match="neither an image nor a layer"):
            store.rebase("app:1", "base:2", "app:2", old_base="nothing:1")
        with pytest.raises(ImageError, match="not based on"):
            store.rebase("app:1", "base:1", "app:2", old_base="base:2")

    def test_the_old_base_must_be_known(self, store: Store, app: Image, tmp_path: Path) -> None:
        other = tmp_path / "other.tar"
        other.write_bytes(LayerTar().directory("Files").file("Files/x", b"x").bytes())
        new = part(store, app, 1, "new:1")
        with_layer(store, new, other.read_bytes(), "new:2")
        store.remove_image("new:1")
        with pytest.raises(ImageError, match="--old-base"):
            store.rebase("app:1", "new:2", "app:2")
        part(store, app, 1, "one:1")
        part(store, app, 2, "two:1")
        with pytest.raises(ImageError, match=r"one:1, two:1"):
            store.rebase("app:1", "new:2", "app:2")
        made = store.rebase("app:1", "new:2", "app:2", old_base="two:1")
        assert len(made.manifest.layers) == 3

    def test_touched_files_that_differ_are_a_conflict(
        self, store: Store, app: Image, bases: tuple[Image, Image]
    ) -> None:
        tar = LayerTar().directory("Files").directory("Files/Windows")
        tar.file("Files/windows/WIN.INI", b"own").file("Files/Windows/patched.dll", b"own")
        with_layer(store, app, tar.bytes(), "app:own")
        before = tree_digest(store.root / "images")
        with pytest.raises(RebaseConflictError) as raised:
            store.rebase("app:own", "base:2", "app:2")
        assert raised.value.conflicts == ("Files/windows/WIN.INI", "Files/Windows/patched.dll")
        assert "Files/windows/WIN.INI" in str(raised.value)
        assert tree_digest(store.root / "images") == before
        made = store.rebase("app:own", "base:2", "app:2", force=True)
        assert data(store, made, "Files/Windows/win.ini") == b"own"

    @pytest.mark.parametrize(
        ("own", "conflicts"),
        [
            (LayerTar().remove("Files/Windows/win.ini"), ("Files/Windows/win.ini",)),
            (LayerTar().remove("Files/Windows"), ("Files/Windows/win.ini", "Files/Windows/patched.dll")),
            (LayerTar().hide("Files/Windows"), ("Files/Windows/win.ini", "Files/Windows/patched.dll")),
            (LayerTar().link("Files/x", "Files/Windows/win.ini"), ("Files/Windows/win.ini",)),
            (LayerTar().remove("Files/Users/Public/notes.txt"), ()),
            (LayerTar().file("Files/Users/Public/notes.txt", b"own"), ()),
            (LayerTar().link("Files/x", "Files/Users/Public/notes.txt"), ()),
            (LayerTar().file("Files/own", b"").link("Files/x", "Files/own"), ()),
            (LayerTar().file("Hives/Software_Delta", b"own"), ()),
        ],
    )
    def test_what_is_a_conflict(
        self,
        store: Store,
        app: Image,
        bases: tuple[Image, Image],
        own: LayerTar,
        conflicts: tuple[str, ...],
    ) -> None:
        with_layer(store, app, own.bytes(), "app:own")
        if conflicts:
            with pytest.raises(RebaseConflictError) as raised:
                store.rebase("app:own", "base:2", "app:2")
            assert sorted(raised.value.conflicts) == sorted(conflicts)
        made = store.rebase("app:own", "base:2", "app:2", force=bool(conflicts))
        assert len(made.manifest.layers) == 5

    def test_a_file_that_was_only_written_again_is_none(
        self, store: Store, app: Image, bases: tuple[Image, Image]
    ) -> None:
        notes = inode(store, app, "Files/Users/Public/notes.txt")
        with view_of(store, app) as view:
            streams = [(s.name, view.read(s.extent)) for s in notes.streams]
            content = view.read(notes.extent)
        tar = (
            LayerTar()
            .directory("Files")
            .file("Files/Users/Public/notes.txt", content, notes.metadata, streams)
        )
        new = with_layer(store, bases[1], tar.bytes(), "base:3")
        with_layer(store, app, LayerTar().remove("Files/Users/Public/notes.txt").bytes(), "app:own")
        made = store.rebase("app:own", "base:3", "app:2", old_base="base:1")
        assert made.manifest.layers[: len(new.manifest.layers)] == new.manifest.layers

    def test_links_to_what_the_new_base_lacks_are_refused_always(
        self, store: Store, app: Image, bases: tuple[Image, Image]
    ) -> None:
        with_layer(store, app, LayerTar().link("Files/own.ini", "Files/Windows/win.ini").bytes(), "app:own")
        with_layer(store, bases[1], LayerTar().remove("Files/Windows/win.ini").bytes(), "base:3")
        for force in (False, True):
            with pytest.raises(RebaseConflictError) as raised:
                store.rebase("app:own", "base:3", "app:2", old_base="base:1", force=force)
            assert raised.value.missing == ("Files/Windows/win.ini",)

    def test_a_base_of_another_family_gets_the_images_types(
        self, store: Store, app: Image, tmp_path: Path
    ) -> None:
        docker = store.load(sample_layout(tmp_path / "docker", docker=True), name="docker:1")
        made = store.rebase("app:1", "docker:1", "app:2", old_base=app.layer_ids[1], force=True)
        assert [layer.digest for layer in made.manifest.layers[:3]] == [
            d.digest for d in docker.manifest.layers
        ]
        assert {layer.media_type for layer in made.manifest.layers} == {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }

    def test_another_processor_is_refused(self, store: Store, app: Image, bases: tuple[Image, Image]) -> None:
        part(store, app, 2, "arm:1", architecture="arm64")
        with pytest.raises(PlatformError, match="arm64"):
            store.rebase("app:1", "arm:1", "app:2", old_base="base:1")
        made = store.rebase("app:1", "arm:1", "app:2", old_base="base:1", force=True)
        assert made.config.platform.architecture == "arm64"

    def test_python_app(self, store: Store) -> None:
        if not PYTHON_APP.is_dir():
            pytest.skip("the recorded image is not at hand")
        image = store.load(f"oci:{PYTHON_APP}:3.13", name="python:1")
        part(store, image, 2, "base:1")
        patch = LayerTar().directory("Files").file("Files/Windows/System32/ntdll.dll", b"patched").bytes()
        base = with_layer(store, part(store, image, 1, "base:0"), patch, "base:2")
        made = store.rebase("python:1", "base:2", "python:2")
        assert made.manifest.layers[-1] == image.manifest.layers[-1]
        assert data(store, made, "Files/Windows/System32/ntdll.dll") == b"patched"
        new, own = shown(store, base), shown(store, image)
        with view_of(store, image) as view:
            touched = {p: i.is_directory for p, _, i in view.walk() if i.layer == 2}
        mine = {path for path, is_directory in touched.items() if not is_directory}
        result = shown(store, made)
        assert mine
        assert all(result[path] == own[path] for path in mine)
        assert {p for p, s in new.items() if result.get(p) != s and not _is_directory(s)} <= mine
        assert result.keys() == new.keys() | touched.keys()


def _is_directory(shown_as: object) -> bool:
    assert isinstance(shown_as, tuple)
    return bool(shown_as[0])
