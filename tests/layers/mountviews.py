"""Views made to order, and the comparison of a mounted view with what the view says."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import sqlite3
import stat
from collections.abc import Mapping
from pathlib import Path

import zstandard

from tests.support import PYTHON_APP, require
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.index import pack_eas
from winlayers.layers.portable.merge import build_view
from winlayers.layers.portable.posix import file_mode, link_text, posix_nanoseconds
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.store import LayerStore
from winlayers.layers.portable.view import ROOT, Source, View, ViewInode, ViewNode
from winlayers.layers.service import DriverInfo
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import filetime_from_unix
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.names import encode_wtf8, fold_key, host_safe
from winlayers.win32.reparse import MountPoint, SymbolicLink

DESCRIPTOR = bytes.fromhex("0100048014000000200000000000000000000000") + b"".join(
    bytes.fromhex("010100000000000512000000") for _ in range(2)
)
"""Owner and group SYSTEM."""

TIME = filetime_from_unix(1_700_000_000, 123_456_700)

PLAIN = FileMetadata(FileAttributes.ARCHIVE, TIME, TIME + 1, TIME + 2, TIME + 3, DESCRIPTOR)
FOLDER = FileMetadata(FileAttributes.DIRECTORY, TIME, TIME + 4, TIME + 5, TIME + 6, DESCRIPTOR)


class ViewBuilder:
    """Writes a ``view.db`` and the layers' files that it points into."""

    def __init__(self, home: Path, layers: int = 1) -> None:
        self.home = home
        self.folder = home / "view"
        self.folder.mkdir(parents=True)
        self.path = self.folder / "view.db"
        build_view(str(self.path), None, [])
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.execute("BEGIN")
        self.nodes = {"": ROOT}
        self.inodes: dict[str, int] = {}
        self.next = ROOT + 1
        self.offsets: dict[tuple[int, Source], int] = {}
        for layer in range(layers):
            (home / f"layer{layer}").mkdir()
            (home / f"layer{layer}" / "layer.tar").write_bytes(b"")
            self.db.execute("INSERT INTO layers VALUES (?, ?)", (layer, f"layer{layer}"))
        self.directory("Files")

    def directory(self, path: str, metadata: FileMetadata = FOLDER) -> None:
        """Add a directory; its parent must be there."""
        self.nodes[path] = self._add(path, 1, 0, metadata, Source.NONE, 0, 0)

    def file(
        self,
        path: str,
        data: bytes = b"",
        metadata: FileMetadata = PLAIN,
        *,
        layer: int = 0,
        source: Source = Source.TAR,
        streams: Mapping[str, bytes] | None = None,
    ) -> None:
        """Add a file with its data and alternate streams."""
        offset = self._store(layer, source, data)
        place = source if data else Source.NONE
        self._add(path, 0, layer, metadata, place, offset, len(data), bool(streams))
        for name, content in (streams or {}).items():
            row = (self.inodes[path], fold_key(name), encode_wtf8(name), layer, int(Source.TAR))
            at = self._store(layer, Source.TAR, content)
            self.db.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, at, len(content)))

    def link(self, path: str, target: str) -> None:
        """Add another name of the file at *target*."""
        inode = self.inodes[target]
        self._node(path, inode)
        self.inodes[path] = inode
        self.db.execute("UPDATE inodes SET nlink = nlink + 1 WHERE id = ?", (inode,))

    def finish(self) -> View:
        """The view."""
        self.db.execute("COMMIT")
        self.db.close()
        return View(str(self.path), str(self.home))

    def _store(self, layer: int, source: Source, data: bytes) -> int:
        name = "layer.tar" if source is Source.TAR else "side.bin"
        with open(self.home / f"layer{layer}" / name, "ab") as file:
            offset = file.seek(0, os.SEEK_END)
            offset += file.write(bytes(512)) if source is Source.TAR else 0
            file.write(data + bytes(-len(data) % (512 if source is Source.TAR else 4096)))
        return offset

    def _node(self, path: str, inode: int) -> int:
        parent, _, name = path.rpartition("/")
        node, self.next = self.next, self.next + 1
        self.db.execute(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, ?)",
            (node, self.nodes[parent], fold_key(name), encode_wtf8(name), inode),
        )
        return node

    def _add(
        self,
        path: str,
        kind: int,
        layer: int,
        m: FileMetadata,
        source: Source,
        offset: int,
        size: int,
        has_streams: bool = False,
    ) -> int:
        security = None
        if m.security is not None:
            self.db.execute("INSERT OR IGNORE INTO security(data) VALUES (?)", (m.security,))
            (security,) = self.db.execute("SELECT id FROM security WHERE data = ?", (m.security,)).fetchone()
        inode, self.next = self.next, self.next + 1
        self.inodes[path] = inode
        times = (m.creation_time, m.access_time, m.write_time, m.change_time)
        rest = (security, m.reparse, pack_eas(m.eas), int(source), offset, size, 1, int(has_streams))
        self.db.execute(
            f"INSERT INTO inodes VALUES ({','.join('?' * 16)})",
            (inode, kind, layer, int(m.attributes), *times, *rest),
        )
        return self._node(path, inode)


def mounted_attributes(path: str) -> dict[bytes, bytes]:
    """The attributes of the file at *path* that a view shows, without name space."""
    space = xattrs.TRUSTED if os.path.islink(path) else xattrs.USER
    return {
        os.fsencode(name[len(space) :]): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith(space)
    }


def assert_mounted(
    view: View,
    root: str,
    *,
    room: int = xattrs.READ_ONLY_ROOM,
    link_attributes: bool = True,
    hidden_bits: int = 0,
    oldest: int | None = None,
) -> int:
    """Everything in the mount at *root* is as the view says, and nothing is missing; the number of names.

    Args:
        room: what attributes may take.
        link_attributes: whether symbolic links have theirs (which takes root).
        hidden_bits: mode bits that are not to be seen (write permission in read-only trees).
        oldest: the oldest time, in seconds since 1970, that the file system may hold.
    """
    drive = view.drive
    assert drive is not None
    count = 0
    numbers: dict[int, int] = {}
    stack: list[tuple[ViewNode, str]] = [(drive, root)]
    while stack:
        directory, path = stack.pop()
        entries = {host_safe(node.name): (node, inode) for node, inode in view.entries(directory.id)}
        assert set(os.listdir(path)) == set(entries)
        for name, (node, inode) in entries.items():
            count += 1
            place = f"{path}/{name}"
            _assert_one(view, node, inode, place, room, hidden_bits, link_attributes, oldest)
            if not inode.is_directory:
                assert numbers.setdefault(inode.id, os.lstat(place).st_ino) == os.lstat(place).st_ino
            if inode.is_directory and not os.path.islink(place):
                stack.append((node, place))
    assert len(set(numbers.values())) == len(numbers)
    return count


def _assert_one(
    view: View,
    node: ViewNode,
    inode: ViewInode,
    place: str,
    room: int,
    hidden_bits: int,
    link_attributes: bool,
    oldest: int | None,
) -> None:
    about = os.lstat(place)
    target = link_text(view, node, inode.metadata.reparse)
    if target is not None:
        assert stat.S_ISLNK(about.st_mode), place
        assert os.readlink(place) == target
    elif inode.is_directory:
        assert stat.S_ISDIR(about.st_mode), place
        assert stat.S_IMODE(about.st_mode) == 0o755 & ~hidden_bits
    else:
        assert about.st_mode == file_mode(inode.metadata.attributes) & ~hidden_bits, place
        assert about.st_size == inode.size
        assert Path(place).read_bytes() == view.read(inode.extent)
    time = posix_nanoseconds(inode.metadata.write_time)
    cut = time if oldest is None else max(time, oldest * 1_000_000_000)
    assert about.st_mtime_ns in (time, cut), place
    if target is None or link_attributes:
        sources = [
            xattrs.StreamSource(s.name, s.extent.size, functools.partial(view.read, s.extent))
            for s in inode.streams
        ]
        shown, _ = xattrs.shown_attributes(inode.metadata, sources, room)
        assert mounted_attributes(place) == shown, place


def names_that_leave(gap: int, blocks: int) -> list[str]:
    """The names of a directory, beside ``.`` and ``..``, whose entries in EROFS fill *blocks* but for *gap*.

    A block has 512 bytes, an entry 12 and its name; *gap* is less than 230.
    """
    if blocks == 1:
        return ["a" * 230, "b" * (231 - gap)]
    return ["a" * 230, *(chr(ord("b") + n) * 244 for n in range(2 * blocks - 3)), "z" * (244 - gap)]


def odd_view(home: Path) -> View:
    """A view of all that is odd: names, links, streams, attributes, times, sizes."""
    b = ViewBuilder(home, 3)
    b.directory("Files/Windows")
    b.directory("Files/Windows/System32")
    b.file("Files/Windows/System32/a.dll", b"MZ" * 5000, layer=1)
    b.link("Files/Windows/b.dll", "Files/Windows/System32/a.dll")
    b.file("Files/empty")
    b.file("Files/one", b"1")
    b.file("Files/block", bytes(range(256)) * 2)
    b.file("Files/side", os.urandom(5000), layer=2, source=Source.SIDE)
    b.file("Files/read-only", b"x", FileMetadata(FileAttributes.READONLY, TIME, TIME, TIME, TIME))
    b.file("Files/unset", b"x", FileMetadata())
    b.file("Files/old", b"x", FileMetadata(write_time=1))
    for name in (
        "ünï",
        "日本語" * 28,
        "x" * 255,
        "語" * 255,
        "lone\ud800",
        "%{D800}",
        "aux",
        "dot.",
        "blank ",
    ):
        b.file(f"Files/{name}", name.encode("utf-8", "surrogatepass"))
    for name in ("!first", "-", "$Recycle.Bin"):
        b.directory(f"Files/{name}")
    b.file("Files/streams", b"main", streams={"Zone.Identifier": b"[ZoneTransfer]", "ntfs_acl": b"trick"})
    b.file(
        "Files/big-stream", b"main", streams={"big": bytes(70_000), "small": b"s", "n" * 255: b"long name"}
    )
    b.file("Files/wide-stream", b"main", streams={"wide": bytes(5_000)})
    eas = (ExtendedAttribute("$KERNEL.PURGE.ESBCACHE", bytes(96)), ExtendedAttribute("B", b"b", 0x80))
    b.file("Files/eas", b"e", FileMetadata(FileAttributes.NORMAL, TIME, TIME, TIME, TIME, DESCRIPTOR, eas))
    b.directory("Files/Many")
    for number in range(300):
        b.file(f"Files/Many/file number {number}.txt", b"%d" % number, layer=number % 3)
    _add_links(b)
    return b.finish()


def _add_links(b: ViewBuilder) -> None:
    link = FileAttributes.REPARSE_POINT
    for name, point in (
        ("to-file", SymbolicLink.to(r"windows\SYSTEM32\A.DLL")),
        ("to-drive", SymbolicLink.to(r"C:\Windows")),
        ("junction", MountPoint.to(r"C:\WINDOWS\System32")),
        ("elsewhere", SymbolicLink.to(r"D:\data")),
        ("nowhere", SymbolicLink.to(r"C:\no\such")),
        ("medium", SymbolicLink.to("C:\\" + "\\".join(["deep" * 20] * 12))),
        ("long", SymbolicLink.to("C:\\" + "\\".join(["deep" * 20] * 30))),
    ):
        reparse = point.to_bytes()
        if name == "to-file":
            b.file(f"Files/{name}", b"", FileMetadata(link, TIME, TIME, TIME, TIME, DESCRIPTOR, (), reparse))
        else:
            both = link | FileAttributes.DIRECTORY
            b.directory(f"Files/{name}", FileMetadata(both, TIME, TIME, TIME, TIME, DESCRIPTOR, (), reparse))
    wci = bytes.fromhex("18000080080000000102030405060708")
    b.file("Files/wci", b"data", FileMetadata(link, TIME, TIME, TIME, TIME, DESCRIPTOR, (), wci))


def real_view(home: Path) -> View:
    """The merged view of the sample image of a real application, imported into a store at *home*."""
    require(PYTHON_APP.is_dir(), f"the sample image is not at {PYTHON_APP}")
    blobs = PYTHON_APP / "blobs" / "sha256"
    (index,) = json.loads((PYTHON_APP / "index.json").read_bytes())["manifests"]
    manifest = json.loads((blobs / index["digest"].partition(":")[2]).read_bytes())
    home.mkdir()
    service = PortableLayerService(DriverInfo(str(home)))
    chain: list[str] = []
    for number, layer in enumerate(manifest["layers"]):
        data = (blobs / layer["digest"].partition(":")[2]).read_bytes()
        if layer["mediaType"].endswith("zstd"):
            raw = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())
        else:
            raw = io.BytesIO(gzip.decompress(data) if layer["mediaType"].endswith("gzip") else data)
        service.import_tar(f"layer{number}", chain, raw)
        chain.insert(0, service.layer_path(f"layer{number}"))
    return ChainViews(LayerStore(str(home))).open(os.path.basename(chain[0]))
