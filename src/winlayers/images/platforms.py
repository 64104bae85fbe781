"""Platforms, and the choice of a manifest from an index.

Windows adds two fields to the usual three: ``os.version`` (``10.0.20348.2227``), whose first three numbers
are the build that a host must have, and ``os.features`` (``win32k``).  Sources: OCI image specification
``image-index.md``; containerd's platforms package (``defaults_windows.go``,
``platform_windows_compat.go``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from winlayers.errors import PlatformError
from winlayers.images.jsonfields import Fields

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "x86": "386",
    "armhf": "arm",
    "armel": "arm",
}
_PART = re.compile(r"[A-Za-z0-9_.-]+")

STABLE_ABI_BUILD = 20348
"""From this build on (Windows Server 2022, Windows 11) a container also runs on a host of a newer build."""


@dataclasses.dataclass(frozen=True, slots=True)
class Platform:
    """What an image is for.

    Attributes:
        os: ``windows``.
        architecture: Go's name (``amd64``, ``arm64``).
        variant: of the processor; "" mostly.
        os_version: ``major.minor.build.revision``, or fewer numbers, or "".
        os_features: features that the host must have (``win32k``).
    """

    os: str = "windows"
    architecture: str = "amd64"
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``windows``, ``windows/amd64`` or ``windows/amd64:10.0.20348``, optionally ``/variant``.

        ``windows(10.0.20348)/amd64``, containerd's form, is read too.

        Raises:
            PlatformError: *text* has another form.
        """
        os_name, version = text, ""
        match = re.fullmatch(r"([^()/:]+)\(([^()/:]*)\)(/.*)?", text)
        if match is not None:
            os_name, version = match[1] + (match[3] or ""), match[2]
        elif ":" in text:
            os_name, version = text.split(":", 1)
        parts = os_name.split("/")
        wanted = [*parts, version] if version or ":" in text else parts
        if len(parts) > 3 or not all(_PART.fullmatch(part) for part in wanted):
            raise PlatformError(f"not a platform: {text!r}", hint="write windows/amd64[:os.version]")
        architecture = parts[1].lower() if len(parts) > 1 else "amd64"
        return cls(
            os=parts[0].lower(),
            architecture=_ARCHITECTURES.get(architecture, architecture),
            variant=parts[2] if len(parts) > 2 else "",
            os_version=version,
        )

    @classmethod
    def from_fields(cls, fields: Fields) -> Platform:
        """The platform in a descriptor of an index, or in a configuration."""
        return cls(
            os=fields.string("os", ""),
            architecture=fields.string("architecture", ""),
            variant=fields.string("variant", ""),
            os_version=fields.string("os.version", ""),
            os_features=fields.strings("os.features"),
        )

    def to_json(self) -> dict[str, object]:
        """The platform as a descriptor's field, empty parts left out."""
        value: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def __str__(self) -> str:
        text = f"{self.os}/{self.architecture}"
        if self.variant:
            text += f"/{self.variant}"
        if self.os_version:
            text += f":{self.os_version}"
        return text


WINDOWS = Platform()
"""Any version of Windows on amd64: what is taken where nothing is asked for."""


def version_key(version: str) -> tuple[int, ...]:
    """A sort key for ``os.version``; what is not a number counts as 0."""
    return tuple(int(p) if p.isascii() and p.isdigit() and len(p) < 10 else 0 for p in version.split("."))


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for *offered* will do where *wanted* was asked for.

    The operating system, the architecture and, where asked for, the variant must be the same.  An
    ``os.version`` asked for stands for a host: its build must be the image's, or newer where both are at
    least :data:`STABLE_ABI_BUILD`; an image without one fits.  Features asked for must include all that
    the image needs; where none are asked for, any will do.
    """
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return False
    if wanted.variant and offered.variant and wanted.variant != offered.variant:
        return False
    if wanted.os_features and not set(offered.os_features) <= set(wanted.os_features):
        return False
    if not wanted.os_version or not offered.os_version:
        return True
    host, image = version_key(wanted.os_version)[:3], version_key(offered.os_version)[:3]
    if len(host) < 3:
        return image[: len(host)] == host
    if host == image:
        return True
    return host[:2] == image[:2] and host[2] >= image[2] >= STABLE_ABI_BUILD


def choose(wanted: Platform, offered: Sequence[Platform | None], what: str) -> int:
    """The position in *offered* of the best fit for *wanted*.

    The same build is better than an older one, and within a build the newest revision is best; of equals
    the first in the index wins.  An entry without a platform is never chosen.

    Raises:
        PlatformError: none fits; the message lists what there is.
    """
    fits = [(i, p) for i, p in enumerate(offered) if p is not None and matches(wanted, p)]
    if not fits:
        there = sorted({str(p) for p in offered if p is not None and p.os != "unknown"})
        raise PlatformError(
            f"{what} has no image for {wanted}", hint=f"it offers {', '.join(there) or 'no platform at all'}"
        )
    build = version_key(wanted.os_version)[:3]
    return max(
        fits,
        key=lambda fit: (
            bool(build) and version_key(fit[1].os_version)[:3] == build,
            version_key(fit[1].os_version),
            -fit[0],
        ),
    )[0]
