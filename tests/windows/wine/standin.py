"""Steers the stand-in DLLs through the environment, and reads what they log."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Call = dict[str, Any]

_TEMPORARY = re.compile(r"hcs[0-9]+")
_USER = re.compile(r"(?i)C:\\users\\[^\\]+\\(AppData\\Local\\)?Temp")


class StandIn:
    """The stand-in, as one test sees it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls.jsonl"
        self._set: set[str] = set()
        side = folder / "side"
        side.mkdir()
        self.set("LOG", str(self._log))
        self.side_folder = str(side)

    def set(self, name: str, value: str) -> None:
        """Set ``STANDIN_<name>``."""
        self._set.add(name)
        os.environ[f"STANDIN_{name}"] = value

    def keep_metadata(self) -> None:
        """Let the emulation of BackupWrite keep all streams, for BackupRead to give back."""
        self.set("SIDE", self.side_folder)

    def fail(self, *rules: str) -> None:
        """Let calls fail: ``NAME=HRESULT`` or ``NAME#N=HRESULT``, N counted from now."""
        if sys.platform == "win32":
            ctypes.WinDLL("vmcompute.dll", winmode=0x800).StandInReset()
        self.set("FAIL", " ".join(rules))

    def calls(self) -> list[Call]:
        """What was logged since the last time."""
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="ascii").splitlines()
        self._log.unlink()
        return [json.loads(line) for line in lines]

    def names(self) -> list[str]:
        """The functions called since the last time."""
        return [call["fn"] for call in self.calls()]

    def close(self) -> None:
        """Back to plain behaviour."""
        for name in self._set:
            os.environ.pop(f"STANDIN_{name}", None)


def comparable(calls: Sequence[Call]) -> list[Call]:
    """*calls* without what two runs can't share: GUIDs, temporary names, users."""
    return [_comparable(call) for call in calls]


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = {"guid"} | ({"out"} if value.get("fn") == "NameToGuid" else set())
        return {key: _comparable(item) for key, item in value.items() if key not in dropped}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, str):
        text = _USER.sub(lambda _: "C:\\users\\USER\\Temp", value)
        return _TEMPORARY.sub("hcsN", text)
    return value
