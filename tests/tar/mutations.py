"""Tar streams of all dialects, and ways to spoil them."""

from __future__ import annotations

import io
import random
import tarfile

from winlayers.tar.encode import encode_header
from winlayers.tar.header import Format, TarHeader

BLOCK = 512


def with_checksum(block: bytes) -> bytes:
    """*block* with its checksum set right."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def raw_header(
    name: bytes, typeflag: bytes, size: int, magic: bytes = b"ustar\x0000", tail: bytes = b""
) -> bytes:
    """A header block from its parts."""
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"14442616060\0"
    block += b"        " + typeflag + bytes(100) + magic
    block = (block + tail).ljust(BLOCK, b"\0")
    return with_checksum(block)


def padded(data: bytes) -> bytes:
    """*data* and its padding."""
    return data + bytes(-len(data) % BLOCK)


def old_gnu_sparse() -> bytes:
    """An old GNU sparse member with an extension block, and a plain one behind it."""
    fragments = [(index * 1000, 100) for index in range(7)]
    fields = b"".join(b"%011o\0%011o\0" % fragment for fragment in fragments)
    head, rest = fields[: 24 * 4], fields[24 * 4 :]
    tail = bytes(386 - 265) + head + b"\1" + b"%011o\0" % 7000
    block = raw_header(b"sparse", b"S", 700, b"ustar  \0", tail)
    return (
        block + rest.ljust(BLOCK, b"\0") + padded(b"s" * 700) + raw_header(b"next", b"0", 3) + padded(b"abc")
    )


def pax_member(records: list[tuple[str, str]], header: bytes, data: bytes) -> bytes:
    """A member with PAX records exactly as given."""
    body = b""
    for key, value in records:
        record = f" {key}={value}\n".encode()
        size = len(record) + 1
        while len(str(size)) + len(record) != size:
            size += 1
        body += str(size).encode() + record
    return raw_header(b"PaxHeaders.0/x", b"x", len(body)) + padded(body) + header + padded(data)


def sparse_pax() -> list[bytes]:
    """Members in PAX sparse formats 0.0, 0.1 and 1.0."""
    names = ("GNU.sparse.offset", "GNU.sparse.numbytes")
    body = raw_header(b"GNUSparseFile.0/f", b"0", 30)
    size = [("GNU.sparse.size", "1000"), ("GNU.sparse.numblocks", "3")]
    pairs = [
        (key, value)
        for row in (("0", "10"), ("100", "10"), ("990", "10"))
        for key, value in zip(names, row, strict=True)
    ]
    one = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "big"),
        ("GNU.sparse.realsize", "1000"),
    ]
    stored = padded(b"3\n0\n10\n100\n10\n990\n10\n") + b"0123456789" * 3
    return [
        pax_member([*size, *pairs], body, b"0123456789" * 3),
        pax_member(
            [*size, ("GNU.sparse.map", "0,10,100,10,990,10"), ("GNU.sparse.name", "big")],
            body,
            b"0123456789" * 3,
        ),
        pax_member(one, raw_header(b"GNUSparseFile.0/f", b"0", len(stored)), stored),
    ]


def seeds() -> list[bytes]:
    """Small archives that together use every part of the formats."""
    archives = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(
            fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for index, kind in enumerate((b"0", b"5", b"1", b"2", b"3", b"6", b"7", b"0")):
                info = tarfile.TarInfo(
                    f"Files/dir{index}/name" if index != 7 else "Files/" + "long/" * 25 + "x"
                )
                info.type, info.mtime, info.uname = kind, 1686832496 + index, "user"
                info.linkname = "target" if kind in b"12" else ""
                data = b"data" * 150 * (index % 3) if kind in b"07" else b""
                info.size = len(data)
                if form == tarfile.PAX_FORMAT:
                    info.pax_headers = {
                        "mtime": "1686832496.1234567",
                        "MSWINDOWS.fileattr": "32",
                        "comment": "a\nb",
                    }
                tar.addfile(info, io.BytesIO(data))
        archives.append(buffer.getvalue())
    archives.append(old_gnu_sparse() + bytes(1024))
    archives += [member + raw_header(b"z", b"\0", 2) + padded(b"zz") + bytes(1024) for member in sparse_pax()]
    whole = [("GNU.sparse.size", "5000"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "512,512")]
    archives.append(
        pax_member(whole, raw_header(b"f", b"0", 512), b"s" * 512) + raw_header(b"z", b"0", 2) + padded(b"zz")
    )
    v7 = raw_header(b"dir/", b"\0", 0, b"") + raw_header(b"file", b"\0", 600, b"") + padded(b"v" * 600)
    star = raw_header(
        b"star",
        b"0",
        1,
        b"ustar\x0000",
        bytes(345 - 265) + b"pre".ljust(131, b"\0") + b"%011o\0" % 7 + b"%011o\0" % 8 + bytes(8) + b"tar\0",
    )
    times = raw_header(b"gnu", b"0", 0, b"ustar  \0", bytes(80) + b"%011o\0%011o\0" % (77, 88))
    old_go = raw_header(b"gnu", b"0", 0, b"ustar  \0", bytes(80) + b"a/prefix/instead")
    archives.append(
        v7 + star + padded(b"s") + times + old_go + raw_header(b"\xff\xfe", b"0", 0) + bytes(1024)
    )
    globals_ = padded(encode_header(TarHeader("global", "g", pax={"path": "other", "mtime": "5"})))
    archives.append(pax_member([("comment", "lost")], globals_, b"") + raw_header(b"a", b"0", 0) + bytes(512))
    archives.append(globals_ + raw_header(b"a", b"0", 5) + padded(b"hello") + globals_ + bytes(512))
    long = TarHeader("n" * 200, "2", linkname="l" * 300, format=Format.GNU, atime=(5, 0), mtime=(1 << 40, 0))
    archives.append(
        encode_header(long) + encode_header(TarHeader("neg", uid=-5, mtime=(-9, 0), format=Format.GNU))
    )
    return archives


def _numbers(rng: random.Random) -> bytes:
    value = rng.choice(
        (0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 1, 1 << 33, (1 << 63) - 1, 1 << 63, 1 << 64)
    )
    kind = rng.randrange(6)
    if kind == 0:
        return b"%011o\0" % (value & 0o77777777777)
    if kind == 1:
        return bytes((0x80 | rng.randrange(128),)) + value.to_bytes(11, "big")
    if kind == 2:
        return b"\xff" + ((-value) & ((1 << 88) - 1)).to_bytes(11, "big")
    if kind == 3:
        return rng.choice(
            (
                b"  17 \0\0     ",
                b"\0\0 17\0 77   ",
                b"0o17\0\0\0\0\0\0\0\0",
                b"1_7\0\0\0\0\0\0\0\0\0",
                b"-17\0\0\0\0\0\0\0\0\0",
                b"189\0\0\0\0\0\0\0\0\0",
            )
        )
    if kind == 4:
        return b"%012o" % (value & 0o777777777777)
    return bytes(12)


_FIELDS = (
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (124, 12),
    (136, 12),
    (148, 8),
    (329, 8),
    (337, 8),
    (345, 12),
    (483, 12),
)
_TYPES = b"0\x001234567xxgLKSSDVNM\xff"


def mutate(stream: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """*stream* with one to three things wrong with it."""
    data = bytearray(stream)
    for _ in range(rng.randrange(1, 4)):
        if not data:
            break
        blocks = max(1, len(data) // BLOCK)
        at = rng.randrange(blocks) * BLOCK
        kind = rng.randrange(10)
        if kind == 0:
            del data[rng.randrange(len(data)) :]
        elif kind == 1:
            del data[at : at + BLOCK * rng.randrange(1, 4)]
        elif kind == 2:
            data[at:at] = rng.choice(
                (bytes(BLOCK), bytes(2 * BLOCK), data[at : at + BLOCK], rng.randbytes(7))
            )
        elif kind == 3:
            position = rng.randrange(len(data))
            data[position] = rng.choice((0, 10, 32, 44, 48, 55, 57, 61, 128, 255, rng.randrange(256)))
        elif kind == 4:
            data[at:at] = rng.choice(others)[: BLOCK * rng.randrange(1, 6)]
        elif kind in (5, 6):
            start, width = rng.choice(_FIELDS)
            data[at + start : at + start + width] = _numbers(rng)[-width:]
        elif kind == 7:
            data[at + 156 : at + 157] = bytes((rng.choice(_TYPES),))
        elif kind == 8:
            data[at + 257 : at + 265] = rng.choice((b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\0xx"))
        else:
            digits = [i for i in range(len(data)) if 48 <= data[i] <= 57]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-+ ,.\n=")
        if kind >= 3 and at + BLOCK <= len(data) and (kind != 3 or rng.random() < 0.5) and rng.random() < 0.9:
            block = bytes(data[at : at + BLOCK])
            if block[257:262] == b"ustar" or rng.random() < 0.3:
                data[at : at + BLOCK] = with_checksum(block)
    return bytes(data)


_NAMES = (
    "",
    "a",
    "a/b",
    "dir/",
    "/abs",
    "./x",
    "../up",
    "a//b",
    "a/../..",
    "//",
    ".",
    "ümläut",
    "\udcff\udcfe",
    "nul\0",
    "n" * 100,
    "n" * 101,
    "p/" * 60 + "x",
    "p/" * 49 + "xy/",
    "p" * 155 + "/" + "n" * 100,
    "p" * 156 + "/" + "n" * 100,
    "p" * 155 + "/" + "n" * 101,
    "d" * 99 + "/",
    "d" * 100 + "/",
    "d" * 98 + "///x",
    "ü" * 60 + "/x",
    "Files/.wh.gone",
    "ü/" + "a" * 99 + "/b",
    "a" * 99 + "/" + "ü",
    "long/" * 60,
)
_INTEGERS = (
    0,
    0,
    0,
    1,
    0o644,
    (1 << 21) - 1,
    1 << 21,
    (1 << 33) - 1,
    1 << 33,
    1 << 56,
    (1 << 63) - 1,
    -1,
    -(1 << 56),
    -(1 << 63),
)
_TIMES = (
    None,
    None,
    (0, 0),
    (1, 0),
    (1686832496, 123456700),
    (5, 499_999_999),
    (5, 500_000_000),
    (-1, 0),
    (-5, 900_000_000),
    (-1, 1),
    ((1 << 33) - 1, 0),
    (1 << 33, 0),
    (1 << 40, 5),
    (-62135596800, 0),
)
_RECORDS = (
    ("comment", "x"),
    ("MSWINDOWS.fileattr", "32"),
    ("mtime", "5"),
    ("mtime", "1686832496.1234567"),
    ("atime", "1"),
    ("path", "a"),
    ("size", "0"),
    ("uid", "1"),
    ("GNU.sparse.map", "1"),
    ("a=b", "c"),
    ("", "x"),
    ("nul\0", "x"),
    ("k", "nul\0"),
    ("ü", "ü"),
    ("empty", ""),
    ("v", "x" * 90),
    ("v", "x" * 91),
    ("v", "x" * 92),
    ("w", "x" * 990),
    ("SCHILY.xattr.user.a", "\udcff"),
    ("linkpath", "nul\0"),
    ("uname", "me"),
    ("newline", "a\nb"),
)


def random_archive(rng: random.Random) -> list[tuple[TarHeader, bytes]]:
    """One or two members, often with something that can't be written."""
    return [random_member(rng) for _ in range(rng.randrange(1, 3))]


def random_member(rng: random.Random) -> tuple[TarHeader, bytes]:
    """A header with odd values in a few fields, and data that mostly fits it."""
    header = TarHeader(
        rng.choice(_NAMES) if rng.random() < 0.8 else "plain", rng.choice("000\0\012345677gxLKSA")
    )
    if rng.random() < 0.3:
        header.linkname = rng.choice(_NAMES)
    for name in ("uname", "gname"):
        if rng.random() < 0.15:
            setattr(header, name, rng.choice(("user", "u" * 32, "u" * 33, "ü", "nul\0")))
    for name in ("size", "mode", "uid", "gid", "devmajor", "devminor"):
        if rng.random() < 0.12:
            setattr(header, name, rng.choice(_INTEGERS))
    for name in ("mtime", "atime", "ctime"):
        if rng.random() < 0.4:
            setattr(header, name, rng.choice(_TIMES))
    if rng.random() < 0.5:
        header.pax = dict(rng.choices(_RECORDS, k=rng.randrange(1, 4)))
    header.format = Format(rng.choice((0, 0, 2, 4, 4, 8, 6, 12, 14)))
    data = b"x" * header.size if 0 <= header.size < 1000 else b""
    if rng.random() < 0.1:
        data += b"more"
    return header, data
