"""The power fails at every step: what was promised to be on disk is, and nothing else is taken for it.

A file's content is lost unless it was fsynced; names, by two models (see :mod:`tests.faults.powerloss`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from tests.faults.operations import OPERATIONS, Operation, state_of
from tests.faults.powerloss import MODELS, PowerFailure, Watch
from tests.faults.recovery import assert_recovers, outcome, start, step_name
from tests.faults.steps import KILLED, fork, wait
from winlayers import durable
from winlayers.errors import LayerCorruptError

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")

_MOST_STEPS = 1000
_ON_PLAIN_FILES = [operation for operation in OPERATIONS if operation.mount is None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("operation", _ON_PLAIN_FILES, ids=lambda operation: operation.name)
def test_power_fails_at_every_step(operation: Operation, model: str, homes: Callable[[], str]) -> None:
    after = outcome(operation, homes())
    for target in range(1, _MOST_STEPS):
        home, remains = homes(), homes()
        before = start(operation, home)
        failure = PowerFailure(home, model, target, remains)

        def run(home: str = home, failure: PowerFailure = failure) -> None:
            operation.run(operation.open(home))
            failure.fail()

        status = wait(fork(run, prepare=failure.install))
        assert status in (0, KILLED), f"step {target}"
        try:
            if status == 0:
                assert state_of(operation.open(remains)) == after, "what was done is lost"
            assert_recovers(operation, remains, before, after)
        except BaseException as error:
            error.add_note(f"before step {target}: {step_name(operation, homes(), target)}")
            raise
        shutil.rmtree(os.path.dirname(home))
        shutil.rmtree(os.path.dirname(remains))
        if status == 0:
            return
    pytest.fail("the operation does not end")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_nothing_is_put_in_place_before_it_is_on_disk(
    operation: Operation, homes: Callable[[], str], capfd: pytest.CaptureFixture[str]
) -> None:
    if operation.mount == "fuse":
        pytest.skip("a process of its own writes there, whose calls are not seen here")
    home = homes()
    start(operation, home)
    watch = Watch(home)

    def run() -> None:
        operation.run(operation.open(home))
        watch.finish()

    status = wait(fork(run, prepare=watch.install))
    assert status == 0, capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["fsync_tree", "fsync_dir"])
def test_the_models_catch_what_is_not_synced(
    missing: str, homes: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that the tests above can fail."""
    monkeypatch.setattr(durable, missing, lambda folder: None)
    operation = OPERATIONS[0]
    failures = 0
    for model in MODELS:
        try:
            test_power_fails_at_every_step(operation, model, homes)
        except (AssertionError, LayerCorruptError):
            failures += 1
    assert failures
