"""EROFS with overlayfs on top against the model of NTFS, as far as overlayfs can follow it."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.layers.mount_machine import DISTINCT, MountMachine
from tests.support import require
from winlayers.layers.portable.mounts.erofs import ErofsMounter

pytestmark = pytest.mark.root

EXAMPLES = int(os.environ.get("WINLAYERS_MODEL_EXAMPLES", "30"))


class OverlayMachine(MountMachine):
    """Names with case, hard links of the layers that part when written to, metadata made at export."""

    kind = "erofs"
    names = DISTINCT
    case_blind = False
    keeps_links = False
    keeps_archive = False
    is_live = False
    longest_redirect = 200  # the kernel's redirect_max is 256; beyond it rename fails with EXDEV


def test_mount_does_what_ntfs_does() -> None:
    why = ErofsMounter().unavailable()
    require(why is None, str(why))
    run_state_machine_as_test(
        OverlayMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
