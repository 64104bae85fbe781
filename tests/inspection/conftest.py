"""Fixtures of the tests that look in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from winlayers.inspection import Tree, open_image
from winlayers.store import Store, open_store
from winlayers.testing.sample_image import TAG, write_sample_image


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store", driver_options=["mount=extract"])


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample image's transport name."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample_image(folder)
    return f"oci:{folder}:{TAG}"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by the tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tree(sample: str, cache: Path) -> Iterator[Tree]:
    """The sample image, looked into where it lies."""
    with open_image(sample, cache=cache) as opened:
        yield opened
