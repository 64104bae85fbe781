"""One bit of one file of a layer changes: `check` finds it, or it plays no part; repair brings all back."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from winlayers.layers import DriverInfo
from winlayers.layers.portable.check import Checker, Finding
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import View
from winlayers.testing.tars import Member, make_tar, windows_records

FLIPS = int(os.environ.get("WINLAYERS_FAULT_RUNS", "12"))

_SPARSE = {"GNU.sparse.size": "70000", "GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,4,65536,5"}
_LARGE = {"MSWINDOWS.xattr.LARGE": "QUFB" * 12_000}
BASE = make_tar(
    Member("Files/", pax=windows_records(0x10)),
    Member("Files/Windows/", pax=windows_records(0x10)),
    Member("Files/Windows/win.ini", b"[fonts]\r\n", pax=windows_records(0x20)),
    Member("Files/Windows/win.ini:zone", b"[ZoneTransfer]\r\n"),
    Member("Files/Windows/large", b"attributes", pax=windows_records(0x20) | _LARGE),
    Member("Files/sparse", b"headtail.", pax=windows_records(0x20) | _SPARSE),
    Member("Files/gone", b"to be deleted", pax=windows_records(0x20)),
    Member("Hives/", pax=windows_records(0x10)),
    Member("Files/kept", b"kept " * 500, pax=windows_records(0x20)),
    end=False,
)[:-50]
"""A base layer whose tar ends inside a block."""
TOP = make_tar(
    Member("Files/", pax=windows_records(0x10)),
    Member("Files/.wh.gone"),
    Member("Files/WINDOWS/new", b"new", pax=windows_records(0x21)),
    Member("Files/linked", link="Files/kept"),
)
TARS = {"base": BASE, "middle": make_tar(Member("Files/m", b"m")), "top": TOP}


def restore(layer_id: str, digest: str, target: str) -> bool:
    """A tar from outside."""
    Path(target).write_bytes(TARS[layer_id])
    return True


def check(service: PortableLayerService, *, repair: bool = False) -> list[Finding]:
    checker = Checker(service.store, service.views, service.mounts, repair=repair, restore=restore)
    return list(checker.run())


def view_state(view: View) -> list[object]:
    """All that a view shows."""
    return [
        (
            path,
            node.name,
            inode.is_directory,
            inode.nlink,
            inode.metadata,
            view.read(inode.extent),
            [(stream.name, view.read(stream.extent)) for stream in inode.streams],
        )
        for path, node, inode in view.walk()
    ]


def state_of(service: PortableLayerService) -> dict[str, object]:
    """All that the store says of its layers."""
    state: dict[str, object] = {}
    for layer_id in ("base", "middle", "top"):
        chain = service.store.chain_paths(service.store.parents(layer_id))
        with contextlib.closing(service.export_tar(layer_id, chain)) as stream:
            tar = stream.read()
        with service.open_reader(layer_id, chain) as reader:
            entries = [
                (dataclasses.astuple(entry), [(s.name, b"".join(s.chunks)) for s in streams])
                for entry, streams in reader
            ]
        with service.views.open(layer_id) as view:
            shown = view_state(view)
        changes = [(c.path, c.kind, c.size, c.stream_size) for c in service.changes(layer_id, chain)]
        facts = service.facts(layer_id)
        state[layer_id] = (service.store.parents(layer_id), tar, entries, shown, changes, facts)
    return state


def make_images(service: PortableLayerService) -> None:
    """Let every kind of derived file be there, and be of the view as it is now."""
    from winlayers.layers.portable.erofs.image import ensure_image

    for layer_id in TARS:
        with service.views.open(layer_id) as view:
            ensure_image(view, service.layer_path(layer_id), writable=True)


def is_in_stamp(name: str, bit: int) -> bool:
    """Whether the bit is of an image's volume name, after its first letter."""
    start = 1024 + 64
    return name.endswith(".erofs") and start < bit // 8 < start + 16


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    service = PortableLayerService(DriverInfo(str(tmp_path / "home")))
    service.check_home()
    chain: list[str] = []
    for layer_id, tar in TARS.items():
        service.import_tar(layer_id, chain, io.BytesIO(tar))
        chain.insert(0, service.layer_path(layer_id))
    make_images(service)
    return service


def flipped(path: Path, random_bits: random.Random, count: int) -> Iterator[int]:
    """Change single bits of the file in turn; each is back before the next if the file is as it was left."""
    for _ in range(count):
        whole = path.read_bytes()
        bit = random_bits.randrange(len(whole) * 8)
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
        if path.exists() and path.read_bytes() == bytes(changed):
            path.write_bytes(whole)


@pytest.mark.parametrize("layer_id", ["base", "middle", "top"])
def test_one_bit_of_any_file(service: PortableLayerService, layer_id: str) -> None:
    before = state_of(service)
    folder = Path(service.layer_path(layer_id))
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.stat().st_size)
    expected = {"layer.json", "layer.tar", "layerchain.json", "index.db", "view.db", "view.erofs"}
    if layer_id == "base":
        expected |= {"side.bin", "view-rw.erofs"}
    assert expected <= set(names)
    assert check(service) == []
    passed = []
    for name in names:
        bits = random.Random(f"{layer_id} {name}")
        for bit in flipped(folder / name, bits, FLIPS):
            where = f"bit {bit} of {layer_id}/{name}"
            found = check(service)
            if not found:
                passed.append(where)
                assert name == "layerchain.json" or is_in_stamp(name, bit), f"{where} is not found"
                make_images(service)
                assert state_of(service) == before, f"{where} is not found"
                assert check(service) == [], where
                continue
            assert {f.layer for f in found} >= {layer_id}, where
            repaired = check(service, repair=True)
            assert all(finding.mended for finding in repaired), (where, repaired)
            assert {finding.path for finding in repaired} == {name}, (where, repaired)
            assert check(service) == [], where
            assert state_of(service) == before, where
            make_images(service)
            assert check(service) == [], where
    # What may pass are the folders in front of the parents' names, which nobody reads, and what says which
    # view an image is of: another than this one's lets it be made again.
    assert len(passed) <= 2 * FLIPS


def test_a_record_without_witnesses_is_left(service: PortableLayerService) -> None:
    folder = Path(service.layer_path("top"))
    (folder / "layer.json").write_bytes(b"{")
    (folder / "index.db").write_bytes(b"")
    (finding,) = check(service, repair=True)
    assert (finding.path, finding.mended) == ("layer.json", False)
    assert "could not be mended" in finding.action


def test_what_was_made_by_a_damaged_index_goes_with_it(service: PortableLayerService) -> None:
    """Views that were made while the index was wrong show wrong things, and are whole files nevertheless."""
    before = state_of(service)
    path = Path(service.layer_path("base"), "index.db")
    path.write_bytes(path.read_bytes().replace(b"win.ini", b"win.imi"))
    for layer_id in TARS:
        service.views.forget(layer_id)
    assert state_of(service) != before
    repaired = check(service, repair=True)
    assert [(finding.layer, finding.path) for finding in repaired] == [("base", "index.db")]
    assert state_of(service) == before
    assert check(service) == []


def test_shared_files_of_extracting_mounts(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from winlayers.layers.portable.mounts.contract import MountRequest
    from winlayers.layers.portable.mounts.extract import ExtractMounter

    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the files of ordinary users are shared
    folder = service.layer_path("top")

    def mount() -> dict[str, bytes]:
        target = tmp_path / "target"
        target.mkdir(exist_ok=True)
        with service.views.open("top") as view:
            record = ExtractMounter().mount(MountRequest(view, folder, str(target), None, None))
        found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
        ExtractMounter().unmount(record)
        return found

    before = mount()
    (tree,) = Path(folder, "extract").glob("shared-*")
    assert check(service) == []
    for name in before:
        path = tree / name
        path.chmod(0o600)
        for bit in flipped(path, random.Random(name), 2):
            (finding,) = check(service)
            assert (finding.layer, finding.path) == ("top", f"extract/{tree.name}"), (name, bit)
            assert finding.problem.endswith(" has changed since it was made")
        assert check(service) == []
    (tree / "Windows" / "new").unlink()
    (finding,) = check(service, repair=True)
    assert finding.mended
    assert mount() == before
    assert check(service) == []


def test_a_damaged_scratch_layer_is_told(service: PortableLayerService) -> None:
    service.create_scratch("box", [service.layer_path(n) for n in ("top", "middle", "base")])
    chain = Path(service.layer_path("box"), "layerchain.json")
    for harm in (b"[]", b"\xff", chain.read_bytes().replace(b"top", b"tmp")):
        chain.write_bytes(harm)
        (finding,) = check(service, repair=True)
        assert (finding.path, finding.mended) == ("layerchain.json", True)
        assert service.store.parents("box") == ["top", "middle", "base"]
    chain.unlink()
    assert [finding.mended for finding in check(service, repair=True)] == [True]
    assert check(service) == []
    record = Path(service.layer_path("box"), "layer.json")
    record.write_bytes(record.read_bytes().replace(b"null", b"nulk", 1))
    (finding,) = check(service, repair=True)
    assert (finding.path, finding.mended) == ("layer.json", False)
