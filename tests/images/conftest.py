"""Fixtures of the image tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.images.editing import part, with_layer
from tests.images.support import Layout, sample_layout
from tests.layers.tars import LayerTar
from winlayers.images.editing import ConfigChanges
from winlayers.images.image import Image
from winlayers.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The sample image in a layout of its own."""
    sample_layout(tmp_path / "layout")
    return Layout(tmp_path / "layout")


@pytest.fixture
def app(store: Store, tmp_path: Path) -> Image:
    """The sample image, as ``app:1``: a base, an update, an application."""
    return store.load(sample_layout(tmp_path / "layout"), name="app:1")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder to append."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool.exe").write_bytes(b"MZ tool")
    (root / "read me.txt").write_text("read me\n")
    os.link(root / "bin" / "tool.exe", root / "tool-again.exe")
    (root / "latest").symlink_to("bin")
    return root


@pytest.fixture
def bases(store: Store, app: Image) -> tuple[Image, Image]:
    """``base:1``, on which the application stands, and ``base:2``, which is newer."""
    old = part(store, app, 2, "base:1", config={"Env": ["A=1", "B=1"], "User": "ContainerUser"})
    tar = LayerTar().directory("Files").file("Files/Windows/patched.dll", b"patched")
    with_layer(store, old, tar.file("Files/Windows/win.ini", b"new").bytes(), "base:tmp")
    new = store.configure(
        "base:tmp", ConfigChanges(os_version="10.0.20348.9999", env=("A=2", "C=2")), "base:2"
    )
    return old, new
