"""Names for containers that were given none: an adjective and a noun from the cold north."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container

from winlayers.errors import InvalidReferenceError

_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_ADJECTIVES = tuple(
    """
    able amber ample bold brave brisk calm careful clear clever crisp curious deft eager early even
    fair fine  firm frank fresh gentle glad grand handy honest keen kind lively loyal lucid merry
    mild modest neat noble  patient plain polite prompt proper proud quick quiet ready robust rustic
    sharp silent simple sincere smooth  sober solid stable steady still stout subtle sunny sure
    swift tidy tranquil true upright vivid warm wise
    """.split()  # noqa: SIM905 - a list of quoted words is no pleasure to read
)
_NOUNS = tuple(
    """
    alder anchor anvil aspen auk badger basalt beacon birch bison boulder brook cairn cedar chisel
    cliff cobalt  comet copper crane creek delta eider elk ember falcon fern fjord flint forge fox
    garnet glacier granite  grouse gull harbor hare hawk hazel heron holly island juniper kestrel
    lagoon lantern larch lichen lynx  maple marten meadow moraine moss oak opal osprey otter owl
    petrel pine plover quarry quartz raven reed ridge  rowan sable salmon shale skerry slate sparrow
    spruce summit tern thicket thistle tundra valley willow wren
    """.split()  # noqa: SIM905 - a list of quoted words is no pleasure to read
)


def check_name(name: str) -> str:
    """*name* itself, once it is known to be a valid container name (Docker's rule).

    Raises:
        InvalidReferenceError: it is not.
    """
    if not _VALID.fullmatch(name):
        raise InvalidReferenceError(
            f"not a container name: {name[:200]!r}",
            hint="letters, digits, and after the first one also _ . -",
        )
    return name


def fresh_name(taken: Container[str]) -> str:
    """A random name that is not in *taken*."""
    for _ in range(100):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"
        if name not in taken:
            return name
    while (name := f"{secrets.choice(_ADJECTIVES)}_{secrets.token_hex(4)}") in taken:
        pass
    return name
