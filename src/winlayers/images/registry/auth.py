"""How a registry's challenge is answered: basic authentication, and tokens.

Sources: RFC 9110 section 11 (challenges); distribution ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlencode

from winlayers.errors import RegistryError
from winlayers.images.registry.credentials import Credentials

_CLIENT = "winlayers"
_DEFAULT_LIFE = 60
_EARLY = 10
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9!#$&^_.+-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

_TOKEN = re.compile(r"[!-~]+")
"""What a header can carry; RFC 6750 allows even less."""

Send = Callable[[str, str, dict[str, str], bytes | None], tuple[int, bytes]]
"""Sends a request (method, URL, headers, body); gives status and a bounded body."""


@dataclasses.dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header: scheme in lower case, and parameters."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges in the headers; what can't be understood is left out."""
    found = []
    for header in headers:
        position = 0
        while (match := _SCHEME.match(header, position)) is not None:
            position = match.end()
            parameters = {}
            while (item := _PARAMETER.match(header, position)) is not None:
                value = item[3] if item[2] is None else re.sub(r"\\(.)", r"\1", item[2])
                parameters[item[1].lower()] = value
                position = item.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found


class Authorizer:
    """Answers the challenges of one registry, and remembers the tokens."""

    def __init__(self, credentials: Callable[[], Credentials | None], send: Send) -> None:
        """Make an authorizer.

        Args:
            credentials: finds the user's credentials; called once, when they are first needed.
            send: sends requests to token servers.
        """
        self._find = credentials
        self._send = send
        self._found: Credentials | None = None
        self._asked = False
        self._basic = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    def _credentials(self) -> Credentials | None:
        if not self._asked:
            self._found = self._find()
            self._asked = True
        return self._found

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The Authorization header for a request that needs *scopes*; None: nothing is known yet."""
        if self._basic:
            found = self._credentials()
            return None if found is None else found.basic()
        token, until = self._tokens.get(scopes, ("", 0.0))
        return f"Bearer {token}" if token and time.monotonic() < until else None

    def answer(self, challenges: list[Challenge], scopes: tuple[str, ...]) -> bool:
        """Get ready to answer; False where nothing better can be sent than before.

        Raises:
            RegistryError: the token server refuses, or gives nonsense.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                before = self.header(scopes)
                self._tokens[scopes] = self._token(challenge.parameters, scopes)
                return self.header(scopes) != before
        if any(challenge.scheme == "basic" for challenge in challenges):
            known, self._basic = self._basic, True
            return not known and self._credentials() is not None
        return False

    def _token(self, challenge: dict[str, str], scopes: tuple[str, ...]) -> tuple[str, float]:
        realm = challenge["realm"]
        service = challenge.get("service", "")
        wanted = scopes or tuple(s for s in (challenge.get("scope", ""),) if s)
        credentials = self._credentials()
        if credentials is not None and credentials.is_token:
            fields = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": _CLIENT,
                "scope": " ".join(wanted),
                "refresh_token": credentials.password,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            try:
                form = urlencode(fields, errors="surrogateescape").encode("ascii")
            except UnicodeEncodeError as error:
                raise RegistryError("credentials hold what is no text") from error
            status, body = self._send("POST", realm, headers, form)
        else:
            query = urlencode([*([("service", service)] if service else []), *(("scope", s) for s in wanted)])
            url = f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
            headers = {} if credentials is None else {"Authorization": credentials.basic()}
            status, body = self._send("GET", url, headers, None)
        return _read_token(realm, status, body)


def _read_token(realm: str, status: int, body: bytes) -> tuple[str, float]:
    if status in (401, 403):
        raise RegistryError(f"the token server {realm} refuses: wrong credentials, or no right to this")
    if status != 200:
        raise RegistryError(f"the token server {realm} answered {status}")
    try:
        value = json.loads(body)
        token = value.get("token") or value.get("access_token")
        life = value.get("expires_in") or _DEFAULT_LIFE
        if not isinstance(token, str) or not _TOKEN.fullmatch(token) or not isinstance(life, int | float):
            raise TypeError("no token")
        return token, time.monotonic() + max(life - _EARLY, 1)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RegistryError(f"the token server {realm} gave an answer that is not understood") from error
