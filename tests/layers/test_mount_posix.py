"""How a view's names, modes, times and links look to POSIX."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import TIME, ViewBuilder, odd_view
from winlayers.layers.portable import posix
from winlayers.layers.portable.view import View
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import host_safe
from winlayers.win32.reparse import MountPoint, SymbolicLink


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


def _text(view: View, path: str) -> str | None:
    node = view.resolve(f"Files/{path}")
    assert node is not None
    return posix.link_text(view, node, view.inode(node.inode).metadata.reparse)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("to-file", "Windows/System32/a.dll"),  # spelled as the view has it, not as the link does
        ("to-drive", "Windows"),
        ("junction", "Windows/System32"),
        ("elsewhere", "D:\\data"),
        ("nowhere", "no/such"),
        ("medium", "/".join(["deep" * 20] * 12)),
        ("long", None),
        ("wci", None),
        ("one", None),
    ],
)
def test_links_lead_to_where_they_lead_on_windows(view: View, name: str, target: str | None) -> None:
    assert _text(view, name) == target


@pytest.mark.parametrize(
    ("at", "point", "target"),
    [
        ("deep/down/link", SymbolicLink.to(r"C:\Windows"), "../../Windows"),
        ("deep/down/link", SymbolicLink.to(r"..\up"), "../up"),
        ("deep/down/link", SymbolicLink.to("C:\\"), "../.."),
        ("link", SymbolicLink.to("C:\\"), "."),
        ("deep/link", MountPoint.to(r"C:\DEEP\down"), "down"),
        ("link", SymbolicLink.to(r"..\..\..\..\etc\passwd"), "etc/passwd"),  # never out of the mount
        ("link", SymbolicLink.to(r"\\server\share\x"), "\\\\server\\share\\x"),
        ("link", MountPoint.to("\\??\\Volume{00000000-0000-0000-0000-000000000000}\\"), None),
    ],
)
def test_links_from_other_places(
    tmp_path: Path, at: str, point: SymbolicLink | MountPoint, target: str | None
) -> None:
    b = ViewBuilder(tmp_path / "home")
    b.directory("Files/Windows")
    b.directory("Files/deep")
    b.directory("Files/deep/down")
    attributes = FileAttributes.REPARSE_POINT | FileAttributes.DIRECTORY
    b.directory(f"Files/{at}", FileMetadata(attributes, reparse=point.to_bytes()))
    with b.finish() as view:
        text = _text(view, at)
        if target is None:  # a volume: it can be read, and is one component that leads nowhere
            assert text is not None
            assert "Volume{" in text
            assert "/" not in text
        else:
            assert text == target


def test_a_malformed_reparse_point_is_shown_as_what_it_is(tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "home")
    b.file("Files/bad", b"x", FileMetadata(reparse=bytes.fromhex("0c0000a0040000000102")))
    with b.finish() as view:
        assert _text(view, "bad") is None


def test_modes() -> None:
    assert posix.file_mode(0x20) == stat.S_IFREG | 0o644
    assert posix.file_mode(0x21) == stat.S_IFREG | 0o444


def test_times() -> None:
    assert posix.posix_time(0) == (0, 0)
    assert posix.posix_time(TIME) == (1_700_000_000, 123_456_700)
    assert posix.posix_nanoseconds(TIME) == 1_700_000_000_123_456_700
    assert posix.posix_time(1) == (-11_644_473_600, 100)


def test_files_are_found_by_the_names_they_are_shown_under(view: View) -> None:
    drive = view.drive
    assert drive is not None
    for shown, name in (
        ("one", "one"),
        ("%{25}{D800}", "%{D800}"),
        ("lone%{D800}", "lone\ud800"),
        ("x" * 255, "x" * 255),
    ):
        node = posix.find_host_name(view, drive.id, shown)
        assert node is not None
        assert node.name == name
    cut = next(node.name for node in view.children(drive.id) if node.name.startswith("語語"))
    assert posix.find_host_name(view, drive.id, host_safe(cut)) is not None
    assert posix.find_host_name(view, drive.id, "ONE") is None
    deep = posix.find_host_path(view, drive.id, "/Windows/System32/a.dll")
    assert deep is not None
    assert posix.path_on_drive(view, deep) == "Windows/System32/a.dll"
    assert posix.find_host_path(view, drive.id, "Windows/none/a.dll") is None
