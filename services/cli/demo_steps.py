"""The steps of `kb demo`: each says what it does, does it, shows the outcome and checks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from services.cli import docstrings, render_search
from services.cli.console import result
from services.cli.progress import Meter
from services.cli.stack.stack import Stack
from shared.client import DegradationReason, KnowledgeBeast, SearchAnswer, SearchMode, SearchQuery, Snippets
from shared.domain import DocumentId, DocumentInput
from shared.errors import KnowledgeBeastError, NotFoundError

PROJECT = "stdlib"

# What is searched, how, and a document that a good answer has among its first ten.
_SEARCHES = (
    ("put the elements of a list into random order", SearchMode.VECTOR, "random.Random.shuffle"),
    ("gzip mtime", SearchMode.KEYWORD, "gzip.GzipFile.mtime"),
    ("parse command line options", SearchMode.HYBRID, "optparse.OptionParser"),
)
_DEGRADED_QUERY = "remove a directory tree"  # not asked before, so no cache has the answer
_DEGRADED_EXPECTED = "pathlib.Path.rmdir"
_VECTORS_STOOD_IN = frozenset({DegradationReason.VECTOR_STORE_UNAVAILABLE, DegradationReason.VECTOR_LEG_MISSING})

# Near to other documents in meaning, because ChromaDB's approximate index may miss a document that is unlike all others.
_NOTE = DocumentInput(DocumentId("demo/raffle"), "Raffle", "Draws arbitrary winners out of all participants.", {"kind": "note"})
_NOTE_WORD = "raffle"
_NOTE_MEANING = "pick lucky lottery tickets randomly"  # shares no word with the document
_RETURN_TIMEOUT = 120.0  # seconds; the breaker looks at ChromaDB again after 30, the projector no later


class Demo:
    """The story so far.

    Args:
        stack: Where it is told.
        modules: Names of the modules that are ingested; none stands for all. What a search should find is checked if it is in one of them.

    Attributes:
        failed: What the checks that failed were about.
        passed: How many checks held.
    """

    def __init__(self, stack: Stack, modules: Sequence[str] = ()) -> None:
        self.failed: list[str] = []
        self.passed = 0
        self._stack = stack
        self._modules = modules
        self._number = 0

    def heading(self, text: str) -> None:
        """Begins a step."""
        self._number += 1
        result(f"\n{self._number}. {text}", style="bold")

    def check(self, expected: str, holds: bool, seen: str) -> None:
        """Says whether what was expected was seen."""
        if holds:
            self.passed += 1
            result(f"✓ {expected} ({seen})", style="green")
        else:
            self.failed.append(expected)
            result(f"✗ expected that {expected}, but: {seen}", style="red")

    def _check_found(self, found: SearchAnswer, expected: str, claim: str) -> None:
        """Checks that a document is found if it can be there; else says that this is not checked."""
        if not self._modules or any(docstrings.is_within(expected, module) for module in self._modules):
            self.check(f"{expected} {claim}", expected in _ids(found), ", ".join(_ids(found)[:3]) or "no hits")
        else:
            result(f"– not checked that {expected} {claim}: it is in none of the chosen modules", style="dim")

    async def searches(self, kb: KnowledgeBeast, token: str) -> None:
        """One search in each mode, seeing at least what `token` stands for."""
        self.heading("Searching by meaning, by keyword, and by both")
        for query, mode, expected in _SEARCHES:
            found = await self._search(kb, SearchQuery(query, mode, top_k=10, at_least_as_fresh=token, snippets=Snippets()))
            self._check_found(found, expected, "is among the first ten")
            self.check("the answer is complete", not found.degraded, _reasons(found))

    async def chroma_dies(self, kb: KnowledgeBeast) -> None:
        """Kills ChromaDB and searches."""
        self.heading(f"Killing ChromaDB (kill -9 {self._stack.chroma.pid}), then searching")
        self._stack.kill_chroma()
        found = await self._search(kb, SearchQuery(_DEGRADED_QUERY, SearchMode.HYBRID, top_k=10, snippets=Snippets()))
        self._check_found(found, _DEGRADED_EXPECTED, "is among the first ten all the same")
        honest = found.degraded and any(part.component == "chromadb" and part.reason in _VECTORS_STOOD_IN for part in found.degradations)
        self.check("the answer says that it is degraded, and why", honest, _reasons(found))

    async def write_without_chroma(self, kb: KnowledgeBeast) -> str:
        """Writes a document and finds it by keyword; the consistency token of the write."""
        self.heading("Writing a document while ChromaDB is dead")
        written = await kb.upsert(PROJECT, [_NOTE])
        outcome = written.results[0]
        seen = f"sequence {outcome.sequence}" if outcome.error is None else outcome.error.message
        self.check("the write is acknowledged, so it is durable", outcome.error is None, seen)
        query = SearchQuery(_NOTE_WORD, SearchMode.KEYWORD, top_k=3, at_least_as_fresh=written.consistency_token, snippets=Snippets())
        found = await self._search(kb, query)
        self.check("it is found by keyword at once", _ids(found)[:1] == [_NOTE.id], ", ".join(_ids(found)) or "no hits")
        return written.consistency_token

    async def chroma_returns(self, kb: KnowledgeBeast, token: str) -> None:
        """Starts ChromaDB again and waits until the new document is found by meaning through it."""
        self.heading("Starting ChromaDB again, and waiting until the new document is found by meaning")
        await self._stack.start_chroma()
        query = SearchQuery(_NOTE_MEANING, SearchMode.VECTOR, top_k=10, at_least_as_fresh=token, snippets=Snippets())
        began, last = time.monotonic(), "no answer"
        with Meter("waiting", "seconds") as meter:
            while (waited := time.monotonic() - began) < _RETURN_TIMEOUT:
                meter.set(int(waited))
                try:
                    found = await kb.search(PROJECT, query)
                except KnowledgeBeastError as error:
                    last = error.message
                else:
                    # The catalog counts a change as soon as ChromaDB has its vectors; an answer that is not degraded came from there.
                    project = await kb.get_project(PROJECT)
                    stored = project.vector_sequence >= project.head
                    last = _reasons(found) if found.degraded else f"{', '.join(_ids(found)) or 'no hits'}; vectors in ChromaDB: {stored}"
                    if stored and not found.degraded and _NOTE.id in _ids(found):
                        break
                await asyncio.sleep(0.5)
            else:
                self.check(f"it is found through ChromaDB within {_RETURN_TIMEOUT:g} s", holds=False, seen=last)
                return
        self._show(query.query, found, shown=10)
        self.check("it is found through ChromaDB, by a query that shares no word with it", holds=True, seen=f"after {waited:.1f} s")

    async def delete(self, kb: KnowledgeBeast) -> None:
        """Deletes the document and looks for it in every way."""
        self.heading("Deleting the document")
        deleted = await kb.delete_documents(PROJECT, [_NOTE.id])
        self.check("one document is deleted", deleted.deleted_count == 1, f"{deleted.deleted_count} deleted")
        for query, mode in ((_NOTE_WORD, SearchMode.KEYWORD), (_NOTE_MEANING, SearchMode.VECTOR)):
            found = await kb.search(PROJECT, SearchQuery(query, mode, top_k=10, at_least_as_fresh=deleted.consistency_token))
            self.check(f"it is gone from {mode.value} search", _NOTE.id not in _ids(found), ", ".join(_ids(found)[:3]) or "no hits")
        try:
            await kb.get_document(PROJECT, _NOTE.id)
        except NotFoundError as error:
            self.check("it is gone from the catalog", holds=True, seen=error.message)
        else:
            self.check("it is gone from the catalog", holds=False, seen="it is still there")

    async def _search(self, kb: KnowledgeBeast, query: SearchQuery) -> SearchAnswer:
        found = await kb.search(PROJECT, query)
        self._show(query.query, found)
        return found

    @staticmethod
    def _show(query: str, found: SearchAnswer, shown: int = 3) -> None:
        result(f"\n“{query}”, {found.mode.value}:", style="italic")
        render_search.search_answer(found, shown=shown)


def _ids(found: SearchAnswer) -> list[str]:
    return [hit.document_id for hit in found.hits]


def _reasons(found: SearchAnswer) -> str:
    return "; ".join(f"{part.component}: {part.reason.value}" for part in found.degradations) or "not degraded"
