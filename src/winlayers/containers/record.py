"""What the store keeps of a container: one JSON file, ``containers/ID.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from winlayers.errors import ContainerError

_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A container: a scratch layer on an image's chain.

    Attributes:
        id: 64 hexadecimal digits; also the id of the scratch layer.
        name: what people call it.
        image: the reference by which its image was named, "" where the image had none.
        image_digest: the image's manifest digest.
        image_id: the image's configuration digest.
        layers: the image layers below, base first, by the graph driver's ids.
        created: RFC 3339, UTC.
        storage_opt: options of the scratch layer (``size``).
    """

    id: str
    name: str
    image: str
    image_digest: str
    image_id: str
    layers: tuple[str, ...]
    created: str
    storage_opt: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The record's JSON form."""
        value = dataclasses.asdict(self)
        value["layers"] = list(self.layers)
        return {"version": _VERSION, **value}

    @classmethod
    def from_json(cls, data: bytes, what: str) -> Container:
        """Read a record.

        Raises:
            ContainerError: it is damaged, or of a newer version.
        """
        try:
            value = json.loads(data)
            if value.pop("version") != _VERSION:
                raise ContainerError(f"{what} is of another version of winlayers")
            value["layers"] = tuple(value["layers"])
            return cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ContainerError(f"{what} is damaged: {error}") from error
