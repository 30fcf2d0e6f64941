"""Checks of what clients send to the indexer, with the limits that the protos state. Pure."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Sequence

from services.indexer.application.ingest import Candidate
from services.indexer.records import NewProject
from shared.domain import LANGUAGES, PROJECT_ID, ChunkId, ChunkingSettings, DocumentId, DocumentInput, KeywordSettings, ProjectId
from shared.errors import FieldViolation, InvalidArgumentError
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, project_pb2
from shared.rpc.convert import metadata_from_struct

MAX_BATCH = 1_000
_MAX_PAGE = 1_000
_DEFAULT_PAGE = 100
_MAX_ID_BYTES = 256
_MAX_CHUNK_ID_BYTES = 300  # the id of its document, "#", 16 hex digits, and the number of the repetition
_MAX_TITLE = 1_000
_MAX_TEXT = 2_000_000
_MIN_CHUNK_TOKENS = 32
_DEFAULT_OVERLAP_TOKENS = 32
_MAX_LABELS = 32
_MAX_LABEL_CHARACTERS = 63
_MAX_STOP_WORDS = 1_000
_MAX_STOP_WORD_CHARACTERS = 50


def refuse(violations: list[FieldViolation]) -> None:
    """Raises InvalidArgumentError if there are any violations."""
    if violations:
        raise InvalidArgumentError("; ".join(f"{each.field}: {each.description}" for each in violations[:5]), tuple(violations))


def project_id(value: str, field: str = "project_id") -> ProjectId:
    """The id of a project. Raises InvalidArgumentError."""
    if not PROJECT_ID.fullmatch(value):
        raise InvalidArgumentError.of(field, "must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit")
    return ProjectId(value)


def request_id(value: str) -> str:
    """A request id: empty or a UUID. Raises InvalidArgumentError."""
    if value:
        try:
            return str(uuid.UUID(value))
        except ValueError as error:
            raise InvalidArgumentError.of("request_id", "must be a UUID, for example 0b6f0b52-52ab-4c5e-9a52-1c5ad1b9ff4a, or empty") from error
    return value


def page_size(value: int) -> int:
    """The size of a page. Raises InvalidArgumentError."""
    if value < 0:
        raise InvalidArgumentError.of("page_size", "must not be negative; 0 means 100")
    return min(value, _MAX_PAGE) or _DEFAULT_PAGE


def _id_problem(value: str) -> str | None:
    size = len(value.encode())
    if not 1 <= size <= _MAX_ID_BYTES:
        return f"must have 1 to {_MAX_ID_BYTES} bytes of UTF-8; this has {size}"
    if any(unicodedata.category(character) == "Cc" for character in value):
        return "must not contain control characters"
    return None


def document_id(value: str, field: str = "document_id") -> DocumentId:
    """The id of a document. Raises InvalidArgumentError."""
    problem = _id_problem(value)
    if problem:
        raise InvalidArgumentError.of(field, problem)
    return DocumentId(value)


def chunk_ids(values: Sequence[str]) -> list[ChunkId]:
    """Ids of chunks. Raises InvalidArgumentError."""
    if len(values) > MAX_BATCH:
        raise InvalidArgumentError.of("chunk_ids", f"must have at most {MAX_BATCH:,} ids")
    for index, value in enumerate(values):
        if not 1 <= len(value.encode()) <= _MAX_CHUNK_ID_BYTES:
            raise InvalidArgumentError.of(f"chunk_ids[{index}]", f"must have 1 to {_MAX_CHUNK_ID_BYTES} bytes of UTF-8")
    return [ChunkId(value) for value in values]


def candidate(message: indexer_pb2.DocumentInput, path: str) -> Candidate:
    """A document of a batch, or the error that says everything that is wrong with it."""
    violations: list[FieldViolation] = []
    problem = _id_problem(message.id)
    if problem:
        violations.append(FieldViolation(f"{path}.id", problem))
    if len(message.title) > _MAX_TITLE:
        violations.append(FieldViolation(f"{path}.title", f"must have at most {_MAX_TITLE:,} characters; this has {len(message.title):,}"))
    if len(message.text) > _MAX_TEXT:
        violations.append(
            FieldViolation(f"{path}.text", f"must have at most {_MAX_TEXT:,} characters; this has {len(message.text):,}: split the document")
        )
    if not message.text.strip():
        violations.append(FieldViolation(f"{path}.text", "must not be empty"))
    metadata = metadata_from_struct(message.metadata, f"{path}.metadata", violations)
    if violations:
        return InvalidArgumentError("; ".join(f"{each.field}: {each.description}" for each in violations[:5]), tuple(violations))
    return DocumentInput(DocumentId(message.id), message.title, message.text, metadata)


def batch_size(count: int) -> None:
    """Raises InvalidArgumentError unless the batch has 1 to 1,000 documents."""
    if not 1 <= count <= MAX_BATCH:
        raise InvalidArgumentError.of("documents", f"must have 1 to {MAX_BATCH:,} documents; this has {count:,}")


def _labels(labels: dict[str, str], violations: list[FieldViolation]) -> dict[str, str]:
    if len(labels) > _MAX_LABELS:
        violations.append(FieldViolation("project.labels", f"must have at most {_MAX_LABELS} labels"))
    for key, value in labels.items():
        if not 1 <= len(key) <= _MAX_LABEL_CHARACTERS or len(value) > _MAX_LABEL_CHARACTERS:
            violations.append(
                FieldViolation(f"project.labels.{key}", f"keys have 1 to {_MAX_LABEL_CHARACTERS} characters, values at most {_MAX_LABEL_CHARACTERS}")
            )
    return labels


def _texts(message: project_pb2.Project, violations: list[FieldViolation]) -> None:
    for field, text, limit in (("display_name", message.display_name, 200), ("description", message.description, 2_000)):
        if len(text) > limit:
            violations.append(FieldViolation(f"project.{field}", f"must have at most {limit:,} characters"))


def _keyword(message: project_pb2.KeywordSettings, violations: list[FieldViolation]) -> KeywordSettings:
    """What is not set has its default. A word that is named twice is kept once."""
    defaults = KeywordSettings()
    field = "project.keyword"
    language = message.language or defaults.language
    if language not in LANGUAGES:
        violations.append(FieldViolation(f"{field}.language", f"must be one of {', '.join(LANGUAGES)}"))
    words = tuple(dict.fromkeys(message.more_stop_words))
    if len(message.more_stop_words) > _MAX_STOP_WORDS:
        violations.append(
            FieldViolation(f"{field}.more_stop_words", f"must have at most {_MAX_STOP_WORDS:,} words; this has {len(message.more_stop_words):,}")
        )
    else:
        wrong = (place for place, word in enumerate(message.more_stop_words) if not _is_stop_word(word))
        if (place := next(wrong, None)) is not None:
            violations.append(
                FieldViolation(f"{field}.more_stop_words[{place}]", f"must have 1 to {_MAX_STOP_WORD_CHARACTERS} characters, none of them whitespace")
            )
    return KeywordSettings(
        language,
        stemming=message.stemming if message.HasField("stemming") else defaults.stemming,
        stop_words=message.stop_words if message.HasField("stop_words") else defaults.stop_words,
        more_stop_words=words,
    )


def _is_stop_word(word: str) -> bool:
    return 1 <= len(word) <= _MAX_STOP_WORD_CHARACTERS and not any(character.isspace() for character in word)


def new_project(message: project_pb2.Project, *, model: str, model_tokens: int) -> NewProject:
    """A project to create; `model` is the service's embedding model, which reads `model_tokens` tokens. Raises InvalidArgumentError."""
    violations: list[FieldViolation] = []
    _texts(message, violations)
    labels = _labels(dict(message.labels), violations)
    if message.embedding_model not in {"", model}:
        violations.append(
            FieldViolation("project.embedding_model", f"this service has the model {model!r} alone: leave it empty, or set KB_EMBEDDING_MODEL")
        )
    tokens = message.chunking.max_tokens or model_tokens
    if not _MIN_CHUNK_TOKENS <= tokens <= model_tokens:
        violations.append(FieldViolation("project.chunking.max_tokens", f"must be {_MIN_CHUNK_TOKENS} to {model_tokens}, or 0 for {model_tokens}"))
    overlap = message.chunking.overlap_tokens if message.chunking.HasField("overlap_tokens") else min(_DEFAULT_OVERLAP_TOKENS, tokens // 2)
    if not 0 <= overlap <= tokens // 2:
        violations.append(FieldViolation("project.chunking.overlap_tokens", f"must be 0 to {tokens // 2}, half of max_tokens"))
    keyword = _keyword(message.keyword, violations)
    identifier = ProjectId(message.id)
    try:
        identifier = project_id(message.id, "project.id")
    except InvalidArgumentError as error:
        violations.extend(error.violations)
    refuse(violations)
    return NewProject(
        identifier,
        message.display_name or message.id,
        message.description,
        labels,
        model,
        ChunkingSettings(max_tokens=tokens, overlap_tokens=overlap),
        keyword,
    )


def project_changes(message: project_pb2.Project, paths: list[str]) -> tuple[str | None, str | None, dict[str, str] | None]:
    """The new display name, description and labels of an update; None where it does not change. Raises InvalidArgumentError."""
    known = {"display_name", "description", "labels"}
    violations = [FieldViolation("update_mask", f"cannot change {path!r}; only {', '.join(sorted(known))}") for path in paths if path not in known]
    _texts(message, violations)
    labels = _labels(dict(message.labels), violations)
    refuse(violations)
    wanted = set(paths) or known
    return (
        (message.display_name or message.id) if "display_name" in wanted else None,
        message.description if "description" in wanted else None,
        labels if "labels" in wanted else None,
    )
