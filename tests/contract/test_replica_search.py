"""Searching a replica on real files: languages and scripts, filters, parts of texts, and the version that answers may be kept under."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tantivy

from services.query.replica import Replica
from services.query.replica.keyword import KeywordIndex
from services.query.replica.vectors import ProjectVectors
from shared.domain import Cursor, FeedStream, Heartbeat, KeywordSettings, ProjectId, Reset, ResetReason, SequenceNumber, VectorSequence
from shared.errors import NotFoundError
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Negation, Operator
from shared.search import Snippets
from tests.fakes.feed import TIME, make_batch, make_document, make_project, make_vectors, vector_of

P, Q = ProjectId("p"), ProjectId("q")
DOCUMENTS = Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1")
VECTORS = Reset(ResetReason.COMPACTED, FeedStream.VECTORS, "e1")


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """A replica without projects."""
    opened = Replica.open(tmp_path / "replica", vectors_max=1_000)
    yield opened
    opened.close()


def prepare(replica: Replica, settings: KeywordSettings | None = None, project: ProjectId = P) -> None:
    """Makes a project ready for documents."""
    replica.put_project(replace(make_project(project), keyword=settings or KeywordSettings()))
    replica.apply_reset(project, DOCUMENTS)


def fill(replica: Replica, *texts: str, project: ProjectId = P) -> None:
    """Adds each text as a document."""
    replica.apply_documents(project, make_batch(0, *(make_document(f"d{number}", text, title="") for number, text in enumerate(texts))))


def found(replica: Replica, query: str, project: ProjectId = P) -> list[str]:
    """Texts that a keyword search gives, best first."""
    return [hit.chunk.text for hit in replica.hydrate(project, [hit.pk for hit in replica.keyword(project, query, 100)])]


# --- what is findable by keyword -----------------------------------------------------------------------------------------------------------


SCRIPTS = {
    "snake_case": ("def read_until_eof(stream)", ["read_until_eof", "READ_UNTIL_EOF", "until", "eof stream"]),
    "CamelCase": ("class HttpServerError2", ["HttpServerError2", "httpservererror2", "server", "http error"]),
    "dotted names": ("import os.path.join", ["os.path.join", "path", "os join"]),
    "names of languages": ("in C++ and C#", ["c++", "C#"]),
    "numbers": ("listen on 127.0.0.1 port 50051", ["50051", "127.0.0.1"]),
    "accents": ("a naïve café in Zürich", ["café", "Zürich", "ZÜRICH", "cafe\u0301"]),
    "compatibility characters": ("ＦＵＬＬ width and ﬁnal ligatures", ["full", "final"]),
    "Cyrillic": ("Привет, мир", ["привет", "МИР"]),
    "Devanagari": ("नमस्ते दुनिया", ["दुनिया"]),
    "emoji": ("shipped 🚀 by 👩‍🚀 with 👍🏽 from 🇨🇭", ["🚀", "👩‍🚀", "👩", "👍", "👍🏽", "🇨🇭"]),
    "Japanese": ("東京タワーに行く", ["東京", "タワー", "東京タワー", "行"]),
    "Chinese": ("我们在北京学习中文", ["北京", "中文", "学习中文"]),
    "Korean": ("한국어 검색 엔진", ["검색", "한국어"]),
    "Thai": ("สวัสดีชาวโลก", ["โลก", "สวัสดี"]),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """All texts of `SCRIPTS` in a project for each of three languages."""
    opened = Replica.open(tmp_path_factory.mktemp("library"), vectors_max=0)
    for language in ("english", "german", "none"):
        prepare(opened, KeywordSettings(language=language), ProjectId(language))
        fill(opened, *(text for text, _ in SCRIPTS.values()), project=ProjectId(language))
    yield opened
    opened.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_text_of_any_script_is_found_by_keyword(library: Replica, script: str) -> None:
    """Code, Unicode, emoji and unspaced scripts are found by what stands in them, and nothing else is, whatever the project's language."""
    text, queries = SCRIPTS[script]
    for query in queries:
        for project in library.projects():
            assert found(library, query, project.project.id) == [text], (query, project.project.keyword)


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("english", "Retries and back-off policies", "retry policy"),
        ("german", "viele alte Häuser", "Haus"),
        ("french", "des tentatives répétées", "répéter"),
        ("russian", "много книг на полке", "книгами"),
        ("portuguese", "as informações", "informação"),
    ],
)
def test_words_are_found_by_other_forms_in_the_projects_language(replica: Replica, language: str, text: str, query: str) -> None:
    """A project that is set to the language finds them; one that is set to `none`, in the same index, does not."""
    prepare(replica, KeywordSettings(language=language))
    prepare(replica, KeywordSettings(language="none"), Q)
    fill(replica, "unrelated", text)
    fill(replica, "unrelated", text, project=Q)
    assert found(replica, query) == [text]
    assert found(replica, query, Q) == []
    assert found(replica, text.rsplit(maxsplit=1)[-1], Q) == [text]


def test_stop_words_are_those_of_the_project(replica: Replica) -> None:
    """German ones are left out of queries of a German project alone, and so are its own."""
    prepare(replica, KeywordSettings(language="german", more_stop_words=("Firma",)))
    prepare(replica, None, Q)
    texts = ["die", "Firma", "Vertrag"]
    fill(replica, *texts)
    fill(replica, *texts, project=Q)
    assert found(replica, "die Firma Vertrag") == ["Vertrag"]
    assert sorted(found(replica, "die Firma Vertrag", Q)) == sorted(texts)


def test_another_language_indexes_the_project_again(replica: Replica) -> None:
    """Settings that change how texts are read are followed at once, and survive opening again."""
    prepare(replica)
    fill(replica, "viele Häuser")
    assert found(replica, "Haus") == []
    replica.put_project(replace(make_project(P), keyword=KeywordSettings(language="german")))
    assert found(replica, "Haus") == ["viele Häuser"]


def old_index(folder: Path) -> None:
    """An index with one chunk as it was laid out before, when the index itself stemmed."""
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("project", indexed=True)
    builder.add_unsigned_field("pk", indexed=True, fast=True)
    builder.add_text_field("body", tokenizer_name="knowledgebeast", index_option="freq")
    schema = builder.build()
    folder.mkdir()
    index = tantivy.Index(schema, str(folder))
    index.register_tokenizer("knowledgebeast", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    writer = index.writer(15_000_000, 1)
    writer.add_document(tantivy.Document.from_dict({"project": 1, "pk": 1, "body": "wrong"}, schema))
    writer.commit()
    writer.wait_merging_threads()


def test_an_index_of_an_older_layout_is_made_again(tmp_path: Path) -> None:
    """From the stored chunks, each in its project's language, without the feed."""
    opened = Replica.open(tmp_path / "r", vectors_max=0)
    prepare(opened, KeywordSettings(language="german"))
    fill(opened, "viele Häuser")
    opened.close()
    shutil.rmtree(tmp_path / "r" / "keyword")
    old_index(tmp_path / "r" / "keyword")
    opened = Replica.open(tmp_path / "r", vectors_max=0)
    assert found(opened, "Haus") == ["viele Häuser"]
    assert found(opened, "wrong") == []
    assert opened.project(P).documents_cursor == Cursor("e1", SequenceNumber(1))
    opened.close()


# --- filters, and what belongs to what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Containment("title", "retry"), {"a"}),
        (Containment("tags", "lph"), {"b"}),
        (Existence("title"), {"a", "b"}),
        (Negation(Existence("title")), {"c"}),
        (AnyOf((Containment("title", "retry"), Negation(Existence("title")))), {"a", "c"}),
        (AllOf((Existence("tags"), Comparison("tags", Operator.EQUAL, "alpha"))), {"b"}),
    ],
    ids=str,
)
def test_filters_by_part_and_by_presence(replica: Replica, condition: Filter, expected: set[str]) -> None:
    """Chunks of the documents that match, after opening again, too."""
    prepare(replica)
    documents = [
        make_document("a", "x", metadata={"title": "a retry policy"}),
        make_document("b", "y", metadata={"title": "to wait", "tags": ("alpha", "beta")}),
        make_document("c", "z", metadata={"year": 2020}),
    ]
    replica.apply_documents(P, make_batch(0, *documents))
    assert {hit.document_id for hit in replica.hydrate(P, replica.allowed(P, condition).tolist())} == expected


def test_chunks_and_documents_are_known_by_their_keys(replica: Replica) -> None:
    """Ids and documents of current chunks alone; the chunks of a document, rising; an unknown document is an error with its reason."""
    prepare(replica)
    prepare(replica, project=Q)
    one, two = make_document("one", "alpha\nbravo\ncharlie"), make_document("two", "delta")
    replica.apply_documents(P, make_batch(0, one, two))
    replica.apply_documents(Q, make_batch(0, one))
    pks = replica.chunks_of(P, one.id)
    [other] = replica.chunks_of(P, two.id).tolist()
    keys = [*pks.tolist(), other]
    assert sorted(keys) == keys
    assert replica.chunk_ids(P, [*keys, 999]) == dict(zip(keys, [chunk.id for chunk in (*one.chunks, *two.chunks)], strict=True))
    documents = replica.documents_of(P, [*keys, 999])
    assert list(documents) == keys
    assert len({documents[key] for key in keys[:3]}) == 1 != documents[other]
    assert replica.chunk_ids(Q, keys) == {}
    assert replica.documents_of(Q, keys) == {}
    replica.apply_documents(P, make_batch(2, "one"))
    assert replica.chunk_ids(P, keys) == {other: two.chunks[0].id}
    assert list(replica.documents_of(P, keys)) == [other]
    with pytest.raises(NotFoundError) as raised:
        replica.chunks_of(P, one.id)
    assert raised.value.reason == "DOCUMENT_NOT_FOUND"


def test_an_updated_document_keeps_its_chunks_in_filters(replica: Replica) -> None:
    """Written twice in one batch, and again in the next: the last metadata counts, for the chunks that stayed and for the new ones."""
    prepare(replica)
    versions = [make_document("a", "alpha\nbravo", metadata={"v": number}) for number in range(3)]
    replica.apply_documents(P, make_batch(0, versions[0], versions[1]))
    keys = replica.chunks_of(P, versions[0].id).tolist()
    replica.apply_documents(P, make_batch(2, versions[2], make_document("b", "charlie", metadata={"v": 0})))
    assert replica.allowed(P, Comparison("v", Operator.EQUAL, 2)).tolist() == keys
    assert replica.allowed(P, Comparison("v", Operator.EQUAL, 1)).tolist() == []
    assert len(replica.allowed(P, Comparison("v", Operator.LESS, 2))) == 1


def test_a_filter_does_not_wait_for_the_keyword_index(tmp_path: Path) -> None:
    """While a batch that is stored is being indexed, filters are answered, and know it."""
    stored, go_on = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "documents stored" and armed:
            stored.set()
            assert go_on.wait(30)

    armed = False
    opened = Replica.open(tmp_path / "r", vectors_max=0, step=step)
    prepare(opened)
    fill(opened, "alpha")
    armed = True
    writer = threading.Thread(target=opened.apply_documents, args=(P, make_batch(1, make_document("new", "bravo", metadata={"v": 1}))))
    writer.start()
    assert stored.wait(30)
    assert len(opened.allowed(P, Existence("v"))) == 1
    assert found(opened, "bravo") == []
    go_on.set()
    writer.join()
    assert found(opened, "bravo") == ["bravo"]
    opened.close()


def test_snippets_follow_the_projects_language(replica: Replica) -> None:
    """The words that are marked are those that the project's search finds."""
    prepare(replica, KeywordSettings(language="german"))
    text = "Es gibt viele Häuser in der Stadt."
    [[snippet], [other]] = replica.snippets(P, "das Haus", [text, "nichts"], Snippets())
    assert [snippet.text[match.start : match.end] for match in snippet.matches] == ["Häuser"]
    assert (other.text, other.matches) == ("nichts", ())


# --- the version ---------------------------------------------------------------------------------------------------------------------------

DOCUMENT = make_document("one", "alpha\nbravo")
CHANGES: list[tuple[str, Callable[[Replica], object]]] = [
    ("documents", lambda replica: replica.apply_documents(P, make_batch(0, DOCUMENT))),
    ("vectors", lambda replica: replica.apply_vectors(P, make_vectors(0, 1, *DOCUMENT.chunks))),
    ("vector store", lambda replica: replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(1), VectorSequence(1), TIME))),
    ("settings", lambda replica: replica.put_project(replace(make_project(P), keyword=KeywordSettings(stop_words=False)))),
    ("reset of vectors", lambda replica: replica.apply_reset(P, VECTORS)),
    ("removal", lambda replica: replica.apply_documents(P, make_batch(1, "one"))),
    ("reset of documents", lambda replica: replica.apply_reset(P, DOCUMENTS)),
]


def test_the_version_rises_with_everything_that_can_change_an_answer(replica: Replica) -> None:
    """Documents, vectors, how far the vector store is, settings and resets; a heartbeat with nothing new changes nothing."""
    prepare(replica)
    seen = [replica.project(P).version]
    for name, change in CHANGES:
        change(replica)
        seen.append(replica.project(P).version)
        assert seen[-1] > seen[-2], name
    before = replica.project(P)
    replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(5), before.vector_sequence, TIME))
    assert replica.project(P).version == before.version
    replica.drop_project(P)
    prepare(replica)
    assert replica.project(P).version > max(seen)


@pytest.mark.parametrize(("part", "method"), [(KeywordIndex, "commit"), (ProjectVectors, "publish"), (ProjectVectors, "remove")])
def test_the_version_rises_after_the_change_can_be_seen(replica: Replica, monkeypatch: pytest.MonkeyPatch, part: type, method: str) -> None:
    """What was found just before a change shows was found under another version than what is found after the write."""
    before: list[int] = []
    show = getattr(part, method)

    def shown(self: object, *args: object) -> object:
        before.append(replica.project(P).version)
        return show(self, *args)

    prepare(replica)
    monkeypatch.setattr(part, method, shown)
    for change in (CHANGES[0][1], CHANGES[1][1], lambda replica: replica.apply_documents(P, make_batch(1, "one"))):
        before.clear()
        change(replica)
        assert all(version < replica.project(P).version for version in before)
    assert before or method == "publish"


def test_vectors_of_gives_those_that_are_there(replica: Replica) -> None:
    """In the order asked for, with the keys; without vectors both are empty."""
    prepare(replica)
    document = make_document("a", "alpha\nbravo\ncharlie")
    replica.apply_documents(P, make_batch(0, document))
    pks = replica.chunks_of(P, document.id)
    assert replica.vectors_of(P, pks)[0].size == 0
    replica.apply_vectors(P, make_vectors(0, 1, *document.chunks[:2]))
    known, vectors = replica.vectors_of(P, pks[::-1])
    assert known.tolist() == pks[[1, 0]].tolist()
    assert np.array_equal(vectors, np.stack([vector_of("bravo"), vector_of("alpha")]))
