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
import time
from collections.abc import Callable

import pytest

from tests.faults.operations import OPERATIONS, Operation
from tests.faults.recovery import assert_recovers, fork_operation, outcome, start, step_name
from tests.faults.steps import KILLED, die_at, wait

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RANDOM_KILLS = int(os.environ.get("WINLAYERS_FAULT_RUNS", "20"))
"""SIGKILLs at random times for each operation."""

_MOST_STEPS = 1000


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
