"""The sockets of a connection pool, so that one thread can end what others are waiting for.

A thread that waits for a server can't be interrupted in Python, and a server may be silent for as long as the
time limit lets it.  Shutting its socket down wakes it up, with the end of the stream or an error.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

import urllib3
from urllib3 import connection


class Sockets:
    """The sockets that are open; safe for several threads."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False

    def add(self, sock: socket.socket) -> None:
        """Watch *sock*, which was just connected."""
        with self._lock:
            self._open.add(sock)
            ended = self._ended
        if ended:
            _shut(sock)

    def end(self) -> None:
        """Shut all sockets down, and those that are opened later."""
        with self._lock:
            self._ended = True
            found = list(self._open)
        for sock in found:
            _shut(sock)

    def watch(self, pool: urllib3.PoolManager) -> None:
        """Watch the sockets that *pool* will open."""

        sockets = self

        class HTTPConnection(connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class HTTPSConnection(connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = HTTPConnection

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = HTTPSConnection

        pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _shut(sock: socket.socket) -> None:
    # TLS within TLS, through a proxy, is no socket but has one.  SSLSocket's own method would take the TLS
    # session away from under the thread that is reading.
    plain = getattr(sock, "socket", sock)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
