"""What people who know docker, skopeo and crane type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_cli import PROGRAM, Program
from tests.images.support import sample_layout
from winlayers.cli.main import COMMANDS, ELSEWHERE
from winlayers.store import open_store


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program on a store with an image ``app:1``, also called ``registry.example:5000/team/app:2``."""
    store = open_store(tmp_path / "store")
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.tag("app:1", "registry.example:5000/team/app:2")
    return Program(store.root)


def references(program: Program, *wanted: str) -> list[str]:
    """The references that ``images`` lists."""
    return [image["reference"] for image in program.json("images", *wanted)]


def test_images_of_a_repository(program: Program) -> None:
    assert references(program) == ["app:1", "registry.example:5000/team/app:2"]
    assert references(program, "app") == references(program, "app:1") == ["app:1"]
    assert references(program, "app:2") == references(program, "other") == []
    assert references(program, "registry.example:5000/team/app") == ["registry.example:5000/team/app:2"]
    assert program.out("images", "-q", "app") == program.out("images", "-q")
    assert program.out("images", "-q", "other") == ""
    assert "a repository's name is in lower case" in program.fails("images", "APP")


def test_ps_all(program: Program) -> None:
    program.run("create", "app:1", "--name", "box")
    assert program.out("ps", "-aq") == program.out("ps", "-q") != ""


def test_one_bad_name_of_several_keeps_nobody_from_the_others(program: Program) -> None:
    for name in ("one", "two"):
        program.run("create", "app:1", "--name", name)
    program.run("-q", "mount", "two")
    done = program.run("umount", "missing", "two", code=1)
    assert (done.stdout, done.stderr.count("\n")) == ("two\n", 1)
    done = program.run("rm", "one", "missing", "two", code=1)
    assert done.stdout == "one\ntwo\n"
    assert done.stderr == "winlayers: no such container: missing (winlayers ps lists containers)\n"
    done = program.run("rmi", "--json", "missing", "app:1", code=1)
    assert [result["untagged"] for result in json.loads(done.stdout)] == [["app:1"]]
    assert "no such image: missing" in done.stderr


def test_load_and_save_with_options(program: Program, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    digest = program.out("save", "-o", str(archive), "app:1")
    assert digest == program.json("images", "app")[0]["digest"]
    other = Program(tmp_path / "other")
    assert other.out("load", "-q", "-i", str(archive)) == program.json("images", "app")[0]["id"]
    assert references(other) == ["app:1"]
    nameless = tmp_path / "nameless.tar"
    program.run("save", "-o", str(nameless), program.out("images", "-q", "app"))
    assert (
        json.loads(Program(tmp_path / "third").out("load", "--json", "-i", str(nameless)))["reference"]
        is None
    )
    for wrong in (
        ["save", "app:1"],
        ["load"],
        ["save", "-o", "x", "app:1", "oci:y"],
        ["load", "-i", "x", "y"],
    ):
        program.run(*wrong, code=2)


def test_quiet_behind_the_command(program: Program, tmp_path: Path) -> None:
    for command in (
        ["save", "-q", "app:1", f"oci:{tmp_path / 'out'}:1"],
        ["load", "--quiet", f"oci:{tmp_path / 'out'}:1"],
        ["copy", "-q", f"oci:{tmp_path / 'out'}:1", f"oci:{tmp_path / 'again'}:1"],
    ):
        done = program.run(*command)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1


def test_numbers_are_numbers(program: Program) -> None:
    facts = program.json("info")
    assert (facts["images"], facts["containers"], facts["layers"]) == (1, 0, 3)


@pytest.mark.parametrize("command", sorted(ELSEWHERE))
def test_commands_that_are_elsewhere(program: Program, command: str) -> None:
    assert command not in COMMANDS
    errors = program.run(command, code=2).stderr
    assert f"No such command '{command}': {ELSEWHERE[command]}." in errors


def test_cp_into_a_container_says_what_does_it(program: Program) -> None:
    for source in ("file.txt", "-"):
        assert "use append, or mount a container" in program.run("cp", source, "app:1:/Users", code=2).stderr


def test_what_is_missing_is_said_with_what_there_is(program: Program, tmp_path: Path) -> None:
    assert program.fails("layers", "app").endswith("no such image: app (there is app:1)")
    assert "(winlayers images lists those in the store)" in program.fails("layers", "other:1")
    assert "no file or folder in 'oci:'" in program.fails("save", "app:1", "oci:")
    program.run("create", "app:1", "--name", "box")
    assert "rm it first, or take another --name" in program.fails("create", "app:1", "--name", "box")


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_prune_without_a_yes(program: Program, answer: str) -> None:
    command = [*PROGRAM, "--root", str(program.root), "prune", "--all", "--json"]
    done = subprocess.run(command, input=answer, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was removed" in done.stderr.splitlines()[-1]
    assert references(program, "app") == ["app:1"]


@pytest.mark.parametrize("option", ["--format", "--filter", "-f"])
@pytest.mark.parametrize("command", ["images", "ps", "inspect", "layers"])
def test_templates_and_filters_are_what_jq_is_for(program: Program, command: str, option: str) -> None:
    done = program.run(command, option, "{{.ID}}", code=2)
    assert "jq can pick from it" in done.stderr
    assert "jq" not in program.run("save", option, "oci-archive", "app:1", code=2).stderr


def test_find_in_any_letter_case_by_another_name(program: Program) -> None:
    assert (
        program.out("find", "app:1", "-iname", "WIN.INI")
        == program.out("find", "app:1", "-name", "win.ini")
        != ""
    )
    assert program.out("find", "app:1", "-ipath", "*/WINDOWS/*") != ""
    program.run("find", "app:1", "-layer", "0", code=2)


def test_a_kind_of_mount_that_there_is_not_is_refused_at_once(program: Program) -> None:
    told = program.fails("--storage-opt", "mount=bogus", "create", "app:1", "--name", "box")
    assert "there is no kind of mount 'bogus' (known are auto, erofs, fuse, extract)" in told
    assert program.out("ps", "-q") == ""
    program.run("--storage-opt", "mount=extract", "create", "app:1", "--name", "box")


def test_an_image_that_is_named_by_a_digest(program: Program) -> None:
    """What is printed is a name again, with one digest; and the image has a name, which prune respects."""
    digest = program.json("images")[0]["digest"]
    named = f"other@{digest}"
    source = f"oci:{program.root}/images:docker.io/library/app:1"
    assert program.out("load", source, "--name", named) == named
    assert program.out("layers", named) == program.out("layers", "app:1")
