"""Extended attribute buffers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.win32.strategies import extended_attributes
from winlayers.errors import ExtendedAttributeError
from winlayers.win32.ea import build_eas, name_to_bytes, parse_eas
from winlayers.win32.metadata import ExtendedAttribute

TWO = bytes.fromhex(
    "14000000 00 03 0500 41424300 0102030405 000000"  # ABC: 20 bytes with their padding
    "00000000 80 05 0200 454d50545900 fffe"
)


def test_a_buffer_is_read_in_its_order() -> None:
    assert parse_eas(TWO) == (
        ExtendedAttribute("ABC", b"\x01\x02\x03\x04\x05"),
        ExtendedAttribute("EMPTY", b"\xff\xfe", 0x80),
    )
    assert build_eas(parse_eas(TWO)) == TWO


def test_an_empty_buffer_holds_none() -> None:
    assert parse_eas(b"") == ()
    assert build_eas(()) == b""


def test_the_last_entry_is_padded_like_the_others() -> None:
    assert build_eas([ExtendedAttribute("D", b"dir")]) == bytes.fromhex(
        "00000000 00 01 0300 4400 646972 000000"
    )


def test_names_of_any_bytes_survive() -> None:
    buffer = struct.pack("<IBBH", 0, 0, 3, 1) + b"\xfc\xff=\0v" + b"\0" * 3
    (ea,) = parse_eas(buffer)
    assert name_to_bytes(ea.name) == b"\xfc\xff="
    assert build_eas([ea]) == buffer


def test_padding_of_any_kind_is_read_over() -> None:
    buffer = (
        struct.pack("<IBBH", 17, 0, 1, 1) + b"A\0a" + b"x" * 6 + struct.pack("<IBBH", 0, 0, 1, 1) + b"B\0b!!"
    )
    assert [ea.value for ea in parse_eas(buffer)] == [b"a", b"b"]
    ends_at_next = struct.pack("<IBBH", 12, 0, 1, 1) + b"A\0a\0"
    assert [ea.value for ea in parse_eas(ends_at_next)] == [b"a"]


@pytest.mark.parametrize(
    "buffer",
    [
        b"\0",
        TWO[:7],
        TWO[:-1],
        TWO[:24],
        struct.pack("<IBBH", 4, 0, 1, 1) + b"A\0a\0",  # the next one inside this one
        struct.pack("<IBBH", 8, 0, 1, 1) + b"A\0a\0",
        struct.pack("<IBBH", 13, 0, 1, 1) + b"A\0a\0",
        struct.pack("<IBBH", 0xFFFFFFFF, 0, 1, 1) + b"A\0a\0",
    ],
)
def test_what_is_malformed_is_refused(buffer: bytes) -> None:
    with pytest.raises(ExtendedAttributeError):
        parse_eas(buffer)


def test_the_limits_are_those_of_the_fields() -> None:
    largest = ExtendedAttribute("N" * 255, b"v" * 65535)
    assert parse_eas(build_eas([largest, largest])) == (largest, largest)
    for ea in (
        ExtendedAttribute("N" * 256, b""),
        ExtendedAttribute("N", b"v" * 65536),
        ExtendedAttribute("N", b"", 256),
        ExtendedAttribute("\ud800", b""),
    ):
        with pytest.raises(ExtendedAttributeError):
            build_eas([ea])


@given(st.lists(extended_attributes, max_size=6))
def test_attributes_survive_their_buffer(eas: list[ExtendedAttribute]) -> None:
    assert parse_eas(build_eas(eas)) == tuple(eas)


@given(st.one_of(st.binary(), st.binary(max_size=8).map(lambda tail: TWO + tail)))
@example(TWO)
def test_any_bytes_are_read_or_refused(buffer: bytes) -> None:
    try:
        eas = parse_eas(buffer)
    except ExtendedAttributeError:
        return
    assert parse_eas(build_eas(eas)) == eas
