"""Options, and sizes as docker/go-units reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winlayers.errors import DriverOptionError
from winlayers.graphdriver.windows.options import (
    DriverOptions,
    parse_driver_options,
    parse_size,
    parse_storage_options,
)

# The first block is what go-units' own tests say of RAMInBytes; the second was read from its code.
SIZES = {
    "32": 32, "32b": 32, "32B": 32, "32k": 32 << 10, "32K": 32 << 10, "32kb": 32 << 10, "32Kb": 32 << 10,
    "32Mb": 32 << 20, "32MB": 32 << 20, "32Gb": 32 << 30, "32G": 32 << 30, "32Tb": 32 << 40, "32Pb": 32 << 50,
    "32PB": 32 << 50, "32P": 32 << 50, "32.3": 32, "32.3 mb": int(32.3 * (1 << 20)),
    "127GB": 127 << 30, "20 GB": 20 << 30, "20GiB": 20 << 30, "20gib": 20 << 30, "1e3": 1000,
    "1e3k": 1000 << 10, "0": 0, "-0": 0, "+5": 5, ".5k": 512, "5.k": 5 << 10, "5 ": 5, "0.3b": 0,
}  # fmt: skip


@pytest.mark.parametrize("text", SIZES)
def test_sizes(text: str) -> None:
    assert parse_size(text) == SIZES[text]


@pytest.mark.parametrize(
    "text",
    ["", "hello", "-32", "32.3.3 b", "32bb", "32kib b", " 32", "32  b", "32 mb ", "32m b", "32bm", "32e",
     "32ki", "32kbb", "32mbib", "1_000", "inf", "nan", "1e999", "9e18k", "٣", "0x10", "5 5"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(DriverOptionError, match="invalid size"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_an_error(text: str) -> None:
    try:
        size = parse_size(text)
    except DriverOptionError:
        return
    assert 0 <= size < 1 << 63


@given(st.integers(0, 1 << 40), st.sampled_from(["", "b", "k", "kb", "KiB", " m"]))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    factor = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20}[unit.strip().lower()[:1]]
    assert parse_size(f"{number}{unit}") == number * factor


def test_driver_options() -> None:
    assert parse_driver_options([]) == DriverOptions(127 << 30)
    assert parse_driver_options(
        ["SIZE=1g", "reference_changes=TRUE", "service=hcs", "Mount=fuse", "size=2g"]
    ) == (DriverOptions(2 << 30, True, "hcs", {"mount": "fuse"}))


@pytest.mark.parametrize("option", ["size", "size=", "=1", "reference_changes=maybe", "service=other", ""])
def test_wrong_driver_options(option: str) -> None:
    with pytest.raises(DriverOptionError):
        parse_driver_options([option])


def test_storage_options() -> None:
    assert parse_storage_options({}) == 0
    assert parse_storage_options({"Size": "20G"}) == 20 << 30
    with pytest.raises(DriverOptionError, match=r"'dm\.basesize'"):
        parse_storage_options({"dm.basesize": "20G"})
