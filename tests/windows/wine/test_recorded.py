"""Scenarios compared with what hcsshim and dockerd's graph driver were recorded doing in them.

The recordings were made by running both, built for Windows, under Wine on the stand-in of these tests; what
rests on its emulation of BackupRead and BackupWrite here rested on it there.  Where we differ on purpose
(``docs/windows.md``) the recordings are read as :func:`expected` says.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.windows.wine import comparing, driver_scenarios, more_scenarios, scenarios
from tests.windows.wine.scenarios import Operation, Scenario
from tests.windows.wine.standin import StandIn, comparable
from winlayers.errors import WinlayersError
from winlayers.graphdriver import CreateOptions
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import ChangeKind, DriverInfo
from winlayers.testing.content import read_all

RECORDED = Path(__file__).parent / "recorded"
Recording = dict[str, Any]


def recordings(name: str) -> dict[str, Recording]:
    """All of one program's recordings."""
    found: dict[str, Recording] = json.loads((RECORDED / f"{name}.json").read_text(encoding="ascii"))
    return found


def name_of(path: str) -> str:
    """The id of a layer in the home."""
    return path.rpartition("\\")[2]


def on_service(service: NativeLayerService, o: Operation) -> Any:
    """One operation of hcsshim's on the layer service."""
    layer, chain = o.get("layer", ""), o.get("chain", [])
    match o["op"]:
        case "import":
            return str(service.import_tar(name_of(layer), chain, io.BytesIO(base64.b64decode(o["tar"]))))
        case "export":
            return comparing.tar_lines(read_all(service.export_inactive(name_of(layer), chain)))
        case "create":
            return service.create_scratch(name_of(layer), chain)
        case "createlayer":
            return service.create(name_of(layer), o["s"])
        case "expand":
            return service.expand_scratch(name_of(layer), o["size"])
        case "exists":
            return str(service.exists(name_of(layer))).lower()
        case "grant":
            return service.grant_vm_access(o["s"], layer)
        case "images":
            return service.shared_base_images()
        case "guid":
            return str(service.name_to_guid(o["s"]))
        case "prepare":
            return service.prepare(name_of(layer), chain)
        case "mountpath":
            return service.mount_path(name_of(layer))
        case "processbase":
            return service.process_base_layer(layer)
        case "processuvm":
            return service.process_utility_vm(layer)
        case "importfolder":
            return service.import_folder(name_of(layer), o["s"], chain)
        case "exportfolder":
            return service.export_folder(name_of(layer), o["s"], chain)
        case "activate" | "unprepare" | "deactivate" | "destroy" as call:
            return getattr(service, call)(name_of(layer))
    raise AssertionError(o["op"])


def on_driver(driver: WindowsGraphDriver, o: Operation) -> Any:
    """One operation of dockerd's driver on ours."""
    layer, parent = o["id"], o["parent"]
    match o["op"]:
        case "create":
            return driver.create(layer, parent, CreateOptions())
        case "create_rw":
            return driver.create_read_write(layer, parent, CreateOptions())
        case "apply":
            return str(driver.apply_diff(layer, parent, io.BytesIO(base64.b64decode(o["tar"]))))
        case "diff":
            return comparing.tar_lines(read_all(driver.diff(layer)))
        case "changes":
            return sorted(
                f"{change.path} {'D' if change.kind is ChangeKind.DELETE else 'C'}"
                for change in driver.changes(layer)
            )
        case "exists":
            return str(driver.exists(layer)).lower()
        case "cleanup":
            return driver.cleanup()
        case "get" | "put" | "remove" as call:
            return getattr(driver, call)(layer)
    raise AssertionError(o["op"])


def play(scenario: Scenario, home: Path, standin: StandIn, run: Callable[[Operation], Any]) -> Recording:
    """What happens in *scenario*, in the form of the recordings."""
    comparing.prepare(home, scenario.setup)
    before = comparing.folder_digest(home)
    for name, value in scenario.settings.items():
        if name != "FAIL":
            standin.set(name, value)
    standin.fail(scenario.settings.get("FAIL", ""))
    results = []
    for operation in scenario.operations:
        try:
            results.append(run(operation) or "")
        except WinlayersError:
            results.append(None)
    calls = [comparing.one_line(call) for call in comparable(standin.calls())]
    return {
        "calls": calls,
        "results": results,
        "home": comparing.changed(before, comparing.folder_digest(home)),
    }


WRITING = {"import", "apply"}
ENDING = {"NameToGuid", "ImportLayer", "ProcessBaseImage", "ProcessUtilityImage"}
"""What hcsshim still calls after it failed to write a layer."""


def expected(scenario: Scenario, recorded: Recording, found: Recording) -> Recording:
    """*recorded* as it must be here.

    - What a failed import wrote is gone, and after a failure to write nothing is imported.
    - The boot files of a utility VM that a layer does not replace are not the parent's, but copies.
    """
    failed = any(
        operation["op"] in WRITING and result is None
        for operation, result in zip(scenario.operations, recorded["results"], strict=True)
    )
    if not failed:
        home = {path: what for path, what in recorded["home"].items() if not _is_shared_boot_file(path, what)}
        return {**recorded, "home": home}
    calls = recorded["calls"]
    rule = scenario.settings.get("FAIL", "")
    if re.split("[#=]", rule)[0] not in {*ENDING, "GetLayerMountPath"}:
        left = calls[len(found["calls"]) :]
        assert {call.split(" ")[0] for call in left} <= ENDING
        calls = calls[: len(found["calls"])]
    chain = recorded["home"].get("new/layerchain.json")
    home = {"new": found["home"].get("new"), "new/layerchain.json": chain}
    return {**recorded, "calls": calls, "home": {path: what for path, what in home.items() if what}}


def _is_shared_boot_file(path: str, what: str) -> bool:
    return path.startswith(f"p3/{scenarios.BOOT}/BCD") and " = new/" in what


HCSSHIM = recordings("hcsshim")
DOCKERD = recordings("dockerd")
HCSSHIM_SCENARIOS = [*scenarios.HCSSHIM, *more_scenarios.HCSSHIM]
DOCKERD_SCENARIOS = [*driver_scenarios.DOCKERD, *more_scenarios.DOCKERD]


def test_all_is_recorded_and_nothing_else() -> None:
    assert HCSSHIM.keys() == {scenario.name for scenario in HCSSHIM_SCENARIOS}
    assert DOCKERD.keys() == {scenario.name for scenario in DOCKERD_SCENARIOS}


@pytest.mark.parametrize("scenario", HCSSHIM_SCENARIOS, ids=lambda scenario: scenario.name)
def test_like_hcsshim_emulated(scenario: Scenario, home: Path, standin: StandIn) -> None:
    service = NativeLayerService(DriverInfo(str(home)), import_inline=True, complete_hives=False)
    found = play(scenario, home, standin, lambda operation: on_service(service, operation))
    assert found == expected(scenario, HCSSHIM[scenario.name], found)


@pytest.mark.parametrize("scenario", DOCKERD_SCENARIOS, ids=lambda scenario: scenario.name)
def test_like_dockerd_emulated(scenario: Scenario, home: Path, standin: StandIn) -> None:
    driver = WindowsGraphDriver(
        str(home),
        options=scenario.options,
        service_factory=lambda info, options: NativeLayerService(
            info, import_inline=True, complete_hives=False
        ),
    )
    found = play(scenario, home, standin, lambda operation: on_driver(driver, operation))
    assert found == expected(scenario, DOCKERD[scenario.name], found)
