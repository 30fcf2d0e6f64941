"""JSON Lines: one document a line, `{"id": …, "title": …, "text": …, "metadata": {…}}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.cli.ingest.items import Item, ReadDocument, Remark, Verdict
from shared.domain import DocumentId, DocumentInput, Metadata, MetadataScalar, MetadataValue
from shared.errors import InvalidArgumentError

_LINE_BYTES = 16 * 1024 * 1024  # a document has at most 2,000,000 characters, and JSON may escape each into 6 bytes


def read_json_lines(path: Path, name: str, extra: Metadata) -> Iterator[Item]:
    """Documents of a file, a line at a time; blank lines are passed over. A bad line is a FAILED remark and the next ones go on.

    `id` (or `_id`, as retrieval data sets have it) and `text` are needed; `extra` metadata gives way to the line's own. Raises OSError.
    """
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            origin = f"{name}:{number}"
            if line is None:
                yield Remark(Verdict.FAILED, origin, f"the line is longer than {_LINE_BYTES // 2**20} MB")
            elif line.strip():
                try:
                    yield ReadDocument(_document(line, extra), origin)
                except InvalidArgumentError as error:
                    yield Remark(Verdict.FAILED, origin, error.message)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines, None for one that is too long to be held."""
    while line := file.readline(_LINE_BYTES):
        if len(line) < _LINE_BYTES or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None


def _document(line: bytes, extra: Metadata) -> DocumentInput:
    try:
        value = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgumentError("is not a JSON object")
    identity = value.get("id", value.get("_id"))
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    title, text = value.get("title") or "", value.get("text")
    if not isinstance(identity, str) or not identity:
        raise InvalidArgumentError("has no `id` (text or a whole number)")
    if not isinstance(title, str):
        raise InvalidArgumentError("`title` is not text")
    if not isinstance(text, str) or not text.strip():
        raise InvalidArgumentError("has no `text`")
    return DocumentInput(DocumentId(identity), title, text, {**extra, **_metadata(value.get("metadata"))})


def _metadata(value: Any) -> Metadata:  # noqa: ANN401 - whatever JSON holds
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError("`metadata` is not an object")
    return {field: _field(field, element) for field, element in value.items()}


def _field(field: str, value: Any) -> MetadataValue:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, list):
        return tuple(_scalar(field, element) for element in value)
    return _scalar(field, value)


def _scalar(field: str, value: Any) -> MetadataScalar:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(value, str | int | float | bool):
        raise InvalidArgumentError(f"metadata `{field}` is neither text, a number, a boolean nor a list of one of these")
    return value
