"""Several changes of a SQLite file that are made together or not at all."""

import contextlib
import sqlite3
from collections.abc import Iterator


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Keeps what the block writes if it ends without error, and nothing else of it.

    Args:
      database: in autocommit mode (`isolation_level=None`); locked for writing from the
        block's start.

    Raises:
      sqlite3.Error: it is locked for longer than its timeout, or cannot be written.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
            database.execute("ROLLBACK")
        raise
