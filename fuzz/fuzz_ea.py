"""Fuzz the reader of extended attributes."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import ExtendedAttributeError
    from winlayers.win32.ea import build_eas, parse_eas

from common import fuzz, stream_contents


def test_one(data: bytes) -> None:
    """One input."""
    try:
        eas = parse_eas(data)
    except ExtendedAttributeError:
        return
    assert sum(len(ea.value) for ea in eas) <= len(data)
    assert parse_eas(build_eas(eas)) == eas


if __name__ == "__main__":
    fuzz(test_one, stream_contents(2))
