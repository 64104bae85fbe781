"""The examples in the documentation run, and it names every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from winlayers.cli.main import COMMANDS
from winlayers.testing.sample_image import write_sample_image


def test_the_library_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "library.md").read_text("utf-8")
    write_sample_image(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "docs.library"}
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 5
    for example in examples:
        exec(compile(example, "docs/library.md", "exec"), scope)
    assert "digest" in scope  # they did not end early


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_command_page_names_every_command(command: str) -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text("utf-8")
    assert re.search(rf"`{command}[ `]", text)
