"""Settings of keyword search: what a project may be created with, and that they survive every hop to the query service."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from services.indexer.records import NewProject
from services.indexer.transport import convert, validate
from services.query import feed_client
from services.query.replica.projects import decode_project, encode_project
from shared.domain import (
    LANGUAGES,
    ChunkingSettings,
    KeywordSettings,
    Project,
    ProjectBatch,
    ProjectChange,
    ProjectId,
    ProjectState,
    Range,
    SequenceNumber,
    VectorSequence,
)
from shared.errors import InvalidArgumentError
from shared.gen.knowledgebeast.indexer.v1 import project_pb2
from shared.rpc import resources

TIME = datetime(2026, 3, 1, tzinfo=UTC)
GERMAN = KeywordSettings("german", stemming=False, stop_words=False, more_stop_words=("bzw", "ggf"))


def validated(keyword: project_pb2.KeywordSettings | None) -> NewProject:
    """A project with these settings, as CreateProject takes it."""
    return validate.new_project(project_pb2.Project(id="p", keyword=keyword), model="model", model_tokens=256)


def project(keyword: KeywordSettings) -> Project:
    """A project with these settings."""
    state, sequence, vectors = ProjectState.ACTIVE, SequenceNumber(2), VectorSequence(1)
    return Project(ProjectId("p"), "P", "", {}, "m", ChunkingSettings(), 1, "e", sequence, vectors, 1, 1, state, TIME, TIME, "1", keyword)


@pytest.mark.parametrize("keyword", [None, project_pb2.KeywordSettings()])
def test_what_is_not_set_is_english_with_stems_and_stop_words(keyword: project_pb2.KeywordSettings | None) -> None:
    """With and without the message, the defaults."""
    assert validated(keyword).keyword == KeywordSettings("english", stemming=True, stop_words=True, more_stop_words=())


def test_false_is_not_taken_for_not_set() -> None:
    """What is switched off stays off, and a word that is named twice is kept once."""
    keyword = project_pb2.KeywordSettings(language="german", stemming=False, stop_words=False, more_stop_words=["bzw", "ggf", "bzw"])
    assert validated(keyword).keyword == GERMAN


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_accepted(language: str) -> None:
    """All that the proto names."""
    assert validated(project_pb2.KeywordSettings(language=language)).keyword.language == language


@pytest.mark.parametrize(
    ("keyword", "field", "says"),
    [
        (project_pb2.KeywordSettings(language="klingon"), "project.keyword.language", "german"),
        (project_pb2.KeywordSettings(language="German"), "project.keyword.language", "german"),
        (project_pb2.KeywordSettings(more_stop_words=["x"] * 1_001), "project.keyword.more_stop_words", "1,000 words; this has 1,001"),
        (project_pb2.KeywordSettings(more_stop_words=["fine", "x" * 51]), "project.keyword.more_stop_words[1]", "1 to 50 characters"),
        (project_pb2.KeywordSettings(more_stop_words=[""]), "project.keyword.more_stop_words[0]", "1 to 50 characters"),
        (project_pb2.KeywordSettings(more_stop_words=["two words"]), "project.keyword.more_stop_words[0]", "whitespace"),
    ],
)
def test_what_is_wrong_is_named(keyword: project_pb2.KeywordSettings, field: str, says: str) -> None:
    """One violation, with the field and what is allowed."""
    with pytest.raises(InvalidArgumentError) as refused:
        validated(keyword)
    (violation,) = refused.value.violations
    assert violation.field == field
    assert says in violation.description


def test_the_largest_settings_are_accepted() -> None:
    """1,000 words of 50 characters."""
    words = [f"{number:050}" for number in range(1_000)]
    assert validated(project_pb2.KeywordSettings(more_stop_words=words)).keyword.more_stop_words == tuple(words)


@pytest.mark.parametrize("keyword", [KeywordSettings(), GERMAN, KeywordSettings("none", more_stop_words=("é", "漢字"))])
def test_settings_reach_the_client_and_the_replica_as_they_are(keyword: KeywordSettings) -> None:
    """Through the project's message, the list's feed and the replica's own rows."""
    before = project(keyword)
    covered = Range("e", SequenceNumber(0), SequenceNumber(1), SequenceNumber(1))
    event = feed_client.event_of(convert.feed_event(ProjectBatch(covered, [ProjectChange(SequenceNumber(1), before.id, before)])))

    assert resources.project(convert.project(before)) == before
    assert isinstance(event, ProjectBatch)
    assert event.changes[0].project == before
    assert decode_project(encode_project(before)) == before


def test_a_service_that_does_not_know_the_settings_has_the_defaults() -> None:
    """Messages of an older indexer, for the client and for the replica."""
    message = convert.project(project(GERMAN))
    message.ClearField("keyword")

    assert resources.project(message).keyword == KeywordSettings()


def test_a_project_that_was_stored_without_settings_has_the_defaults() -> None:
    """A row of a replica that was written before there were any."""
    fields = json.loads(encode_project(project(GERMAN)))
    del fields["keyword"]

    assert decode_project(json.dumps(fields)) == project(KeywordSettings())
