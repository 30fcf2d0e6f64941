"""A file to documents, by what kind of file it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from services.cli.ingest.convert import CONVERTIBLE, Converter, MissingConverterError
from services.cli.ingest.items import FileEnd, Item, ReadDocument, Remark, SourceFile, Verdict
from services.cli.ingest.json_lines import read_json_lines
from services.cli.ingest.text import decode, heading, is_binary
from shared.domain import DocumentId, DocumentInput, Metadata
from shared.errors import InvalidArgumentError

_MAX_CHARACTERS = 2_000_000  # the service's limit of a document
_MAX_TEXT_BYTES = 4 * _MAX_CHARACTERS  # no encoding of Unicode needs more than 4 bytes a character
_MAX_CONVERTED_BYTES = 100 * 1024 * 1024  # converters hold the whole file and more
_MARKDOWN = frozenset({".md", ".markdown"})
_TITLE_LENGTH = 1000  # characters, the service's limit


class Reader:
    """Reads files of every kind.

    `.jsonl` is one document a line, HTML, PDF and Word files are converted to Markdown, everything else that is not binary is text. A document
    has the metadata `path`, `modified` (UTC) and `kind` (the suffix), and `extra`, which wins; lines of `.jsonl` have their own and `extra`.
    """

    def __init__(self, extra: Metadata) -> None:
        self._extra = extra
        self._converter = Converter()
        self._missing: set[str] = set()

    def read(self, files: Iterable[SourceFile | Remark]) -> Iterator[Item]:
        """Everything that comes out of the files; a file that cannot be read is a remark and the next ones go on."""
        for file in files:
            if isinstance(file, Remark):
                yield file
                continue
            try:
                yield from self._file(file)
            except OSError as error:
                yield Remark(Verdict.FAILED, file.name, error.strerror or str(error))
            except (InvalidArgumentError, UnicodeDecodeError) as error:
                yield Remark(Verdict.FAILED, file.name, str(error))
            yield FileEnd(file.name)

    def _file(self, file: SourceFile) -> Iterator[Item]:
        suffix = file.path.suffix.lower()
        if not file.path.is_file():
            yield Remark(Verdict.SKIPPED, file.name, "is not a regular file")
        elif suffix == ".jsonl":
            yield from read_json_lines(file.path, file.name, self._extra)
        elif suffix in CONVERTIBLE:
            yield from self._converted(file, suffix)
        else:
            yield from self._text(file, suffix)

    def _text(self, file: SourceFile, suffix: str) -> Iterator[Item]:
        with file.path.open("rb") as stream:
            data = stream.read(_MAX_TEXT_BYTES + 1)
        if is_binary(data):
            yield Remark(Verdict.SKIPPED, file.name, "is binary")
            return
        if len(data) > _MAX_TEXT_BYTES:
            raise InvalidArgumentError(f"has more than {_MAX_CHARACTERS:,} characters: split it")
        text, guessed = decode(data)
        if guessed:
            yield Remark(Verdict.NOTE, file.name, f"is not UTF-8; read as {guessed}")
        if not text.strip():
            yield Remark(Verdict.EMPTY, file.name, "is empty")
            return
        yield self._document(file, suffix, text, heading(text) if suffix in _MARKDOWN else "")

    def _converted(self, file: SourceFile, suffix: str) -> Iterator[Item]:
        if file.path.stat().st_size > _MAX_CONVERTED_BYTES:
            raise InvalidArgumentError(f"is larger than {_MAX_CONVERTED_BYTES // 2**20} MB")
        try:
            text, title = self._converter.convert(file.path)
        except MissingConverterError as error:
            if suffix not in self._missing:  # how to install it is said once a kind
                self._missing.add(suffix)
                yield Remark(Verdict.FAILED, file.name, str(error))
            else:
                yield Remark(Verdict.FAILED, file.name, f"no converter for {suffix} files, as said above")
            return
        yield self._document(file, suffix, text, title or heading(text))

    def _document(self, file: SourceFile, suffix: str, text: str, title: str) -> Item:
        if not text.strip():  # of a converted file: a PDF of scanned pages, for example
            return Remark(Verdict.SKIPPED, file.name, "has no text")
        if len(text) > _MAX_CHARACTERS:
            raise InvalidArgumentError(f"has {len(text):,} characters, more than {_MAX_CHARACTERS:,}: split it")
        metadata: Metadata = {"path": file.name, "modified": _modified(file.path), "kind": suffix[1:] or "text", **self._extra}
        return ReadDocument(DocumentInput(DocumentId(file.name), (title or file.path.name)[:_TITLE_LENGTH], text, metadata), file.name)


def _modified(path: Path) -> str:
    """When the file was last changed: UTC, ISO 8601, to the second, so that times compare as text."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
