"""The golden set is what docs/quality.md says it is."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from shared.golden.collection import Collection, golden

KINDS = {"identifier", "paraphrase", "mixed"}
# FY-2104, VP-60, A14, 60-12, PR-1103; broker.flush.interval_ms, lock_timeout
IDENTIFIER = re.compile(r"\b(?:[A-Z]{1,2}-?\d+|\d\d-\d\d|[a-z]+(?:[._][a-z]+)+)\b")


@pytest.fixture(scope="module")
def collection() -> Collection:
    """The golden set."""
    return golden()


def repeated(values: list[str]) -> list[str]:
    """Values that occur more than once, upper and lower case and spaces aside."""
    return [value for value, count in Counter(" ".join(value.lower().split()) for value in values).items() if count > 1]


def test_it_has_enough_passages_and_questions(collection: Collection) -> None:
    """At least 150 passages and 100 questions, at least 50 of each kind."""
    assert len(collection.documents) >= 150
    assert len(collection.topics) >= 100
    assert set(collection.kinds) == KINDS
    assert min(Counter(topic.kind for topic in collection.topics).values()) >= 50


def test_passages_are_of_a_length_that_a_chunk_holds(collection: Collection) -> None:
    """40 to 120 words and a title each, so that document and chunk are the same."""
    assert [document.id for document in collection.documents if not 40 <= len(document.text.split()) <= 120] == []
    assert [document.id for document in collection.documents if not document.title] == []


def test_nothing_is_there_twice(collection: Collection) -> None:
    """Ids, titles, texts and questions."""
    assert repeated([document.id for document in collection.documents]) == []
    assert repeated([document.title for document in collection.documents]) == []
    assert repeated([document.text for document in collection.documents]) == []
    assert repeated([topic.id for topic in collection.topics]) == []
    assert repeated([topic.text for topic in collection.topics]) == []


def test_judgements_are_gains_from_1_to_3_of_passages_that_are_there(collection: Collection) -> None:
    """And every question has a passage that answers it (3)."""
    ids = {document.id for document in collection.documents}
    assert {topic.id for topic in collection.topics} == collection.judgements.keys()
    for topic, gains in collection.judgements.items():
        assert gains.keys() <= ids, topic
        assert set(gains.values()) <= {1, 2, 3}, topic
        assert 3 in gains.values(), topic


def test_most_passages_answer_a_question(collection: Collection) -> None:
    """The others are there to be confused with."""
    judged = {document for gains in collection.judgements.values() for document in gains}
    assert len(judged) >= 0.8 * len(collection.documents)


def test_a_question_about_an_identifier_is_answered_by_passages_with_that_identifier(collection: Collection) -> None:
    """Each identifier of the question stands in a passage that answers it, and each such passage has one of them."""
    passages = {str(document.id): f"{document.title} {document.text}" for document in collection.documents}
    for topic in collection.topics:
        if topic.kind != "identifier":
            continue
        named = set(IDENTIFIER.findall(topic.text))
        answers = [set(IDENTIFIER.findall(passages[document])) for document, gain in collection.judgements[topic.id].items() if gain == 3]
        assert named, topic.text
        assert all(named & answer for answer in answers), topic.text
        assert named <= set.union(*answers), topic.text


def test_a_question_of_another_kind_names_no_code(collection: Collection) -> None:
    """No error code and no setting: at most a model or a version tells the passages apart."""
    codes = re.compile(r"\b(?:[A-Z]{2}-\d{4}|A\d\d|[a-z]+(?:[._][a-z]+)+)\b")
    assert [topic.text for topic in collection.topics if topic.kind == "paraphrase" and codes.search(topic.text)] == []


def test_no_question_gives_its_answer_away(collection: Collection) -> None:
    """No question has the id of a passage in it, or is a part of one."""
    for topic in collection.topics:
        asked = topic.text.lower()
        assert not any(document.id in asked or asked in document.text.lower() for document in collection.documents), topic.text
