"""What must be true of a store after an operation on it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.faults.operations import (
    Operation,
    State,
    check,
    hidden_below,
    mounts_below,
    state_of,
    stray_mounts,
)
from tests.faults.steps import Steps, fork, wait
from tests.support import require
from winlayers.layers.portable.mounts import select


def require_mount(operation: Operation) -> None:
    """Go on only where the operation's kind of mount can be used."""
    if operation.mount is not None:
        reason = select.by_kind(operation.mount).unavailable()
        require(reason is None, f"layers can't be mounted by {operation.mount}: {reason}")


def start(operation: Operation, home: str) -> State:
    """Make the store that the operation starts from."""
    require_mount(operation)
    service = operation.open(home)
    operation.setup(service)
    state = state_of(service)
    if operation.damage is not None:
        operation.damage(service)
    return state


def fork_operation(operation: Operation, home: str, prepare: Callable[[], None] | None = None) -> int:
    """Begin the operation in a child process; its process id."""
    return fork(lambda: operation.run(operation.open(home)), prepare=prepare)


def outcome(operation: Operation, home: str) -> State:
    """What the store is when nothing interrupts the operation."""
    start(operation, home)
    service = operation.open(home)
    operation.run(service)
    return state_of(service)


def assert_recovers(operation: Operation, home: str, before: State, after: State) -> None:
    """The store in *home* was in the state *before*, and would be in *after* had nothing happened."""
    service = operation.open(home)
    assert hidden_below(home) == []
    assert stray_mounts(service) == []
    now = state_of(service)
    if operation.intermediate:
        for layer_id in {*before, *now}:
            if before.get(layer_id) == after.get(layer_id):
                assert now.get(layer_id) == before.get(layer_id)
            else:
                assert now.get(layer_id, after[layer_id])[0] == after[layer_id][0]
    else:
        assert now in (before, after)
    found = check(service)
    assert operation.damage is not None or found == [], found
    operation.run(service)
    assert state_of(service) == after
    assert check(service) == []
    assert mounts_below(home) == []


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
