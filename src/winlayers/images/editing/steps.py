"""Histories: which steps belong to which layers, and what becomes of them when images are edited.

A step with ``empty_layer`` has no layer; the others have one each, in order.  Histories that say less, or
nothing, are taken as they are.  Source: OCI image specification ``config.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Step = Mapping[str, object]


def has_layer(step: Step) -> bool:
    """Whether the step made a layer."""
    return step.get("empty_layer") is not True


def merged(steps: Sequence[Step], first: int, last: int) -> list[Step]:
    """The steps with those of the layers from number *first* up to *last* (from 0) without layers."""
    result: list[Step] = []
    number = 0
    for step in steps:
        if has_layer(step):
            if first <= number <= last:
                step = {**step, "empty_layer": True}
            number += 1
        result.append(step)
    return result


def up_to_layer(steps: Sequence[Step], layers: int) -> list[Step]:
    """The steps up to the one that made the last of so many layers."""
    number = 0
    for position, step in enumerate(steps):
        number += has_layer(step)
        if number == layers:
            return list(steps[: position + 1])
    return list(steps)


def above_base(steps: Sequence[Step], base_steps: int, base_layers: int) -> list[Step]:
    """The steps of an image that are not its base's.

    Those after as many steps as the base has, and those of layers above the base's in any case (so does
    go-containerregistry, ``pkg/v1/mutate/rebase.go``).
    """
    result = []
    layers = 0
    for position, step in enumerate(steps):
        layers += has_layer(step)
        if position >= base_steps or layers > base_layers:
            result.append(step)
    return result
