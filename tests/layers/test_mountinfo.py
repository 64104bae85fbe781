"""What the kernel says of mounts is understood whatever they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import require_root
from winlayers.layers.portable.mounts import mountinfo

pytestmark = [pytest.mark.root, pytest.mark.skipif(sys.platform != "linux", reason="Linux's mounts")]

NAMES = [
    "a b\tc\nd\\e#f",
    "carriage\rreturn",
    "\x0bvertical\x0cform\x1cseparators\x1d\x1e",
    "next\u0085line no\u00a0break wide\u3000blank \u2028line",
    "\udcff not utf-8",
    "- dash",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_mounts(tmp_path: Path, name: str) -> None:
    require_root()
    target = tmp_path / name
    target.mkdir()
    subprocess.run([b"mount", b"-t", b"tmpfs", b"none", os.fsencode(target)], check=True)
    try:
        (found,) = mountinfo.mounts_at(os.fspath(target))
        assert (found.target, found.kind, found.source) == (os.path.realpath(target), "tmpfs", "none")
        assert mountinfo.find(os.fspath(target), found.id) == found
    finally:
        subprocess.run([b"umount", os.fsencode(target)], check=True)
    assert mountinfo.mounts_at(os.fspath(target)) == []
