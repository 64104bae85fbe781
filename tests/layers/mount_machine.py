"""Random operations on a mounted scratch layer, against the model: equal errors, trees, metadata and tars.

A subclass says which kind of mount, and what that kind does not promise.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path as FilePath

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.layers.ntfs_model import ARCHIVE, HIDDEN, READONLY, Model, Node, Path
from tests.layers.posixcalls import exchange
from tests.layers.tars import DIRECTORY, FILE, SDDL, base_tar
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts import syscalls
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import host_safe
from winlayers.win32.security import sddl_to_bytes

DISTINCT = ["a", "b.txt", "é", "straße", "STRASSE", "日本", "con", "dot.", "😀", "x" * 255, "lone\ud800"]
BLIND = [*DISTINCT, "A", "B.TXT", "É", "STRAßE"]
STREAMS = ["s", "Zone.Identifier", "ntfs_trick"]
DESCRIPTORS = [
    sddl_to_bytes(SDDL),
    sddl_to_bytes("O:SYG:SYD:AI(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)(A;ID;FR;;;WD)"),
]
SIZES = st.sampled_from([0, 1, 511, 4096, 5000, 65535, 65536, 65537, 140000, 200000])

FALLOCATE = [
    0,
    syscalls.FALLOC_KEEP_SIZE,
    syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE,
    syscalls.FALLOC_ZERO_RANGE,
    syscalls.FALLOC_ZERO_RANGE | syscalls.FALLOC_KEEP_SIZE,
]
SELDOM = st.sampled_from(range(12))

Member = tuple[int, str, int, int, int]
MEMBERS = st.tuples(
    st.integers(0, 5), st.sampled_from(DISTINCT), st.integers(0, 5), SIZES, st.integers(0, 255)
)


class MountMachine(RuleBasedStateMachine):
    """See the module.

    Attributes:
        kind: of mount.
        names: to choose from.
        case_blind: whether the mount takes names as NTFS does.
        keeps_links: whether a change of the layers' hard-linked file shows under all its names.
        keeps_archive: whether changes of metadata and streams set ARCHIVE.
        longest_redirect: of the path, in bytes, that a renamed directory may have had; None: any.
        is_live: whether new files have their attributes and descriptor in the mount, from when they are made.
    """

    kind = "fuse"
    names = BLIND
    case_blind = True
    keeps_links = True
    keeps_archive = True
    is_live = True
    longest_redirect: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="winlayers-model-")
        self.service = PortableLayerService(DriverInfo(os.path.join(self.folder, "home")), mount=self.kind)
        self.service.check_home()
        self.model = Model(case_blind=self.case_blind)
        self.mounted = False

    # -- beginning and end --

    @initialize(base=st.lists(MEMBERS, max_size=12), delta=st.lists(MEMBERS, max_size=6))
    def begin(self, base: list[Member], delta: list[Member]) -> None:
        self.service.import_tar("base", [], io.BytesIO(self._tar(base)))
        chain = [self.service.layer_path("base")]
        if delta:
            self.service.import_tar("delta", chain, io.BytesIO(self._tar(delta)))
            chain.insert(0, self.service.layer_path("delta"))
        self.chain = chain
        with self.service.views.open("delta" if delta else "base") as view:
            self.model = Model.of_view(view, case_blind=self.case_blind)
        self.service.create_scratch("scratch", chain)
        self._mount()

    def _tar(self, members: list[Member]) -> bytes:
        tar = base_tar()
        directories = ["Files/Windows", "Files"]
        kinds: dict[str, bool] = {}
        files: list[str] = []
        for where, name, kind, size, fill in members:
            path = f"{directories[where % len(directories)]}/{name}"
            if path in kinds:
                continue
            kinds[path] = kind < 2
            metadata = FileMetadata(FILE.attributes, 1, 2, 3 + fill, 4, DESCRIPTORS[fill % 2])
            if kind < 2:
                tar.directory(path, DIRECTORY)
                directories.append(path)
            elif kind == 2 and files and self.keeps_links:
                tar.link(path, files[fill % len(files)])
            else:
                streams = [("s", b"stream")] if kind == 3 else []
                tar.file(path, bytes([fill]) * size, metadata, streams)
                files.append(path)
        return tar.bytes()

    def _mount(self) -> None:
        self.service.activate("scratch")
        self.service.prepare("scratch", self.chain)
        self.mounted = True
        self.root = self.service.mount_path("scratch")

    def _unmount(self) -> None:
        self.service.unprepare("scratch")
        self.service.deactivate("scratch")
        self.mounted = False

    def teardown(self) -> None:
        try:
            if self.mounted:
                self.check_mount()
                self._unmount()
                self.check_export()
        finally:
            if self.mounted:
                self._unmount()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- operations --

    def _place(self, path: Path) -> bytes:
        return os.fsencode("/".join([self.root, *map(host_safe, path)]))

    def _both(self, model: Callable[[], None], real: Callable[[], object]) -> None:
        expected = found = 0
        try:
            model()
        except OSError as error:
            expected = error.errno or -1
        try:
            real()
        except OSError as error:
            found = error.errno or -1
        assert found == expected, f"errno {found}, the model says {expected}"

    def _path(self, where: int, name: str) -> Path:
        directories = self.model.directories()
        return (*directories[where % len(directories)], name)

    def _any(self, where: int) -> Path:
        """A path that there is, mostly, spelled some way."""
        paths = [path for path, _ in self.model.walk()]
        if not paths:
            return ("a",)
        path = paths[where % len(paths)]
        if self.case_blind and where % 3 == 0:
            return (
                *path[:-1],
                path[-1].swapcase() if len(path[-1].swapcase()) == len(path[-1]) else path[-1],
            )
        return path

    WHERE = st.integers(0, 1000)

    def _name(self, pick: int) -> str:
        return self.names[pick % len(self.names)]

    @rule(where=WHERE, name=WHERE)
    def create(self, where: int, name: int) -> None:
        path = self._path(where, self._name(name))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        self._both(
            lambda: self.model.create(path), lambda: os.close(os.open(self._place(path), flags, 0o644))
        )

    @rule(where=WHERE, offset=SIZES, size=SIZES, fill=st.integers(1, 255))
    def write(self, where: int, offset: int, size: int, fill: int) -> None:
        path, data = self._any(where), bytes([fill]) * size

        def real() -> None:
            fd = os.open(self._place(path), os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self._both(lambda: self.model.write(path, offset, data), real)

    @rule(where=WHERE, size=SIZES, fill=st.integers(1, 255))
    def append(self, where: int, size: int, fill: int) -> None:
        path, data = self._any(where), bytes([fill]) * size

        def real() -> None:
            fd = os.open(self._place(path), os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            try:
                os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)

        self._both(lambda: self.model.append(path, data), real)

    @rule(where=WHERE, size=SIZES)
    def truncate(self, where: int, size: int) -> None:
        path = self._any(where)

        def real() -> None:
            fd = os.open(self._place(path), os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)

        self._both(lambda: self.model.truncate(path, size), real)

    @rule(where=WHERE, mode=st.sampled_from(FALLOCATE), offset=SIZES, size=SIZES.filter(bool))
    def fallocate(self, where: int, mode: int, offset: int, size: int) -> None:
        path = self._any(where)
        grows = not mode & syscalls.FALLOC_KEEP_SIZE
        if mode & (syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_ZERO_RANGE):
            model = functools.partial(self.model.zero, path, offset, size, grows=grows)
        else:
            model = functools.partial(self.model.reserve, path, offset + size if grows else 0)

        def real() -> None:
            fd = os.open(self._place(path), os.O_WRONLY | os.O_NOFOLLOW)
            try:
                syscalls.allocate(fd, mode, offset, size)
            finally:
                os.close(fd)

        self._both(model, real)

    @rule(where=WHERE, name=WHERE)
    def mkdir(self, where: int, name: int) -> None:
        path = self._path(where, self._name(name))
        self._both(lambda: self.model.mkdir(path), lambda: os.mkdir(self._place(path)))

    @rule(where=WHERE, name=WHERE)
    def symlink(self, where: int, name: int) -> None:
        path = self._path(where, self._name(name))
        self._both(
            lambda: self.model.symlink(path, "../no where"),
            lambda: os.symlink(b"../no where", self._place(path)),
        )

    @rule(where=WHERE)
    def unlink(self, where: int) -> None:
        path = self._any(where)
        self._both(lambda: self.model.unlink(path), lambda: os.unlink(self._place(path)))

    @rule(where=WHERE)
    def rmdir(self, where: int) -> None:
        path = self._any(where)
        self._both(lambda: self.model.rmdir(path), lambda: os.rmdir(self._place(path)))

    @rule(old=WHERE, where=WHERE, name=WHERE)
    def rename(self, old: int, where: int, name: int) -> None:
        self._rename(self._any(old), self._path(where, self._name(name)))

    @rule(old=WHERE, new=WHERE)
    def replace(self, old: int, new: int) -> None:
        self._rename(self._any(old), self._any(new))

    @rule(old=WHERE, new=WHERE)
    def exchange(self, old: int, new: int) -> None:
        first, second = self._any(old), self._any(new)
        if self._is_too_deep(first) or self._is_too_deep(second):
            return
        self._both(
            lambda: self.model.exchange(first, second),
            lambda: exchange(self._place(first), self._place(second)),
        )

    def _rename(self, old: Path, new: Path) -> None:
        if self._is_too_deep(old):
            return
        self._both(
            lambda: self.model.rename(old, new),
            lambda: os.rename(self._place(old), self._place(new)),
        )

    def _is_too_deep(self, path: Path) -> bool:
        """Whether it is a directory that overlayfs can't note the renaming of."""
        if self.longest_redirect is None or self._is_file(path):
            return False
        return len("/".join(map(host_safe, path)).encode("utf-8")) + 1 > self.longest_redirect

    @rule(old=WHERE, where=WHERE, name=WHERE)
    def link(self, old: int, where: int, name: int) -> None:
        source, path = self._any(old), self._path(where, self._name(name))
        self._both(
            lambda: self.model.link(source, path),
            lambda: os.link(self._place(source), self._place(path), follow_symlinks=False),
        )

    @rule(where=WHERE, read_only=st.booleans())
    def chmod(self, where: int, read_only: bool) -> None:
        path = self._any(where)
        if self._is_file(path):
            mode = 0o444 if read_only else 0o644
            self._both(
                lambda: self.model.chmod(path, read_only=read_only), lambda: os.chmod(self._place(path), mode)
            )

    @rule(where=WHERE, seconds=st.integers(-(2**31) + 1, 2**33))
    def utime(self, where: int, seconds: int) -> None:
        path, time = self._any(where), seconds * 1_000_000_000 + 123_456_700
        if self._is_file(path):
            self._both(
                lambda: self.model.utime(path, time), lambda: os.utime(self._place(path), ns=(time, time))
            )

    @rule(where=WHERE, hidden=st.booleans())
    def set_attributes(self, where: int, hidden: bool) -> None:
        path = self._any(where)
        # Where nothing is live, a mode and an attribute that contradict each other do so until export.
        if not self._is_link(path) and (self.is_live or not self._is_file(path)):
            attributes = (HIDDEN if hidden else 0) | ARCHIVE
            value = attributes.to_bytes(4, "little")
            self._both(
                lambda: self.model.set_attributes(path, attributes),
                lambda: os.setxattr(self._place(path), "user.ntfs_attrib", value),
            )

    @rule(where=WHERE, which=st.integers(0, 1))
    def set_security(self, where: int, which: int) -> None:
        path = self._any(where)
        if not self._is_link(path):
            self._both(
                lambda: self.model.set_security(path, DESCRIPTORS[which]),
                lambda: os.setxattr(self._place(path), "user.ntfs_acl", DESCRIPTORS[which]),
            )

    @rule(where=WHERE, name=st.sampled_from(STREAMS), data=st.binary(max_size=100))
    def set_stream(self, where: int, name: str, data: bytes) -> None:
        path = self._any(where)
        attribute = b"user." + (xattrs.attribute_of_stream(name) or b"")
        if not self._is_link(path):
            self._both(
                lambda: self.model.set_stream(path, name, data),
                lambda: os.setxattr(self._place(path), attribute, data),
            )

    @rule(where=WHERE, name=st.sampled_from(STREAMS))
    def remove_stream(self, where: int, name: str) -> None:
        path = self._any(where)
        attribute = b"user." + (xattrs.attribute_of_stream(name) or b"")
        if not self._is_link(path):
            self._both(
                lambda: self.model.remove_stream(path, name),
                lambda: os.removexattr(self._place(path), attribute),
            )

    def _is_file(self, path: Path) -> bool:
        node = self._found(path)
        return node is not None and not node.is_directory and node.target is None

    def _is_link(self, path: Path) -> bool:
        node = self._found(path)
        return node is not None and node.target is not None

    def _found(self, path: Path) -> Node | None:
        with contextlib.suppress(OSError):
            return self.model.find(path)
        return None

    @rule(sure=SELDOM)
    def mount_again(self, sure: int) -> None:
        if sure == 3:
            self._unmount()
            self._mount()

    @precondition(lambda self: self.mounted)
    @invariant()
    def names_are_equal(self) -> None:
        """The directory that was used last would be enough; the root is cheap."""
        found = {os.fsdecode(name) for name in os.listdir(os.fsencode(self.root))}
        assert found == {host_safe(name) for name, _ in self.model.root.children.values()}

    # -- comparing --

    @rule(sure=SELDOM)
    def look_at_all(self, sure: int) -> None:
        if sure < 3:
            self.check_mount()

    def check_mount(self) -> None:
        for path, node in [((), self.model.root), *self.model.walk()]:
            place = self._place(path)
            about = os.lstat(place)
            if node.target is not None:
                assert os.readlink(place) == node.target.encode()
                continue
            if node.is_directory:
                shown = sorted(host_safe(name) for name, _ in node.children.values())
                assert sorted(map(os.fsdecode, os.listdir(place))) == shown, path
            else:
                assert FilePath(os.fsdecode(place)).read_bytes() == node.data, path
                assert about.st_size == len(node.data)
                assert bool(about.st_mode & 0o222) == (not node.attributes & READONLY), path
                assert about.st_nlink == node.links or not self.keeps_links, path
                if node.write_time is not None:
                    assert about.st_mtime_ns == node.write_time, path
            self._check_attributes(place, node)

    def _check_attributes(self, place: bytes, node: Node) -> None:
        found = {
            name: os.getxattr(place, name) for name in os.listxattr(place) if name != "user.ntfs_streams"
        }
        streams = {
            stream: value
            for name, value in found.items()
            if (stream := xattrs.stream_of_attribute(os.fsencode(name[5:]))) is not None
        }
        assert streams == dict(node.streams.values()), place
        if not self.is_live:
            return
        attributes = int.from_bytes(found["user.ntfs_attrib"], "little")
        assert self._masked(attributes) == self._masked(node.attributes), place
        assert found.get("user.ntfs_acl") == node.security, place

    def _masked(self, attributes: int) -> int:
        kept = attributes & ~int(FileAttributes.NORMAL)
        return kept if self.keeps_archive else kept & ~ARCHIVE

    def check_export(self) -> None:
        """The scratch layer's tar, laid over the chain, is what the model has."""
        tar = self.service.export_tar("scratch", self.chain).read()
        self.service.import_tar("next", self.chain, io.BytesIO(tar))
        with self.service.views.open("next") as view:
            again = Model.of_view(view, case_blind=self.case_blind)
        expected = dict(self.model.walk())
        found = dict(again.walk())
        assert sorted(found) == sorted(expected)
        twins: dict[Node, Node] = {}
        for path, node in expected.items():
            self._check_exported(path, found[path], node)
            if self.keeps_links and not node.is_directory:
                assert twins.setdefault(node, found[path]) is found[path], path

    def _check_exported(self, path: Path, found: Node, node: Node) -> None:
        assert found.is_directory == node.is_directory, path
        assert found.security == node.security or not self.is_live, path
        if node.target is not None:
            return
        assert found.data == node.data, path
        assert self._masked(found.attributes) == self._masked(node.attributes), path
        assert found.streams == node.streams, path
