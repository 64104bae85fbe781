"""The kinds of mounts that there are, and which one fits this host."""

from __future__ import annotations

import sys

from winlayers.errors import MountError
from winlayers.layers.portable.mounts.contract import Mounter

AUTO = "auto"


def mounters() -> list[Mounter]:
    """All kinds that this operating system has, the best first; Windows has none (its own are HCS's)."""
    if sys.platform != "win32":
        from winlayers.layers.portable.mounts.erofs import ErofsMounter
        from winlayers.layers.portable.mounts.extract import ExtractMounter
        from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter

        return [ErofsMounter(), FuseMounter(), ExtractMounter()]
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return []


def by_kind(kind: str) -> Mounter:
    """The mounter of that kind, whether or not it can be used here.

    Raises:
        MountError: there is no such kind.
    """
    for mounter in mounters():
        if mounter.kind == kind:
            return mounter
    known = ", ".join(mounter.kind for mounter in mounters())
    raise MountError(f"there is no kind of mount {kind!r}", hint=f"known are {AUTO}, {known}")


def pick(kind: str = AUTO, *, need_size: bool = False) -> tuple[Mounter, str]:
    """The mounter to use, and why.

    Args:
        kind: a kind's name, or ``auto``: the best that can be used here.
        need_size: prefer kinds that enforce a scratch layer's size.  Where none can, the best other one is
            taken: the size may be no bound at all (see :mod:`~winlayers.layers.portable.mounts.scratch`),
            and a mounter refuses one that it can't enforce.

    Raises:
        MountError: there is no such kind, or it can't be used here.
    """
    if kind != AUTO:
        mounter = by_kind(kind)
        why = mounter.unavailable()
        if why is not None:
            raise MountError(f"the kind of mount {kind!r} can't be used here: {why}")
        return mounter, "asked for"
    reasons: list[str] = []
    usable: list[tuple[Mounter, str]] = []
    for mounter in mounters():
        why = mounter.unavailable()
        if why is None:
            usable.append((mounter, "; ".join(reasons) or "the best there is"))
            if mounter.enforces_size or not need_size:
                return usable[-1]
            reasons.append(f"{mounter.kind} can't enforce a size here")
        else:
            reasons.append(f"no {mounter.kind}: {why}")
    if usable:
        return usable[0]
    raise MountError(f"no kind of mount can be used here: {'; '.join(reasons)}")
