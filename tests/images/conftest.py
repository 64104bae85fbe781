"""Fixtures of the image tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.support import Layout, sample_layout
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
