"""Reading rows. SQLite's columns have no static type: here they become `Any`, once, and the callers name what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

Row = tuple[Any, ...]


def each(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Iterator[Row]:
    """The rows of a query, read as they are wanted."""
    return connection.execute(sql, bindings)


def every(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> list[Row]:
    """The rows of a query."""
    return list(connection.execute(sql, bindings))


def first(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Row | None:
    """The first row of a query, or None."""
    return connection.execute(sql, bindings).fetchone()


def one(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Row:
    """The first row of a query that always has one."""
    row: Row | None = connection.execute(sql, bindings).fetchone()
    if row is None:
        raise LookupError(f"no row: {sql}")
    return row
