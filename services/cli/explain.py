"""What an error says to a user. Pure."""

from __future__ import annotations

import re

from shared.errors import ConflictError, InvalidArgumentError, KnowledgeBeastError, ResourceExhaustedError, UnavailableError

# The client calls a service by its short name; "the query" alone would be what the user typed.
_SHORT_NAME = re.compile(r"\bthe query (?=does not answer|at )")


def explain(error: KnowledgeBeastError) -> str:
    """What went wrong, and what to do about it."""
    message = _SHORT_NAME.sub("the query service ", error.message)
    match error:
        case UnavailableError(component="indexer" | "query" as component) if "does not answer" in message:
            return f"{message}: is `kb up` running? (--{component} and KB_{component.upper()}_ADDRESS say where)"
        case InvalidArgumentError() if error.violations:
            return "; ".join(f"{violation.field}: {violation.description}" for violation in error.violations)
        case ResourceExhaustedError():
            return f"{message} (try again in {error.retry_after:g} s)"
        case ConflictError(reason="PAGE_TOKEN_STALE"):
            return "the project has changed since the page before, so that hits would be repeated or skipped: search again without --page"
        case ConflictError():
            return f"{message}: read it again, then retry"
        case _:
            return message
