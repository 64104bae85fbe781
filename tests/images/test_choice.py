"""Which image is taken where a place holds several, or an index names them without their platforms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.images.support import Layout, sample_layout
from winlayers.errors import ImageError, ImageNotFoundError, PlatformError
from winlayers.images import mediatypes
from winlayers.store import Store

WINDOWS = {"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.2227"}
LINUX = {"os": "linux", "architecture": "amd64"}


class Choice:
    """A layout with an image for Windows, one for Linux and an artifact, to be put into indexes."""

    def __init__(self, folder: Path) -> None:
        sample_layout(folder)
        self.layout = Layout(folder)
        entry = self.layout.descriptor
        self.windows = {key: entry[key] for key in ("mediaType", "digest", "size")}
        manifest = self.layout.manifest
        config = {**self.layout.config, "os": "linux"}
        stored = {**manifest["config"], **self.layout.put(json.dumps(config).encode())}
        self.linux = self.document({**manifest, "config": stored}, mediatypes.OCI_MANIFEST)
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", **self.layout.put(b"{}")}
        self.artifact = self.document({**manifest, "config": empty}, mediatypes.OCI_MANIFEST)

    def document(self, value: dict[str, Any], media_type: str) -> dict[str, Any]:
        """Store a manifest or index; its descriptor."""
        return {"mediaType": media_type, **self.layout.put(json.dumps(value).encode())}

    def index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        """Store an index of these entries."""
        value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}
        return self.document(value, mediatypes.OCI_INDEX)

    def listed(self, *entries: dict[str, Any]) -> str:
        """Let the layout list these; its transport name."""
        value = {"schemaVersion": 2, "manifests": entries}
        (self.layout.folder / "index.json").write_text(json.dumps(value))
        return f"oci:{self.layout.folder}"


@pytest.fixture
def choice(tmp_path: Path) -> Choice:
    """Such a layout."""
    return Choice(tmp_path / "layout")


def test_entries_without_a_platform_are_looked_at(store: Store, choice: Choice) -> None:
    there = choice.windows["digest"]
    assert (
        store.load(choice.listed(choice.index(choice.artifact, choice.linux, choice.windows))).digest == there
    )
    known = choice.index({**choice.linux, "platform": LINUX}, choice.windows)
    assert store.load(choice.listed(known)).digest == there
    with pytest.raises(PlatformError, match=r"no image for windows/amd64 \(it offers linux/amd64\)"):
        store.load(
            choice.listed(choice.index({**choice.linux, "platform": LINUX}, choice.artifact, choice.linux))
        )


def test_an_index_in_an_index_need_not_say_what_it_is_for(store: Store, choice: Choice) -> None:
    inner = choice.index({**choice.windows, "platform": WINDOWS})
    outer = choice.index({**choice.linux, "platform": LINUX}, inner)
    assert store.load(choice.listed(outer)).digest == choice.windows["digest"]


def test_what_says_its_platform_goes_before_what_does_not(store: Store, choice: Choice) -> None:
    """Nothing else is read: the first entry is missing."""
    missing = {**choice.linux, "digest": f"sha256:{'0' * 64}"}
    index = choice.index(missing, {**choice.windows, "platform": WINDOWS})
    assert store.load(choice.listed(index)).digest == choice.windows["digest"]
    with pytest.raises(ImageNotFoundError, match="0000"):
        store.load(choice.listed(choice.index(missing, choice.linux)))


def test_a_search_ends(store: Store, choice: Choice) -> None:
    index = choice.index(*[choice.linux] * 300)
    with pytest.raises(PlatformError):
        store.load(choice.listed(index))
    for _ in range(3):
        index = choice.index(*[index] * 300)
    with pytest.raises(PlatformError):
        store.load(choice.listed(index))
    index = choice.windows
    for _ in range(4):
        index = choice.index(index)
    with pytest.raises(ImageError, match="nested more than"):
        store.load(choice.listed(index))


def test_what_is_listed_twice_is_one_image(store: Store, choice: Choice) -> None:
    tag = {"annotations": {"org.opencontainers.image.ref.name": "v"}}
    name = choice.listed({**choice.windows, **tag}, {**choice.windows, **tag})
    assert store.load(name).digest == choice.windows["digest"]


def test_a_tag_that_several_have_is_no_help(store: Store, choice: Choice) -> None:
    tag = {"annotations": {"org.opencontainers.image.ref.name": "v"}}
    name = choice.listed({**choice.windows, **tag}, {**choice.linux, **tag})
    with pytest.raises(ImageNotFoundError) as caught:
        store.load(name)
    for digest in (choice.windows["digest"], choice.linux["digest"]):
        assert digest in str(caught.value)
    assert store.load(f"{name}:{choice.windows['digest']}").digest == choice.windows["digest"]
