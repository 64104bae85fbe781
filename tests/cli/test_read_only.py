"""A store that can only be read: on a read-only file system, or another user's."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import winlayers
from tests.images.support import sample_layout
from tests.support import missing, require, require_root, require_tool
from winlayers import durable
from winlayers.containers.record import Container
from winlayers.durable import FileLock
from winlayers.errors import LayerCorruptError, LayerInUseError, StoreError, StoreReadOnlyError
from winlayers.inspection import open_image
from winlayers.layers import DriverInfo
from winlayers.layers.portable.mounts import select
from winlayers.layers.portable.mounts.fusefs import processes
from winlayers.layers.portable.mounts.fusefs.record import Record
from winlayers.layers.portable.service import PortableLayerService
from winlayers.store import Store, open_store
from winlayers.testing.tars import Member, make_tar

pytestmark = pytest.mark.root

NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
SOURCE = str(Path(winlayers.__file__).resolve().parent.parent)
READING = [
    ["images", "--digests"],
    ["layers", "app:1"],
    ["ls", "-lR", "app:1"],
    ["cat", "app:1:/Windows/win.ini"],
    ["cp", "app:1:/Windows/win.ini", "-"],
    ["stat", "app:1:/Windows/win.ini"],
    ["find", "app:1"],
    ["history", "app:1"],
    ["inspect", "app:1", "box"],
    ["diff", "app:1", "box"],
    ["report", "app:1", "-o", "-"],
    ["ps", "--json"],
    ["changes", "box"],
    ["ls", "-lR", "box"],
    ["layer", "export", "{layer}"],
    ["save", "app:1", "oci-archive:-"],
    ["df", "--verbose"],
    ["check"],
    ["info"],
]
WRITING = [
    ["load", "{layout}"],
    ["load", "--all", "{layout}"],
    ["tag", "app:1", "app:2"],
    ["rmi", "app:1"],
    ["prune", "--force"],
    ["create", "app:1"],
    ["mount", "box"],
    ["commit", "box", "app:2"],
    ["rm", "box"],
    ["rm", "--force", "box"],
    ["append", "app:1", "{folder}", "--tag", "app:2"],
    ["config", "app:1", "--env", "A=1", "--tag", "app:2"],
    ["squash", "app:1", "--tag", "app:2"],
    ["rebase", "app:1", "--onto", "app:1", "--old-base", "app:1", "--tag", "app:2"],
    ["check", "--repair"],
]


DRIVER = """
import json, os, sys
from winlayers.cli.main import run
kept, ran = os.dup(1), []
for command in json.load(sys.stdin):
    files = [os.memfd_create(name) for name in ("out", "err")]
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
    code = run(command)
    sys.stdout.flush()
    sys.stderr.flush()
    ran.append([code, *(os.pread(file, 1 << 24, 0).hex() for file in files)])
os.write(kept, json.dumps(ran).encode())
"""
"""Runs commands one after the other; what they print is told as hexadecimal digits."""


class Ran(NamedTuple):
    """What became of a command."""

    code: int
    out: bytes
    err: str


def run_all(root: Path, commands: list[list[str]], *launcher: str) -> list[Ran]:
    """Run the program on the store."""
    ran = subprocess.run(
        [*(launcher or (sys.executable,)), "-B", "-c", DRIVER],
        input=json.dumps([["--root", os.fspath(root), *command] for command in commands]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
        cwd="/",
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    return [
        Ran(code, bytes.fromhex(out), bytes.fromhex(err).decode())
        for code, out, err in json.loads(ran.stdout)
    ]


class Place:
    """A store, and the program on it as someone who can only read it."""

    def __init__(self, owned: Path, root: Path, *launcher: str) -> None:
        self.owned = owned
        self.root = root
        self._words = {
            "layout": f"oci:{owned.parent}/layout:sample",
            "layer": open_store(owned).layers("app:1")[-1].id,
            "folder": os.fspath(owned.parent / "layout"),
        }
        self._launcher = launcher

    def _given(self, commands: Sequence[list[str]]) -> list[list[str]]:
        return [[part.format(**self._words) for part in command] for command in commands]

    def run(self, *commands: list[str]) -> list[Ran]:
        """Run the program."""
        return run_all(self.root, self._given(commands), *self._launcher)

    def run_as_owner(self, *commands: list[str]) -> list[Ran]:
        """Run it as one who can write; what it says of the store's folder is said of the other's."""
        old, new = os.fspath(self.owned), os.fspath(self.root)
        return [
            Ran(code, out.replace(old.encode(), new.encode()), err.replace(old, new))
            for code, out, err in run_all(self.owned, self._given(commands))
        ]


@contextlib.contextmanager
def read_only_bind(folder: Path) -> Iterator[Path]:
    """The folder once more, on a read-only mount."""
    target = folder.parent / "read-only"
    target.mkdir()
    subprocess.run(["mount", "--bind", folder, target], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=True)


def pythons_for_all(folder: Path) -> Iterator[list[str]]:
    """What may run this package as an ordinary user, at last a copy of it in *folder*, which all can read."""
    pythons = (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3")
    yield from ([*AS_NOBODY, "env", f"PYTHONPATH={SOURCE}", python] for python in pythons)
    copy = folder / "lib"
    for module in (winlayers.__file__, click.__file__):
        package = Path(str(module)).parent
        shutil.copytree(package, copy / package.name)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    yield from ([*AS_NOBODY, "env", f"PYTHONPATH={copy}", python] for python in pythons)


def as_nobody(folder: Path) -> list[str]:
    """What runs this package's Python as an ordinary user."""
    require_tool("setpriv")
    trial = ["-B", "-c", "import winlayers.cli.main, click.testing"]
    for launcher in pythons_for_all(folder):
        if not subprocess.run([*launcher, *trial], capture_output=True, check=False, cwd="/").returncode:
            return launcher
    return missing("no Python that an ordinary user can run is fit for this package")


def change(store: Store, **options: str) -> Container:
    """A container that was mounted, changed and unmounted."""
    box = store.create("app:1", name="box", storage_opt=options)
    drive = Path(store.mount(box.id))
    (drive / "new.txt").write_text("new")
    (drive / "app" / "app.config.json").write_text("changed")
    shutil.rmtree(drive / "Users")
    (drive / "Users").mkdir()
    store.unmount(box.id)
    return box


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may look into."""
    path = Path(tempfile.mkdtemp(prefix="winlayers-read-only-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(params=["read-only", "another user's"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """A store without views, to be read alone."""
    require_root()
    with contextlib.ExitStack() as stack:
        stack.callback(os.umask, os.umask(0o022))
        owned = folder / "store"
        store = open_store(owned, driver_options=["mount=extract"])
        store.load(sample_layout(folder / "layout"), name="app:1")
        change(store)
        for path in [*owned.glob("layers/*/view.*"), *owned.glob("layers/*/.view.lock")]:
            path.unlink()
        if request.param == "read-only":
            yield Place(owned, stack.enter_context(read_only_bind(owned)))
        else:
            yield Place(owned, owned, *as_nobody(folder))


def test_all_that_reads_works(place: Place) -> None:
    before = state(place.owned)
    seen = place.run(*READING)
    assert state(place.owned) == before
    for command, ran, own in zip(READING, seen, place.run_as_owner(*READING), strict=True):
        assert (ran.code, ran.err) == (own.code, own.err), command
        assert ran.code == 0, (command, ran.err)
        if command[0] not in ("df", "info"):  # the owner has views by now, and other rights
            assert ran.out == own.out, command


def test_what_writes_says_in_one_line_that_it_can_t(place: Place) -> None:
    before = state(place.owned)
    for command, ran in zip(WRITING, place.run(*WRITING), strict=True):
        lines = ran.err.splitlines()
        assert (ran.code, ran.out, len(lines)) == (1, b"", 1), (command, lines)
        assert lines[0].startswith(f"winlayers: {place.root}"), command
        assert ": the store can only be read: " in lines[0], command
    assert state(place.owned) == before


def test_other_images_are_looked_into_without_the_cache(place: Place) -> None:
    other, own = place.run(["-q", "ls", "-R", "{layout}"], ["ls", "-R", "app:1"])
    assert (other.code, other.err, other.out) == (0, "", own.out)
    assert not (place.owned / "cache").exists()


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """A store, at ``store``, of the sample image; yields it on a read-only mount."""
    require_root()
    open_store(folder / "store").load(sample_layout(folder / "layout"), name="app:1")
    with read_only_bind(folder / "store") as root:
        yield root


def layers_of(root: Path) -> list[Path]:
    """The folders of the image's layers, base first."""
    store = open_store(root)
    return [root / "layers" / info.id for info in store.layers("app:1")]


def listing(store: Store) -> list[tuple[str, int]]:
    """What is in the image."""
    with open_image("app:1", store=store) as tree:
        return [(path, inode.size) for path, _, inode in tree.view.walk()]


def test_locks(read_only: Path) -> None:
    owned = read_only.parent / "store" / "lock"
    with pytest.raises(StoreReadOnlyError, match="the store can only be read: Read-only file system"):
        FileLock(os.fspath(read_only / "lock")).acquire()
    with pytest.raises(StoreReadOnlyError):
        FileLock(os.fspath(read_only / "no such lock"), shared=True).acquire()
    with FileLock(os.fspath(owned)):
        assert not FileLock(os.fspath(read_only / "lock"), shared=True, timeout=0).acquire()
    with FileLock(os.fspath(read_only / "lock"), shared=True):
        assert not FileLock(os.fspath(owned), timeout=0).acquire()
        assert FileLock(os.fspath(owned), shared=True, timeout=0).acquire()


@pytest.mark.parametrize("content", [[], ["something"]])
def test_where_there_is_no_store_none_is_said_to_be_there(folder: Path, content: list[str]) -> None:
    require_root()
    (folder / "other").mkdir()
    for name in content:
        (folder / "other" / name).touch()
    with read_only_bind(folder / "other") as root, pytest.raises(StoreError) as caught:
        open_store(root)
    assert str(caught.value) == f"can't make a store in {root}: Read-only file system (choose another --root)"


def test_leases_are_seen(read_only: Path) -> None:
    owner, store = open_store(read_only.parent / "store"), open_store(read_only)
    assert store.images.needed(tidy=False) == owner.images.needed(tidy=False)
    leases = owner.root / "leases"
    (leases / "1-dead.lock").touch()
    (leases / "1-dead.refs").write_text("left by a process that is gone")
    with owner.images.lease() as lease:
        lease.add(["needed"])
        seen = store.images.needed(tidy=False)
        assert "needed" in seen
        assert not {"left", "gone"} & seen
    assert "needed" not in store.images.needed(tidy=False)
    assert (leases / "1-dead.lock").exists()


@pytest.mark.parametrize("damage", ["gone", "old"])
def test_indexes_are_made_aside(read_only: Path, damage: str) -> None:
    owned = read_only.parent / "store"
    wanted, facts = listing(open_store(owned)), [info.entries for info in open_store(owned).layers("app:1")]
    for layer in layers_of(owned):
        (layer / "view.db").unlink(missing_ok=True)
        if damage == "gone":
            (layer / "index.db").unlink()
            continue
        with contextlib.closing(sqlite3.connect(layer / "index.db")) as db:
            db.execute("UPDATE meta SET value = 1 WHERE key = 'version'")
            db.commit()
        record = json.loads((layer / "layer.json").read_bytes())
        for name in ("own_digest", "index_digest", "side_digest", "stream_size", "parent"):
            del record[name]
        (layer / "layer.json").write_text(json.dumps({**record, "format": 1}))
    for path in (owned / "layerdb").iterdir():
        path.unlink()  # where the facts are kept
    before = state(owned)
    store = open_store(read_only)
    assert listing(store) == wanted
    assert [info.entries for info in store.layers("app:1")] == facts
    assert state(owned) == before


def test_an_index_that_needs_another_side_file_is_not_made_aside(read_only: Path) -> None:
    owned = read_only.parent / "store"
    service = PortableLayerService(DriverInfo(os.fspath(owned / "layers")))
    sparse = {"GNU.sparse.size": "70000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,5"}
    tar = make_tar(Member("Files/"), Member("Files/sparse", b"begin", pax=sparse))
    service.import_tar("holes", [], io.BytesIO(tar))
    (owned / "layers" / "holes" / "index.db").unlink()
    reader = PortableLayerService(DriverInfo(os.fspath(read_only / "layers")))
    with reader.views.open("holes") as view:
        node = view.resolve("Files/sparse")
        assert node is not None
        assert view.read(view.inode(node.inode).extent, 0, 5) == b"begin"
    with open(owned / "layers" / "holes" / "side.bin", "r+b") as file:
        file.write(b"BEGIN")
    reader = PortableLayerService(DriverInfo(os.fspath(read_only / "layers")))
    with pytest.raises(LayerCorruptError, match="the side file is of another version"):
        reader.views.open("holes")


def test_views_are_made_once_and_go_with_the_store(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    store = open_store(read_only)
    first = listing(store)
    (made,) = tmp_path.rglob("view.db")
    identity = made.stat().st_ino
    assert listing(store) == first
    assert [path.stat().st_ino for path in tmp_path.rglob("view.db")] == [identity]
    del store
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_for_temporary_files(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path / "missing"))
    store = open_store(read_only)
    assert [image.references for image in store.images.images()] == [("docker.io/library/app:1",)]
    with pytest.raises(StoreError, match="no place for temporary files: No such file"):
        listing(store)


def exported(store: Store, layer_id: str) -> str:
    """The digest of the layer's tar."""
    digest = hashlib.sha256()
    with contextlib.closing(store.export_layer(layer_id)) as tar:
        while data := tar.read(1 << 16):
            digest.update(data)
    return digest.hexdigest()


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """All below *root*: modes, sizes and times; nothing is read, since that leaves times behind."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            about = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def require_kind(kind: str) -> None:
    """Go on only where the kind of mount works."""
    why = select.by_kind(kind).unavailable()
    require(why is None, f"{kind} mounts don't work here: {why}")


@pytest.mark.parametrize(
    ("kind", "options"), [("erofs", {}), ("erofs", {"size": "20MB"}), ("fuse", {}), ("extract", {})]
)
def test_changes_of_all_kinds(read_only: Path, kind: str, options: dict[str, str]) -> None:
    require_kind(kind)
    owner = open_store(read_only.parent / "store", driver_options=[f"mount={kind}"])
    box = change(owner, **options)
    assert (owner.root / "layers" / box.id / "scratch" / "scratch.img").exists() == bool(options)
    wanted = owner.changes("box"), exported(owner, box.id)
    store = open_store(read_only)
    assert (store.changes("box"), exported(store, box.id)) == wanted
    with open_image("box", store=store) as tree:
        assert tree.read(tree.find("/new.txt")) == b"new"


def test_changes_of_a_live_and_of_a_dead_mount(read_only: Path) -> None:
    require_kind("fuse")
    owner = open_store(read_only.parent / "store", driver_options=["mount=fuse"])
    box = change(owner)
    drive = Path(owner.mount("box"))
    try:
        (drive / "more.txt").write_text("more")
        os.sync()
        wanted = owner.changes("box")
        assert open_store(read_only).changes("box") == wanted
        with pytest.raises(StoreReadOnlyError):  # the view would have to be taken down
            open_store(read_only).export_layer(box.id)
        details = json.loads((owner.root / "layers" / box.id / "mount.json").read_bytes())["mount"]["details"]
        os.kill(int(details["pid"]), signal.SIGKILL)
        assert processes.wait_for_end(int(details["pid"]), details["start"], 60)
        assert (owner.root / "layers" / box.id / "scratch" / "record.db-wal").stat().st_size
        assert open_store(read_only).changes("box") == wanted
    finally:
        open_store(owner.root).driver.cleanup()  # takes down what is dead


def test_a_record_that_is_changed_while_it_is_read_is_not_believed(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_kind("fuse")
    owner = open_store(read_only.parent / "store", driver_options=["mount=fuse"])
    box = change(owner)
    store = open_store(read_only)
    assert store.changes("box") == owner.changes("box")
    load = Record._load

    def change_meanwhile(self: Record, *, lost: bool) -> None:
        load(self, lost=lost)
        os.utime(owner.root / "layers" / box.id / "scratch" / "record.db")

    monkeypatch.setattr(Record, "_load", change_meanwhile)
    with pytest.raises(LayerInUseError, match="changed while it was read"):
        store.changes("box")


def test_a_store_that_lacks_a_folder_is_checked_all_the_same(read_only: Path) -> None:
    """Who made it was killed, or was an earlier version; who can write makes the folder when it is opened."""
    (read_only.parent / "store" / "unkept").rmdir()
    assert list(open_store(read_only).check()) == []


def test_what_others_left_unfinished_stays(read_only: Path) -> None:
    owned = read_only.parent / "store"
    note = owned / "containers" / f"{'0' * 64}.unfinished"
    hidden = owned / "layers" / f"{durable.TEMPORARY_PREFIX}{1 << 30}.1-left"
    note.touch()
    hidden.mkdir()
    store = open_store(read_only)
    assert store.containers.containers() == []
    assert len(store.layers("app:1")) == 3
    assert (note.exists(), hidden.exists()) == (True, True)
    assert open_store(owned).containers.containers() == []
    open_store(owned).driver.cleanup()
    assert (note.exists(), hidden.exists()) == (False, False)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("erofs", "what overlayfs notes of a scratch layer's changes is for root alone to see"),
        ("fuse", "record.db: the store can't be read: Permission denied"),
    ],
)
def test_what_an_ordinary_user_can_t_see_is_not_told_by_halves(folder: Path, kind: str, why: str) -> None:
    """Overlayfs's notes are hidden, and with them what was moved or replaced; FUSE's files are private."""
    require_root()
    require_kind(kind)
    launcher = as_nobody(folder)
    owner = open_store(folder / "store", driver_options=[f"mount={kind}"])
    owner.load(sample_layout(folder / "layout"), name="app:1")
    change(owner)
    (ran,) = run_all(owner.root, [["changes", "box"]], *launcher)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, b"", 1)
    assert why in ran.err


def test_another_user_s_hidden_work_is_not_called_left_over(folder: Path) -> None:
    require_root()
    launcher = as_nobody(folder)
    owned = folder / "store"
    open_store(owned)
    (owned / "layers" / f"{durable.TEMPORARY_PREFIX}{1 << 30}.1-private").mkdir(mode=0o700)
    (owned / "layers" / f"{durable.TEMPORARY_PREFIX}{1 << 30}.1-public").mkdir(mode=0o755)
    (ran,) = run_all(owned, [["check"]], *launcher)
    assert (ran.code, ran.err) == (1, "")
    assert b"-public: half done work" in ran.out
    assert b"private" not in ran.out


@pytest.mark.parametrize("since", ["this boot", "another boot"])
def test_mounts_that_can_t_be_seen_from_here_are_not_called_stale(read_only: Path, since: str) -> None:
    """As in a container, to which a store is lent, and where its owner's mounts are not seen."""
    owned = read_only.parent / "store"
    owner = open_store(owned, driver_options=["mount=extract"])
    box = owner.create("app:1")
    owner.mount(box.id)
    record = owned / "layers" / box.id / "mount.json"
    kept = record.read_bytes()
    use = json.loads(kept)
    try:
        assert list(open_store(read_only).check()) == []
        gone = {**use, "mount": {**use["mount"], "target": "/elsewhere", "kind": "erofs", "details": {}}}
        if since == "another boot":
            gone["boot_id"] = gone["mount"]["boot_id"] = "another"
        record.write_text(json.dumps(gone))
        found = [str(finding) for finding in open_store(read_only).check()]
        assert len(found) == (since == "another boot"), found
    finally:
        record.write_bytes(kept)
        owner.unmount(box.id)
