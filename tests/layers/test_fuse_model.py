"""FUSE mounts against the model of NTFS."""

from __future__ import annotations

import json
import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.layers.mount_machine import SELDOM, SIZES, MountMachine
from tests.support import require, require_root
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.mounts.fusefs.processes import wait_for_end

pytestmark = pytest.mark.root

EXAMPLES = int(os.environ.get("WINLAYERS_MODEL_EXAMPLES", "50"))


class FuseMachine(MountMachine):
    """Also kills the process that serves: what was closed must still be there."""

    @rule(old=MountMachine.WHERE, new=MountMachine.WHERE, offset=SIZES, to=SIZES, size=SIZES)
    def copy_range(self, old: int, new: int, offset: int, to: int, size: int) -> None:
        # Overlayfs can't do this between a file of the layers and one that is changed (EXDEV).
        source, path = self._any(old), self._any(new)
        if not self._is_file(source) or not self._is_file(path):
            return
        node = self.model.find(source)
        if node is self.model.find(path):  # a range must not lie over itself
            return

        def real() -> None:
            fd = os.open(self._place(source), os.O_RDONLY | os.O_NOFOLLOW)
            target = os.open(self._place(path), os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.copy_file_range(fd, target, size, offset, to)
            finally:
                os.close(fd)
                os.close(target)

        self._both(lambda: self.model.write(path, to, bytes(node.data[offset : offset + size])), real)

    @rule(sure=SELDOM)
    def kill(self, sure: int) -> None:
        if sure != 5:
            return
        with open(os.path.join(self.service.layer_path("scratch"), "mount.json"), encoding="ascii") as file:
            details = json.load(file)["mount"]["details"]
        os.kill(int(details["pid"]), signal.SIGKILL)
        assert wait_for_end(int(details["pid"]), details["start"], 60)
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
