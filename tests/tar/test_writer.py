"""The tar writer: other readers read what it writes, and it refuses what is not complete."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support import require_tool
from tests.tar.mutations import random_archive
from winlayers.errors import TarError
from winlayers.tar import Format, TarHeader, TarReader, TarWriter

NAMES = [
    "plain",
    "n" * 100,
    "n" * 101,
    "p" * 120 + "/" + "n" * 99,
    "d/" * 150 + "deep",
    "ümläut/😀",
    "Files/Windows/System32/drivers/etc/hosts",
]


def archive(form: Format, names: list[str] = NAMES) -> bytes:
    """A directory, a file, a link and a symbolic link under each of *names*."""
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for name in names:
        times = (1686832496, 123456700) if form is Format.PAX else (1686832496, 0)
        writer.write_header(TarHeader(f"{name}.d/", "5", mode=0o755, mtime=times, format=form))
        writer.write_header(TarHeader(name, size=5, mode=0o644, mtime=times, format=form))
        writer.write(b"he")
        writer.write(memoryview(b"llo"))
        writer.write_header(TarHeader(f"{name}.h", "1", linkname=name, mtime=times, format=form))
        writer.write_header(TarHeader(f"{name}.s", "2", linkname="to/" + name, mtime=times, format=form))
    writer.close()
    assert writer.offset == len(sink.getvalue())
    return sink.getvalue()


ARCHIVES = {
    "USTAR": (archive(Format.USTAR, [name for name in NAMES if name.isascii() and len(name) < 98]), 8),
    "PAX": (archive(Format.PAX), 28),
    "GNU": (archive(Format.GNU), 28),
}


@pytest.mark.parametrize("form", ARCHIVES)
def test_tarfile_reads_it(form: str) -> None:
    data, count = ARCHIVES[form]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        members = []
        for member in tar:
            members.append(member)
            if member.isreg():
                extracted = tar.extractfile(member)
                assert extracted is not None
                assert extracted.read() == b"hello"
    ours = list(TarReader(io.BytesIO(data)))
    assert [member.name for member in members] == [header.name.rstrip("/") for header in ours]
    assert len(members) == count
    for member, header in zip(members, ours, strict=True):
        assert member.linkname == header.linkname
        assert member.type == header.typeflag.encode()
        assert header.mtime is not None
        assert member.mtime == pytest.approx(header.mtime[0] + header.mtime[1] / 1e9)


@pytest.mark.parametrize("form", ARCHIVES)
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_other_tools_read_it(form: str, tool: str, tmp_path: Path) -> None:
    program = require_tool(tool)
    data, count = ARCHIVES[form]
    file = tmp_path / "a.tar"
    file.write_bytes(data)
    listed = subprocess.run(
        [program, "-tf", str(file)], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert listed.stderr == b""
    names = listed.stdout.decode("utf-8").splitlines()
    assert len(names) == count
    if tool == "bsdtar":  # the other quotes what is not ASCII
        assert names == [header.name for header in TarReader(io.BytesIO(data))]
    out = tmp_path / "out"
    out.mkdir()
    short = [name for name in NAMES if f"{name}.h" in names]
    subprocess.run([program, "-xf", str(file), "-C", str(out)], check=True, env={"LC_ALL": "C.UTF-8"})
    for name in short:
        assert (out / name).read_bytes() == b"hello"
        assert (out / f"{name}.h").samefile(out / name)
        assert (out / f"{name}.s").readlink() == Path(f"to/{name}")


def test_times_are_rounded_where_no_format_is_asked_for() -> None:
    for nanoseconds, seconds in ((499_999_999, 7), (500_000_000, 8)):
        sink = io.BytesIO()
        TarWriter(sink).write_header(TarHeader("a", mtime=(7, nanoseconds), atime=(1, 0), ctime=(2, 0)))
        header = next(TarReader(io.BytesIO(sink.getvalue())))
        assert (header.mtime, header.atime, header.ctime) == ((seconds, 0), None, None)
        assert len(sink.getvalue()) == 512


def test_too_much_and_too_little() -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    writer.write_header(TarHeader("a", size=3))
    with pytest.raises(TarError, match="missed writing 3 bytes"):
        writer.write_header(TarHeader("b"))
    with pytest.raises(TarError, match="write too long"):
        writer.write(b"abcd")
    writer.write_header(TarHeader("b"))
    with pytest.raises(TarError, match="write too long"):
        writer.write(b"x")
    writer.close()
    assert [(h.name, h.size) for h in TarReader(io.BytesIO(sink.getvalue()))] == [("a", 3), ("b", 0)]


def test_closing() -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    writer.close()
    writer.close()
    assert sink.getvalue() == bytes(1024)
    with pytest.raises(TarError, match="closed"):
        writer.write(b"a")
    with pytest.raises(TarError, match="closed"):
        writer.write_header(TarHeader("a"))
    with pytest.raises(TarError, match="closed"):
        writer.flush_padding()
    unfinished = TarWriter(io.BytesIO())
    unfinished.write_header(TarHeader("a", size=1))
    with pytest.raises(TarError, match="missed writing"):
        unfinished.close()
    unfinished.close()


@pytest.mark.parametrize(
    "header",
    [
        TarHeader("file/"),
        TarHeader("nul\0"),
        TarHeader("n" * 300, format=Format.USTAR),
        TarHeader("ümläut", format=Format.USTAR),
        TarHeader("a", size=-1),
        TarHeader("a", size=1 << 63),
        TarHeader("a", uid=1 << 40, format=Format.USTAR),
        TarHeader("a", pax={"a=b": "c"}),
        TarHeader("a", pax={"": "c"}),
        TarHeader("a", pax={"V.x": "c"}, format=Format.GNU),
        TarHeader("a", pax={"V.x": "c" * (1 << 20)}),
        TarHeader("a", "x"),
        TarHeader("a", "g", size=1),
        TarHeader("a", "ab"),
        TarHeader("a", mtime=(0, 1_000_000_000)),
        TarHeader("a", format=Format.V7),
    ],
    ids=lambda header: repr(header)[:60],
)
def test_headers_that_cannot_be_written(header: TarHeader) -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    if header.mtime is not None:
        header.format = Format.PAX
    with pytest.raises(TarError):
        writer.write_header(header)
    assert sink.getvalue() == b""
    writer.write_header(TarHeader("another"))
    writer.close()
    assert [found.name for found in TarReader(io.BytesIO(sink.getvalue()))] == ["another"]


def test_nothing_but_package_errors() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        writer = TarWriter(io.BytesIO())
        for header, data in random_archive(rng):
            try:
                writer.write_header(header)
                writer.write(data)
            except TarError:
                pass
