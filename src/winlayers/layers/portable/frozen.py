"""SQLite files that never change once they are in place: indexes, views, what is kept of blobs.

What is changed in place while it is used (the record of a FUSE mount's changes) has other needs and opens its
file itself.
"""

from __future__ import annotations

import sqlite3


def connect_frozen(path: str) -> sqlite3.Connection:
    """Open the file *path* to be read, without locks or a journal, from any one thread at a time.

    Raises:
        sqlite3.Error: it can't be opened; what is wrong inside shows at the first query.
    """
    return _connect(path, "mode=ro&immutable=1")


def connect_read_only(path: str) -> sqlite3.Connection:
    """Open the file *path*, which others may change, to be read where it can't be written.

    Raises:
        sqlite3.Error: it can't be opened; what is wrong inside shows at the first query.
    """
    return _connect(path, "mode=ro")


def _connect(path: str, options: str) -> sqlite3.Connection:
    # In a URI these three mean something (source: SQLite, "Uniform Resource Identifiers").
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?{options}", uri=True, check_same_thread=False)


def begin_frozen(path: str, schema: str = "") -> sqlite3.Connection:
    """Open the file *path* to be written in one transaction, which has begun; made if it is missing.

    It is one that nobody else knows of yet, so it has no journal and is not flushed: whoever makes it does so
    as a whole (:mod:`winlayers.durable`), and throws it away if anything fails.

    Args:
        schema: statements to begin with, parted by semicolons; none where the file has its tables already.

    Raises:
        sqlite3.Error: it can't be written.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        for statement in schema.split(";"):
            db.execute(statement)
    except BaseException:
        db.close()
        raise
    return db


def structural_damage(db: sqlite3.Connection) -> str | None:
    """What SQLite finds wrong with the file's structure; None: nothing.  It knows nothing of wrong values.

    Raises:
        sqlite3.Error: it can't even look.
    """
    (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return None if result == "ok" else str(result)
