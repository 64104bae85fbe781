"""Many processes at work in the same layer stores: nothing but the documented errors, and whole stores.

``WINLAYERS_STRESS_SECONDS`` says for how long (default 10); a full run takes 60.  With
``WINLAYERS_STRESS_PAUSE`` calls that look at files or change them are put off at random by up to that many
seconds (try 0.2): what can go wrong between two of them then does so within minutes, not months.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import require, require_root
from winlayers import open_store
from winlayers.errors import (
    ContainerError,
    ImageInUseError,
    ImageNotFoundError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    LayerNotMountedError,
    MountError,
)
from winlayers.layers.portable.check import Checker
from winlayers.layers.portable.mounts import mountinfo, select, syscalls
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo
from winlayers.store import Store
from winlayers.testing.content import read_all
from winlayers.testing.sample_image import write_sample_image
from winlayers.testing.tars import BASE, DELTA

SECONDS = float(os.environ.get("WINLAYERS_STRESS_SECONDS", "10"))
PAUSE = float(os.environ.get("WINLAYERS_STRESS_PAUSE", "0"))
PROCESSES = 8
SLOT = 2.0
"""Seconds."""
FEW = 2
KINDS = [mounter.kind for mounter in select.mounters()]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.timeout(300 + 4 * SECONDS),
]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[str]]:
    """Two empty places for stores; nothing is left mounted in them."""
    yield [str(tmp_path / name) for name in ("one", "two")]
    for target in reversed(mounts_below(str(tmp_path))):
        syscalls.unmount(target, syscalls.UMOUNT_DETACH)


def mounts_below(folder: str) -> list[str]:
    """Where something is mounted in the folder."""
    if sys.platform != "linux":
        return []
    return [m.target for m in mountinfo.mounts() if m.target.startswith(os.path.realpath(folder) + os.sep)]


def in_processes(work: Callable[[int], None]) -> list[str]:
    """Run *work* with 0 to `PROCESSES` - 1 in processes of its own; the tracebacks of those that failed."""
    children = []
    for number in range(PROCESSES):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(reading)
                random.seed(number)
                put_off_calls(random.Random(number))
                work(number)
                status = 0
            except BaseException:
                with open(writing, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(traceback.format_exc())
                raise
            finally:
                os._exit(status)
        os.close(writing)
        children.append((pid, reading))
    failures = []
    for pid, reading in children:
        with open(reading, encoding="utf-8") as file:
            said = file.read()
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            failures.append(said or "died without a word")
    return failures


def put_off_calls(chance: random.Random) -> None:
    """From now on in this process: let some calls take longer, before or after they do their work."""
    if not PAUSE or sys.platform == "win32":
        return
    import fcntl

    def put_off(call: Callable[..., object]) -> Callable[..., object]:
        def later(*args: object, **kwargs: object) -> object:
            when = chance.randrange(300)
            if when == 0:
                time.sleep(PAUSE * chance.random() ** 3)
            try:
                return call(*args, **kwargs)
            finally:
                if when == 1:
                    time.sleep(PAUSE * chance.random() ** 3)

        return later

    looks = ["stat", "lstat", "open", "listdir"]
    changes = ["rename", "replace", "unlink", "mkdir", "rmdir", "fsync"]
    for name in looks + changes:
        setattr(os, name, put_off(getattr(os, name)))
    builtins.open = put_off(builtins.open)  # type: ignore[assignment]
    fcntl.flock = put_off(fcntl.flock)  # type: ignore[assignment]


Steps = dict[Callable[[], object], tuple[type[Exception], ...]]
"""What to do, and the errors that each may raise."""


def until_time_is_up(makers: Steps, users: Steps) -> None:
    """Do the steps at random.

    For some seconds all processes do the same few: so they meet more often than if each did anything.  What
    makes things is always among them, or there would soon be nothing to work on.
    """
    deadline = time.monotonic() + SECONDS
    for _ in itertools.count():
        few = random.Random(time.monotonic() // SLOT).sample(list(users.items()), FEW)
        step, errors = random.choice([*makers.items(), *few])
        with contextlib.suppress(*errors):
            step()
        if time.monotonic() > deadline:
            return


class LayerWork:
    """What one process does to the layers ``base``, ``delta`` and ``scratch``."""

    def __init__(self, home: str, kind: str) -> None:
        self.home = home
        self.kind = kind
        self.service = self.opened()

    def opened(self) -> PortableLayerService:
        service = PortableLayerService(DriverInfo(self.home), mount=self.kind)
        service.check_home()
        return service

    def reopen(self) -> None:
        self.service = self.opened()

    def paths(self, *ids: str) -> list[str]:
        return [self.service.layer_path(layer_id) for layer_id in ids]

    def import_base(self) -> None:
        self.service.import_tar("base", [], io.BytesIO(BASE))

    def import_delta(self) -> None:
        self.service.import_tar("delta", self.paths("base"), io.BytesIO(DELTA))

    def export(self) -> None:
        assert read_all(self.service.export_tar("delta", self.paths("base"))) == DELTA

    def changes(self) -> None:
        assert len(list(self.service.changes("delta", self.paths("base")))) == 6

    def create_scratch(self) -> None:
        self.service.create_scratch("scratch", self.paths("delta", "base"))

    def use_scratch(self) -> None:
        self.service.activate("scratch")
        self.service.prepare("scratch", self.paths("delta", "base"))
        view = Path(self.service.mount_path("scratch"))
        try:
            assert (view / "new.txt").read_bytes() == b"new in the delta"
            (view / f"made-{os.getpid()}").write_bytes(b"made")
        except FileNotFoundError:
            pass  # another process ended the use of the layer meanwhile, as it may
        self.service.unprepare("scratch")
        self.service.deactivate("scratch")

    def commit(self) -> None:
        with contextlib.closing(self.service.export_tar("scratch", [])) as stream:
            self.service.import_tar(f"commit-{os.getpid()}", self.paths("delta", "base"), stream)
        self.service.destroy(f"commit-{os.getpid()}")

    def check(self) -> None:
        assert not (found := list(self.service.check())), found

    def destroy(self) -> None:
        self.service.destroy(random.choice(["base", "delta", "scratch"]))

    def run(self) -> None:
        gone = LayerNotFoundError
        until_time_is_up(
            {
                self.import_base: (LayerExistsError,),
                self.import_delta: (LayerExistsError, gone),
                self.create_scratch: (LayerExistsError, gone),
            },
            {
                self.reopen: (),
                self.export: (gone,),
                self.changes: (gone,),
                self.use_scratch: (gone, LayerInUseError, LayerNotMountedError, MountError),
                self.commit: (gone, LayerInUseError),
                self.check: (),
                self.destroy: (LayerInUseError,),
            },
        )


@pytest.mark.parametrize("kind", KINDS)
def test_layers_under_many_hands(kind: str, places: list[str]) -> None:
    why = select.by_kind(kind).unavailable()
    require(why is None, f"layers can't be mounted by {kind}: {why}")
    failures = in_processes(lambda number: LayerWork(places[number % 2], kind).run())
    assert not failures, "\n".join(failures)
    for place in places:
        service = PortableLayerService(DriverInfo(place))
        service.check_home()
        if service.exists("scratch"):
            service.deactivate("scratch")  # one that was busy when its user wanted to unmount it
        assert list(Checker(service.store, service.views, service.mounts).run()) == []
        assert mounts_below(place) == []
        assert not [name for name in os.listdir(place) if name.startswith(".tmp-")]


class ImageWork:
    """What one process does to the image ``sample`` and containers of it."""

    def __init__(self, root: str, source: str, number: int) -> None:
        self.root = root
        self.source = source
        self.number = number
        self.store = open_store(root)
        self.count = 0

    def reopen(self) -> None:
        self.store = open_store(self.root)

    def load(self) -> None:
        self.store.load(self.source, name="sample:latest")

    def look(self) -> None:
        for image in self.store.images.images():
            assert len(self.store.images.layers(image)) in (3, 4)

    def list(self) -> None:
        self.store.images.images()

    def check(self) -> None:
        assert not (found := list(self.store.check())), found

    def shared_container(self) -> None:
        self.store.create("sample:latest", name="shared")

    def use_shared(self) -> None:
        self.store.mount("shared")
        self.store.changes("shared")
        self.store.unmount("shared")

    def commit_own(self) -> None:
        self.count += 1
        name = f"own-{self.number}-{self.count}"
        self.store.create("sample:latest", name=name)
        try:
            view = Path(self.store.mount(name))
            assert (view / "app" / "app.config.json").read_bytes() == b'{"listen": 8080}\n'
            (view / "app" / name).write_bytes(name.encode("ascii"))
            self.store.unmount(name)
            image = self.store.commit(name, f"{name}:latest")
            assert len(image.layer_ids) == 4
        finally:
            self.store.remove_container(name, force=True)
        self.store.remove_image(f"{name}:latest")

    def commit_shared(self) -> None:
        self.store.commit("shared", f"from-shared-{self.number}:latest")
        self.store.remove_image(f"from-shared-{self.number}:latest")

    def remove_shared(self) -> None:
        self.store.remove_container("shared", force=True)

    def remove_image(self) -> None:
        self.store.remove_image("sample:latest")

    def run(self) -> None:
        no_image = (ImageNotFoundError, LayerNotFoundError)
        busy = (ContainerError, LayerInUseError, LayerNotFoundError, LayerNotMountedError, MountError)
        until_time_is_up(
            {
                self.load: (),
                self.shared_container: (*no_image, ContainerError),
            },
            {
                self.reopen: (),
                self.look: no_image,
                self.list: (),
                self.check: (),
                self.use_shared: busy,
                self.commit_own: no_image,
                self.commit_shared: (*busy, ImageNotFoundError),
                self.remove_shared: busy,
                self.remove_image: (ImageNotFoundError, ImageInUseError),
            },
        )


def test_images_under_many_hands(places: list[str], tmp_path: Path) -> None:
    require_root()
    write_sample_image(tmp_path / "layout")
    source = f"oci:{tmp_path / 'layout'}"
    failures = in_processes(lambda number: ImageWork(places[number % 2], source, number).run())
    assert not failures, "\n".join(failures)
    for place in places:
        assert_whole(open_store(place), place)


def assert_whole(store: Store, place: str) -> None:
    """The store is as good as new once the containers are gone."""
    for container in store.containers.containers():
        store.remove_container(container.name, force=True)
    assert list(store.check()) == []
    assert mounts_below(place) == []
    store.images.prune()
    assert list(store.check()) == []
    leased = os.listdir(os.path.join(place, "leases"))
    assert leased == [], leased
