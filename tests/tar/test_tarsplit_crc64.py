"""CRC-64/GO-ISO, with and without the library."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winlayers.tar.crc64 import crc64, crc64_pure, crc64_zeros


def _by_the_bit(data: bytes, crc: int = 0) -> int:
    """The definition: a shift register, a bit at a time."""
    crc ^= (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ (1 << 64) - 1


@pytest.mark.parametrize("function", [crc64, crc64_pure, _by_the_bit])
def test_known_values(function: Callable[[bytes], int]) -> None:
    # Go's hash/crc64 (crc64_test.go), and the catalogue's check value.
    for data, expected in {
        b"": 0,
        b"a": 0x3420000000000000,
        b"ab": 0x36C4200000000000,
        b"123456789": 0xB90956C775A41001,
    }.items():
        assert function(data) == expected, data


@given(st.binary(max_size=600), st.integers(0, 2**64 - 1))
def test_all_ways_agree(data: bytes, crc: int) -> None:
    expected = _by_the_bit(data, crc)
    assert crc64(data, crc) == expected
    assert crc64_pure(data, crc) == expected
    assert crc64_pure(memoryview(data), crc) == expected


@pytest.mark.parametrize("size", [47, 48, 49, 55, 56, 65535, 65536, 65537, 65536 + 48, 65536 + 49, 200_001])
def test_pieces_make_the_whole(size: int) -> None:
    data = bytes(index * 7 & 0xFF for index in range(size))
    expected = crc64(data)
    assert crc64_pure(data) == expected
    assert crc64_pure(data[size // 3 :], crc64_pure(data[: size // 3])) == expected


@given(st.integers(0, 20_000), st.integers(0, 2**64 - 1))
def test_zeros(count: int, crc: int) -> None:
    assert crc64_zeros(count, crc) == crc64(bytes(count), crc)


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**64 - 1))
def test_zeros_add_up(first: int, second: int, crc: int) -> None:
    assert crc64_zeros(second, crc64_zeros(first, crc)) == crc64_zeros(first + second, crc)
