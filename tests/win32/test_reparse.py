"""Reparse points."""

from __future__ import annotations

import posixpath
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.win32.strategies import any_text
from winlayers.errors import ReparseError
from winlayers.win32.names import join_surrogates
from winlayers.win32.reparse import (
    MountPoint,
    RawReparse,
    ReparsePoint,
    ReparseTag,
    SymbolicLink,
    is_canonical,
    parse_reparse,
    posix_target,
    reparse_tag,
    substitute_name_for,
    tag_name,
    target_of_substitute_name,
)

RELATIVE = bytes.fromhex(
    "0c0000a0 2000 0000 0000 0800 0a00 0800 01000000 2e002e005c007800 0000 2e002e005c007800 0000"
)
JUNCTION = bytes.fromhex(
    "030000a0 2400 0000 0000 1000 1200 0800 5c003f003f005c0043003a005c006a00 0000 43003a005c006a00 0000"
)
NO_PRINT_NAME = bytes.fromhex("0c0000a0 1400 0000 0000 0800 0000 0000 01000000 6100620063006400")


class TestBuffers:
    def test_a_symbolic_link_is_laid_out_as_the_reference_does(self) -> None:
        link = SymbolicLink("..\\x", "..\\x", 1)
        assert SymbolicLink.to("..\\x") == link == parse_reparse(RELATIVE)
        assert link.to_bytes() == RELATIVE
        assert link.is_relative
        assert is_canonical(RELATIVE)

    def test_a_junction_is_laid_out_as_the_reference_does(self) -> None:
        junction = MountPoint("\\??\\C:\\j", "C:\\j")
        assert MountPoint.to("C:\\j") == junction == parse_reparse(JUNCTION)
        assert junction.to_bytes() == JUNCTION
        assert is_canonical(JUNCTION)

    def test_where_the_print_name_is_empty_the_substitute_name_tells_the_target(self) -> None:
        link = parse_reparse(NO_PRINT_NAME)
        assert isinstance(link, SymbolicLink)
        assert (link.print_name, link.target) == ("", "abcd")
        assert not is_canonical(NO_PRINT_NAME)
        assert MountPoint("\\??\\C:\\PowerShell", "").target == "C:\\PowerShell"

    @pytest.mark.parametrize(
        ("changes", "target"),
        [
            ({}, "..\\x"),
            ({4: 0}, "..\\x"),  # the length
            ({8: 0xF000}, "..\\x"),  # the substitute name's offset
            ({10: 3}, "..\\x"),  # its length
            ({14: 7}, "..\\"),  # the print name's length
        ],
    )
    def test_the_print_name_alone_is_read_where_the_rest_does_not_matter(
        self, changes: dict[int, int], target: str
    ) -> None:
        buffer = bytearray(RELATIVE)
        for offset, value in changes.items():
            struct.pack_into("<H", buffer, offset, value)
        link = parse_reparse(bytes(buffer) + b"more", strict=False)
        assert isinstance(link, SymbolicLink)
        assert link.target == target
        with pytest.raises(ReparseError):
            parse_reparse(bytes(buffer) + b"more")

    def test_the_print_name_must_be_there_all_the_same(self) -> None:
        for length in range(len(RELATIVE) - 2):
            with pytest.raises(ReparseError):
                parse_reparse(RELATIVE[:length], strict=False)
        lost = bytearray(NO_PRINT_NAME)
        struct.pack_into("<H", lost, 8, 0xF000)
        with pytest.raises(ReparseError, match="neither"):
            parse_reparse(bytes(lost), strict=False)

    def test_names_in_another_order_are_found(self) -> None:
        paths = "shown".encode("utf-16-le") + "real".encode("utf-16-le")
        data = struct.pack("<HHHHI", 10, 8, 0, 10, 1) + paths
        buffer = struct.pack("<IHH", ReparseTag.SYMLINK, len(data), 0) + data
        assert parse_reparse(buffer) == SymbolicLink("real", "shown", 1)
        assert not is_canonical(buffer)

    @pytest.mark.parametrize(
        "tag", [t for t in ReparseTag if t not in (ReparseTag.SYMLINK, ReparseTag.MOUNT_POINT)]
    )
    def test_every_other_tag_is_kept_as_it_is(self, tag: ReparseTag) -> None:
        buffer = struct.pack("<IHH", tag, 5, 7) + b"\x02\0\0\0x"
        point = parse_reparse(buffer)
        assert point == RawReparse(tag, b"\x02\0\0\0x", b"", 7)
        assert point.to_bytes() == buffer
        assert reparse_tag(buffer) == tag
        assert tag_name(tag) == tag.name
        assert not is_canonical(buffer)

    def test_a_tag_of_another_vendor_has_a_guid(self) -> None:
        buffer = struct.pack("<IHH", 0x00000123, 3, 0) + bytes(range(16)) + b"abc"
        point = parse_reparse(buffer)
        assert point == RawReparse(0x123, b"abc", bytes(range(16)))
        assert point.to_bytes() == buffer
        assert tag_name(0x123) == "0x00000123"

    @pytest.mark.parametrize(
        "buffer",
        [
            b"",
            RELATIVE[:7],
            RELATIVE[:-1],
            RELATIVE + b"\0",
            struct.pack("<IHH", ReparseTag.SYMLINK, 4, 0) + b"abcd",
            struct.pack("<IHH", ReparseTag.SYMLINK, 8, 0) + bytes(8),
            struct.pack("<IHHHHHH", ReparseTag.MOUNT_POINT, 8, 0, 0, 2, 0, 0),
            struct.pack("<IHHHHHH", ReparseTag.MOUNT_POINT, 8, 0, 0, 0, 65534, 0) + b"",
            struct.pack("<IHHHHHHH", ReparseTag.MOUNT_POINT, 10, 0, 0, 1, 0, 0, 0),
            struct.pack("<IHH", 0x123, 0, 0) + bytes(15),
        ],
    )
    def test_what_is_malformed_is_refused(self, buffer: bytes) -> None:
        with pytest.raises(ReparseError):
            parse_reparse(buffer)
        assert not is_canonical(buffer)

    def test_what_the_lengths_can_not_tell_is_refused(self) -> None:
        longest = SymbolicLink("x" * 16000, "x" * 16000)
        assert parse_reparse(longest.to_bytes()) == longest
        for point in (
            SymbolicLink.to("x" * 16400),
            MountPoint("x" * 40000, ""),
            RawReparse(ReparseTag.WCI, bytes(65536)),
            RawReparse(0x123, b"", b"short"),
        ):
            with pytest.raises(ReparseError):
                point.to_bytes()

    @given(any_text, any_text, st.integers(0, 2**32 - 1))
    def test_links_survive_their_buffers(self, substitute: str, printed: str, flags: int) -> None:
        for point in (SymbolicLink(substitute, printed, flags), MountPoint(substitute, printed)):
            again = parse_reparse(point.to_bytes())
            assert isinstance(again, type(point))
            assert again.substitute_name == join_surrogates(substitute)
            assert again.print_name == join_surrogates(printed)
            assert again.to_bytes() == point.to_bytes()

    @given(
        st.one_of(
            st.binary(), st.binary().map(lambda d: struct.pack("<IHH", ReparseTag.SYMLINK, len(d), 0) + d)
        )
    )
    def test_any_bytes_are_read_or_refused(self, buffer: bytes) -> None:
        try:
            point = parse_reparse(buffer)
        except ReparseError:
            return
        assert parse_reparse(point.to_bytes()) == point
        posix_target(point, "a/b")


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "substitute", "relative"),
        [
            ("C:\\x", "\\??\\C:\\x", False),
            ("d:", "\\??\\d:", False),
            ("\\\\server\\share\\x", "\\??\\UNC\\server\\share\\x", False),
            ("\\\\?\\C:\\long", "\\??\\C:\\long", False),
            ("\\\\?\\Volume{1-2}\\", "\\??\\Volume{1-2}\\", False),
            ("..\\x", "..\\x", True),
            ("\\rooted", "\\rooted", True),
            ("ü:\\x", "ü:\\x", True),
            ("", "", True),
        ],
    )
    def test_a_target_becomes_the_substitute_name_of_the_reference(
        self, target: str, substitute: str, relative: bool
    ) -> None:
        assert substitute_name_for(target) == (substitute, relative)

    @pytest.mark.parametrize(
        "target", ["C:\\x", "\\\\server\\share\\x", "\\\\?\\Volume{1-2}\\", "..\\x", "\\rooted", "x"]
    )
    def test_a_target_can_be_told_from_its_substitute_name(self, target: str) -> None:
        assert target_of_substitute_name(substitute_name_for(target)[0]) == target

    @given(any_text)
    def test_what_a_target_and_a_kind_make_is_canonical(self, target: str) -> None:
        for point in (SymbolicLink.to(target), MountPoint.to(target)):
            assert is_canonical(point.to_bytes())


class TestPosix:
    @pytest.mark.parametrize(
        ("point", "path", "target"),
        [
            (MountPoint.to("C:\\Users"), "Documents and Settings", "Users"),
            (MountPoint.to("C:\\Users"), "/Documents and Settings", "Users"),
            (SymbolicLink.to("C:\\ProgramData"), "Users/All Users", "../ProgramData"),
            (MountPoint.to("c:\\Users\\Public\\Docs"), "users/Default/Docs", "../Public/Docs"),
            (MountPoint("\\??\\C:\\PowerShell", ""), "a/b/c", "../../PowerShell"),
            (SymbolicLink.to("target.txt"), "rel", "target.txt"),
            (SymbolicLink.to("..\\other\\t.txt"), "a/b/rel", "../other/t.txt"),
            (SymbolicLink.to("x\\..\\y"), "a/rel", "y"),
            (SymbolicLink.to("\\rooted\\path"), "a/b", "../rooted/path"),
            (SymbolicLink.to("C:\\"), "a/b/c", "../.."),
            (SymbolicLink.to("C:"), "a", "."),
            (SymbolicLink.to("."), "a/b", "."),
            (SymbolicLink.to("\\\\?\\C:\\long"), "a", "long"),
            (SymbolicLink.to("..\\..\\..\\etc\\passwd"), "a/b", "../etc/passwd"),
            (SymbolicLink.to("C:\\..\\..\\etc"), "a", "etc"),
            (SymbolicLink.to("a/b"), "x", "a/b"),
            (SymbolicLink.to("%{\ud800"), "x", "%{25}{%{D800}"),
        ],
    )
    def test_a_link_leads_to_the_same_file_under_a_mount(
        self, point: ReparsePoint, path: str, target: str
    ) -> None:
        assert posix_target(point, path) == target

    @pytest.mark.parametrize(
        "point",
        [
            SymbolicLink.to("D:\\x"),
            SymbolicLink.to("d:"),
            SymbolicLink.to("C:x"),
            SymbolicLink.to("\\\\server\\share"),
            SymbolicLink("//server/share", "", 1),
            MountPoint.to("\\\\?\\Volume{12345678-1234-1234-1234-123456789abc}\\"),
            MountPoint("\\Device\\HarddiskVolume1\\x", ""),
            MountPoint.to("relative"),
            SymbolicLink("\\Device\\x", "x", 0),
            SymbolicLink.to(""),
            SymbolicLink.to("a\0b"),
            RawReparse(ReparseTag.AF_UNIX, b""),
        ],
    )
    def test_what_leads_elsewhere_has_no_posix_form(self, point: ReparsePoint) -> None:
        assert posix_target(point, "a/b") is None

    def test_the_drive_can_be_another(self) -> None:
        assert posix_target(SymbolicLink.to("D:\\x"), "a/b", drive="d") == "../x"
        assert posix_target(SymbolicLink.to("C:\\x"), "a/b", drive="d") is None

    @given(
        st.lists(
            st.sampled_from(["..", ".", "a", "B", "", "\\", "/", "C:", "\\??\\", "x y", "%{", "\0"])
        ).map("\\".join),
        st.integers(0, 1),
        st.sampled_from(["l", "a/l", "a/b/l", "A/b/c/l"]),
    )
    def test_no_link_leads_out_of_the_mount(self, name: str, flags: int, path: str) -> None:
        target = posix_target(SymbolicLink(name, "", flags), path)
        if target is not None:
            assert not target.startswith("/")
            landed = posixpath.normpath(posixpath.join("/mount", posixpath.dirname(path), target))
            assert landed == "/mount" or landed.startswith("/mount/")
