"""Fuzz the check of hive headers; the checksum is put right, so that the fuzzer gets beyond it."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import RegistryHiveError
    from winlayers.win32.regf import hive_checksum, minimal_hive, validate_hive_header

from common import fuzz

CHECKSUM = slice(508, 512)


def test_one(data: bytes) -> None:
    """One input."""
    hives = [data]
    if len(data) >= CHECKSUM.stop:
        hive = bytearray(data)
        hive[CHECKSUM] = hive_checksum(data).to_bytes(4, "little")
        hives.append(bytes(hive))
    for hive in hives:
        try:
            header = validate_hive_header(hive)
        except RegistryHiveError:
            continue
        assert 32 <= header.root_offset < header.bins_size


if __name__ == "__main__":
    fuzz(test_one, [minimal_hive(name)[:4200] for name in ("ROOT", "\u00fc", "x" * 255)])
