"""EROFS images, read by EROFS's own tools and by this test's reading of the format."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.mountviews import (
    DESCRIPTOR,
    PLAIN,
    TIME,
    ViewBuilder,
    names_that_leave,
    odd_view,
    real_view,
)
from tests.support import require
from winlayers.errors import LayerCorruptError, UnsupportedError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs import format as fs
from winlayers.layers.portable.erofs.image import (
    IMAGE_NAME,
    WRITABLE_IMAGE_NAME,
    ensure_image,
    image_inode,
    read_facts,
    write_image,
)
from winlayers.layers.portable.erofs.writer import Output, pack_name, put_directory
from winlayers.layers.portable.view import Source, View
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata

_GOOD = (
    1,
    8,
    8,
)  # 1.7 takes blocks of any size, 1.8.8 computes the superblock's checksum right with small ones


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


def _peer(name: str) -> str:
    """A tool of erofs-utils that knows what these images use."""
    path = os.environ.get(f"WINLAYERS_{name.upper().replace('.', '_')}") or shutil.which(name)
    require(path is not None, f"{name} is not installed")
    assert path is not None
    said = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
    version = next((word for word in (said.stdout + said.stderr).split() if word[:1].isdigit()), "0.0")
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:3])
    if numbers < _GOOD:
        # Not a failure anywhere: distributions carry older ones, and there is no other place to get them.
        pytest.skip(f"{name} {version} is too old")
    return path


def _check(view: View, image: str) -> None:
    """``fsck.erofs`` reads every inode, directory, attribute and all data, and finds nothing wrong."""
    facts = read_facts(image)
    assert facts is not None
    devices = [
        f"--device={view.layers[layer].tar if source is Source.TAR else view.layers[layer].side}"
        for layer, source in facts.devices
    ]
    command = [_peer("fsck.erofs"), "--extract", *devices, image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<E>" not in done.stderr


@pytest.mark.peer
@pytest.mark.parametrize("room", [xattrs.READ_ONLY_ROOM, xattrs.WRITABLE_ROOM])
def test_fsck_accepts_all_that_is_odd(tmp_path: Path, view: View, room: int) -> None:
    image = str(tmp_path / "image")
    write_image(view, image, room)
    _check(view, image)


@pytest.mark.peer
def test_fsck_accepts_a_real_image(tmp_path: Path) -> None:
    with real_view(tmp_path / "store") as view:
        write_image(view, str(tmp_path / "image"))
        _check(view, str(tmp_path / "image"))


@pytest.mark.peer
def test_dump_tells_what_is_in_an_image(tmp_path: Path, view: View) -> None:
    image = str(tmp_path / "image")
    write_image(view, image)
    facts = read_facts(image)
    assert facts is not None
    done = subprocess.run([_peer("dump.erofs"), "-s", image], capture_output=True, text=True, check=True)
    said = {
        key.strip(): value.strip() for key, _, value in (x.partition(":") for x in done.stdout.splitlines())
    }
    assert said["Filesystem blocksize"] == "512"
    assert said["Filesystem inode count"] == str(facts.inodes)
    assert said["Filesystem UUID"].replace("-", "") == facts.uuid.hex()
    assert set(said["Filesystem incompatible features"].split()) == {"chunked_file", "device_table"}


def test_checksums_and_hashes_agree_with_published_values() -> None:
    assert fs.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # RFC 3720's CRC, inverted at the end
    assert fs.xxh32(b"", 0) == 0x02CC5D05
    assert fs.xxh32(b"abc", 0) == 0x32D153FF
    assert fs.xxh32(b"Nobody inspects the spammish repetition", 0) == 0xE2293B2F


@given(st.integers(min_value=1, max_value=1 << 45))
def test_a_chunk_holds_the_file_or_is_the_largest(size: int) -> None:
    bits = fs.chunk_bits(size)
    assert bits <= fs.MAX_CHUNK_BITS - fs.BLOCK_BITS
    assert (fs.BLOCK << bits) >= size or bits == fs.MAX_CHUNK_BITS - fs.BLOCK_BITS
    assert bits == 0 or (fs.BLOCK << bits - 1) < size


def _names_in(block: bytes) -> list[bytes]:
    """The names of a directory's block, as the kernel finds them (``fs/erofs/dir.c``, ``namei.c``).

    The last one ends at a NUL, or else where the block does; the directory's size says nothing.
    """
    count = int.from_bytes(block[8:10], "little") // fs.DIRENT_SIZE
    starts = [
        int.from_bytes(block[at + 8 : at + 10], "little")
        for at in range(0, count * fs.DIRENT_SIZE, fs.DIRENT_SIZE)
    ]
    names = [block[start:end] for start, end in itertools.pairwise(starts)]
    return [*names, block[starts[-1] :].partition(b"\0")[0]]


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("gap", range(100))
def test_a_directory_may_end_anywhere_in_its_block(blocks: int, gap: int) -> None:
    file = io.BytesIO()
    output = Output(file, 0)
    output.put(b"\xff" * 70)
    names = [b".", b"..", *(name.encode() for name in names_that_leave(gap, blocks))]
    entries = [pack_name(name, 1 << 40, fs.TYPE_FILE) for name in reversed(names)]
    size, block = put_directory(output, entries)
    assert size == blocks * fs.BLOCK - gap
    output.put(b"\xff" * fs.BLOCK)  # an inode, as the kernel may see it
    output.finish()
    image = file.getvalue()[block << fs.BLOCK_BITS :]
    found = [name for at in range(0, size, fs.BLOCK) for name in _names_in(image[at : at + fs.BLOCK])]
    assert found == names


def test_an_image_is_made_once_and_again_when_the_view_was(tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "home")
    b.file("Files/file", b"data")
    with b.finish() as view:
        folder = os.path.dirname(view.path)
        first = ensure_image(view, folder, writable=False)
        about = os.stat(first)
        assert ensure_image(view, folder, writable=True) == first
        assert os.stat(first).st_ino == about.st_ino
        os.utime(view.path, ns=(1, 1))
        assert ensure_image(view, folder, writable=False) == first
        assert os.stat(first).st_ino != about.st_ino
    assert sorted(os.listdir(folder)) == ["view.db", IMAGE_NAME]


def test_writable_mounts_get_their_own_image_only_where_attributes_are_large(view: View) -> None:
    folder = os.path.dirname(view.path)
    assert os.path.basename(ensure_image(view, folder, writable=True)) == WRITABLE_IMAGE_NAME
    assert os.path.basename(ensure_image(view, folder, writable=False)) == IMAGE_NAME


@pytest.mark.parametrize("metadata", ["descriptor", "eas"])
def test_metadata_that_is_too_large_counts_as_well(tmp_path: Path, metadata: str) -> None:
    eas = (ExtendedAttribute("LARGE", bytes(4000)),) if metadata == "eas" else ()
    security = DESCRIPTOR + bytes(4000) if metadata == "descriptor" else DESCRIPTOR
    b = ViewBuilder(tmp_path / "home")
    b.file("Files/file", b"", FileMetadata(FileAttributes.NORMAL, TIME, TIME, TIME, TIME, security, eas))
    with b.finish() as view:
        write_image(view, str(tmp_path / "image"))
        facts = read_facts(str(tmp_path / "image"))
    assert facts is not None
    assert not facts.complete


def test_the_same_view_makes_the_same_image(tmp_path: Path, view: View) -> None:
    images = [tmp_path / "first", tmp_path / "second"]
    for image in images:
        write_image(view, str(image))
    assert images[0].read_bytes() == images[1].read_bytes()


def test_inodes_carry_the_view_s_numbers(tmp_path: Path) -> None:
    b = ViewBuilder(tmp_path / "home")
    b.file("Files/file", b"data")
    with b.finish() as view:
        image = str(tmp_path / "image")
        write_image(view, image)
        data = Path(image).read_bytes()
        nids = [n for n in range(len(data) // 32) if image_inode(image, n) == b.inodes["Files/file"]]
        inodes = [fs.INODE.unpack_from(data, nid * 32) for nid in nids]
        assert any(inode[2] == 0o100644 and inode[4] == 4 for inode in inodes)
    assert image_inode(image, 1 << 40) == 0


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(5000), b"\xe2\xe1\xf5\xe0" * 1000])
def test_what_is_no_image_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert read_facts(str(path)) is None
    assert read_facts(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("offset = 513", LayerCorruptError, "not on a block"),
        ("offset = -512", LayerCorruptError, "not on a block"),
        ("offset = 1 << 41", UnsupportedError, "2 TiB"),
        ("size = 1 << 20", LayerCorruptError, "beyond the layer's own"),
        ("security = 77", LayerCorruptError, "descriptor 77"),
        ("btime = 'text'", LayerCorruptError, "damaged"),
        ("layer = 9", LayerCorruptError, "layer 9"),
    ],
)
def test_a_damaged_view_is_refused_and_leaves_no_image(
    tmp_path: Path, change: str, error: type[Exception], message: str
) -> None:
    b = ViewBuilder(tmp_path / "home")
    b.file("Files/file", b"data", PLAIN)
    b.db.execute(f"UPDATE inodes SET {change} WHERE id = ?", (b.inodes["Files/file"],))
    with b.finish() as view, pytest.raises(error, match=message):
        write_image(view, str(tmp_path / "image"))
    assert not [name for name in os.listdir(tmp_path) if name != "home"]
