"""The story of ``make demo``: a Windows image goes in, is mounted, changed, and comes out byte for byte.

Everything is done by the command line, as a user would; each command is printed with its output.  Without an
argument the story is about a small image that the project makes itself.  Exit code 1 if any digest disagrees.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-m", "winlayers"]
LOOKED_AT = 8


class Disagreement(Exception):
    """Something is not as it should be."""


def say(text: str) -> None:
    """Print a step of the story."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def winlayers(root: Path, *arguments: str, show: bool = True) -> str:
    """Run the program on the store *root*; return what it printed."""
    if show:
        print(f"$ winlayers --root {root.name} {shlex.join(arguments)}", flush=True)
    done = subprocess.run([*PROGRAM, "--root", root, *arguments], capture_output=True, text=True, check=False)
    if show:
        print(done.stderr + done.stdout, end="", flush=True)
    if done.returncode:
        raise Disagreement(f"winlayers {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def as_json(root: Path, *arguments: str) -> Any:
    """Run the program without showing it; return its JSON."""
    return json.loads(winlayers(root, *arguments, "--json", show=False))


def check(condition: bool, what: str) -> None:
    """Go on only if *condition* holds."""
    print(f"  {'ok ' if condition else 'NO '} {what}", flush=True)
    if not condition:
        raise Disagreement(what)


def exported_digest(root: Path, identifier: str) -> str:
    """The SHA-256 of what ``layer export`` writes."""
    command = [*PROGRAM, "--root", os.fspath(root), "layer", "export", identifier, "-o", "-"]
    hasher = hashlib.sha256()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1 << 20):
            hasher.update(chunk)
    if process.returncode:
        raise Disagreement(f"layer export {identifier} failed")
    return f"sha256:{hasher.hexdigest()}"


def check_layers(root: Path, image: str) -> list[str]:
    """Check that every layer is exported with its diff id; return the diff ids."""
    layers = as_json(root, "layers", image)
    for layer in layers:
        actual = exported_digest(root, layer["id"])
        check(
            actual == layer["diff_id"], f"layer {layer['id'][:12]} is exported with its diff id {actual[:19]}"
        )
    return [layer["diff_id"] for layer in layers]


def small_files(drive: Path) -> list[Path]:
    """Plain files of some size in the mounted drive, in the order of their names."""
    found = []
    for folder, names, files in os.walk(drive):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            info = path.lstat()
            if stat.S_ISREG(info.st_mode) and 0 < info.st_size < 1 << 20 and info.st_nlink == 1:
                found.append(path)
    return found


@contextlib.contextmanager
def mounted(root: Path, container: str) -> Iterator[Path]:
    """Mount a container for a while."""
    drive = Path(winlayers(root, "mount", container))
    try:
        yield drive
    finally:
        winlayers(root, "umount", container)


def change(drive: Path) -> dict[str, bytes | None]:
    """Add, change and delete files in the drive; return what each path should hold then (None: nothing)."""
    files = small_files(drive)
    if len(files) < 2:
        raise Disagreement("the image has too few plain files to change")
    changed, deleted = files[0], files[-1]
    added = drive / "demo" / "hello.txt"
    print(f"  listing of the drive: {', '.join(sorted(os.listdir(drive))[:LOOKED_AT])}")
    added.parent.mkdir()
    added.write_bytes(b"hello from the demo\r\n")
    print(f"  added   {added.relative_to(drive)}")
    with changed.open("ab") as file:
        file.write(b"changed by the demo\r\n")
    print(f"  changed {changed.relative_to(drive)}")
    deleted.unlink()
    print(f"  deleted {deleted.relative_to(drive)}", flush=True)
    return {
        os.fspath(path.relative_to(drive)): content
        for path, content in ((added, added.read_bytes()), (changed, changed.read_bytes()), (deleted, None))
    }


def check_changes(root: Path, container: str, expected: dict[str, bytes | None]) -> None:
    """Check that ``changes`` tells of exactly what was done (beside the directories that hold it)."""
    kinds = {c["path"]: c["kind"] for c in as_json(root, "changes", container) if not c["directory"]}
    wanted = {f"Files/{path}": kind for path, kind in zip(expected, "ACD", strict=True)}
    check(kinds == wanted, "changes lists one addition, one change and one deletion")


def check_content(drive: Path, expected: dict[str, bytes | None]) -> None:
    """Check that the drive holds what it should."""
    for path, content in expected.items():
        there = (drive / path).read_bytes() if (drive / path).exists() else None
        check(
            there == content, f"{path} {'is gone' if content is None else 'has the content written before'}"
        )


def tell(folder: Path, image: str | None) -> None:
    """Tell the story in *folder*."""
    first, second = folder / "first-store", folder / "second-store"
    if image is None:
        from winlayers.testing.sample_image import TAG, write_sample_image

        write_sample_image(folder / "sample")
        image = f"oci:{folder / 'sample'}:{TAG}"
    say("Load the image: every blob and every layer is checked against its digest")
    winlayers(first, "load", image)
    winlayers(first, "images")
    loaded = as_json(first, "images")[0]
    name = loaded["reference"]

    say("Its layers, base first; each is exported bit for bit")
    winlayers(first, "layers", name)
    base_diff_ids = check_layers(first, name)

    say("A container: a scratch layer on top, mounted as drive C:, and changed")
    winlayers(first, "create", name, "--name", "demo")
    try:
        with mounted(first, "demo") as drive:
            expected = change(drive)
            winlayers(first, "changes", "demo")
            check_changes(first, "demo", expected)

        say("Commit: the changes become a layer of a new image")
        winlayers(first, "commit", "demo", "demo:changed")
    finally:
        winlayers(first, "rm", "--force", "demo")

    say("Save it, and load it into a second, empty store")
    layout = f"oci:{folder / 'layout'}:changed"
    winlayers(first, "save", "demo:changed", layout)
    winlayers(second, "load", "--name", "demo:changed", layout)
    winlayers(second, "layers", "demo:changed")

    say("Do all digests agree?")
    one, two = (as_json(root, "images") for root in (first, second))
    made = next(entry for entry in one if entry["reference"] == "demo:changed")
    check(made["digest"] == two[0]["digest"], f"the manifests: {made['digest']}")
    check(made["id"] == two[0]["id"], f"the configurations: {made['id']}")
    diff_ids = check_layers(second, "demo:changed")
    check(diff_ids[:-1] == base_diff_ids, "the layers from the base are the ones that came in")
    blobs = [[layer["blob"] for layer in as_json(root, "layers", "demo:changed")] for root in (first, second)]
    base_blobs = [layer["blob"] for layer in as_json(first, "layers", name)]
    check(blobs[0] == blobs[1], "the compressed layers are the same in both stores")
    check(blobs[0][:-1] == base_blobs, "those of the base are unchanged")

    say("And does the second store show what was done in the first?")
    winlayers(second, "create", "demo:changed", "--name", "look")
    try:
        with mounted(second, "look") as drive:
            check_content(drive, expected)
    finally:
        winlayers(second, "rm", "--force", "look")
    print("\nAll digests agree.")


def main() -> int:
    """Run the demo on the image given, or on the sample image."""
    image = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        with tempfile.TemporaryDirectory(prefix="winlayers-demo-") as folder:
            tell(Path(folder), image)
    except Disagreement as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
