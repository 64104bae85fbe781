"""One server: connections, scheme, authentication, retries, redirects."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProxyError, SSLError

from winlayers._version import __version__
from winlayers.errors import ImageNotFoundError, RegistryError
from winlayers.images.jsonfields import MAX_DOCUMENT
from winlayers.images.registry.auth import Authorizer, parse_challenges
from winlayers.images.registry.credentials import Credentials
from winlayers.images.registry.hosts import Endpoint, is_loopback
from winlayers.images.registry.sockets import Sockets

_log = logging.getLogger("winlayers.registry")
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_WAIT = 60.0
_TIMEOUT = urllib3.Timeout(connect=15, read=60)

Response = urllib3.BaseHTTPResponse
Body = bytes | Iterable[bytes] | None


class Connection:
    """The connection to one endpoint; safe for several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        domain: str,
        credentials: Callable[[], Credentials | None],
        retries: int,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            endpoint: the server.
            domain: the registry that it stands for.
            credentials: finds the user's credentials for it.
            retries: how often a failed request is tried again.

        Raises:
            RegistryError: a certificate file can't be read.
        """
        self.endpoint = endpoint
        self.retries = retries
        self._domain = domain
        self._pool = _make_pool(endpoint)
        self._sockets = Sockets()
        self._sockets.watch(self._pool)
        self._given_up = threading.Event()
        self._lock = threading.RLock()
        self._base: str | None = None
        self._reached = False  # once it was, a refused connection may mean that it is being restarted
        self._authorizer = Authorizer(credentials, self._ask_token_server)

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def give_up(self) -> None:
        """End what other threads are waiting for, now and later: they get a RegistryError."""
        self._given_up.set()
        self._sockets.end()

    # -- requests --

    def request(
        self,
        method: str,
        url: str,
        *,
        scopes: tuple[str, ...] = (),
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        retry: bool = True,
    ) -> Response:
        """Send a request; return the response with its body unread, whatever the status.

        Args:
            url: a path on this server (``/v2/...``), or a whole URL that it gave.
            scopes: what the token must allow.
            body: bytes, or an iterable of bytes (which can be sent only once: *retry* must be False).
            retry: try again after failures of the network and of the server.

        Raises:
            RegistryError: the server can't be reached, or refuses the credentials.
            urllib3.exceptions.HTTPError: the network failed, and *retry* is False.
        """
        attempt = 0
        while True:
            self._check_given_up()
            try:
                response = self._once(method, url, scopes, query, headers, body)
            except HTTPError as error:
                if not retry:
                    raise
                if attempt >= self.retries or (not self._reached and _is_final(error)):
                    raise RegistryError(f"{self.endpoint.name}: {reason_of(error)}") from error
                wait = _backoff(attempt)
                _log.debug("%s %s: %s; again in %.1f s", method, url, reason_of(error), wait)
            else:
                self._reached = True
                if not retry or response.status not in _RETRIED or attempt >= self.retries:
                    return response
                wait = _retry_after(response) or _backoff(attempt)
                _log.debug("%s %s: status %d; again in %.1f s", method, url, response.status, wait)
                drain(response)
            attempt += 1
            self._given_up.wait(wait)

    def fetch(
        self,
        url: str,
        expected: tuple[int, ...],
        what: str,
        *,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_DOCUMENT,
    ) -> tuple[Response, bytes]:
        """Get a small body whole, asking again also where the connection breaks in the midst of it.

        Args:
            url: as for :meth:`request`.
            expected: statuses that are no error.
            what: names it in errors.
            limit: bytes; one more tells that there was more.

        Raises:
            ImageNotFoundError: it is not there.
            RegistryError: as from :meth:`request` and :meth:`check`.
        """
        attempt = 0
        while True:
            response = self.request("GET", url, scopes=scopes, headers=headers)
            self.check(response, expected, what)
            try:
                return response, read_bounded(response, limit)
            except HTTPError as error:
                if attempt >= self.retries:
                    raise RegistryError(f"{self.endpoint.name}: {what}: {reason_of(error)}") from error
                _log.debug("%s: %s; again", what, reason_of(error))
            self._given_up.wait(_backoff(attempt))
            attempt += 1

    def _check_given_up(self) -> None:
        if self._given_up.is_set():
            raise RegistryError(f"{self.endpoint.name}: given up")

    def _once(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: Body,
    ) -> Response:
        full = self._address(self._root(), url)
        parameters = dict(query or {})
        if self.endpoint.mirror:
            parameters["ns"] = self._domain
        if parameters:
            full += ("&" if urlsplit(full).query else "?") + urlencode(parameters)
        for _ in range(3):
            with self._lock:
                authorization = self._authorizer.header(scopes) if self._is_own(full) else None
            response = self._send(method, full, headers, authorization, body)
            if response.status != 401 or not isinstance(body, bytes | None):
                return response
            challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
            with self._lock:
                if authorization != self._authorizer.header(scopes):
                    pass  # another thread has answered meanwhile
                elif not self._authorizer.answer(challenges, scopes):
                    return response
            drain(response)
        return response

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        authorization: str | None,
        body: Body,
    ) -> Response:
        """Send one request, following redirects; what is not this server's gets no secrets."""
        sent = {
            "User-Agent": f"winlayers/{__version__}",
            "Accept-Encoding": "identity",
            **dict(self.endpoint.headers),
            **(headers or {}),
        }
        for _ in range(_MAX_REDIRECTS):
            own = self._is_own(url)
            secret = {"Authorization": authorization} if authorization is not None and own else {}
            response = self._pool.request(
                method,
                url,
                headers={**sent, **secret},
                body=body,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=_TIMEOUT,
            )
            location = response.headers.get("Location")
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS or not location:
                return response
            drain(response)
            target = self._address(url, location)
            if url.startswith("https:") and not target.startswith("https:") and self.endpoint.verify:
                raise RegistryError(f"{self.endpoint.name} redirects to an unsafe address, {target[:200]}")
            url = target
            sent = {
                k: v for k, v in sent.items() if k in ("User-Agent", "Accept-Encoding", "Range", "Accept")
            }
        raise RegistryError(f"{self.endpoint.name} redirects without end")

    def _address(self, base: str, given: str) -> str:
        """The whole address of what the server gave.

        Raises:
            RegistryError: it is none, or not one of HTTP.
        """
        try:
            whole = urljoin(base, given)
            parts = urlsplit(whole)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise RegistryError(f"{self.endpoint.name} gave {given[:200]!r}, which is no address")
        return whole

    def _is_own(self, url: str) -> bool:
        base = urlsplit(self._base or "")
        parts = urlsplit(url)
        return (parts.scheme, parts.netloc) == (base.scheme, base.netloc)

    def _root(self) -> str:
        """Scheme, host and path of the server; found out by the first request."""
        with self._lock:
            if self._base is None:
                self._base = self._probe()
            return self._base

    def _probe(self) -> str:
        """The first scheme by which the server answers."""
        failure: HTTPError | None = None
        for scheme in self.endpoint.schemes:
            base = f"{scheme}://{self.endpoint.url}"
            if len(self.endpoint.schemes) == 1:
                return base
            try:
                response = self._pool.request(
                    "GET",
                    f"{base}/v2/",
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=_TIMEOUT,
                )
            except HTTPError as error:
                failure = error
                # A certificate that can't be verified is no reason to send secrets in the clear.
                if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
                    break
                continue
            drain(response)
            return base
        reason = "no scheme to try" if failure is None else reason_of(failure)
        raise RegistryError(f"{self.endpoint.name}: {reason}") from failure

    def _ask_token_server(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        parts = urlsplit(self._address(self._root(), url))
        if parts.scheme != "https" and not (is_loopback(parts.netloc) or "http" in self.endpoint.schemes):
            raise RegistryError(f"{self.endpoint.name} names a token server without TLS, {url[:200]}")
        attempt = 0
        while True:
            self._check_given_up()
            try:
                response = self._pool.request(
                    method,
                    parts.geturl(),
                    headers={"User-Agent": f"winlayers/{__version__}", **headers},
                    body=body,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=_TIMEOUT,
                )
                data = read_bounded(response)
            except HTTPError as error:
                if attempt >= self.retries:
                    raise RegistryError(f"the token server {parts.netloc}: {reason_of(error)}") from error
            else:
                if response.status not in _RETRIED or attempt >= self.retries:
                    return response.status, data
            self._given_up.wait(_backoff(attempt))
            attempt += 1

    # -- answers --

    def check(self, response: Response, expected: tuple[int, ...], what: str) -> Response:
        """*response* itself, once its status is one of *expected*.

        Raises:
            ImageNotFoundError: the status is 404.
            RegistryError: it is another.
        """
        if response.status in expected:
            return response
        message = ""
        with contextlib.suppress(HTTPError):  # the status says enough
            message = _error_message(read_bounded(response))
        where = f"{self.endpoint.name}: {what}"
        if response.status == 404:
            raise ImageNotFoundError(f"{where} is not there" + (f" ({message})" if message else ""))
        if response.status in (401, 403):
            raise RegistryError(
                f"{where}: access denied" + (f" ({message})" if message else ""), hint="is a login needed?"
            )
        raise RegistryError(f"{where}: status {response.status}" + (f", {message}" if message else ""))


def read_bounded(response: Response, limit: int = MAX_DOCUMENT) -> bytes:
    """A body of up to *limit* bytes; one byte more tells that there was more."""
    parts = []
    left = limit + 1
    while left and (chunk := response.read(left, decode_content=False)):
        parts.append(chunk)
        left -= len(chunk)
    if left:
        response.release_conn()
    else:
        response.close()
    return b"".join(parts)


def drain(response: Response) -> None:
    """Pass over a body that nobody wants, so that its connection can be used again; a long one is cut off."""
    with contextlib.suppress(HTTPError):
        read_bounded(response)


def _error_message(body: bytes) -> str:
    try:
        value = json.loads(body)
        texts = [str(e.get("message") or e.get("code")) for e in value["errors"] if isinstance(e, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return " ".join("; ".join(texts).split())[:300]


def reason_of(error: BaseException) -> str:
    """What went wrong, without Python's wrapping."""
    while isinstance(error, MaxRetryError) and error.reason is not None:
        error = error.reason
    if isinstance(error, ProxyError):
        return f"the proxy: {reason_of(error.original_error)}"
    if isinstance(error, NewConnectionError):
        cause = error.__cause__
        return f"can't connect: {cause}" if cause is not None else "can't connect"
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _is_final(error: HTTPError) -> bool:
    """Whether trying again is of no use: the name or the certificate is wrong."""
    text = str(error)
    return isinstance(error, SSLError) or "Name or service not known" in text or "refused" in text


def _backoff(attempt: int) -> float:
    return float(min(0.25 * 2**attempt, 8.0) * random.uniform(0.8, 1.2))


def _retry_after(response: Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_WAIT) if value.isascii() and value.isdigit() else None


def _make_pool(endpoint: Endpoint) -> urllib3.PoolManager:
    context = ssl.create_default_context()
    try:
        for path in endpoint.ca_files:
            context.load_verify_locations(path)
        if endpoint.client is not None:
            context.load_cert_chain(*endpoint.client)
    except OSError as error:  # ssl.SSLError is one
        raise RegistryError(f"a certificate for {endpoint.name} can't be read: {error}") from error
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("http")
    host = urlsplit(f"//{endpoint.url}").hostname or ""
    if proxy and not is_loopback(host) and not urllib.request.proxy_bypass(host):
        try:
            return urllib3.ProxyManager(proxy, ssl_context=context, maxsize=16)
        except (HTTPError, ValueError) as error:
            shown = re.sub(r"[^/]*@", "", proxy)[:200]  # without the password
            raise RegistryError(
                f"the environment names a proxy that is none: {shown!r}", hint="write http://HOST:PORT"
            ) from error
    return urllib3.PoolManager(ssl_context=context, maxsize=16)
