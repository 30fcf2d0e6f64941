"""Where the command line writes: results to stdout, everything about them to stderr."""

from __future__ import annotations

import json
import sys

from rich.console import Console

# Wide enough for a table when the output is piped; rich would assume 80 columns.
_PIPED_WIDTH = 160

OUT = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
ERR = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _PIPED_WIDTH)


def line(text: str, style: str = "") -> None:
    """Writes a line of stderr as it is: neither wrapped nor read as markup."""
    ERR.print(text, style=style, markup=False, soft_wrap=True)


def result(text: str, style: str = "") -> None:
    """Writes a line of stdout as it is: neither wrapped nor read as markup."""
    OUT.print(text, style=style, markup=False, soft_wrap=True)


def json_document(value: object) -> None:
    """Writes one JSON value, indented."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(value: object) -> None:
    """Writes one JSON value on one line: lists are JSON Lines, so that they may be of any length."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
