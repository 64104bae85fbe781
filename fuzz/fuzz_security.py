"""Fuzz security descriptors: what parses comes back, also from its text; what is inherited is valid."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import SecurityDescriptorError
    from winlayers.win32.security import (
        Claim,
        Layout,
        SecurityDescriptor,
        bytes_to_sddl,
        format_sddl,
        inherit,
        parse_sddl,
        validate,
    )
    from winlayers.win32.security.conditions import condition_to_bytes, parse_condition

from common import fuzz, stream_contents


def descriptor(data: bytes) -> None:
    """One descriptor, all that can be done with it."""
    try:
        parsed = SecurityDescriptor.from_bytes(data)
    except SecurityDescriptorError:
        return
    assert parsed.to_bytes() == data
    again = SecurityDescriptor.from_bytes(parsed.to_bytes(Layout.OWNER_FIRST))
    assert (again, again.control) == (parsed, parsed.control) or again.full_control == parsed.full_control
    try:
        validate(data)
    except SecurityDescriptorError:
        is_valid = False
    else:
        is_valid = True
    try:
        text = format_sddl(parsed)
    except SecurityDescriptorError:
        pass
    else:
        assert format_sddl(parse_sddl(text)) == text
    try:
        bytes_to_sddl(data, strict=False)
    except SecurityDescriptorError:
        pass
    for is_directory in (False, True):
        try:
            child = inherit(data, is_directory=is_directory, creator=data if len(data) % 2 else None)
        except SecurityDescriptorError:
            continue
        SecurityDescriptor.from_bytes(child)
        if is_valid:
            validate(child)


def application_data(data: bytes) -> None:
    """A condition and a claim."""
    try:
        tokens = parse_condition(b"artx" + data)
    except SecurityDescriptorError:
        pass
    else:
        assert parse_condition(condition_to_bytes(tokens)) == tokens
    try:
        claim = Claim.from_bytes(data)
    except SecurityDescriptorError:
        pass
    else:
        assert Claim.from_bytes(claim.to_bytes()) == claim


def test_one(data: bytes) -> None:
    """One input."""
    descriptor(data)
    application_data(data)


if __name__ == "__main__":
    fuzz(test_one, stream_contents(3))
