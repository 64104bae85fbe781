"""tar-split against what the reference was recorded to do, and against the tool itself."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support import require_tool, require_vectors, vector_cases
from tests.tar.tarsplit_support import entries_of, take_apart
from winlayers.errors import TarError, TarSplitError, TarTruncatedError
from winlayers.tar.tarsplit import Entry, EntryWriter, FileEntry, disassemble, read_entries, reassemble

LOST_MAPS = {"v-31-gnu-sparse-in"}
"""Cases that hold what tar-split's format can't: reassembly is refused, where the tool gives another tar."""

_ERRORS = {
    "unexpected EOF": TarTruncatedError,
    "archive/tar: invalid tar header": TarError,
    "duplicates of file paths not supported": TarSplitError,
}


def _recorded(case: Path) -> tuple[int, str]:
    """How much the reference passed through, and its error."""
    notes = (case / "notes.txt").read_text()
    match = re.search(r"^tsjson .*: passed (\d+) bytes; reader error: (.*?); done", notes, re.MULTILINE)
    assert match is not None
    return int(match[1]), match[2]


_CASES = vector_cases("tarsplit")


@pytest.fixture(params=[case.name for case in _CASES] or ["none"])
def case(request: pytest.FixtureRequest) -> Path:
    """One recorded case."""
    return require_vectors("tarsplit") / str(request.param)


@pytest.fixture(params=[case.name for case in _CASES if _recorded(case)[1] == "<nil>"] or ["none"])
def accepted_case(request: pytest.FixtureRequest) -> Path:
    """One recorded case that the reference accepts."""
    return require_vectors("tarsplit") / str(request.param)


def _joined(entries: Iterable[Entry]) -> list[bytes | tuple[str, int, bytes | None]]:
    """The entries in other terms, neighbouring segments as one: how segments are cut is not always the
    same."""
    joined: list[bytes | tuple[str, int, bytes | None]] = []
    for entry in entries:
        if isinstance(entry, FileEntry):
            joined.append((entry.name, entry.size, entry.checksum))
        elif joined and isinstance(joined[-1], bytes):
            joined[-1] += entry.payload
        else:
            joined.append(entry.payload)
    return joined


def test_entries_acceptance_and_what_passes_are_the_reference_s(case: Path) -> None:
    stream = (case / "in.tar").read_bytes()
    taken = take_apart(stream)
    passed, error = _recorded(case)
    assert taken.lines == (case / "tar-data.json").read_bytes()
    assert taken.passed == stream[:passed]
    assert type(taken.error) is (type(None) if error == "<nil>" else _ERRORS[error])


def test_chunks_of_any_size_give_the_same_entries(accepted_case: Path) -> None:
    stream = (accepted_case / "in.tar").read_bytes()[: 200 << 10]
    expected, result = entries_of(stream)
    assert result.size == len(stream)
    assert result.entries == len(expected)
    for size in (1, 7, 511, 512, 513, 4096):
        assert entries_of(stream, size)[0] == expected, size


def test_the_gzipped_form_holds_the_same_entries(accepted_case: Path) -> None:
    with (accepted_case / "tar-data.json.gz").open("rb") as compressed:
        entries = list(read_entries(compressed))
    with (accepted_case / "tar-data.json").open("rb") as lines:
        assert list(read_entries(lines)) == entries
    ours = io.BytesIO()
    with EntryWriter(ours) as writer:
        for entry in entries:
            writer.add(entry)
    assert list(read_entries(io.BytesIO(ours.getvalue()))) == entries


def test_reassembly_is_exact_or_refused(accepted_case: Path) -> None:
    stream = (accepted_case / "in.tar").read_bytes()
    taken = take_apart(stream)
    if accepted_case.name in LOST_MAPS:
        with pytest.raises(TarSplitError, match=r"sparse map of PAX format 1\.0"):
            taken.rebuild()
        return
    assert taken.rebuild() == stream
    assert taken.files.closed == len(taken.files.opened)
    recorded = io.BytesIO()
    reassemble(io.BytesIO((accepted_case / "tar-data.json").read_bytes()), taken.files.get, recorded)
    assert recorded.getvalue() == stream


@pytest.mark.peer
def test_the_tool_reads_ours_and_we_read_the_tool_s(accepted_case: Path, tmp_path: Path) -> None:
    tool = require_tool("tar-split")
    theirs = tmp_path / "theirs.json.gz"
    source = accepted_case / "in.tar"
    subprocess.run(
        [tool, "disasm", "--no-stdout", "--output", str(theirs), str(source)], check=True, capture_output=True
    )
    ours = tmp_path / "ours.json.gz"
    taken = take_apart(source.read_bytes())
    with ours.open("wb") as sink, EntryWriter(sink) as writer, source.open("rb") as stream:
        for _ in disassemble(stream, writer.add):
            pass
    with theirs.open("rb") as left, ours.open("rb") as right:
        entries = list(read_entries(left))
        # Before 0.11.3 the tool wrote an empty segment at the end, and all that follows the archive as one.
        assert _joined(entries) == _joined(read_entries(right))
    # The tool opens each entry that has a size as a file: what is none, or is sparse, it can't do.
    tree = tmp_path / "tree"
    for entry in entries:
        if not isinstance(entry, FileEntry) or not entry.size:
            continue
        content = taken.files.contents.get(entry.name)
        path = tree / entry.name.lstrip("/")
        if content is None or path == tree or b"GNU.sparse" in source.read_bytes():
            pytest.skip("a case that the tool can't reassemble")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tree.mkdir(exist_ok=True)
    again = tmp_path / "again.tar"
    subprocess.run(
        [tool, "asm", "--input", str(ours), "--output", str(again), "--path", str(tree)],
        check=True,
        capture_output=True,
    )
    assert again.read_bytes() == source.read_bytes()
