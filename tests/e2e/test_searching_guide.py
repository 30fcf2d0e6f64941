"""The examples of docs/searching.md, run as they stand there: one after the other, against real processes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import os
import re
import shlex
import string
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.cli.main import main
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast
from shared.errors import NotFoundError

GUIDE = Path(__file__).resolve().parents[2] / "docs/searching.md"
PROJECTS = ("kitchen", "kueche")
_INDEXER, _QUERY = "127.0.0.1:50051", "127.0.0.1:50052"  # as the guide has them


@dataclass(frozen=True)
class Ran:
    """An example that was run. `messages`: what it printed as JSON, one after the other."""

    command: str
    status: int
    output: str
    messages: Sequence[Any] = field(default_factory=list)

    def hits(self) -> list[str]:
        """Documents of the hits of its first message, best first."""
        return [hit["document_id"] for hit in self.messages[0].get("hits", [])]


def examples() -> list[tuple[str, str]]:
    """Heading and text of each example of the guide, in order."""
    found, heading = [], ""
    for part in re.finditer(r"^## (?P<heading>[^\n]+)$|^```sh\n(?P<example>.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if part["heading"]:
            heading = part["heading"]
        else:
            found.append((heading, part["example"]))
    return found


def _messages(text: str) -> Iterator[Any]:
    decoder, position = json.JSONDecoder(), 0
    while (begin := re.compile(r"\s*").match(text, position)) is not None and begin.end() < len(text):
        try:
            value, position = decoder.raw_decode(text, begin.end())
        except json.JSONDecodeError:  # a table, or an error of grpcurl
            return
        yield value


class _Guide:
    """Runs examples. TOKEN and PAGE are the last tokens that an answer had; functions of the shell stay."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._functions = ""
        self._variables: dict[str, str] = {}

    async def run(self, example: str) -> Ran:
        """Runs one example: lines of `kb` in this process, all else in a shell."""
        status, output = await (asyncio.to_thread(self._kb, example) if example.startswith("kb ") else self._shell(example))
        messages = list(_messages(output))
        for message in messages:
            for name, key in (("TOKEN", "consistency_token"), ("PAGE", "next_page_token")):
                if isinstance(message, dict) and message.get(key):
                    self._variables[name] = message[key]
        return Ran(example, status, output, messages)

    async def _shell(self, example: str) -> tuple[int, str]:
        if "() {" in example:
            self._functions += example
        script = (self._functions + example).replace(_INDEXER, self._stack.indexer_address).replace(_QUERY, self._stack.query_address)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", script), env=os.environ | self._variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, output.decode()

    def _kb(self, example: str) -> tuple[int, str]:
        """`kb` without the second that a Python process needs to start."""
        arguments = shlex.split(string.Template(example).substitute(self._variables))[1:]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as ended:
            main([*arguments, "--query", self._stack.query_address])
        return int(ended.value.code or 0), printed.getvalue()


async def _delete(stack: Stack) -> None:
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as kb:
        for project in PROJECTS:
            with contextlib.suppress(NotFoundError):
                await kb.delete_project(project)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guide(stack: Stack) -> AsyncIterator[Mapping[str, Sequence[Ran]]]:
    """What each section's examples gave."""
    runner, ran = _Guide(stack), dict[str, list[Ran]]()
    try:
        for heading, example in examples():
            ran.setdefault(heading, []).append(await runner.run(example))
        yield ran
    finally:
        await _delete(stack)


def _setup(made: Ran, _: Ran) -> None:
    assert made.messages[0]["project"]["id"] == "kitchen"
    assert len([result for result in made.messages[1]["results"] if "written" in result]) == 6
    assert made.messages[1]["consistency_token"]


def _fresh(found: Ran) -> None:
    assert {"sourdough", "flatbread"} <= set(found.hits())
    assert found.messages[0]["freshness"]["sequence"] == "6"


def _modes(vector: Ran, keyword: Ran) -> None:
    assert vector.hits() == ["lemonade"]
    assert "vector" in vector.messages[0]["hits"][0]
    assert "keyword" not in vector.messages[0]["hits"][0]
    assert "Pizza" in keyword.output
    assert "1 hit in" in keyword.output


def _fusion(found: Ran) -> None:
    for hit in found.messages[0]["hits"]:
        expected = sum(weight / (20 + hit[leg]["rank"]) for leg, weight in (("vector", 0.7), ("keyword", 0.3)) if leg in hit)
        assert math.isclose(hit["score"], expected, rel_tol=1e-5)
    assert found.hits()


def _thresholds(found: Ran) -> None:
    assert found.hits() == []


def _filters(found: Ran, kb: Ran, containing: Ran) -> None:
    assert set(found.hits()) == {"sourdough", "flatbread"}
    assert set(kb.hits()) == {"flatbread"}
    assert set(containing.hits()) == {"sourdough"}


def _grouping(found: Ran) -> None:
    hits = {hit["document_id"]: hit for hit in found.messages[0]["hits"]}
    assert len(hits) == len(found.hits())
    assert len(hits["sourdough"]["more_chunks"]) == 1
    assert hits["sourdough"]["more_chunks"][0]["chunk"]["id"] != hits["sourdough"]["chunk"]["id"]


def _diversity(found: Ran) -> None:
    hits = found.messages[0]["hits"]
    values = [hit["explanation"]["diversity"] for hit in hits]
    for step in values:
        expected = 0.3 * step.get("relevance", 0) - 0.7 * step.get("similarity", 0)
        assert math.isclose(step.get("value", 0), expected, abs_tol=1e-6)
    assert [step["rank_before"] for step in values] != list(range(1, len(values) + 1))


def _snippets(found: Ran) -> None:
    (snippet,) = found.messages[0]["hits"][0]["snippets"]
    assert len(snippet["text"]) <= 60
    assert [snippet["text"][match.get("start_offset", 0) : match["end_offset"]] for match in snippet["matches"]] == ["crust"]


def _explained(found: Ran, kb: Ran) -> None:
    for hit in found.messages[0]["hits"]:
        explanation = hit["explanation"]
        total = sum(explanation[leg].get("contribution", 0) for leg in ("vector", "keyword") if leg in explanation)
        assert math.isclose(total, explanation.get("fused_score", 0), abs_tol=1e-9)
        assert math.isclose(hit.get("score", 0), total, abs_tol=1e-6)
    assert kb.output.count("contribution") == 2
    assert "\n#1 " in kb.output


def _pages(first: Ran, second: Ran, kb: Ran) -> None:
    assert (len(first.hits()), len(second.hits())) == (2, 2)
    chunks = [hit["chunk"]["id"] for page in (first, second) for hit in page.messages[0]["hits"]]
    assert len(set(chunks)) == 4
    assert kb.output.count(" hits in ") + kb.output.count("1 hit in ") >= 3


def _similar(found: Ran, kb: Ran) -> None:
    assert found.hits()[0] == "minestrone"
    assert len(found.hits()) == 2
    assert "lentils" not in found.hits()
    assert "Minestrone" in kb.output
    assert "Lemonade" not in kb.output


def _batch(found: Ran) -> None:
    answers = {message.get("index", 0): message for message in found.messages}
    assert set(answers) == {0, 1, 2}
    assert answers[0]["response"]["hits"][0]["document_id"] in {"lentils", "minestrone"}
    assert answers[1]["error"]["reason"] == "INVALID_ARGUMENT"
    assert answers[2]["response"]["hits"][0]["document_id"] == "lemonade"


def _languages(made: Ran) -> None:
    keyword = made.messages[0]["project"]["keyword"]
    assert (keyword["language"], keyword["more_stop_words"]) == ("german", ["rezept"])


def _reranking(refused: Ran) -> None:
    assert refused.status != 0
    assert "FailedPrecondition" in refused.output
    assert "KB_RERANKER_MODEL" in refused.output


def _degraded(found: Ran) -> None:
    assert found.hits()
    assert "degraded_mode" not in found.messages[0]


def _repeated(both: Ran) -> None:
    first, second = both.messages
    assert ("cached" in first, second["cached"]) == (False, True)
    assert second["hits"] == first["hits"]


CHECKS: dict[str, Callable[..., None]] = {
    "A project to search in": _setup,
    "Fresh answers": _fresh,
    "Modes": _modes,
    "Fusion": _fusion,
    "Thresholds": _thresholds,
    "Filters": _filters,
    "Grouping": _grouping,
    "Diversity": _diversity,
    "Snippets": _snippets,
    "Explained scores": _explained,
    "Pages": _pages,
    "Similar documents": _similar,
    "Many searches at once": _batch,
    "Languages": _languages,
    "Reranking": _reranking,
    "Degraded answers": _degraded,
    "Repeated searches": _repeated,
}


def test_every_section_with_an_example_is_checked() -> None:
    """An example that is added needs a check of what it shows."""
    assert list(CHECKS) == list(dict.fromkeys(heading for heading, _ in examples()))


@pytest.mark.parametrize("heading", CHECKS)
@pytest.mark.asyncio(loop_scope="session")
async def test_the_examples_show_what_the_guide_says(guide: Mapping[str, Sequence[Ran]], heading: str) -> None:
    """They run as they stand, and their answers have what their section is about."""
    ran = guide[heading]
    failed = [f"{each.command}\n{each.output}" for each in ran if each.status != 0]
    assert heading == "Reranking" or not failed, "\n".join(failed)

    CHECKS[heading](*ran)
