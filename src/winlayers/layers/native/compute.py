"""Compute systems: listing them, and ending the template VMs that stand on a layer.

A utility VM that was booted from a base layer is kept as a template, which holds the layer's files open, so
the layer can't be removed before the template ends (source: dockerd ``daemon/graphdriver/windows``; hcsshim
``internal/hcs/system.go`` for the calls and their order).
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from winlayers.errors import HcsError
from winlayers.layers.native import errors, ffi, host, vmcompute

_RETRIES = 500
_RETRY_SECONDS = 0.01
_TRANSIENT = (errors.VMCOMPUTE_OPERATION_INVALID_STATE, errors.ERROR_ACCESS_DENIED)
_ENDED = (errors.VMCOMPUTE_ALREADY_STOPPED, 0x80370110)

_NOTIFICATION_SYSTEM_EXITED = 0x00000001
_NOTIFICATION_SERVICE_DISCONNECT = 0x01000000
MAX_EXIT_SECONDS = 300.0
"""hcsshim waits for ever; a removal that hangs helps nobody, so the wait has an end (4 minutes is the
longest that hcsshim gives any operation of a compute system)."""


@dataclasses.dataclass(frozen=True, slots=True)
class ComputeSystem:
    """What an enumeration tells of one compute system.

    Attributes:
        id: its id.
        runtime_image_path: the folder of the utility VM that it was booted from.
        is_runtime_template: whether it is kept to clone utility VMs from.
    """

    id: str
    runtime_image_path: str = ""
    is_runtime_template: bool = False


def enumerate_compute_systems() -> list[ComputeSystem]:
    """HcsEnumerateComputeSystems, of all there are.

    Raises:
        HcsError: the call fails, or what it gives is not what it should be.
    """
    systems = ctypes.c_void_p()
    result = ctypes.c_void_p()
    hresult = ffi.vmcompute().HcsEnumerateComputeSystems("{}", ctypes.byref(systems), ctypes.byref(result))
    text = vmcompute.take_string(systems)
    vmcompute.take_string(result)
    errors.check_hresult("HcsEnumerateComputeSystems", hresult)
    try:
        rows = json.loads(text)
        if rows is None:  # how Go writes an empty list
            rows = []
        if not isinstance(rows, list):
            raise TypeError
        return [
            ComputeSystem(
                str(row["Id"]),
                str(row.get("RuntimeImagePath", "")),
                bool(row.get("IsRuntimeTemplate", False)),
            )
            for row in rows
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise HcsError(
            "HcsEnumerateComputeSystems gave no list of compute systems",
            function="HcsEnumerateComputeSystems",
        ) from None


def enumerate_with_retries(sleep: Callable[[float], None] = time.sleep) -> list[ComputeSystem]:
    """`enumerate_compute_systems`, tried 500 times on builds where a container's end makes it fail.

    As in dockerd, a host below build 16299 on which it never succeeds is taken to have no compute systems.
    """
    for attempt in range(_RETRIES + 1):
        try:
            return enumerate_compute_systems()
        except HcsError as error:
            if errors.win32_code(error) not in _TRANSIENT or host.os_version().build >= host.BUILD_RS3:
                raise
            if attempt < _RETRIES:
                sleep(_RETRY_SECONDS)
    return []


def terminate_templates(layer_id: str) -> None:
    """End each template VM whose image lies in the layer *layer_id*, and wait for the end."""
    for system in enumerate_with_retries():
        if system.is_runtime_template and layer_id in system.runtime_image_path:
            terminate(system.id)


def terminate(system_id: str) -> None:
    """End the compute system *system_id* and wait until it has exited; one that has ended is fine."""
    vm = ffi.vmcompute()
    system = _open(system_id)
    exited = _ExitWatch()
    try:
        exited.register(system)
        _read_properties(system)
        result = ctypes.c_void_p()
        hresult = vm.HcsTerminateComputeSystem(system, "", ctypes.byref(result))
        vmcompute.take_string(result)
        code = hresult & 0xFFFFFFFF
        if code in _ENDED:
            return
        if code not in (errors.VMCOMPUTE_OPERATION_PENDING, errors.VMCOMPUTE_SYSTEM_NOT_FOUND):
            errors.check_hresult("HcsTerminateComputeSystem", hresult, path=system_id)
        exited.wait(system_id)
    finally:
        exited.unregister()
        vm.HcsCloseComputeSystem(system)


def _open(system_id: str) -> ffi.Handle:
    system = ctypes.c_void_p()
    result = ctypes.c_void_p()
    hresult = ffi.vmcompute().HcsOpenComputeSystem(
        ffi.wide(system_id), ctypes.byref(system), ctypes.byref(result)
    )
    vmcompute.take_string(result)
    errors.check_hresult("HcsOpenComputeSystem", hresult, path=system_id)
    return ffi.Handle(system.value or 0)


def _read_properties(system: ffi.Handle) -> None:
    """Ask for the properties, as hcsshim does on opening; an HCS that can't answer shows here."""
    properties = ctypes.c_void_p()
    result = ctypes.c_void_p()
    hresult = ffi.vmcompute().HcsGetComputeSystemProperties(
        system, "{}", ctypes.byref(properties), ctypes.byref(result)
    )
    vmcompute.take_string(properties)
    vmcompute.take_string(result)
    errors.check_hresult("HcsGetComputeSystemProperties", hresult)


class _ExitWatch:
    """Waits for a compute system's exit notification."""

    def __init__(self) -> None:
        self._exited = threading.Event()
        self._disconnected = False
        self._handle = ctypes.c_void_p()
        self._callback = _callback(self._notify)

    def _notify(self, kind: int, _context: int, _status: int, _data: int | None) -> int:
        if kind == _NOTIFICATION_SERVICE_DISCONNECT:
            self._disconnected = True
            self._exited.set()
        elif kind == _NOTIFICATION_SYSTEM_EXITED:
            self._exited.set()
        return 0

    def register(self, system: ffi.Handle) -> None:
        hresult = ffi.vmcompute().HcsRegisterComputeSystemCallback(
            system, self._callback, 0, ctypes.byref(self._handle)
        )
        errors.check_hresult("HcsRegisterComputeSystemCallback", hresult)

    def wait(self, system_id: str) -> None:
        if not self._exited.wait(MAX_EXIT_SECONDS):
            raise HcsError(
                f"{system_id} has not ended {MAX_EXIT_SECONDS:.0f} s after it was told to",
                function="HcsTerminateComputeSystem",
            )
        if self._disconnected:
            raise HcsError(
                f"the host compute service went away while {system_id} ended",
                function="HcsTerminateComputeSystem",
            )

    def unregister(self) -> None:
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle.value:
            # Once this returns Windows calls back no more, so the callback may be collected.
            ffi.vmcompute().HcsUnregisterComputeSystemCallback(ffi.Handle(handle.value))


def _callback(function: Callable[[int, int, int, int | None], int]) -> Any:
    """*function* as a C callback: notification, context, status, data (a wide string)."""
    callback: Any = function
    if sys.platform == "win32":
        kind = ctypes.WINFUNCTYPE(
            ctypes.c_size_t, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
        )
        callback = kind(function)
    return callback
