"""Fuzz names: from the bytes of a tar header to a clean path, to a host's name, and back."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import FormatError
    from winlayers.win32.filetime import filetime_from_pax, filetime_to_pax
    from winlayers.win32.names import (
        decode_wtf8,
        encode_wtf8,
        fold_key,
        host_original,
        host_safe,
        normalize_layer_path,
        split_stream,
        upcase,
        validate_component,
    )

from common import fuzz


def name(text: str) -> None:
    """A name."""
    assert decode_wtf8(encode_wtf8(text)) == text
    literal = host_original(text)
    if literal is not None and text not in (".", ".."):
        assert literal not in (".", "..")
        assert "/" in text or "/" not in literal
        assert "\0" in text or "\0" not in literal
    assert fold_key(upcase(text)) == fold_key(text)
    path = normalize_layer_path(text)
    assert normalize_layer_path(path or ".") == path
    for component in path.split("/"):
        host = host_safe(component)
        assert len(host.encode()) <= 255
        assert host not in (".", "..")
        assert host_original(host) in (None, component)
        validate_component(component)
    split_stream(path)


def time(text: str) -> None:
    """A time."""
    filetime = filetime_from_pax(text)
    assert filetime_from_pax(filetime_to_pax(filetime)) == filetime


def test_one(data: bytes) -> None:
    """One input."""
    text = decode_wtf8(data)
    for check in (name, time):
        try:
            check(text)
        except FormatError:
            pass


if __name__ == "__main__":
    fuzz(
        test_one,
        [
            b"Files/Windows/System32",
            b"./Files//a/",
            b"Files/a:s:$DATA",
            b"UtilityVM\\Files/..",
            b"Files/\xed\xa0\x80\xed\xb0\x80\xff",
            "Files/\u00e4\U0001f600".encode(),
            b"-11644473600.1234567",
            b"1686832496.5000000",
        ],
    )
