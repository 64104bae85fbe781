"""NTFS metadata as extended attributes, and back."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.mountviews import DESCRIPTOR
from winlayers.errors import FormatError, InvalidNameError, SecurityDescriptorError
from winlayers.layers.portable import xattrs
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.reparse import SymbolicLink

_TIMES = st.integers(min_value=-(2**63), max_value=2**63 - 1)
_EAS = st.builds(
    ExtendedAttribute,
    st.from_regex(r"[A-Z$.]{1,20}", fullmatch=True),
    st.binary(max_size=40),
    st.sampled_from([0, 0x80]),
)
_METADATA = st.builds(
    FileMetadata,
    st.integers(min_value=0, max_value=0xFFFFFFFF).map(FileAttributes),
    _TIMES,
    _TIMES,
    _TIMES,
    _TIMES,
    st.sampled_from([None, DESCRIPTOR]),
    st.lists(_EAS, max_size=3).map(tuple),
    st.sampled_from([None, SymbolicLink.to("C:\\x").to_bytes()]),
)
_STREAM_NAMES = st.text(
    st.characters(blacklist_characters='\\/:*?"<>|', min_codepoint=32), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))


def _source(name: str, data: bytes) -> xattrs.StreamSource:
    return xattrs.StreamSource(name, len(data), lambda: data)


@given(_METADATA)
def test_what_is_shown_says_all_of_the_metadata(metadata: FileMetadata) -> None:
    shown, complete = xattrs.shown_attributes(metadata)
    assert complete
    parsed = xattrs.parse_attributes(shown)
    assert parsed.metadata == metadata
    assert parsed.streams == ()
    assert ("security" in parsed.present) == (metadata.security is not None)


@given(
    st.lists(st.tuples(_STREAM_NAMES, st.binary(max_size=50)), max_size=5, unique_by=lambda s: s[0].upper())
)
def test_streams_keep_their_names_and_data(streams: list[tuple[str, bytes]]) -> None:
    shown, complete = xattrs.shown_attributes(FileMetadata(), [_source(*stream) for stream in streams])
    assert complete == (xattrs.STREAMS not in shown)
    if complete:
        assert xattrs.parse_attributes(shown).streams == tuple(streams)


@given(_STREAM_NAMES)
def test_a_stream_s_attribute_leads_back_to_it(name: str) -> None:
    attribute = xattrs.attribute_of_stream(name)
    if attribute is not None:
        assert len(attribute) <= xattrs.MAX_NAME
        assert b"\0" not in attribute
        assert xattrs.stream_of_attribute(attribute) == name


@pytest.mark.parametrize(
    "name", ["ntfs_acl", "ntfs_anything", "overlay.opaque", "stream.x", "stream.stream.ntfs_acl", "\ud800"]
)
def test_names_that_mean_something_else_are_told_apart(name: str) -> None:
    attribute = xattrs.attribute_of_stream(name)
    assert attribute is not None
    assert not attribute.startswith((b"ntfs_", b"overlay."))
    assert xattrs.stream_of_attribute(attribute) == name


def test_layouts_are_ntfs_3g_s() -> None:
    metadata = FileMetadata(FileAttributes(0x20), 1, 3, 2, 4)
    shown, _ = xattrs.shown_attributes(metadata)
    assert shown == {
        b"ntfs_attrib": struct.pack("<I", 0x20),
        b"ntfs_times": struct.pack("<4Q", 1, 2, 3, 4),  # creation, write, access, change
        b"ntfs_crtime": struct.pack("<Q", 1),
    }


def test_what_finds_no_room_is_listed() -> None:
    streams = [_source("small", b"s"), _source("big", bytes(70_000)), _source("wide", bytes(4_000))]
    shown, complete = xattrs.shown_attributes(FileMetadata(), streams, xattrs.WRITABLE_ROOM)
    assert not complete
    assert shown[b"small"] == b"s"
    assert json.loads(shown[xattrs.STREAMS]) == [
        {"name": "big", "size": 70_000},
        {"name": "wide", "size": 4_000},
    ]
    shown, complete = xattrs.shown_attributes(FileMetadata(), streams)
    assert not complete
    assert len(shown[b"wide"]) == 4_000
    assert json.loads(shown[xattrs.STREAMS]) == [{"name": "big", "size": 70_000}]


def test_a_long_list_is_cut_and_says_so() -> None:
    streams = [_source(f"stream {n}", bytes(70_000)) for n in range(100)]
    shown, _ = xattrs.shown_attributes(FileMetadata(), streams)
    listed = json.loads(shown[xattrs.STREAMS])
    assert listed[-1]["more"] + len(listed) - 1 == 100


@given(
    _METADATA, st.lists(st.binary(max_size=3000), max_size=30), st.integers(min_value=500, max_value=20_000)
)
def test_the_room_is_never_overdrawn(metadata: FileMetadata, contents: list[bytes], room: int) -> None:
    streams = [_source(f"stream {number}", data) for number, data in enumerate(contents)]
    shown, _ = xattrs.shown_attributes(metadata, streams, room)
    assert sum(xattrs.cost(name, len(value)) for name, value in shown.items()) <= room
    assert sum(len(name) for name in shown) < 65_536 - len(shown) * 6


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        (b"ntfs_attrib", b"\0\0\0", FormatError),
        (b"ntfs_times", bytes(24), FormatError),
        (b"ntfs_crtime", bytes(4), FormatError),
        (b"ntfs_acl", b"", SecurityDescriptorError),
        (b"ntfs_acl", bytes(20), SecurityDescriptorError),
        (b"ntfs_acl", DESCRIPTOR[:4] + b"\xff\0\0\0" + DESCRIPTOR[8:], SecurityDescriptorError),
        (b"ntfs_ea", bytes(3), FormatError),
        (b"ntfs_reparse_data", bytes(4), FormatError),
        (b"ntfs_object_id", bytes(16), FormatError),
        (b"overlay.opaque", b"y", FormatError),
        (b"a/b", b"", InvalidNameError),
        (b"a:b", b"", InvalidNameError),
        (b"\xff", b"", InvalidNameError),
        (b"stream.", b"", InvalidNameError),
    ],
)
def test_what_ntfs_can_t_hold_is_refused(name: bytes, value: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        xattrs.parse_attributes({name: value})


def test_streams_that_are_one_to_ntfs_are_refused() -> None:
    with pytest.raises(InvalidNameError, match="one to NTFS"):
        xattrs.parse_attributes({b"Name": b"", b"NAME": b""})


@given(st.dictionaries(st.binary(min_size=1, max_size=30), st.binary(max_size=60), max_size=4))
def test_hostile_attributes_raise_only_our_errors(attributes: dict[bytes, bytes]) -> None:
    try:
        xattrs.parse_attributes(attributes)
    except FormatError:
        pass


@given(
    st.sampled_from([xattrs.ACL, xattrs.ATTRIB, xattrs.TIMES, xattrs.EA, xattrs.REPARSE, xattrs.CRTIME]),
    st.binary(max_size=120),
)
def test_hostile_values_raise_only_our_errors(name: bytes, value: bytes) -> None:
    try:
        xattrs.parse_attributes({name: value})
    except FormatError:
        pass
