"""Registry hives."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import require, require_tool
from winlayers.errors import RegistryHiveError
from winlayers.win32.regf import HiveHeader, hive_checksum, minimal_hive, validate_hive_header

TIME = 133313060961234567


def test_a_minimal_hive_is_valid_and_always_the_same() -> None:
    hive = minimal_hive(
        "CMI-CreateHive", file_name="\\SystemRoot\\System32\\Config\\SOFTWARE", last_written=TIME
    )
    assert hive == minimal_hive(
        "CMI-CreateHive", file_name="\\SystemRoot\\System32\\Config\\SOFTWARE", last_written=TIME
    )
    assert len(hive) == 8192
    header = validate_hive_header(hive)
    assert header == HiveHeader(1, 1, TIME, (1, 5), 32, 4096, "emRoot\\System32\\Config\\SOFTWARE", 0)
    assert not header.is_dirty
    assert validate_hive_header(hive[:4096]) == header


@pytest.mark.parametrize("name", ["ROOT", "Wurzel-ü", "木" * 255, "\U0001f600", "x" * 255])
def test_other_parsers_read_it(name: str, tmp_path: Path) -> None:
    hivexml = require_tool("hivexml")
    path = tmp_path / "hive"
    path.write_bytes(minimal_hive(name, last_written=TIME))
    xml = subprocess.run([hivexml, path], check=True, capture_output=True).stdout.decode()
    assert f'<node name="{name}" root="1">' in xml
    assert "2023-06-15T12:34:56Z" in xml


def test_regipy_reads_its_key_and_descriptor(tmp_path: Path) -> None:
    require(importlib.util.find_spec("regipy"), "needs regipy")
    registry = importlib.import_module("regipy.registry")
    path = tmp_path / "hive"
    path.write_bytes(minimal_hive("ROOT", file_name="SYSTEM", last_written=TIME))
    hive = registry.RegistryHive(str(path))
    assert (hive.root.name, hive.name, hive.root.header.last_modified) == ("ROOT", "SYSTEM", TIME)
    assert list(hive.root.iter_subkeys()) == list(hive.root.iter_values()) == []
    security = hive.get_key("\\").get_security_key_info()
    assert (security["owner"], security["group"]) == ("S-1-5-32-544", "S-1-5-18")
    assert [ace["sid"] for ace in security["dacl"]] == ["S-1-5-18", "S-1-5-32-544", "S-1-5-32-545"]


def test_a_large_descriptor_gets_the_room_that_it_needs() -> None:
    hive = minimal_hive("ROOT", security=bytes(10_000))
    assert validate_hive_header(hive).bins_size == len(hive) - 4096 == 12288


@pytest.mark.parametrize("name", ["", "x" * 256, "a\\b", "a\0"])
def test_what_can_not_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(RegistryHiveError):
        minimal_hive(name)


def test_a_time_beyond_a_filetime_is_refused() -> None:
    with pytest.raises(RegistryHiveError):
        minimal_hive(last_written=-1)


@given(st.integers(0, 511), st.integers(1, 255))
def test_any_change_to_the_base_block_is_noticed(offset: int, change: int) -> None:
    hive = bytearray(minimal_hive())
    hive[offset] ^= change
    with pytest.raises(RegistryHiveError):
        validate_hive_header(bytes(hive))


@pytest.mark.parametrize(
    ("offset", "value"),
    [(20, 2), (24, 1), (24, 7), (28, 1), (32, 0), (36, 0), (36, 36), (36, 4096), (40, 0), (40, 4095)],
)
def test_what_windows_would_not_load_is_refused_whatever_its_checksum(offset: int, value: int) -> None:
    hive = bytearray(minimal_hive())
    hive[offset : offset + 4] = value.to_bytes(4, "little")
    hive[508:512] = hive_checksum(bytes(hive)).to_bytes(4, "little")
    with pytest.raises(RegistryHiveError):
        validate_hive_header(bytes(hive))


def test_a_hive_without_a_bin_or_without_a_header_is_refused() -> None:
    hive = minimal_hive()
    with pytest.raises(RegistryHiveError):
        validate_hive_header(hive[:4096] + b"xbin")
    with pytest.raises(RegistryHiveError):
        validate_hive_header(hive[:4095])


def test_a_dirty_hive_and_a_differencing_one_are_told() -> None:
    hive = bytearray(minimal_hive())
    hive[8], hive[144] = 0, 2
    hive[508:512] = hive_checksum(bytes(hive)).to_bytes(4, "little")
    header = validate_hive_header(bytes(hive))
    assert header.is_dirty
    assert header.flags == 2


def test_the_checksum_is_never_nought_nor_all_ones() -> None:
    assert hive_checksum(bytes(508)) == 1
    assert hive_checksum(b"\xff" * 4 + bytes(504)) == 0xFFFFFFFE


@given(st.one_of(st.binary(), st.binary(max_size=600).map(lambda d: d.ljust(4100, b"\0"))))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(RegistryHiveError):
        validate_hive_header(data)
