"""The keyword leg: BM25 over one tantivy index that holds the chunks of all projects.

A chunk is a posting of `(project, pk, body)`; nothing is stored, hits come back as primary keys from a column. The statistics behind a score
(how many chunks hold a word, the mean length) are those of the whole index, as in any index that several tenants share.

Texts come as terms, made as the settings of their project say (`languages.py`). Stop words are indexed, and left out of a query unless it has
nothing else: "to be or not to be" finds what it should, and "the retry policy" does not read the postings of "the".
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tantivy
from numpy.typing import NDArray
from tantivy import Occur, Query, TextAnalyzerBuilder, Tokenizer

from services.query.replica.languages import query_terms, text_terms
from services.query.replica.model import Pks, ScoredPk
from services.query.replica.segments import damaged_files
from shared.domain import KeywordSettings
from shared.errors import UnavailableError
from shared.observability.logging import get_logger

# More words than this are reduced to the rarest: those decide a BM25 score, and each word costs a walk over its postings.
MAX_QUERY_TERMS = 64
# A project with this share of the index's chunks is searched without the clause that names it, which costs as much as the rest of the query
# (8 common words: 0.75 instead of 2.2 ms); what is found of others is thrown away.
_LARGE_SHARE = 0.5
# How many more hits are fetched than are expected to be needed, when some are thrown away.
_SURPLUS = 1.3
# Milliseconds that a clause with so many allowed keys costs, and each hit that is fetched; measured on 100,000 chunks in 8 segments.
_CLAUSE_KEYS = (0, 100, 500, 1_000, 5_000, 50_000)
_CLAUSE_COSTS = (0.3, 1.0, 3.0, 3.9, 5.0, 20.0)
_HIT_COST = 0.0009
# Name of the analyzer in the schema of an index on disk, which is made again when it is another: to be changed whenever words give other terms than
# before. The analyzer itself has nothing to do, because terms come ready-made.
_TERMS = "knowledgebeast_terms_2"
# tantivy asks for at least 15 MB a thread; documents are buffered up to this size before a segment is written.
_WRITER_BYTES = 32_000_000
_WRITER_THREADS = 1
# How soon a term's repetition stops to matter; tantivy's, which cannot be set.
_BM25_K1 = 1.2
_DEFAULT = KeywordSettings()
Scores = NDArray[np.float32]
_log = get_logger(__name__)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("project", indexed=True, fast=True)
    builder.add_unsigned_field("pk", indexed=True, fast=True)
    builder.add_text_field("body", tokenizer_name=_TERMS, index_option="freq")
    return builder.build()


@contextmanager
def _translated() -> Iterator[None]:
    """Turns tantivy's errors into ours; a panic in its code arrives as an exception that is no `Exception`."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raise UnavailableError("the replica's keyword index cannot be read or written", component="replica") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UnavailableError("the replica's keyword index failed", component="replica") from error


class KeywordIndex:
    """Adds, deletes and finds chunks by their words.

    Any number of threads may search while one writes. What was added or deleted is seen after `commit`.

    Raises:
        UnavailableError: (component `replica`) another process has the index open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = _schema()
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._index = self._open()
        except UnavailableError as error:  # damaged, or laid out by another version: a copy, so it is made again
            _log.warning("replica_index_begun_again", reason=repr(error.__cause__), path=str(path))
            shutil.rmtree(path)
            path.mkdir(parents=True)
            self._index = self._open()
        self._writer: tantivy.IndexWriter | None = None
        self._closed = False
        self._renew_writer()

    def __len__(self) -> int:
        """Chunks that a search sees."""
        return int(self._index.searcher().num_docs)

    def _open(self) -> tantivy.Index:
        """The index in the folder, or an empty one. Raises UnavailableError if its files are of no use."""
        with _translated():
            # Before it is opened: tantivy then looks after the folder in a thread of its own, and writes to it.
            if any(self._path.iterdir()) and (damaged := damaged_files(self._path)):
                raise ValueError(f"{len(damaged)} files are damaged: {damaged[0]}")
            index = tantivy.Index(self._schema, str(self._path))
            index.register_tokenizer(_TERMS, TextAnalyzerBuilder(Tokenizer.whitespace()).build())
            index.config_reader("manual")
            _ = index.searcher().num_docs
            return index

    def damaged(self) -> bool:
        """Its files are not as they were written. Reads all of them."""
        # Twice, because segments are merged meanwhile, and those that they were made of are removed.
        return bool(set(damaged_files(self._path)) & set(damaged_files(self._path)))

    def keys(self, project: int) -> Pks:
        """The keys of the project's chunks that a search sees, rising; a chunk that is there twice has its key twice."""
        with _translated():
            searcher = self._index.searcher()
            if not searcher.num_docs:
                return np.empty(0, np.int64)
            everything = Query.const_score_query(Query.term_query(self._schema, "project", project), 0.0)
            return np.sort(_fetch(searcher, everything, searcher.num_docs)[0])

    def close(self) -> None:
        """Ends the writer, which lets go of the lock; what was not committed is gone. May be called twice."""
        self._closed = True
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with _translated():
                writer.rollback()
                writer.wait_merging_threads()

    def _renew_writer(self) -> None:
        try:
            self._writer = self._index.writer(_WRITER_BYTES, _WRITER_THREADS)
        except ValueError as error:
            message = "the replica's keyword index cannot be written"
            if "LockBusy" in str(error):
                message = "the replica's keyword index is open in another process: give each query service a data directory of its own"
            raise UnavailableError(message, component="replica") from error

    def _open_writer(self) -> tantivy.IndexWriter:
        if self._closed:
            raise UnavailableError("the replica is closed", component="replica")
        if self._writer is None:
            self._renew_writer()
        assert self._writer is not None  # noqa: S101 # for the type checker
        return self._writer

    def add(self, project: int, pk: int, title: str, text: str, settings: KeywordSettings = _DEFAULT) -> None:
        """Adds a chunk. A chunk that is there must be deleted first."""
        document = tantivy.Document()
        document.add_unsigned("project", project)
        document.add_unsigned("pk", pk)
        document.add_pre_tokenized_text("body", text_terms(settings, f"{title}\n{text}"))
        writer = self._open_writer()
        with _translated():
            writer.add_document(document)

    def delete(self, pks: Sequence[int]) -> None:
        """Deletes those of the chunks that are there."""
        # By query: `delete_documents_by_term` takes a number for a signed one, and deletes nothing from an unsigned field.
        if pks:
            self._open_writer().delete_documents_by_query(Query.term_set_query(self._schema, "pk", pks))

    def delete_project(self, project: int) -> None:
        """Deletes all chunks of a project."""
        self._open_writer().delete_documents_by_query(Query.term_query(self._schema, "project", project))

    def clear(self) -> None:
        """Deletes everything."""
        self._open_writer().delete_all_documents()

    def commit(self) -> None:
        """Makes all that was added and deleted durable, and visible to searches that begin from now on."""
        writer = self._open_writer()
        with _translated():
            writer.commit()
            self._index.reload()

    def rollback(self) -> None:
        """Forgets what was added and deleted since the last commit. A writer that has failed (a full disk ends it) is replaced."""
        # Letting go of the writer ends it and its lock; the next use opens another, which begins at the last commit.
        self._writer = None

    def search(self, project: int, text: str, limit: int, allowed: Pks | None = None, settings: KeywordSettings = _DEFAULT) -> list[ScoredPk]:
        """The best chunks of the project for the words of a text: falling BM25 score, equal scores by rising key.

        Args:
            project: the project's key.
            text: what somebody typed; has no syntax.
            limit: the most chunks to return, at least 1.
            allowed: rising keys; others are left out. Scores do not depend on it.
            settings: the project's.
        """
        with _translated():
            return self._search(project, query_terms(settings, text), limit, allowed)

    def ceiling(self, text: str, settings: KeywordSettings = _DEFAULT) -> float:
        """The largest score that any chunk could have for the words of a text: BM25 with endless repetition, summed over the terms.

        `idf * (k1 + 1)` for each term, with the index's own statistics: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and
        Beyond", 2009. A term that no chunk has counts with the largest idf. 0 for a text without words, or an empty index.
        """
        with _translated():
            searcher = self._index.searcher()
            chunks = searcher.num_docs
            found = [searcher.doc_freq("body", term) for term in _deciding(searcher, query_terms(settings, text))]
        # Chunks that are deleted, and not merged away yet, still count in the frequencies.
        idfs = (math.log1p((chunks - min(frequency, chunks) + 0.5) / (frequency + 0.5)) for frequency in found)
        return (_BM25_K1 + 1) * sum(idfs) if chunks else 0.0

    def _search(self, project: int, terms: list[str], limit: int, allowed: Pks | None) -> list[ScoredPk]:
        searcher = self._index.searcher()
        terms = _deciding(searcher, terms)
        chunks = min(searcher.num_docs, searcher.doc_freq("project", project))
        if not terms or not chunks or (allowed is not None and not allowed.size):
            return []
        share = chunks / searcher.num_docs
        if allowed is None:
            return self._unfiltered(searcher, project, terms, limit, share)
        # Keys of another project are not among the allowed ones, so the clause that names the project may be left out.
        query, among = (self._any_term(terms), searcher.num_docs) if share >= _LARGE_SHARE else (self._query(project, terms), chunks)
        matching = min(among, sum(searcher.doc_freq("body", term) for term in terms))
        for window in (math.ceil(limit * _SURPLUS * max(1.0, among / allowed.size)), matching):
            if _HIT_COST * min(window, matching) > np.interp(allowed.size, _CLAUSE_KEYS, _CLAUSE_COSTS):
                break
            pks, scores, _ = _fetch(searcher, query, max(1, window))
            keep = _contained(pks, allowed)
            if keep.sum() >= limit or window >= matching:
                return _ordered(pks[keep], scores[keep])[:limit]
        # The allowed chunks are few, or have the words less often than others.
        return _ordered(*_fetch(searcher, self._query(project, terms, allowed), limit)[:2])

    def _unfiltered(self, searcher: tantivy.Searcher, project: int, terms: list[str], limit: int, share: float) -> list[ScoredPk]:
        if share >= _LARGE_SHARE:
            window = limit if share == 1.0 else math.ceil(limit * _SURPLUS / share)
            pks, scores, addresses = _fetch(searcher, self._any_term(terms), window)
            keep = np.array(searcher.fast_field_values("project", addresses), dtype=np.int64) == project
            if keep.sum() >= limit or pks.size < window:
                return _ordered(pks[keep], scores[keep])[:limit]
        return _ordered(*_fetch(searcher, self._query(project, terms), limit)[:2])

    def _any_term(self, terms: Iterable[str]) -> Query:
        return Query.boolean_query([(Occur.Should, Query.term_query(self._schema, "body", term, "freq")) for term in terms])

    def _query(self, project: int, terms: Iterable[str], allowed: Pks | None = None) -> Query:
        clauses = [
            (Occur.Must, Query.const_score_query(Query.term_query(self._schema, "project", project), 0.0)),
            (Occur.Must, self._any_term(terms)),
        ]
        if allowed is not None:
            clauses.append((Occur.Must, Query.const_score_query(Query.term_set_query(self._schema, "pk", allowed.tolist()), 0.0)))
        return Query.boolean_query(clauses)


def _deciding(searcher: tantivy.Searcher, terms: list[str]) -> list[str]:
    """At most `MAX_QUERY_TERMS` of the terms: the rarest."""
    if len(terms) <= MAX_QUERY_TERMS:
        return terms
    frequency = {term: searcher.doc_freq("body", term) for term in terms}
    return sorted((term for term in terms if frequency[term]), key=frequency.__getitem__)[:MAX_QUERY_TERMS]


def _fetch(searcher: tantivy.Searcher, query: Query, limit: int) -> tuple[Pks, Scores, list[tantivy.DocAddress]]:
    """Keys, scores and addresses of the best hits, best first."""
    hits = searcher.search(query, min(limit, searcher.num_docs), count=False).hits
    addresses = [address for _, address in hits]
    pks = np.array(searcher.fast_field_values("pk", addresses), dtype=np.int64)
    return pks, np.array([score for score, _ in hits], dtype=np.float32), addresses


def _contained(pks: Pks, allowed: Pks) -> NDArray[np.bool_]:
    """Which of the keys are in `allowed`, which is sorted and not empty."""
    places = np.minimum(np.searchsorted(allowed, pks), allowed.size - 1)
    return np.asarray(allowed[places] == pks)


def _ordered(pks: Pks, scores: Scores) -> list[ScoredPk]:
    order = np.lexsort((pks, -scores))
    return [ScoredPk(pk, score) for pk, score in zip(pks[order].tolist(), scores[order].tolist(), strict=True)]
