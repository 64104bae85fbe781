"""Credentials as docker and podman keep them.

Read, in this order: the file that REGISTRY_AUTH_FILE names; ``$XDG_RUNTIME_DIR/containers/auth.json``;
``$DOCKER_CONFIG/config.json``, by default ``~/.docker/config.json``.  In each: ``credHelpers`` for the
registry, ``auths`` (the longest matching prefix of registry and repository), ``credsStore``.  Sources:
docker/cli ``config/configfile``; docker-credential-helpers; containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator

from winlayers.errors import RegistryError

_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER = re.compile(r"[A-Za-z0-9_.-]+")
_TIMEOUT = 60
_log = logging.getLogger("winlayers.registry")


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """A user name with a password, or an identity token (then the password is the token)."""

    user: str
    password: str = dataclasses.field(repr=False)
    is_token: bool = False

    def basic(self) -> str:
        """The value of an Authorization header.

        Raises:
            RegistryError: they are no text.
        """
        try:
            # What a command line or environment held that is not UTF-8 is sent as it was.
            pair = f"{self.user}:{self.password}".encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise RegistryError("credentials hold what is no text") from error
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


def parse_pair(text: str) -> Credentials:
    """``user:password``.

    Raises:
        RegistryError: there is no colon.
    """
    user, colon, password = text.partition(":")
    if not colon:
        raise RegistryError("credentials are written as user:password")
    return Credentials(user, password)


def find_credentials(domain: str, repository: str) -> Credentials | None:
    """The credentials for a repository; None where none are kept.

    Raises:
        RegistryError: a configuration file is damaged, or a credential helper fails.
    """
    for path in _files():
        try:
            with open(path, "rb") as file:
                config = json.loads(file.read())
        except OSError:
            continue
        except ValueError as error:
            raise RegistryError(f"{path} is not JSON", hint="it should be docker's configuration") from error
        if isinstance(config, dict):
            found = _from_config(config, domain, repository)
            if found is not None:
                return found
    return None


def _files() -> Iterator[str]:
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield named
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "containers", "auth.json")
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    yield os.path.join(folder, "config.json")


def _from_config(config: dict[str, object], domain: str, repository: str) -> Credentials | None:
    names = _DOCKER_HUB if domain == "docker.io" else (domain,)
    helpers = config.get("credHelpers")
    if isinstance(helpers, dict):
        for name in names:
            if isinstance(helper := helpers.get(name), str):
                return _ask_helper(helper, name)
    auths = config.get("auths")
    if isinstance(auths, dict):
        for key in _prefixes(names, repository):
            for stored, entry in auths.items():
                if _normalised(stored) == _normalised(key) and isinstance(entry, dict):
                    found = _from_entry(entry)
                    if found is not None:
                        return found
    if isinstance(store := config.get("credsStore"), str):
        for name in names:
            found = _ask_helper(store, name)
            if found is not None:
                return found
    return None


def _prefixes(names: tuple[str, ...], repository: str) -> Iterator[str]:
    """What an entry may be called, the most particular first."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join((names[-1] if names is not _DOCKER_HUB else "docker.io", *parts[:count]))
    yield from names


def _normalised(key: str) -> str:
    """An entry's name without scheme and version: old clients wrote ``https://host/v1/``."""
    bare = re.sub(r"^https?://", "", key)
    return re.sub(r"/v[12]/?$", "", bare).rstrip("/")


def _from_entry(entry: dict[str, object]) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials("", token, is_token=True)
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            text = base64.b64decode(auth, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RegistryError("docker's configuration holds credentials that are not base64") from error
        return parse_pair(text.rstrip("\0"))
    user, password = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(password, str):
        return Credentials(user, password)
    return None


def _ask_helper(helper: str, server: str) -> Credentials | None:
    """What ``docker-credential-HELPER get`` says; None where it has nothing."""
    if not _HELPER.fullmatch(helper):
        raise RegistryError(f"docker's configuration names an impossible credential helper: {helper!r}")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"the credential helper {program} can't be run: {error}") from error
    if done.returncode != 0:
        # Helpers say that they know nothing by failing, with this text on standard output.
        message = (done.stdout or done.stderr).strip().splitlines()
        if message and "credentials not found" in message[0]:
            return None
        raise RegistryError(f"{program} failed for {server}: {message[0] if message else done.returncode}")
    try:
        value = json.loads(done.stdout)
        user, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{program} gave an answer that is not understood") from error
    _log.debug("credentials for %s from %s", server, program)
    return Credentials(str(user), str(secret), is_token=user == "<token>")
