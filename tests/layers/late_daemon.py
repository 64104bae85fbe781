"""The process that serves a FUSE mount, but says when it is about to mount, and waits to be told to go on.

Both by FIFOs in the folder ``WINLAYERS_LATE``: it opens ``waits`` for writing, then reads ``go``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from winlayers.layers.portable.mounts.fusefs import daemon, device

_mount = device.mount


def _mount_late(target: str, *, read_only: bool) -> int:
    folder = Path(os.environ["WINLAYERS_LATE"])
    folder.joinpath("waits").write_bytes(b"")
    folder.joinpath("go").read_bytes()
    return _mount(target, read_only=read_only)


if __name__ == "__main__":
    device.mount = _mount_late
    sys.exit(daemon.main())
