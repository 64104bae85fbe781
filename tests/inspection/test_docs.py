"""The examples of the page run, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from winlayers.testing.sample_image import write_sample_image


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "inspection.md").read_text("utf-8")
    write_sample_image(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "docs.inspection"}
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, "docs/inspection.md", "exec"), scope)
    out = capsys.readouterr().out
    assert "ZoneId=3" in out
    assert "A Files/app/app.exe\n" in out
    assert "deleted by layer 2" in out
    assert (tmp_path / "app.html").stat().st_size > 10_000
    assert (tmp_path / "copied" / "app.exe").is_file()
    assert (tmp_path / "app.tar").stat().st_size > 150_000
