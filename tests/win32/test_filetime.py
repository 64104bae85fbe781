"""FILETIME arithmetic."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import require_vectors
from winlayers.errors import FormatError
from winlayers.win32 import filetime as ft

SIXTY_FOUR_BITS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("text", "filetime"),
    [
        ("0", 116444736000000000),
        ("1686832496.1234567", 133313060961234567),
        ("1.000000099", 116444736010000000),
        ("1.00000015", 116444736010000001),
        ("-1", 116444735990000000),
        ("-0.5", 116444735995000000),
        ("-1.25", 116444735987500000),
        ("-0.000000099", 116444736000000000),  # cut towards 1970, not downwards
        ("-0.00000015", 116444735999999999),
        ("-11644473600", 0),
        ("-11644473599.9999999", 1),
        ("8589934592", 202344081920000000),
        ("1686832496.5000000", 133313060965000000),  # BuildKit's, unpadded
        ("+5", 116444736050000000),
        ("5.", 116444736050000000),
        ("5.1234567891111", 116444736051234567),
    ],
)
def test_pax_text_becomes_the_filetime_that_the_reference_gets(text: str, filetime: int) -> None:
    assert ft.filetime_from_pax(text) == filetime


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "1.2.3",
        ".5",
        "-",
        " 1",
        "1 ",
        "1e5",
        "1_0",
        "0x1",
        "1.x",
        "٣",
        "9" * 19,
        "9" * 30,
        "9" * 5000,
    ],
)
def test_what_is_not_a_pax_time_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        ft.parse_pax_time(text)


@pytest.mark.parametrize(
    ("seconds", "nanoseconds", "text"),
    [
        (0, 0, "0"),
        (-1, 500_000_000, "-0.5"),
        (-2, 750_000_000, "-1.25"),
        (1, 100, "1.0000001"),
        (100, 0, "100"),
        (-86401, 877_000_000, "-86400.123"),
    ],
)
def test_times_are_written_as_go_writes_them(seconds: int, nanoseconds: int, text: str) -> None:
    assert ft.format_pax_time(seconds, nanoseconds) == text
    assert ft.parse_pax_time(text) == (seconds, nanoseconds)


@given(SIXTY_FOUR_BITS)
def test_a_filetime_survives_pax_text_and_unix_time(filetime: int) -> None:
    assert ft.filetime_from_pax(ft.filetime_to_pax(filetime)) == filetime
    assert ft.filetime_from_unix(*ft.unix_from_filetime(filetime)) == filetime
    assert ft.filetime_from_nanoseconds(ft.unix_nanoseconds(filetime)) == filetime


@given(SIXTY_FOUR_BITS, st.integers(0, 999_999_999))
def test_any_pax_time_survives_its_text(seconds: int, nanoseconds: int) -> None:
    text = ft.format_pax_time(seconds, nanoseconds)
    if seconds == -(2**63) and nanoseconds:
        seconds_of_text = -(2**63) + 1  # the whole number in the text is one nearer to nought
        assert text.startswith(str(seconds_of_text))
    assert ft.parse_pax_time(text) == (seconds, nanoseconds)


@pytest.mark.parametrize("seconds", [2**63, -(2**63), 910_692_730_086, -933_981_677_286])
def test_what_64_bits_can_not_hold_is_refused(seconds: int) -> None:
    with pytest.raises(FormatError):
        ft.filetime_from_unix(seconds)


def test_vectors_times_agree_where_the_reference_does_not_wrap_around() -> None:
    index = json.loads((require_vectors("backuptar") / "17-times" / "index.json").read_text())
    checked = 0
    for entry in index["entries"]:
        if "1601" in entry["name"]:
            continue  # Go's nanoseconds since 1970 overflow there
        for record, field in (
            ("atime", "access"),
            ("ctime", "change"),
            ("LIBARCHIVE.creationtime", "creation"),
        ):
            assert ft.filetime_from_pax(entry["pax"][record]) == entry["filetimes"][field], entry["name"]
            checked += 1
    assert checked > 30
