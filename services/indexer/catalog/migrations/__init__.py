"""Numbered migrations of the catalog's schema, applied in order, each in one transaction with the number it brings.

A file `NNNN_name.sql` beside this one is migration NNNN; SQLite's `user_version` holds the number of the last one applied.
"""

from __future__ import annotations

import importlib.resources
import re

import apsw

from shared.errors import ConfigurationError

_NAME = re.compile(r"(\d{4})_\w+\.sql")


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of every migration, in order."""
    found = []
    for file in importlib.resources.files(__name__).iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            found.append((int(match.group(1)), file.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(connection: apsw.Connection) -> None:
    """Brings the schema up to the newest version.

    Raises ConfigurationError if the file was written by a newer version of the service.
    """
    present = int(connection.pragma("user_version"))
    known = migrations()
    newest = known[-1][0]
    if present > newest:
        raise ConfigurationError(
            f"the catalog has schema version {present}, this version of the service knows {newest}: start the newer version, or restore a backup"
        )
    for number, sql in known:
        if number > present:
            with connection:
                connection.execute(sql)
                connection.pragma("user_version", number)
