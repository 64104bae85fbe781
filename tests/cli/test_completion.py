"""Completion, through a real bash and by PowerShell's protocol; progress on terminals and elsewhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.support import sample_layout
from tests.support import require_tool
from winlayers.cli.completion import SHELLS
from winlayers.cli.progress import BarProgress, LineProgress, make_progress
from winlayers.store import open_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an image and a container, and the program in a folder of its own."""
    store = open_store(tmp_path / "store")
    store.load(sample_layout(tmp_path / "layout"), name="team/app:1")
    store.create("team/app:1", name="web")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "winlayers"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m winlayers "$@"\n')
    program.chmod(0o755)
    return store.root


def environment(root: Path, **more: str) -> dict[str, str]:
    """The environment with the program on its path."""
    path = f"{root.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "WINLAYERS_ROOT": str(root), **more}


def bash(root: Path, *words: str) -> list[str]:
    """What bash proposes for the last of *words*."""
    line = " ".join(words)
    script = f"""
        source <(winlayers completion bash)
        COMP_WORDS=({line or '""'}) COMP_CWORD={len(words) - 1} COMP_LINE='{line}' COMP_POINT={len(line)}
        {'[ -n "${COMP_WORDS[COMP_CWORD]}" ] || COMP_WORDS[COMP_CWORD]=""'}
        _winlayers_completion winlayers
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = [require_tool("bash"), "--norc", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(root))
    return done.stdout.split()


def test_bash_completes_commands_options_and_names(root: Path) -> None:
    assert bash(root, "winlayers", "um") == ["umount"]
    assert bash(root, "winlayers", "commit", "--aut") == ["--author"]
    assert bash(root, "winlayers", "layers", "te") == ["team/app:1"]
    assert bash(root, "winlayers", "mount", "w") == ["web"]
    assert bash(root, "winlayers", "mount", "x") == []
    assert bash(root, "winlayers", "completion", "f") == ["fish"]


def test_bash_completes_behind_colons(root: Path) -> None:
    """Readline has split the word there, and keeps what is before."""
    assert bash(root, "winlayers", "layers", "team/app:") == ["1"]
    assert bash(root, "winlayers", "--root", str(root), "layers", "team/app:") == ["1"]


def test_bash_completes_places(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    (folder / "layout").mkdir(parents=True)
    (folder / "layer.tar").write_text("")
    (folder / ".hidden").write_text("")
    (folder / "oci.tar").write_text("")
    monkeypatch.chdir(folder)
    for command in (["load"], ["copy", "x"], ["save", "team/app:1"], ["ls"], ["diff", "web"]):
        assert bash(root, "winlayers", *command, "oci:la") == ["layer.tar", "layout/"]
        assert bash(root, "winlayers", *command, f"oci-archive:{folder}/.h") == [f"{folder}/.hidden"]
    assert bash(root, "winlayers", "load", "oci:") == ["layer.tar", "layout/", "oci.tar"]
    assert bash(root, "winlayers", "load", "oc") == ["oci:", "oci-archive:", "oci.tar"]
    assert bash(root, "winlayers", "load", "docker:") == []
    assert bash(root, "winlayers", "load", "oci:nosuch/x") == []
    done = subprocess.run(
        [sys.executable, "-m", "winlayers"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(root, _WINLAYERS_COMPLETE="bash_complete", COMP_LINE="winlayers load la"),
    )
    assert done.stdout == "file,la\n"  # which readline completes itself


def test_bash_completes_layers_and_what_can_be_looked_into(root: Path) -> None:
    layers = sorted(identifier[:12] for identifier in open_store(root).images.layer_ids())
    assert bash(root, "winlayers", "layer", "export", layers[0][:2]) == [layers[0]]
    assert bash(root, "winlayers", "ls", "") == ["team/app:1", "web"]
    assert bash(root, "winlayers", "squash", "team/app:1", "--from", layers[1][:2]) == [layers[1]]


def test_fish(root: Path) -> None:
    script = (
        "winlayers completion fish | source; complete -C 'winlayers layers te'; complete -C 'winlayers um'"
    )
    command = [require_tool("fish"), "--no-config", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(root))
    assert done.stdout.splitlines() == ["team/app:1", "umount\tUnmount containers."]


def test_zsh(root: Path) -> None:
    """The function as zsh calls it, with stand-ins for the two builtins that work inside completion alone."""
    script = """
        compdef() { }
        compadd() { print -l -- ${(P)@[-1]} }
        _describe() { print -l -- ${(P)@[-2]} }
        source <(winlayers completion zsh)
        words=(winlayers layers te) CURRENT=3; _winlayers_completion
        words=(winlayers um) CURRENT=2; _winlayers_completion
    """
    command = [require_tool("zsh"), "-f", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(root))
    assert done.stdout.splitlines() == ["team/app:1", "umount:Unmount containers."]


def test_no_store_and_a_damaged_one_have_no_proposals(root: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert bash(root, "winlayers", "--root", str(missing), "layers", "") == []
    assert not missing.exists()
    (root / "images" / "index.json").write_text("{")
    assert bash(root, "winlayers", "layers", "") == []


def test_names_are_completed_without_reading_images_and_commands_without_importing_any(root: Path) -> None:
    for line, slow in (
        ("winlayers layers ", "('sqlite3', 'winlayers.layers', 'winlayers.graphdriver', 'winlayers.tar')"),
        ("winlayers ", "('winlayers.store', 'winlayers.images', 'winlayers.cli.commands')"),
    ):
        code = (
            "import sys, winlayers.cli.main as m\ntry:\n    m.run([])\nexcept SystemExit:\n    pass\n"
            f"print([m for m in sys.modules if m.startswith({slow})])"
        )
        asked = environment(root, _WINLAYERS_COMPLETE="bash_complete", COMP_LINE=line)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=asked
        )
        assert done.stdout.splitlines()[-1] == "[]"
        assert len(done.stdout.splitlines()) > 1


def test_powershell_asks_for_lines(root: Path) -> None:
    """What the script that is printed does, done by hand."""
    words = "\n".join(["winlayers", "umount", "w"])
    asked = environment(root, _WINLAYERS_COMPLETE="powershell_complete", COMP_WORDS=words, COMP_CWORD="w")
    program = str(root.parent / "bin" / "winlayers")
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=asked)
    assert done.stdout.splitlines() == ["web"]


def test_powershell_completes_files_itself(root: Path) -> None:
    words = "\n".join(["winlayers", "append", '"team/app:1"', "x"])
    asked = environment(root, _WINLAYERS_COMPLETE="powershell_complete", COMP_WORDS=words, COMP_CWORD="x")
    program = str(root.parent / "bin" / "winlayers")
    assert subprocess.run(program, capture_output=True, text=True, check=True, env=asked).stdout.strip() == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(root: Path, shell: str) -> None:
    command = [str(root.parent / "bin" / "winlayers"), "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(root))
    assert "_WINLAYERS_COMPLETE" in done.stdout
    assert "%(" not in done.stdout


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """What a terminal shows after *text*, which only goes up and erases lines."""
    lines = [""]
    at = 0
    while text:
        if text.startswith("\x1b[1A"):
            at, text = at - 1, text[4:]
        elif text.startswith("\x1b[2K"):
            lines[at], text = "", text[4:]
        elif text[0] == "\n":
            at, text = at + 1, text[1:]
            lines += [""] * (at + 1 - len(lines))
        else:
            lines[at] += text[0]
            text = text[1:]
    return [line for line in lines if line]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    progress = make_progress(out, quiet=False)
    assert isinstance(progress, BarProgress)
    progress.start("a", "layer 1/2", 1000)
    progress.start("b", "layer 2/2", 2000)
    progress.advance("a", 500)
    progress.start("c", "third")
    shown = screen(out.getvalue())
    assert shown[0].startswith("layer 1/2 [====")
    assert " 500B/1kB" in shown[0]
    assert len(shown) == 3
    assert all(len(line) < 60 for line in shown)
    progress.finish("a", "imported")
    progress.warn("take care")
    shown = screen(out.getvalue())
    assert shown[0] == "layer 1/2: 1kB imported"
    assert shown[1] == "winlayers: warning: take care"
    assert shown[2].startswith("layer 2/2 [>")
    progress.finish("b")
    progress.finish("c")
    assert len(screen(out.getvalue())) == 4


def test_bars_are_in_the_layers_order_whichever_begins_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = make_progress(out, quiet=False)
    for number in (2, 10, 1):
        progress.start(str(number), f"layer {number}/10", 1000)
    assert [line.split()[1] for line in screen(out.getvalue())] == ["1/10", "2/10", "10/10"]


@pytest.mark.parametrize("columns", ["1", "10", "30"])
def test_bars_never_wrap(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    progress = make_progress(out, quiet=False)
    progress.start("a", "a rather long label for a bar", 10**12)
    progress.advance("a", 10**11)
    assert all(len(line) < max(2, int(columns)) for line in screen(out.getvalue()))


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    progress = make_progress(out, quiet=False)
    assert type(progress) is LineProgress
    progress.start("a", "layer 1/1", 1500)
    progress.advance("a", 1500)
    progress.finish("a", "sent")
    assert out.getvalue() == "layer 1/1: 1.5kB sent\n"
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_progress(Terminal(), quiet=False)) is LineProgress
    make_progress(Terminal(), quiet=True).warn("nobody hears")
