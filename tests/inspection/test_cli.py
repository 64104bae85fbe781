"""The commands as a user meets them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.images.registries import docker_registry
from winlayers.cli.main import run
from winlayers.images.exporter import copy
from winlayers.store import open_store

HIVES = ("SAM", "SECURITY", "SOFTWARE", "SYSTEM")


class Program:
    """The program in this process, on a store of its own."""

    def __init__(self, root: Path, captured: Callable[[], tuple[bytes, bytes]]) -> None:
        self.root = root
        self._captured = captured
        self.errors = ""

    def bytes(self, *arguments: str, code: int = 0) -> bytes:
        """What it prints."""
        self._captured()
        ended = run(["--root", str(self.root), *arguments])
        out, err = self._captured()
        self.errors = err.decode()
        assert ended == code, self.errors
        return out

    def out(self, *arguments: str, code: int = 0) -> str:
        return self.bytes(*arguments, code=code).decode()

    def lines(self, *arguments: str, code: int = 0) -> list[str]:
        return self.out(*arguments, code=code).splitlines()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.bytes(*arguments))


@pytest.fixture
def program(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Program:
    """The program."""

    def captured() -> tuple[bytes, bytes]:
        result = capfdbinary.readouterr()
        return result.out, result.err

    return Program(tmp_path / "store", captured)


class TestLs:
    def test_names_in_order(self, program: Program, sample: str) -> None:
        assert program.lines("ls", f"{sample}:/Windows") == [
            "Globalization",
            "System32",
            "win.ini",
            "WinSxS",
        ]

    def test_long(self, program: Program, sample: str) -> None:
        lines = program.lines("ls", "-l", f"{sample}:/Users")
        assert lines[0].split() == ["MODE", "LAYER", "LINKS", "SIZE", "WRITTEN", "NAME"]
        assert re.fullmatch(
            r"la--- +1 +1 +0 +2024-01-02 00:00 +All Users.lnk -> \.\.\\ProgramData", lines[1]
        ), lines[1]
        (notes,) = program.lines("ls", "-l", f"{sample}:/Users/Public")[1:]
        assert notes.endswith("notes.txt :Zone.Identifier :summary")

    def test_human_sizes(self, program: Program, sample: str) -> None:
        assert "98.3kB" in program.out("ls", "-lh", f"{sample}:/Windows/System32")
        assert "98304" in program.out("ls", "-l", f"{sample}:/Windows/System32")

    def test_recursive(self, program: Program, sample: str) -> None:
        text = program.out("ls", "-R", f"{sample}:/Windows")
        blocks = dict(block.split(":\n", 1) for block in text.rstrip().split("\n\n"))
        assert next(iter(blocks)) == "/Windows"
        assert blocks["/Windows/Globalization"].split() == ["new.nls"]

    def test_json(self, program: Program, sample: str) -> None:
        (notes,) = program.json("ls", "--json", f"{sample}:/Users/Public")
        assert notes["path"] == "/Users/Public/notes.txt"
        assert notes["streams"] == [{"name": "Zone.Identifier", "size": 26}, {"name": "summary", "size": 15}]
        everything = program.json("ls", "-R", "--json", "--layer-root", sample)
        assert {"Hives", "UtilityVM", "/Windows/win.ini"} <= {entry["path"] for entry in everything}

    def test_several_and_missing(self, program: Program, sample: str) -> None:
        out = program.out("ls", f"{sample}:/app", f"{sample}:/nope", f"{sample}:/Users/Public", code=1)
        assert "app.exe" in out
        assert "notes.txt" in out
        (line,) = [line for line in program.errors.splitlines() if line.startswith("winlayers:")]
        assert line == f"winlayers: /nope: {sample} has no such file or directory"

    def test_a_file_and_a_directory_itself(self, program: Program, sample: str) -> None:
        assert program.lines("ls", rf"{sample}:C:\WINDOWS\WIN.INI") == ["/Windows/win.ini"]
        assert program.lines("ls", "-d", f"{sample}:/windows") == ["/Windows"]

    def test_no_image(self, program: Program) -> None:
        assert program.out("ls", "nope", code=1) == ""
        assert program.errors.startswith("winlayers: no such image, container or layer: nope (")
        assert len(program.errors.splitlines()) == 1


class TestCat:
    def test_files_and_streams(self, program: Program, sample: str) -> None:
        out = program.bytes(
            "cat", f"{sample}:/app/app.config.json", f"{sample}:/Users/Public/notes.txt:zone.identifier"
        )
        assert out == b'{"listen": 8080}\n[ZoneTransfer]\r\nZoneId=3\r\n'

    def test_what_can_not_be_printed(self, program: Program, sample: str) -> None:
        program.out("cat", f"{sample}:/Windows", code=1)
        assert "is a directory" in program.errors
        program.out("cat", sample, code=2)


class TestCp:
    def test_to_the_host(self, program: Program, sample: str, tmp_path: Path) -> None:
        assert program.out("cp", f"{sample}:/app", str(tmp_path / "copy")) == ""
        assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["app.config.json", "app.exe"]
        program.out("cp", f"{sample}:/app", f"{tmp_path}/nowhere/", code=2)

    def test_to_a_tar(self, program: Program, sample: str) -> None:
        with tarfile.open(fileobj=io.BytesIO(program.bytes("cp", f"{sample}:/app", "-"))) as tar:
            assert {m.name for m in tar} == {"app", "app/app.config.json", "app/app.exe"}


class TestStat:
    def test_text(self, program: Program, sample: str) -> None:
        text = program.out("stat", f"{sample}:/windows/system32/CMD.exe")
        for line in (
            "Path:          /Windows/System32/cmd.exe",
            "Size:          40960 (40.96kB)",
            "Attributes:    0x20 ARCHIVE",
            "Creation time: 2024-01-02T00:00:00.1234567Z",
            "Change time:   2024-01-02T00:00:00.1234570Z",
            "EA:            $KERNEL.PURGE.APPXFICACHE 010203636d642e657865",
            "Link:          /Windows/System32/cmd-copy.exe",
            "Layer:         1 Apply image 10.0.20348.1",
        ):
            assert line in text.splitlines()
        assert "owner TrustedInstaller" in text

    def test_json(self, program: Program, sample: str) -> None:
        link = program.json("stat", "--json", f"{sample}:/Documents and Settings")
        assert link["type"] == "junction"
        assert link["reparse"]["target"] == "C:\\Users"
        assert link["times"]["write"] == {
            "text": "2024-01-02T00:00:00.1234569Z",
            "filetime": 133_486_272_001_234_569,
        }
        assert link["security"].startswith("O:BAG:SYD:AI(A;OICIID;FA;;;SY)")
        followed = program.json("stat", "-L", "--json", f"{sample}:/Documents and Settings")
        assert followed["path"] == "/Users"


class TestFind:
    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            (["-name", "*.INI"], ["/Windows/win.ini"]),
            (["/users", "-type", "f"], ["/Users/Public/notes.txt"]),
            (["-type", "l"], ["/Documents and Settings", "/Users/All Users.lnk"]),
            (["-size", "+100k"], ["/app/app.exe"]),
            (["-size", "150000"], ["/app/app.exe"]),
            (["/app", "-size", "-100c"], ["/app/app.config.json"]),
            (["-layer", "3", "-type", "f"], ["/app/app.config.json", "/app/app.exe"]),
            (["-maxdepth", "1", "-name", "w*"], ["/Windows"]),
            (["-path", "/windows/*/config/s*"], [f"/Windows/System32/config/{n}" for n in HIVES]),
            (["-name", "nothing"], []),
        ],
    )
    def test_tests(self, program: Program, sample: str, arguments: list[str], found: list[str]) -> None:
        assert program.lines("find", sample, *arguments) == found

    def test_output(self, program: Program, sample: str) -> None:
        assert program.bytes("find", "-print0", f"{sample}:/app", "-type", "f").split(b"\0") == [
            b"/app/app.config.json",
            b"/app/app.exe",
            b"",
        ]
        assert [e["size"] for e in program.json("find", "--json", sample, "-name", "app.exe")] == [150_000]
        program.out("find", sample, "-size", "many", code=2)
        program.out("find", sample, "/nope", code=1)


class TestDocuments:
    def test_history(self, program: Program, sample: str) -> None:
        lines = program.lines("history", sample)
        assert lines[0].split() == ["LAYER", "CREATED", "CREATED", "BY", "SIZE", "BLOB", "SIZE", "COMMENT"]
        assert ["ADD app /app" in lines[1], "Apply image" in lines[3]] == [True, True]
        steps = program.json("history", "--json", sample)
        assert steps[0]["created_by"] == "ADD app /app"
        assert steps[0]["size"] is None
        program.out("load", sample, "--name", "app:1")
        assert program.json("history", "--json", "app:1")[0]["size"] == 150_017

    def test_inspect(self, program: Program, sample: str) -> None:
        (there,) = program.json("inspect", sample)
        program.out("load", sample, "--name", "app:1")
        program.out("create", "app:1", "--name", "web")
        image, container = program.json("inspect", "app:1", "web")
        assert image["Os"] == "windows"
        assert image["OsVersion"] == "10.0.20348.2227"
        assert image["Config"]["Cmd"] == ["c:\\app\\app.exe"]
        assert image["RepoTags"] == ["app:1"]
        assert image["RepoDigests"] == [f"app@{image['Digest']}"]
        different = {key for key in image if image[key] != there[key]}
        assert different == {"RepoTags", "RepoDigests", "Layers"}
        assert [layer["DataSize"] for layer in image["Layers"]][2] == 150_017
        assert container["Name"] == "web"
        assert container["Image"] == image["Id"]
        assert container["MountedAt"] is None
        assert json.loads(program.bytes("inspect", "--raw-config", "app:1"))["os"] == "windows"

    def test_no_layer_is_read(self, program: Program, sample: str) -> None:
        program.out("history", sample)
        program.out("inspect", sample)
        assert not (program.root / "cache").exists()


class TestDiff:
    def test_text_json_and_codes(self, program: Program, sample: str) -> None:
        program.out("load", sample, "--name", "app:1")
        base, update, _ = (layer["id"] for layer in program.json("layers", "--json", "app:1"))
        assert program.lines("diff", "-h", "--drive", f"layer:{update}", "app:1") == [
            "A /app  (3 entries, 150kB)",
        ]
        lines = program.lines("diff", f"layer:{update}", "app:1")
        assert [line.split("  ")[0] for line in lines] == ["C /", "A /app", "C Hives"]
        found = program.json("diff", "--json", f"layer:{base}", "app:1")
        kinds = {entry["path"]: entry["kind"] for entry in found}
        assert kinds["/Windows/System32/kernel32.dll"] == "C"
        assert kinds["/Windows/Globalization/sort.nls"] == "D"
        assert program.out("diff", "--exit-code", "app:1", sample) == ""
        program.out("diff", "--exit-code", f"layer:{base}", "app:1", code=1)
        program.out("diff", "--ignore", "colour", "app:1", "app:1", code=2)

    def test_pages(self, program: Program, sample: str, tmp_path: Path) -> None:
        program.out("report", sample, "-o", str(tmp_path / "image.html"))
        assert (tmp_path / "image.html").read_text("utf-8").startswith("<!doctype html>")
        program.out("diff", "--html", str(tmp_path / "diff.html"), sample, sample)
        assert "both are the same" in (tmp_path / "diff.html").read_text("utf-8")
        assert program.out("report", sample) == (tmp_path / "image.html").read_text("utf-8")


@pytest.mark.parametrize(
    "command", ["ls", "cat", "cp", "stat", "find", "history", "inspect", "diff", "report"]
)
def test_help_has_examples(program: Program, command: str) -> None:
    assert f"winlayers {command} " in program.out(command, "--help").partition("Examples:")[2]


def test_from_a_registry_without_importing(
    program: Program, sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with docker_registry(tmp_path / "registry") as host:
        name = f"docker://{host}/team/app:1"
        copy(sample, name)
        assert program.lines("ls", f"{name}:/app") == ["app.config.json", "app.exe"]
        assert program.bytes("cat", f"{name}:/app/app.config.json") == b'{"listen": 8080}\n'
        assert "indexed" not in program.errors, "the second look reads no layer"
        assert program.json("inspect", name)[0]["RepoTags"] == [f"{host}/team/app:1"]
        assert program.out("diff", name, sample) == ""
    assert open_store(program.root).images.images() == []
