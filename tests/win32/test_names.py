"""NTFS names."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import require_tool
from tests.win32.strategies import any_text, names
from winlayers.errors import InvalidNameError
from winlayers.win32 import _upcase
from winlayers.win32 import names as n

TABLE = struct.unpack("<65536H", n.upcase_table())


def units(name: str) -> tuple[int, ...]:
    """The UTF-16 units of *name*."""
    data = name.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(data) // 2}H", data)


def upper_units(name: str) -> tuple[int, ...]:
    """What NTFS compares, unit by unit from the whole table."""
    return tuple(TABLE[unit] for unit in units(name))


class TestUpcase:
    def test_the_ranges_make_the_table_that_they_were_made_of(self) -> None:
        assert hashlib.sha256(n.upcase_table()).hexdigest() == _upcase.SHA256

    def test_the_table_is_that_of_a_new_volume(self, tmp_path: Path) -> None:
        mkntfs, ntfscat = require_tool("mkntfs"), require_tool("ntfscat")
        volume = tmp_path / "volume.img"
        with volume.open("wb") as file:
            file.truncate(10 << 20)
        subprocess.run([mkntfs, "-F", "-q", volume], check=True, capture_output=True)
        table = subprocess.run([ntfscat, "-f", volume, "$UpCase"], check=True, capture_output=True).stdout
        assert table == n.upcase_table()

    @pytest.mark.parametrize(
        ("name", "upper"),
        [
            ("Windows", "WINDOWS"),
            ("straße", "STRAßE"),  # Unicode's upper case has two letters
            ("ıſ", "ıſ"),  # dotless i and long s have none here
            ("äÿ", "ÄŸ"),
            ("ǆ", "Ǆ"),
            ("ǅ", "ǅ"),
            ("ⓐⅷ", "ⒶⅧ"),
            ("ა", "ა"),  # Georgian got its capitals later
            ("𐐨", "𐐨"),  # units of a pair are left alone
        ],
    )
    def test_upper_case_is_that_of_the_table(self, name: str, upper: str) -> None:
        assert n.upcase(name) == upper

    @given(any_text, any_text)
    @example("Straße", "STRASSE")
    @example("\ud83d\ude00", "\U0001f600")
    @example("AA", "\u4141")
    def test_keys_are_equal_exactly_where_ntfs_says_so(self, one: str, other: str) -> None:
        assert (n.fold_key(one) == n.fold_key(other)) == (upper_units(one) == upper_units(other))
        assert (n.sort_key(one) < n.sort_key(other)) == (upper_units(one) < upper_units(other))

    @given(any_text)
    def test_a_name_and_its_upper_case_are_one(self, name: str) -> None:
        assert units(n.upcase(name)) == upper_units(name)
        assert n.fold_key(n.upcase(name)) == n.fold_key(name)


def go_text(data: bytes) -> str:
    """*data* as Go takes it on its way to UTF-16: a slow model, byte by byte."""
    out = ""
    start = 0
    while start < len(data):
        for size in (1, 2, 3, 4):
            piece = data[start : start + size]
            try:
                out += piece.decode("utf-8", "surrogatepass" if size == 3 else "strict")
            except UnicodeDecodeError:
                continue
            start += size
            break
        else:
            out += "\ufffd"
            start += 1
    return out.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class TestWtf8:
    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (b"\xed\xa0\x80", "\ud800"),
            (b"a\xed\xb0\x80b", "a\udc00b"),
            (b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600"),
            (b"latin1-\xe9", "latin1-\ufffd"),
            (b"\xe2\x82A", "\ufffd\ufffdA"),
            (b"\xf0\x9f\x98", "\ufffd\ufffd\ufffd"),
            (b"\xc0\x80\xff", "\ufffd\ufffd\ufffd"),
            (b"\xed\xa0", "\ufffd\ufffd"),
            (b"\xf4\x90\x80\x80", "\ufffd" * 4),
        ],
    )
    def test_bytes_become_what_go_makes_of_them(self, data: bytes, name: str) -> None:
        assert n.decode_wtf8(data) == name == go_text(data)

    @given(
        st.one_of(st.binary(), any_text.map(lambda t: t.encode("utf-8", "surrogatepass"))),
        st.binary(max_size=2),
    )
    def test_any_bytes_become_what_go_makes_of_them(self, data: bytes, tail: bytes) -> None:
        assert n.decode_wtf8(data + tail) == go_text(data + tail)

    @given(any_text)
    def test_every_name_survives_its_bytes(self, name: str) -> None:
        assert units(n.decode_wtf8(n.encode_wtf8(name))) == units(name)
        assert n.decode_utf16(n.encode_utf16(name)) == n.join_surrogates(name)
        assert n.utf16_length(name) == len(units(name))

    def test_the_error_handler_is_for_decoding_alone(self) -> None:
        with pytest.raises(UnicodeEncodeError):
            "\ud800".encode("utf-8", "winlayers.wtf8")

    def test_half_a_unit_is_refused(self) -> None:
        with pytest.raises(InvalidNameError):
            n.decode_utf16(b"abc")


class TestValidity:
    @pytest.mark.parametrize(
        "name", ["a", "CON", "nul.txt", "dot.", "blank ", " ", "x" * 255, "\ud800", "\x7f", "..."]
    )
    def test_ntfs_holds_more_than_win32(self, name: str) -> None:
        assert n.validate_component(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", ".", "..", "a\0", "\x1f", "x" * 256, "\U0001f600" * 128, *(f"a{c}b" for c in '\\/:*?"<>|')],
    )
    def test_what_ntfs_can_not_hold_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidNameError):
            n.validate_component(name)

    def test_a_path_is_refused_for_any_of_its_components(self) -> None:
        assert n.validate_path("Files/a b/CON") == "Files/a b/CON"
        for path in ("Files//a", "/Files", "Files/a?", "Files/../a"):
            with pytest.raises(InvalidNameError):
                n.validate_path(path)

    @pytest.mark.parametrize(
        "name", ["con", "NUL", "nul.txt", "COM1", "lpt9.a.b", "CONIN$", "com¹", "aux .x", "PRN "]
    )
    def test_devices(self, name: str) -> None:
        assert n.is_reserved_device_name(name)

    @pytest.mark.parametrize("name", ["conx", "COM", "COM10", "xNUL", "NULL.txt", "CONIN", ""])
    def test_not_devices(self, name: str) -> None:
        assert not n.is_reserved_device_name(name)


class TestPaths:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("Files/a", "Files/a"),
            ("Files/a/", "Files/a"),
            ("./Files/a", "Files/a"),
            ("Files//a///", "Files/a"),
            ("Files/./a/.", "Files/a"),
            ("Files\\back\\slash", "Files/back/slash"),
            ("Files/.hidden/..x", "Files/.hidden/..x"),
            ("Files/f:s", "Files/f:s"),
            (".", ""),
            ("./", ""),
            ("Files/\ud800", "Files/\ud800"),
        ],
    )
    def test_a_members_name_is_cleaned(self, name: str, path: str) -> None:
        assert n.normalize_layer_path(name) == path

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/Files/abs",
            "\\Files",
            "//server/share",
            "../outside",
            "Files/../../up",
            "Files/..",
            "..",
            "Files\\..\\x",
            "a\0b",
            "C:/drive",
            "C:\\drive",
            "Files/a:b/c",
            "Files/:s",
            ":s",
        ],
    )
    def test_what_could_lead_elsewhere_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidNameError):
            n.normalize_layer_path(name)

    @given(st.lists(st.one_of(names, st.sampled_from([".", "..", "", "/", "\\", "a", ":"]))).map("/".join))
    def test_what_passes_is_clean_and_stays_so(self, name: str) -> None:
        try:
            path = n.normalize_layer_path(name)
        except InvalidNameError:
            return
        components = path.split("/") if path else []
        assert not {"", ".", ".."} & set(components)
        assert "\\" not in path
        assert "\0" not in path
        assert not any(":" in component for component in components[:-1])
        assert n.normalize_layer_path(path or ".") == path

    def test_split(self) -> None:
        assert n.split_path("Files/a/b") == ("Files/a", "b")
        assert n.split_path("Files") == ("", "Files")

    @pytest.mark.parametrize(
        ("path", "file", "stream"),
        [
            ("a/b", "a/b", None),
            ("a/b:s", "a/b", "s"),
            ("a/b:s:$DATA", "a/b", "s"),
            ("a/b:s:$data", "a/b", "s"),
            ("a/b::$DATA", "a/b", None),
            ("b:s", "b", "s"),
            ("a:b/c", "a:b/c", None),
        ],
    )
    def test_streams(self, path: str, file: str, stream: str | None) -> None:
        assert n.split_stream(path) == (file, stream)

    @pytest.mark.parametrize("path", ["a/:s", "a/b:", "a/b:s:$INDEX_ALLOCATION", ":", "a/b:s:"])
    def test_what_is_no_stream_is_refused(self, path: str) -> None:
        with pytest.raises(InvalidNameError):
            n.split_stream(path)


class TestHosts:
    @pytest.mark.parametrize(
        ("name", "host"),
        [
            ("Program Files", "Program Files"),
            ("ünïcode 😀", "ünïcode 😀"),
            ("100%", "100%"),
            ("\ud800x", "%{D800}x"),
            ("%{D800}", "%{25}{D800}"),
        ],
    )
    def test_names_stay_or_are_escaped(self, name: str, host: str) -> None:
        assert n.host_safe(name) == host
        assert n.host_original(host) == name

    def test_a_long_name_is_cut_and_told_apart(self) -> None:
        one, other = n.host_safe("ü" * 255), n.host_safe("ü" * 254 + "x")
        assert len(one.encode()) <= 255
        assert one[:50] == "ü" * 50
        assert one != other
        assert one == n.host_safe("ü" * 255)
        assert n.host_original(one) is None

    @pytest.mark.parametrize(
        ("name", "host"), [("..", "%{2E}."), (".", "%{2E}"), ("a/b", "a%{2F}b"), ("a\0", "a%{00}")]
    )
    def test_what_is_no_name_is_made_harmless_and_stays_so(self, name: str, host: str) -> None:
        assert n.host_safe(name) == host
        assert n.host_original(host) == host

    @pytest.mark.parametrize(
        "host", ["%{", "%{41}", "%{zz}", "%{25}", "%{#", "%{#" + "0" * 32 + "}", "%{DC8}"]
    )
    def test_what_others_write_into_a_mount_is_itself(self, host: str) -> None:
        assert n.host_original(host) == host

    def test_an_empty_name_is_refused(self) -> None:
        with pytest.raises(InvalidNameError):
            n.host_safe("")

    @given(st.lists(st.one_of(names, st.text(min_size=100, max_size=255)), min_size=2, max_size=2))
    def test_every_name_gets_one_of_its_own_that_posix_holds(self, pair: list[str]) -> None:
        one, other = (n.host_safe(name) for name in pair)
        for host in (one, other):
            data = host.encode("utf-8")
            assert 0 < len(data) <= 255
            assert b"/" not in data
            assert b"\0" not in data
            assert host not in (".", "..")
        assert (one == other) == (units(pair[0]) == units(pair[1]))
        original = n.join_surrogates(pair[0])
        if original not in (".", "..") and "/" not in original and "\0" not in original:
            assert n.host_original(one) == (original if "%{#" not in one else None)
