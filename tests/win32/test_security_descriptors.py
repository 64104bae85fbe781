"""Binary security descriptors: layout, losslessness, what is refused and how it is named."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import SHARED, require_vectors
from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Ace,
    AceType,
    Acl,
    Control,
    Layout,
    RawAce,
    SecurityDescriptor,
    Sid,
    bytes_to_sddl,
    sddl_to_bytes,
    validate,
)

SYSTEM = WELL_KNOWN_SIDS["SY"]
# O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU), owner first: what BuildKit puts on every file.
BUILDKIT_FILE = base64.b64decode(
    "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACAC"
    "AAAAABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)


def recorded() -> list[dict[str, str]]:
    path = require_vectors("backuptar") / "08-sddl" / "sd.json"
    cases: list[dict[str, str]] = json.loads(path.read_text())["cases"]
    return cases


def test_a_descriptor_of_files_is_taken_apart() -> None:
    descriptor = SecurityDescriptor.from_bytes(BUILDKIT_FILE)
    assert str(descriptor.owner) == "S-1-5-32-544"
    assert descriptor.group == SYSTEM
    assert descriptor.control == Control.SELF_RELATIVE | Control.DACL_PRESENT
    assert descriptor.sacl is None
    assert descriptor.dacl is not None
    assert [(ace.type, ace.flags) for ace in descriptor.dacl.aces] == [(0, 0)] * 3
    last = descriptor.dacl.aces[2]
    assert isinstance(last, Ace)
    assert (last.mask, str(last.sid)) == (0x1200A9, "S-1-5-32-545")


def test_recorded_descriptors_are_equal_part_by_part() -> None:
    for case in recorded():
        made = SecurityDescriptor.from_bytes(sddl_to_bytes(case["sddl"]))
        assert f"{int(made.control):#06x}" == case["control"]
        for name in ("owner", "group", "sacl", "dacl"):
            part = getattr(made, name)
            assert ("" if part is None else part.to_bytes().hex()) == case[name], name


def test_recorded_descriptors_are_equal_in_both_layouts() -> None:
    for case in recorded():
        assert sddl_to_bytes(case["sddl"], layout=Layout.OWNER_FIRST).hex() == case["wine_hex"]
        assert sddl_to_bytes(case["sddl"], layout=Layout.ACLS_FIRST).hex() == case["alt_layout_hex"]
        for form in ("wine_hex", "alt_layout_hex"):
            assert bytes_to_sddl(bytes.fromhex(case[form])) == case["sddl"]


def _descriptors_in(path: Path) -> Iterator[bytes]:
    """The descriptors of all rawsd records in a tar, which may be compressed or malformed."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    for match in re.finditer(rb"MSWINDOWS\.rawsd=([A-Za-z0-9+/=]+)\n", data):
        try:
            yield base64.b64decode(match[1], validate=True)
        except binascii.Error:
            continue  # the vectors have such a record on purpose


def test_every_recorded_descriptor_comes_back_byte_for_byte() -> None:
    require_vectors("backuptar")
    paths = [*(SHARED / "vectors").rglob("*.tar"), *(SHARED / "images").rglob("blobs/sha256/*")]
    found = {data for path in paths if path.is_file() for data in _descriptors_in(path)}
    # One recorded case has a record that is base64 of something else.
    found.discard(bytes.fromhex("010004"))
    assert len(found) >= 8
    for data in found:
        validate(data)
        assert SecurityDescriptor.from_bytes(data).to_bytes() == data
        again = sddl_to_bytes(bytes_to_sddl(data))
        assert SecurityDescriptor.from_bytes(again) == SecurityDescriptor.from_bytes(data)


def test_gaps_order_slack_and_shared_parts_are_kept() -> None:
    sid = SYSTEM.to_bytes()
    acl = Acl((RawAce(0x7F, 0x80, b"\1\2\3\4"),), revision=3, sbz1=9, sbz2=8, slack=b"rest").to_bytes()
    body = b"GAP1" + acl + b"gap2" + sid + b"TAIL"
    at_dacl, at_sid = 24, 24 + len(acl) + 4
    # Owner and group share one SID; the SACL's offset is stale, since its PRESENT bit is not set.
    data = struct.pack("<BBHIIII", 1, 7, 0x8004, at_sid, at_sid, 0xDEAD, at_dacl) + body
    parsed = SecurityDescriptor.from_bytes(data)
    assert parsed.to_bytes() == data
    assert parsed.owner == parsed.group == SYSTEM
    assert parsed.sacl is None
    assert parsed.dacl is not None
    assert parsed.dacl.slack == b"rest"


def test_a_changed_descriptor_is_laid_out_anew() -> None:
    parsed = SecurityDescriptor.from_bytes(BUILDKIT_FILE)
    assert parsed.to_bytes() == BUILDKIT_FILE
    assert parsed.to_bytes(Layout.OWNER_FIRST) == BUILDKIT_FILE
    changed = dataclasses.replace(parsed, group=WELL_KNOWN_SIDS["BU"])
    assert bytes_to_sddl(changed.to_bytes()).startswith("O:BAG:BU")
    assert changed.to_bytes() == changed.to_bytes(Layout.ACLS_FIRST)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.owner = None  # type: ignore[misc]  # that it can't be done is what is tested


def test_a_null_dacl_an_empty_one_and_none_are_three_things() -> None:
    null = SecurityDescriptor(control=Control.DACL_PRESENT).to_bytes()
    empty = SecurityDescriptor(dacl=Acl()).to_bytes()
    none = SecurityDescriptor().to_bytes()
    assert [bytes_to_sddl(data) for data in (null, empty, none)] == ["D:NO_ACCESS_CONTROL", "D:", ""]
    for data in (null, empty, none):
        validate(data)
        assert SecurityDescriptor.from_bytes(data).to_bytes() == data


def test_all_types_of_entries_are_read_and_written() -> None:
    for kind in AceType:
        if kind is AceType.ACCESS_ALLOWED_COMPOUND:
            continue
        ace = Ace(kind, 0xC0, 0x12345678, SYSTEM, application_data=b"data")
        data = SecurityDescriptor(sacl=Acl.of([ace])).to_bytes()
        validate(data)
        acl = SecurityDescriptor.from_bytes(data).sacl
        assert acl is not None
        assert acl.aces == (ace,)
        assert acl.revision == (4 if ace.is_object else 2)


def test_a_compound_entry_is_kept_raw() -> None:
    body = struct.pack("<IHH", 1, 1, 0) + SYSTEM.to_bytes() * 2
    acl = Acl((RawAce(4, 3, body),))
    assert Acl.from_bytes(acl.to_bytes()) == acl


HEADER = "0100{control:04x}{offsets}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "0 bytes, fewer than the 20 of its header"),
        ("01000480", "4 bytes, fewer than the 20"),
        ("02000080" + "00" * 16, "revision 2, only 1 exists"),
        ("01000400" + "00" * 16, "absolute form"),
        ("01000080" + "08000000" + "00" * 12, "owner at 8, inside the header"),
        ("01000080" + "14000000" + "00" * 12, "SID at offset 20: cut off"),
        ("01000080" + "00000000" + "00010000" + "00" * 8, "SID at offset 256: cut off"),
        ("01000080" + "14000000" + "00" * 12 + "0201000000000005" + "12000000", "revision 2"),
        ("01000080" + "14000000" + "00" * 12 + "0110000000000005" + "12000000" * 16, "16 sub-authorities"),
        ("01000480" + "00" * 12 + "14000000" + "0200080001", "ACL at offset 20: cut off"),
        ("01000480" + "00" * 12 + "14000000" + "0200070000000000", "ACL at offset 20: size 7"),
        ("01000480" + "00" * 12 + "14000000" + "0200090000000000", "ACL at offset 20: size 9"),
        ("01000480" + "00" * 12 + "14000000" + "0200080001000000", "ACE at offset 28: cut off"),
        ("01000480" + "00" * 12 + "14000000" + "02000c0001000000" + "00000800", "ACE at offset 28: size 8"),
        ("01000480" + "00" * 12 + "14000000" + "02000c0001000000" + "00000300", "ACE at offset 28: size 3"),
        ("01000480" + "00" * 12 + "14000000" + "02000c0001000000" + "00000400", "too small for its type"),
        ("01001080" + "00" * 8 + "14000000" + "00000000" + "04000c0001000000" + "05000400", "too small"),
    ],
)
def test_malformed_descriptors_are_named(data: str, message: str) -> None:
    with pytest.raises(SecurityDescriptorError, match=re.escape(message)):
        SecurityDescriptor.from_bytes(bytes.fromhex(data))
    with pytest.raises(SecurityDescriptorError, match=re.escape(message)):
        validate(bytes.fromhex(data))


def test_validate_asks_for_what_windows_asks_for() -> None:
    good = SecurityDescriptor(owner=SYSTEM, dacl=Acl.of([Ace(0, 0, 1, SYSTEM)]))
    validate(good.to_bytes())
    acl = good.dacl
    assert acl is not None
    for bad, message in (
        (dataclasses.replace(acl, revision=1), "DACL: revision 1, must be 2 to 4"),
        (dataclasses.replace(acl, revision=5), "DACL: revision 5"),
        (dataclasses.replace(acl, slack=b"x"), "its size is not a multiple of 4"),
        (Acl.of([Ace(0, 0, 1, SYSTEM, application_data=b"xy")]), "ACE 0 has size 22, not a multiple of 4"),
    ):
        data = dataclasses.replace(good, dacl=bad).to_bytes()
        assert SecurityDescriptor.from_bytes(data).to_bytes() == data
        with pytest.raises(SecurityDescriptorError, match=message):
            validate(data)
    shifted = struct.pack("<BBHIIII", 1, 0, 0x8000, 21, 0, 0, 0) + b"\0" + SYSTEM.to_bytes()
    with pytest.raises(SecurityDescriptorError, match="owner at 21, not a multiple of 4"):
        validate(shifted)


def test_what_does_not_fit_is_refused_when_it_is_made() -> None:
    big = Ace(0, 0, 1, SYSTEM, application_data=bytes(65000))
    with pytest.raises(SecurityDescriptorError, match="larger than an ACL can be"):
        Acl.of([big, big]).to_bytes()
    with pytest.raises(SecurityDescriptorError, match="larger than an ACE can be"):
        Ace(0, 0, 1, SYSTEM, application_data=bytes(65532)).to_bytes()
    with pytest.raises(SecurityDescriptorError, match="at most 15"):
        Sid(5, tuple(range(16)))
    with pytest.raises(SecurityDescriptorError, match="48 bits"):
        Sid(1 << 48)
    with pytest.raises(SecurityDescriptorError, match="32 bits"):
        Sid(5, (1 << 32,))
    with pytest.raises(SecurityDescriptorError, match="keep it as a RawAce"):
        Ace(0x40, 0, 0, SYSTEM)
    with pytest.raises(SecurityDescriptorError, match="do not fit"):
        Ace(0, 0x100, 0, SYSTEM)
    with pytest.raises(SecurityDescriptorError, match="has no object types"):
        Ace(0, 0, 0, SYSTEM, object_flags=4)
