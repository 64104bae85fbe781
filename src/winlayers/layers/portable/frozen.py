"""SQLite files that never change once they are in place: indexes, views, what is kept of blobs."""

from __future__ import annotations

import sqlite3


def connect_frozen(path: str) -> sqlite3.Connection:
    """Open the file *path* to be read, without locks or a journal, from any one thread at a time.

    Raises:
        sqlite3.Error: it can't be opened; what is wrong inside shows at the first query.
    """
    # In a URI these three mean something (source: SQLite, "Uniform Resource Identifiers").
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?mode=ro&immutable=1", uri=True, check_same_thread=False)
