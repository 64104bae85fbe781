"""The image store's operations killed at every step: load, commit, removal of images and containers."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.operations import hidden_below, mounts_below
from tests.faults.steps import KILLED, die_at, fork, wait
from tests.support import can_mount, require
from winlayers import open_store
from winlayers.errors import ContainerExistsError, ContainerNotFoundError, ImageNotFoundError
from winlayers.store import Store
from winlayers.testing.sample_image import write_sample_image

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STRIDE = int(os.environ.get("WINLAYERS_FAULT_STRIDE", "3"))
"""Every how manieth step is the last; 1 for a full run."""

_MOST_STEPS = 3000
NAME = "sample:latest"


@dataclasses.dataclass(frozen=True, slots=True)
class StoreOperation:
    """One operation; see :class:`tests.faults.operations.Operation`."""

    name: str
    setup: Callable[[Store, str], None]
    run: Callable[[Store, str], None]


def _nothing(store: Store, source: str) -> None:
    """The store as it is when it was only made."""


def load(store: Store, source: str) -> None:
    store.load(source, name=NAME)


def _container(store: Store, source: str) -> None:
    load(store, source)
    store.create(NAME, name="box")
    view = Path(store.mount("box"))
    (view / "made.txt").write_bytes(b"made")
    store.unmount("box")


def _create(store: Store, source: str) -> None:
    try:
        store.create(NAME, name="new")
    except ContainerExistsError:
        pass


def _commit(store: Store, source: str) -> None:
    try:
        store.image("committed:latest")
    except ImageNotFoundError:
        store.commit("box", "committed:latest")


def _remove_image(store: Store, source: str) -> None:
    try:
        store.remove_image(NAME)
    except ImageNotFoundError:
        pass


def _remove_container(store: Store, source: str) -> None:
    try:
        store.remove_container("box", force=True)
    except ContainerNotFoundError:
        pass


OPERATIONS = (
    StoreOperation("load an image", _nothing, load),
    StoreOperation("load it again", load, load),
    StoreOperation("create a container", load, _create),
    StoreOperation("commit a container", _container, _commit),
    StoreOperation("remove an image", load, _remove_image),
    StoreOperation("remove a container", _container, _remove_container),
)


def state_of(store: Store) -> tuple[frozenset[str], frozenset[str]]:
    """What there is: images by name with their layers, all of which must be there, and containers."""
    images = set()
    for image in store.images.images():
        layers = store.images.layers(image)
        assert all(layer.present for layer in layers)
        images.add(f"{image.references} {len(layers)}")
    return frozenset(images), frozenset(container.name for container in store.containers.containers())


def in_child(operation: StoreOperation, root: str, source: str, prepare: Callable[[], None]) -> int:
    """Do the operation in a child process; how that ended."""
    return wait(fork(lambda: operation.run(open_store(root), source), prepare=prepare))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("layout")
    write_sample_image(folder)
    return f"oci:{folder}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_killed_at_steps(operation: StoreOperation, homes: Callable[[], str], source: str) -> None:
    require(can_mount() or operation.setup is not _container, "layers can't be mounted here")
    done = open_store(homes())
    operation.setup(done, source)
    operation.run(done, source)
    after = state_of(done)
    for target in range(1, _MOST_STEPS, STRIDE):
        root = homes()
        store = open_store(root)
        operation.setup(store, source)
        before = state_of(store)
        status = in_child(operation, root, source, die_at(target))
        assert status in (0, KILLED), f"step {target}"
        assert_recovers(operation, root, source, before, after)
        shutil.rmtree(os.path.dirname(root))
        if status == 0:
            return
    pytest.fail("the operation does not end")


def assert_recovers(operation: StoreOperation, root: str, source: str, before: object, after: object) -> None:
    """Open the store as the next process would."""
    store = open_store(root)
    assert state_of(store) in (before, after)
    assert list(store.check(repair=True)) == [] or list(store.check()) == []
    operation.run(store, source)
    assert state_of(store) == after
    store.images.collect()
    assert list(store.check()) == []
    assert mounts_below(root) == []
    assert state_of(store) == after
    store.prune()
    assert hidden_below(root) == []


def test_a_store_in_the_making(homes: Callable[[], str], source: str) -> None:
    """Killed at any step of its creation, a store can be made again."""
    create = StoreOperation("create a store", _nothing, _nothing)
    for target in range(1, _MOST_STEPS):
        root = homes()
        status = in_child(create, root, source, die_at(target))
        load(open_store(root), source)
        assert list(open_store(root).check()) == []
        assert hidden_below(root) == []
        shutil.rmtree(os.path.dirname(root))
        if status == 0:
            assert target > 3
            return
    pytest.fail("the creation does not end")
