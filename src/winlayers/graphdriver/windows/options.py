"""Options of the driver and of single layers, and sizes as Docker reads them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from winlayers.errors import DriverOptionError

DEFAULT_SANDBOX_SIZE = "127GB"
"""The size of a scratch layer where none is set: Hyper-V's default for a VHD (source: moby)."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SUFFIX = re.compile(r"(?:b|([kmgtp])(?:b|ib)?)?", re.IGNORECASE)
_FACTOR = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_INT64_MAX = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Read a size as Docker does: ``20G``, ``20GB``, ``20g``, ``20GiB`` and ``20 gb`` are 20 * 2**30 bytes.

    Units are binary, whatever they look like; one blank may stand before the unit; fractions of a byte are
    cut off.  Source: docker/go-units ``RAMInBytes``.

    Raises:
        DriverOptionError: *text* is no size, or is 2**63 bytes or more.
    """
    cut = max((text.rfind(c) for c in "0123456789. "), default=-1)
    number, suffix = text[: cut + 1], text[cut + 1 :]
    if number.endswith(" "):
        number = number[:-1]
    unit = _SUFFIX.fullmatch(suffix)
    if unit is None or _NUMBER.fullmatch(number) is None:
        raise DriverOptionError(
            f"invalid size {text!r}", hint="write it like 20GB; units are b, k, m, g, t, p"
        )
    value = float(number) * (_FACTOR[unit[1].lower()] if unit[1] else 1)
    if value < 0:
        raise DriverOptionError(f"invalid size {text!r}: it is negative")
    if not math.isfinite(value) or value > _INT64_MAX:
        raise DriverOptionError(f"invalid size {text!r}: it is too large")
    return int(value)


@dataclasses.dataclass(frozen=True, slots=True)
class DriverOptions:
    """The options of a driver.

    Attributes:
        size: bytes that a scratch layer may hold where its own options set none (``size``); 0: leave it as
            the layer service makes it.
        reference_changes: answer ``changes`` as the reference does, all but deletions as modifications
            (``reference_changes``).
        service: which layer service to use (``service``): ``auto``, ``portable`` or ``hcs``.
        service_options: what is left, for the layer service to know or to refuse.
    """

    size: int
    reference_changes: bool = False
    service: str = "auto"
    service_options: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parse_driver_options(options: Sequence[str]) -> DriverOptions:
    """Read a driver's ``key=value`` options; keys have no case, and the last of several counts.

    Raises:
        DriverOptionError: an option has no name or no sense.
    """
    values: dict[str, str] = {"size": DEFAULT_SANDBOX_SIZE}
    for option in options:
        key, separator, value = option.partition("=")
        key = key.strip().lower()
        if not key or not separator:
            raise DriverOptionError(f"{option!r} is not a driver option", hint="write key=value")
        values[key] = value
    size = parse_size(values.pop("size"))
    reference = values.pop("reference_changes", "false").lower()
    if reference not in ("true", "false", "1", "0"):
        raise DriverOptionError(f"reference_changes is true or false, not {reference!r}")
    service = values.pop("service", "auto").lower()
    if service not in ("auto", "portable", "hcs"):
        raise DriverOptionError(f"service is auto, portable or hcs, not {service!r}")
    return DriverOptions(size, reference in ("true", "1"), service, values)


def parse_storage_options(options: Mapping[str, str]) -> int:
    """The size in bytes that a layer's own options set; 0 where they set none.

    Raises:
        DriverOptionError: an option is unknown or malformed.
    """
    size = 0
    for key, value in options.items():
        if key.lower() != "size":
            raise DriverOptionError(f"unknown storage option {key!r}", hint="the one there is: size")
        size = parse_size(value)
    return size
