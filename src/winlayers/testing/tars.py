"""Small layer tars, built with the standard library: an opinion of its own about what a tar is."""

from __future__ import annotations

import base64
import dataclasses
import io
import tarfile
from collections.abc import Mapping
from typing import Literal

SECURITY = bytes.fromhex(
    # O:BAG:SYD:(A;;FA;;;BA)
    "0100048014000000240000000000000030000000010200000000000520000000"
    "20020000010100000000000512000000020020000100000000001800ff011f00"
    "01020000000000052000000020020000"
)
"""A self-relative security descriptor: owner and full access for administrators."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One tar member; a name that ends in ``/`` is a directory.

    Attributes:
        name: the path; ``surrogateescape`` stands for bytes that are no UTF-8.
        data: a file's content.
        link: the target of a hard link.
        symlink: the target of a symbolic link.
        pax: PAX records.
        mtime: seconds since 1970.
    """

    name: str
    data: bytes = b""
    link: str | None = None
    symlink: str | None = None
    pax: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mtime: int = 1_700_000_000


def windows_records(attributes: int, security: bytes | None = SECURITY) -> dict[str, str]:
    """The PAX records that Windows' own layers carry."""
    records = {"MSWINDOWS.fileattr": str(attributes), "LIBARCHIVE.creationtime": "1700000000.1234567"}
    if security is not None:
        records["MSWINDOWS.rawsd"] = base64.b64encode(security).decode("ascii")
    return records


def make_tar(*members: Member, end: bool = True, format: Literal[0, 1, 2] = 2) -> bytes:
    """A tar of the members in tarfile's *format* (USTAR, GNU, PAX); without *end*, no zero blocks end it."""
    out = io.BytesIO()
    for member in members:
        info = tarfile.TarInfo(member.name)
        info.mtime = member.mtime
        info.mode = 0o644
        info.pax_headers = dict(member.pax)
        if member.link is not None:
            info.type, info.linkname = tarfile.LNKTYPE, member.link
        elif member.symlink is not None:
            info.type, info.linkname = tarfile.SYMTYPE, member.symlink
        elif member.name.endswith("/"):
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        else:
            info.size = len(member.data)
        out.write(info.tobuf(format, "utf-8", "surrogateescape"))
        out.write(member.data + bytes(-len(member.data) % 512))
    if end:
        out.write(bytes(1024))
    return out.getvalue()


BASE = make_tar(
    Member("Files/", pax=windows_records(0x10)),
    Member("Hives/", pax=windows_records(0x10)),
    Member("Files/Windows/", pax=windows_records(0x10)),
    Member("Files/Windows/win.ini", b"[fonts]\r\n", pax=windows_records(0x20)),
    Member("Files/Windows/win.ini:zone", b"[ZoneTransfer]\r\n"),
    Member("Files/dir/", pax=windows_records(0x10)),
    Member("Files/dir/a.txt", b"a in the base", pax=windows_records(0x20)),
    Member("Files/dir/b.txt", b"b in the base", pax=windows_records(0x20)),
    Member("Files/gone.txt", b"to be deleted", pax=windows_records(0x20)),
    Member("Files/keep.txt", b"kept " * 1000, pax=windows_records(0x21)),
    Member("Files/opaque/", pax=windows_records(0x10)),
    Member("Files/opaque/old.txt", b"to be hidden", pax=windows_records(0x20)),
)
"""A base layer."""
BASE_SIZE = 9 + 13 + 13 + 13 + 5000 + 12
"""Its size: the bytes of its files' unnamed streams."""
BASE_STREAM_SIZE = 16
"""The bytes in its alternate stream."""

DELTA = make_tar(
    Member("Files/", pax=windows_records(0x10)),
    Member("Files/.wh.gone.txt"),
    Member("Files/DIR/", pax=windows_records(0x10)),
    Member("Files/DIR/A.TXT", b"a in the delta", pax=windows_records(0x20)),
    Member("Files/new.txt", b"new in the delta", pax=windows_records(0x20)),
    Member("Files/linked.txt", link="Files/keep.txt"),
)
"""A layer on the base: it deletes, replaces (in another letter case), adds, and links into the base."""
DELTA_SIZE = 14 + 16

OPAQUE = make_tar(
    Member("Files/", pax=windows_records(0x10)),
    Member("Files/opaque/", pax=windows_records(0x10)),
    Member("Files/opaque/.wh..wh..opq"),
    Member("Files/opaque/new.txt", b"all there is", pax=windows_records(0x20)),
)
"""A layer on the base with an opaque directory."""

FORMS = {
    "nothing in it": make_tar(),
    "no end": make_tar(Member("Files/a", b"x"), end=False),
    "half an end": make_tar(Member("Files/a", b"x"))[:-512],
    "padded to a record": make_tar(Member("Files/a", b"x")) + bytes(8192),
    "no parents": make_tar(Member("Files/a/b/c", b"x"), Member("Hives/x", b"y")),
    "parents last": make_tar(
        Member("Hives/x", b"y"), Member("Files/a/b", b"x"), Member("Files/a/"), Member("Files/")
    ),
    "GNU": make_tar(Member("Files/" + "n" * 150, b"x"), format=1),
    "USTAR": make_tar(Member("Files/a", b"x"), format=0),
    "twice the same": make_tar(Member("Files/a", b"1"), Member("Files/a", b"22")),
    "link first": make_tar(Member("Files/b", link="Files/a"), Member("Files/a", b"x")),
    "streams": make_tar(
        Member("Files/d/"),
        Member("Files/d:s", b"stream"),
        Member("Files/a", b"x"),
        Member("Files/a:s", b"y"),
    ),
    "symlink": make_tar(Member("Files/l", symlink="C:\\Windows", pax={"MSWINDOWS.fileattr": "1024"})),
    "junction": make_tar(Member("Files/l", symlink="C:\\Windows", pax={"MSWINDOWS.mountpoint": "1"})),
}
"""Base layers in the forms that real tools write."""

SIZES = {
    "streams": (
        make_tar(Member("Files/a", b"123"), Member("Files/a:s", b"4567"), Member("Files/a:t", b"8")),
        3,
    ),
    "links": (
        make_tar(
            Member("Files/a", b"123"), Member("Files/b", link="Files/a"), Member("Files/c", link="Files/a")
        ),
        3,
    ),
    "dockerd's style, without links": (make_tar(Member("Files/a", b"123"), Member("Files/b", b"123")), 6),
    "twice the same": (make_tar(Member("Files/a", b"123"), Member("Files/a", b"45")), 5),
    "symbolic links": (
        make_tar(Member("Files/l", symlink="C:\\Windows", pax={"MSWINDOWS.fileattr": "1024"})),
        0,
    ),
}
"""Base layers, and the sizes that dockerd and hcsshim give for them."""
