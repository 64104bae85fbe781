"""Which servers stand for a registry: mirrors, and the registry itself.

Mirrors and certificates are configured as for containerd, in ``hosts.toml`` files (source: containerd
``docs/hosts.md``): ``<folder>/<registry>/hosts.toml``, where the folder is what WINLAYERS_CERTS_D names, else
``/etc/containerd/certs.d``.  docker's ``/etc/docker/certs.d/<registry>/*.crt`` are trusted, too.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from winlayers.errors import RegistryError
from winlayers.images.registry.options import RegistryOptions

_DOCKER_HUB = "registry-1.docker.io"
_CERTIFICATES = Path("/etc/docker/certs.d")


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that may answer for a registry.

    Attributes:
        url: scheme, host and path, to which ``/v2/...`` is added (or only the rest, see *whole*).
        schemes: what to try, in order: ``https``, ``http``.
        verify: whether its certificate must be right.
        ca_files: certificates to trust beside the system's.
        client: certificate and key of the client's own.
        headers: to be sent along.
        can_push: whether it takes uploads.
        can_resolve: whether it is asked what a tag means.
        mirror: whether it stands for another: it gets a ``ns`` parameter, and its failures are no errors.
    """

    url: str
    schemes: tuple[str, ...] = ("https",)
    verify: bool = True
    ca_files: tuple[str, ...] = ()
    client: tuple[str, str] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    can_push: bool = True
    can_resolve: bool = True
    mirror: bool = False

    @property
    def name(self) -> str:
        """Host and port, for messages."""
        return urlsplit(f"//{self.url}").netloc


def is_loopback(host: str) -> bool:
    """Whether *host* (with or without a port) is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def endpoints(domain: str, options: RegistryOptions) -> list[Endpoint]:
    """The servers to ask for *domain*, mirrors first.

    Raises:
        RegistryError: a configuration file is damaged.
    """
    host = _DOCKER_HUB if domain == "docker.io" else domain
    base = Endpoint(
        host,
        schemes=_schemes(host, options.insecure),
        verify=not options.insecure,
        ca_files=(*((options.ca_file,) if options.ca_file else ()), *_docker_certificates(domain)),
    )
    configured = _read_hosts(domain)
    if configured is None:
        return [base]
    folder, value = configured
    found = []
    hosts = value.get("host")
    for url, settings in hosts.items() if isinstance(hosts, dict) else ():
        if isinstance(settings, dict):
            found.append(_endpoint(url, settings, base, folder, mirror=True))
    server = value.get("server")
    if isinstance(server, str):
        base = _endpoint(server, value, base, folder, mirror=False)
    return [*found, base]


def _schemes(host: str, insecure: bool) -> tuple[str, ...]:
    return ("https", "http") if insecure or is_loopback(host) else ("https",)


def _read_hosts(domain: str) -> tuple[Path, dict[str, object]] | None:
    root = Path(os.environ.get("WINLAYERS_CERTS_D") or "/etc/containerd/certs.d")
    for name in (domain, domain.replace(":", "_") + "_", "_default"):
        path = root / name / "hosts.toml"
        try:
            return path.parent, tomllib.loads(path.read_text("utf-8"))
        except OSError:
            continue
        except ValueError as error:
            raise RegistryError(f"{path} is not TOML: {error}") from error
    return None


def _endpoint(
    url: str, settings: dict[str, object], base: Endpoint, folder: Path, *, mirror: bool
) -> Endpoint:
    match = re.fullmatch(r"(?:(https?)://)?(.+?)/*", url)
    if match is None or not _is_place(match[2]):
        raise RegistryError(f"{folder / 'hosts.toml'}: {url!r} is no server")
    place = match[2].removesuffix("/v2")
    capabilities = settings.get("capabilities")
    can = capabilities if isinstance(capabilities, list) else ["pull", "resolve", "push"]
    skip = settings.get("skip_verify") is True
    pairs = list(_pairs(settings.get("client")))
    return dataclasses.replace(
        base,
        url=place,
        schemes=(match[1],) if match[1] else _schemes(place, skip),
        verify=base.verify and not skip,
        ca_files=(*base.ca_files, *(str(folder / name) for name in _names(settings.get("ca")))),
        client=(str(folder / pairs[0][0]), str(folder / (pairs[0][1] or pairs[0][0]))) if pairs else None,
        headers=tuple(_headers(settings.get("header"), folder)),
        can_push="push" in can,
        can_resolve="resolve" in can,
        mirror=mirror,
    )


def _names(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item, ""
        elif isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
            yield item[0], item[1]


def _is_place(text: str) -> bool:
    """Whether *text* is a host, with or without a port and a path."""
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0 and not parts.netloc.endswith(":")
    except ValueError:
        return False


def _headers(value: object, folder: Path) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, content in value.items():
            for text in _names(content):
                if not re.fullmatch(r"[!-9;-~]+", name) or not re.fullmatch(r"[\t -~\xa0-\xff]*", text):
                    raise RegistryError(f"{folder / 'hosts.toml'}: the header {name!r} can't be sent")
                yield name, text


def _docker_certificates(domain: str) -> tuple[str, ...]:
    folder = _CERTIFICATES / domain
    return tuple(str(path) for path in sorted(folder.glob("*.crt"))) if folder.is_dir() else ()
