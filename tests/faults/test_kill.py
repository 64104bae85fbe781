"""Operations killed at every step that changes the disk, and at random times.

After each kill the store is opened again, as the next process would: all that was there before is there, with
its content; the interrupted operation was done wholly or not at all; nothing half done and no mount is left;
``check`` finds nothing; and the operation can be done again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.operations import (
    OPERATIONS,
    Operation,
    State,
    check,
    hidden_below,
    mounted,
    mounts_below,
    open_service,
    state_of,
)
from tests.faults.steps import KILLED, Steps, die_at, fork, wait
from tests.support import can_mount, require
from winlayers.layers.portable.mounts import syscalls

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RANDOM_KILLS = int(os.environ.get("WINLAYERS_FAULT_RUNS", "20"))
"""SIGKILLs at random times for each operation."""

_MOST_STEPS = 1000


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes fresh homes; what is mounted in them in the end is taken down."""
    made: list[str] = []

    def fresh() -> str:
        folder = tempfile.mkdtemp(dir=tmp_path)
        made.append(folder)
        return os.path.join(folder, "home")

    yield fresh
    for folder in made:
        for target in reversed(mounts_below(folder)):
            syscalls.unmount(target, syscalls.UMOUNT_DETACH)


def start(operation: Operation, home: str) -> State:
    """Make the store that the operation starts from."""
    require(not operation.needs_mounts or can_mount(), "layers can't be mounted here")
    service = open_service(home)
    operation.setup(service)
    return state_of(service)


def fork_operation(operation: Operation, home: str, prepare: Callable[[], None] | None = None) -> int:
    """Begin the operation in a child process; its process id."""
    return fork(lambda: operation.run(open_service(home)), prepare=prepare)


def outcome(operation: Operation, home: str) -> State:
    """What the store is when nothing interrupts the operation."""
    start(operation, home)
    service = open_service(home)
    operation.run(service)
    return state_of(service)


def assert_recovers(operation: Operation, home: str, before: State, after: State) -> None:
    """Everything that this module promises."""
    service = open_service(home)
    assert hidden_below(home) == []
    assert mounts_below(home) == mounted(service)
    now = state_of(service)
    if operation.intermediate:
        for layer_id in {*before, *now}:
            if before.get(layer_id) == after.get(layer_id):
                assert now.get(layer_id) == before.get(layer_id)
            else:
                assert now.get(layer_id, after[layer_id])[0] == after[layer_id][0]
    else:
        assert now in (before, after)
    assert operation.damaged or check(service) == []
    operation.run(service)
    assert state_of(service) == after
    assert check(service) == []
    assert mounts_below(home) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_killed_at_every_step(operation: Operation, homes: Callable[[], str]) -> None:
    after = outcome(operation, homes())
    for target in range(1, _MOST_STEPS):
        home = homes()
        before = start(operation, home)
        status = wait(fork_operation(operation, home, prepare=die_at(target)))
        assert status in (0, KILLED), f"step {target}"
        try:
            assert_recovers(operation, home, before, after)
        except BaseException as error:
            error.add_note(f"killed before step {target}: {step_name(operation, homes(), target)}")
            raise
        shutil.rmtree(os.path.dirname(home))
        if status == 0:
            assert target > 3, "no steps were counted"
            return
    pytest.fail("the operation does not end")


def step_name(operation: Operation, home: str, target: int) -> str:
    """What the step is, for the message of a failure."""
    start(operation, home)
    reading, writing = os.pipe()

    def before(number: int, name: str) -> None:
        if number == target:
            os.write(writing, name.encode("ascii"))

    wait(fork_operation(operation, home, prepare=Steps(before).install))
    os.close(writing)
    with open(reading, "rb") as file:
        return file.read().decode("ascii")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_killed_at_random_times(operation: Operation, homes: Callable[[], str]) -> None:
    after = outcome(operation, homes())
    home = homes()
    start(operation, home)
    begun = time.monotonic()
    assert wait(fork_operation(operation, home)) == 0
    whole = time.monotonic() - begun
    chance = random.Random(operation.name)
    for _ in range(RANDOM_KILLS):
        home = homes()
        before = start(operation, home)
        pid = fork_operation(operation, home)
        delay = chance.uniform(0, whole * 1.1)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) in (0, -signal.SIGKILL)
        try:
            assert_recovers(operation, home, before, after)
        except BaseException as error:
            error.add_note(f"killed after {delay * 1000:.2f} ms")
            raise
        shutil.rmtree(os.path.dirname(home))
