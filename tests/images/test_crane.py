"""crane (go-containerregistry) as a peer: what it makes of images from here, and the reverse.

Few distributions have it, so these tests skip where it is not on PATH, even where nothing else may be
missing.  ``docs/compatibility.md`` says which version they were run against.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.editing import data, part, run_of, shown
from tests.images.registries import docker_registry, forget_configuration
from tests.images.support import Layout, read_json, sample_layout, tree_digest
from tests.support import optional_tool
from winlayers.errors import PlatformError
from winlayers.images.editing import AppendOptions, ConfigChanges
from winlayers.images.exporter import copy
from winlayers.images.image import Image
from winlayers.images.platforms import Platform
from winlayers.store import Store, open_store

BASE = "org.opencontainers.image.base."


@pytest.fixture(scope="module", autouse=True)
def _crane() -> None:
    optional_tool("crane", "few distributions have it")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without authentication, over plain HTTP."""
    with docker_registry(tmp_path_factory.mktemp("registry") / "data") as host:
        yield host


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the machine's own."""
    forget_configuration(tmp_path, monkeypatch)


def crane(*arguments: str | Path) -> str:
    """Run crane; return what it prints, without the end of the line."""
    command = ["crane", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def pushed(store: Store, image: str, name: str) -> str:
    """Push an image of the store as *name*, which is returned."""
    store.push(image, name)
    return name


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
class TestEveryForm:
    """Images of both families, in each compression."""

    @pytest.fixture
    def image(self, store: Store, tmp_path: Path, compression: str, docker: bool) -> Image:
        source = sample_layout(tmp_path / "layout", compression=compression, docker=docker)
        return store.load(source, name="app:1")

    @pytest.fixture
    def name(self, store: Store, image: Image, registry: str, compression: str, docker: bool) -> str:
        return pushed(store, "app:1", f"{registry}/form/{compression}-{docker}:1".lower())

    def test_what_is_pushed_is_valid(self, image: Image, name: str, compression: str) -> None:
        # The full validation takes every layer for gzip; without it, documents and presence are looked at.
        assert "PASS" in crane("validate", "--remote", name, *(() if compression == "gzip" else ("--fast",)))
        assert crane("digest", name) == image.digest
        assert json.loads(crane("config", name))["rootfs"]["diff_ids"] == list(image.config.diff_ids)

    def test_pulled_as_a_layout(self, store: Store, image: Image, name: str, tmp_path: Path) -> None:
        crane("pull", "--format", "oci", "--annotate-ref", name, tmp_path / "pulled")
        other = open_store(tmp_path / "other")
        assert other.load(f"oci:{tmp_path / 'pulled'}", name="x:1").digest == image.digest
        assert tree_digest(other.root / "images" / "blobs") == tree_digest(store.root / "images" / "blobs")

    @pytest.mark.parametrize("kind", ["tarball", "legacy"])
    def test_pulled_as_a_docker_archive(self, image: Image, name: str, tmp_path: Path, kind: str) -> None:
        crane("pull", "--format", kind, name, tmp_path / "pulled.tar")
        loaded = open_store(tmp_path / "other").load(str(tmp_path / "pulled.tar"), name="x:1")
        assert (loaded.id, loaded.layer_ids) == (image.id, image.layer_ids)
        blobs = [layer.digest for layer in loaded.manifest.layers]
        if kind == "tarball":  # which has the blobs as they were in the registry
            assert blobs == [layer.digest for layer in image.manifest.layers]
        else:
            assert blobs == list(image.config.diff_ids)

    def test_a_saved_docker_archive(
        self, store: Store, image: Image, tmp_path: Path, registry: str, compression: str, docker: bool
    ) -> None:
        path = tmp_path / "saved.tar"
        store.save("app:1", f"docker-archive:{path}:app:1")
        assert "PASS" in crane("validate", "--tarball", path)
        name = f"{registry}/archive/{compression}-{docker}:1".lower()
        crane("push", path, name)
        pulled = open_store(tmp_path / "other").pull(name)
        assert (pulled.id, pulled.layer_ids) == (image.id, image.layer_ids)

    def test_a_saved_layout_is_pushed_as_it_is(
        self, store: Store, image: Image, tmp_path: Path, registry: str, compression: str, docker: bool
    ) -> None:
        store.save("app:1", f"oci:{tmp_path / 'saved'}:1")
        name = f"{registry}/layout/{compression}-{docker}:1".lower()
        crane("push", tmp_path / "saved", name)
        assert open_store(tmp_path / "other").pull(name).digest == image.digest

    def test_copied_by_both(self, image: Image, name: str, tmp_path: Path) -> None:
        repository = name.rpartition(":")[0]
        crane("copy", name, f"{repository}-crane:1")
        copy(f"docker://{repository}-crane:1", f"docker://{repository}-ours:1")
        assert crane("digest", f"{repository}-ours:1") == image.digest
        assert open_store(tmp_path / "other").pull(f"{repository}-ours:1").digest == image.digest


def files_tar(path: Path) -> Path:
    """A tar of files, as tools on Linux write it."""
    with tarfile.open(path, "w") as archive:
        for name in ("tools", "tools/empty"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            archive.addfile(folder)
        for name, content in (("tools/run.cmd", b"@echo off\r\n"), ("tools/empty/nothing", b"")):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return path


def test_append_is_pulled_and_shows_what_append_here_shows(
    store: Store, app: Image, tmp_path: Path, registry: str
) -> None:
    base = pushed(store, "app:1", f"{registry}/append/app:1")
    tar = files_tar(tmp_path / "files.tar")
    crane("append", "-b", base, "-f", tar, "-t", f"{registry}/append/app:2")
    theirs = store.pull(f"{registry}/append/app:2")
    assert theirs.manifest.layers[:-1] == app.manifest.layers
    assert theirs.config.diff_ids[:-1] == app.config.diff_ids
    assert theirs.layer_ids[:-1] == app.layer_ids
    assert data(store, theirs, "Files/tools/run.cmd") == b"@echo off\r\n"
    ours = store.append("app:1", [tar], "ours:1", AppendOptions())
    assert set(shown(store, ours)) == set(shown(store, theirs))
    # And what is appended here is valid there, layer by layer.
    assert "PASS" in crane("validate", "--remote", pushed(store, "ours:1", f"{registry}/append/ours:1"))


def test_mutate_changes_what_config_here_changes(
    store: Store, app: Image, tmp_path: Path, registry: str
) -> None:
    base = pushed(store, "app:1", f"{registry}/mutate/app:1")
    name = f"{registry}/mutate/app:2"
    crane(
        *("mutate", base, "-t", name, "--env", "MODE=production", "--label", "vendor=us", "--user", "nobody"),
        *("--workdir", "C:\\app", "--entrypoint", "C:\\app\\app.exe", "--cmd", "serve"),
        *("--annotation", "org.example.note=x"),
    )
    theirs = store.pull(name)
    assert theirs.manifest.layers == app.manifest.layers
    assert theirs.manifest.annotations["org.example.note"] == "x"
    changes = ConfigChanges(
        env=("MODE=production",),
        labels=("vendor=us",),
        user="nobody",
        workdir="C:\\app",
        entrypoint='["C:\\\\app\\\\app.exe"]',
        cmd='["serve"]',
    )
    ours = store.configure("app:1", changes, "ours:1")
    fields = ("Env", "Labels", "User", "WorkingDir", "Entrypoint", "Cmd")
    assert [run_of(ours).get(field) for field in fields] == [run_of(theirs).get(field) for field in fields]
    assert "PASS" in crane("validate", "--remote", pushed(store, "ours:1", f"{registry}/mutate/ours:1"))
    crane("mutate", name, "-t", f"{registry}/mutate/app:3", "--set-platform", "windows/amd64:10.0.26100.1")
    assert store.pull(f"{registry}/mutate/app:3").config.platform == Platform(os_version="10.0.26100.1")


def rebased_by_crane(store: Store, repository: str) -> Image:
    """What crane makes of ``app:1``, taken from ``base:1`` to ``base:2``."""
    for name in ("app:1", "base:1", "base:2"):
        pushed(store, name, f"{repository}/{name}")
    crane(
        *("rebase", f"{repository}/app:1", "--old_base", f"{repository}/base:1"),
        *("--new_base", f"{repository}/base:2", "-t", f"{repository}/theirs:1"),
    )
    return store.pull(f"{repository}/theirs:1")


class TestRebase:
    def test_both_make_the_same_of_an_application(
        self, store: Store, app: Image, bases: tuple[Image, Image], registry: str
    ) -> None:
        """But for the configuration, of which crane keeps all that the application had."""
        repository = f"{registry}/rebase/both"
        theirs = rebased_by_crane(store, repository)
        ours = store.rebase("app:1", "base:2", "ours:1", old_base="base:1")
        assert ours.manifest.layers == theirs.manifest.layers
        assert ours.config.diff_ids == theirs.config.diff_ids
        assert ours.layer_ids == theirs.layer_ids
        assert ours.config.platform == theirs.config.platform == bases[1].config.platform
        assert [step.created_by for step in ours.config.history] == [
            step.created_by for step in theirs.config.history
        ]
        note = f"{BASE}digest"
        assert ours.manifest.annotations[note] == theirs.manifest.annotations[note] == bases[1].digest
        assert run_of(theirs) == run_of(app)
        assert "PASS" in crane("validate", "--remote", pushed(store, "ours:1", f"{repository}/ours:1"))

    def test_with_a_layer_for_the_old_base_the_configuration_is_the_same_too(
        self, store: Store, app: Image, bases: tuple[Image, Image], registry: str
    ) -> None:
        repository = f"{registry}/rebase/layer"
        theirs = rebased_by_crane(store, repository)
        ours = store.rebase("app:1", "base:2", "ours:1", old_base=app.config.diff_ids[1])
        assert ours.config.diff_ids == theirs.config.diff_ids
        assert run_of(ours) == run_of(theirs)

    def test_each_goes_on_from_the_others_annotations(
        self, store: Store, app: Image, bases: tuple[Image, Image], registry: str
    ) -> None:
        repository = f"{registry}/rebase/notes"
        for name in ("base:1", "base:2"):
            store.tag(name, f"{repository}/{name}")
            store.push(f"{repository}/{name}")
        # Ours says where it stands by the base's name; crane finds the old base and a newer one with it.
        store.rebase("app:1", f"{repository}/base:2", f"{repository}/app:2")
        store.push(f"{repository}/app:2")
        crane("copy", f"{repository}/base:1", f"{repository}/base:2")
        crane("rebase", f"{repository}/app:2", "-t", f"{repository}/app:3")
        back = store.pull(f"{repository}/app:3")
        assert back.config.diff_ids == app.config.diff_ids
        # And what crane noted is the old base that is found here.
        again = store.rebase(f"{repository}/app:3", "base:2", "app:4")
        assert again.config.diff_ids == store.image(f"{repository}/app:2").config.diff_ids


class TestPlatforms:
    """An index with Windows versions, made by crane; the oldest first, as vendors list them."""

    VERSIONS = ("10.0.17763.5329", "10.0.17763.5458", "10.0.20348.2227", "10.0.26100.1")

    @pytest.fixture
    def index(self, store: Store, app: Image, registry: str) -> str:
        repository = f"{registry}/platforms/app"
        made = []
        for version in self.VERSIONS:
            store.configure("app:1", ConfigChanges(os_version=version), f"{repository}:{version}")
            made += ["-m", pushed(store, f"{repository}:{version}", f"{repository}:{version}")]
        crane("index", "append", *made, "-t", f"{repository}:all")
        assert "PASS" in crane("validate", "--remote", f"{repository}:all")
        return f"{repository}:all"

    @pytest.mark.parametrize("version", VERSIONS)
    def test_an_exact_version_is_the_same_image(
        self, store: Store, tmp_path: Path, index: str, version: str
    ) -> None:
        wanted = f"windows/amd64:{version}"
        theirs = crane("digest", "--platform", wanted, index)
        # A build with newer revisions gives the newest here: revisions do not decide what runs where.
        newest = max(v for v in self.VERSIONS if v.rpartition(".")[0] == version.rpartition(".")[0])
        ours = open_store(tmp_path / "other").pull(index, platform=Platform.parse(wanted))
        assert ours.config.platform.os_version == newest
        assert (ours.digest == theirs) is (version == newest)

    def test_without_a_version_crane_takes_the_first_and_we_the_newest(
        self, tmp_path: Path, index: str
    ) -> None:
        theirs = crane("digest", "--platform", "windows/amd64", index)
        other = open_store(tmp_path / "other")
        assert other.pull(f"{index.rpartition(':')[0]}@{theirs}", name="theirs:1").config.platform == (
            Platform(os_version=self.VERSIONS[0])
        )
        assert other.pull(index, name="ours:1").config.platform.os_version == self.VERSIONS[-1]

    @pytest.mark.parametrize("wanted", ["windows/arm64", "linux/amd64", "windows/amd64:10.0.14393.1"])
    def test_what_neither_finds(self, tmp_path: Path, index: str, wanted: str) -> None:
        command = ["crane", "digest", "--platform", wanted, index]
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0
        with pytest.raises(PlatformError, match=r"it offers windows/amd64:10\.0\.17763\.5329"):
            open_store(tmp_path / "other").pull(index, platform=Platform.parse(wanted))

    def test_an_index_is_copied_whole(self, index: str, tmp_path: Path) -> None:
        """By crane: its pull of an index as a layout is looked into by version here."""
        crane("copy", index, f"{index}-copy")
        assert crane("digest", f"{index}-copy") == crane("digest", index)
        crane("pull", "--format", "oci", index, tmp_path / "pulled")
        entry = read_json(tmp_path / "pulled" / "index.json")["manifests"][0]
        assert entry["digest"] == crane("digest", index)
        other = open_store(tmp_path / "other")
        for version in self.VERSIONS[1:]:
            wanted = Platform(os_version=version)
            assert other.load(f"oci:{tmp_path / 'pulled'}", name="x:1", platform=wanted).digest == crane(
                "digest", "--platform", str(wanted), index
            )


def test_a_part_of_an_image_is_valid(store: Store, app: Image, registry: str) -> None:
    """What ``squash`` makes, and an image cut off above its base."""
    part(store, app, 1, "made:part")
    store.squash("app:1", "made:squash")
    for tag in ("part", "squash"):
        name = pushed(store, f"made:{tag}", f"{registry}/made/app:{tag}")
        assert "PASS" in crane("validate", "--remote", name)


def test_a_layout_here_and_there(store: Store, app: Image, tmp_path: Path, registry: str) -> None:
    """The layout that crane pulls into is the one that is saved here, blob by blob."""
    name = pushed(store, "app:1", f"{registry}/same/app:1")
    crane("pull", "--format", "oci", name, tmp_path / "theirs")
    store.save("app:1", f"oci:{tmp_path / 'ours'}:1")
    assert tree_digest(tmp_path / "theirs" / "blobs") == tree_digest(tmp_path / "ours" / "blobs")
    assert Layout(tmp_path / "ours", "1").descriptor["digest"] == app.digest
