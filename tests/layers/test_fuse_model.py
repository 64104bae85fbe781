"""FUSE mounts against the model of NTFS."""

from __future__ import annotations

import json
import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.layers.mount_machine import SELDOM, MountMachine
from tests.support import require, require_root
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.mounts.fusefs.processes import wait_for_end

pytestmark = pytest.mark.root

EXAMPLES = int(os.environ.get("WINLAYERS_MODEL_EXAMPLES", "50"))


class FuseMachine(MountMachine):
    """Also kills the process that serves: what was closed must still be there."""

    @rule(sure=SELDOM)
    def kill(self, sure: int) -> None:
        if sure != 5:
            return
        with open(os.path.join(self.service.layer_path("scratch"), "mount.json"), encoding="ascii") as file:
            details = json.load(file)["mount"]["details"]
        os.kill(int(details["pid"]), signal.SIGKILL)
        assert wait_for_end(int(details["pid"]), details["start"], 10)
        assert not self.service.is_prepared("scratch")
        self._mount()


def test_mount_does_what_ntfs_does() -> None:
    require_root()
    why = FuseMounter().unavailable()
    require(why is None, str(why))
    run_state_machine_as_test(
        FuseMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
