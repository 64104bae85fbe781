"""Fuzz the reader of reparse buffers, and what is made of the links in them."""

from __future__ import annotations

import posixpath

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import ReparseError
    from winlayers.win32.reparse import RawReparse, is_canonical, parse_reparse, posix_target

from common import fuzz, stream_contents

LINK = "Users/Default/Cookies"


def test_one(data: bytes) -> None:
    """One input."""
    try:
        point = parse_reparse(data)
    except ReparseError:
        assert not is_canonical(data)
        return
    if isinstance(point, RawReparse):
        assert point.to_bytes() == data
        return
    try:
        again = point.to_bytes()
    except ReparseError:  # overlapping names, laid out one after the other, may be too long
        return
    assert parse_reparse(again) == point
    if is_canonical(data):
        assert type(point).to(point.target).to_bytes() == data
    target = posix_target(point, LINK)
    if target is not None:
        landed = posixpath.normpath(posixpath.join("/mount", posixpath.dirname(LINK), target))
        assert landed == "/mount" or landed.startswith("/mount/")


if __name__ == "__main__":
    fuzz(test_one, stream_contents(8))
