"""The one-way dependencies of docs/architecture.md, held true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "winlayers"

ORDER = [
    "errors",
    "win32",
    "tar",
    "durable",
    "layers",
    "graphdriver",
    "images",
    "containers",
    "storefolder",
    "store",
    "inspection",
    "cli",
]
"""Lowest first.  ``testing`` may import all but ``cli``; nothing imports ``testing`` or ``cli``."""

PURE = ["win32", "tar"]
FORBIDDEN_IN_PURE = {"os", "pathlib", "shutil", "subprocess", "socket", "tempfile", "sqlite3", "ctypes"}


def modules(package: str) -> list[Path]:
    path = SOURCE / package
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize(
    "package", [p for p in ORDER if (SOURCE / p).exists() or (SOURCE / f"{p}.py").exists()]
)
def test_imports_point_downwards(package: str) -> None:
    above = {*ORDER[ORDER.index(package) + 1 :], "testing"}
    for path in modules(package):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "winlayers" and len(parts) > 1:
                assert parts[1] not in above, f"{path.relative_to(SOURCE)} imports {name}"


@pytest.mark.parametrize("package", PURE)
def test_formats_do_no_input_or_output(package: str) -> None:
    for path in modules(package):
        if path.stem in ("linuxlayer", "linuxtree"):
            continue  # they make layers of what this system has: its environment, a file tree
        for name in imports(path):
            assert name.split(".")[0] not in FORBIDDEN_IN_PURE, f"{path.relative_to(SOURCE)} imports {name}"


def test_the_two_layer_services_do_not_know_each_other() -> None:
    for own, other in (("portable", "native"), ("native", "portable")):
        for path in modules(f"layers/{own}"):
            for name in imports(path):
                assert not name.startswith(f"winlayers.layers.{other}"), path
