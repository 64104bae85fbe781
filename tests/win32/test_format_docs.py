"""The examples in the documents of the formats."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PAGES = (
    "backup-streams.md",
    "extended-attributes.md",
    "filetime.md",
    "names.md",
    "registry-hives.md",
    "reparse-points.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_are_right(page: str) -> None:
    path: Path = REPOSITORY / "docs" / "formats" / page
    result = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0
