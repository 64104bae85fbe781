"""What a user may say about how registries are reached."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached.

    Attributes:
        credentials: ``user:password`` for this one call; None: what docker's configuration has.
        insecure: allow plain HTTP and certificates that can't be verified.  Loopback addresses may always
            use plain HTTP.
        ca_file: certificates to trust beside the system's.
        parallel: how many blobs are moved at once.
        retries: how often a failed request is tried again.
    """

    credentials: str | None = None
    insecure: bool = False
    ca_file: str | None = None
    parallel: int = 4
    retries: int = 5


DEFAULT_OPTIONS = RegistryOptions()
