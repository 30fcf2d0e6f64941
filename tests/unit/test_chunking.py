"""How documents are cut, with the tokenizer of the default model and with one token a word."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.indexer.application.chunking import SPECIAL_TOKENS, cut, embedding_text
from services.indexer.application.outline import outline
from shared.domain import Chunk, ChunkingSettings, DocumentId
from shared.embedding.factory import create_tokenizer
from shared.embedding.models import DEFAULT_MODEL
from shared.ports import Tokenizer
from tests.fakes.embedder import FakeTokenizer

DOCUMENT = DocumentId("d")
TOKENIZERS: list[Tokenizer] = [create_tokenizer(DEFAULT_MODEL), FakeTokenizer()]
SETTINGS = [ChunkingSettings(), ChunkingSettings(32, 16), ChunkingSettings(32, 0), ChunkingSettings(64, 20), ChunkingSettings(512, 1000)]

structure = [
    "# Heading\n",
    "\n## Part\n\n",
    "Title\n=====\n",
    "```\n# code\n```\n",
    "\n\n",
    "\r\n\r\n",
    "\r\n",
    "One sentence. ",
    "其他语言。",
    "👨‍👩‍👧 ",
]
pieces = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text(alphabet="ab.!? \t\n\r#`-=", max_size=40),
    st.sampled_from(structure),
    st.builds(lambda word, times: f"{word} " * times, st.sampled_from(["word", "a-b-c", "漢", "Donaudampfschifffahrt", "😀"]), st.integers(1, 80)),
    st.builds(lambda letter, times: letter * times, st.sampled_from("xé漢か😀.\x01 \n"), st.integers(1, 1500)),
)
texts = st.lists(pieces, max_size=25).map("".join)
titles = st.one_of(st.just(""), st.just("A title"), st.text(max_size=200), st.integers(1, 200).map(lambda count: "many words " * count))
tokenizers = st.sampled_from(TOKENIZERS)
chunking = st.sampled_from(SETTINGS)


def count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text, special tokens left out."""
    return len(tokenizer.offsets(text))


def prose(seed: int, words: int) -> str:
    """Made-up sentences, different for each seed."""
    chance = random.Random(seed)
    vocabulary = ["system", "answer", "vector", "durable", "keyword", "operator", "question", "search", "the", "of", "and", "for", "is"]
    return " ".join(chance.choice(vocabulary) + chance.choice(["", "", "", "", "", ".", "s"]) for _ in range(words))


@settings(deadline=None, max_examples=150)
@given(texts, titles, chunking, tokenizers)
@example("x" * 20_000, "title", ChunkingSettings(32, 16), TOKENIZERS[0])
@example("漢字" * 3000, "", ChunkingSettings(), TOKENIZERS[0])
@example("\ufeff\u200b" * 500, "", ChunkingSettings(), TOKENIZERS[0])
def test_chunks_are_slices_that_cover_the_text_in_order(text: str, title: str, setting: ChunkingSettings, tokenizer: Tokenizer) -> None:
    """Each chunk is its slice of the text, trimmed; starts and ends rise; every character that is not whitespace is in some chunk."""
    chunks = cut(DOCUMENT, title, text, setting, tokenizer)
    assert list(range(len(chunks))) == [chunk.ordinal for chunk in chunks]
    covered = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert text[covered : chunk.start].strip() == ""
        assert chunk.end > covered
        covered = chunk.end
    assert text[covered:].strip() == ""
    assert all(first.start < second.start for first, second in itertools.pairwise(chunks))


@settings(deadline=None, max_examples=150)
@given(texts, titles, chunking, tokenizers)
@example("漢字" * 3000, "many words " * 100, ChunkingSettings(32, 16), TOKENIZERS[0])
@example("w" + " " * 440 + "か" * 300, "", ChunkingSettings(32, 0), TOKENIZERS[0])  # a part of an unknown word is more tokens than the whole
def test_the_model_reads_every_chunk_whole(text: str, title: str, setting: ChunkingSettings, tokenizer: Tokenizer) -> None:
    """Title, text and special tokens together are within the project's limit and the model's."""
    for chunk in cut(DOCUMENT, title, text, setting, tokenizer):
        tokens = count(tokenizer, embedding_text(title, chunk.text, setting, tokenizer))
        assert tokens <= min(setting.max_tokens - SPECIAL_TOKENS, tokenizer.max_tokens)


@settings(deadline=None, max_examples=150)
@given(texts, titles, chunking, tokenizers)
@example("0" * 28 + ":" + "x" * 192 + "か" * 260, "", ChunkingSettings(32, 16), TOKENIZERS[0])  # the same of an overlap
def test_overlap_is_bounded_and_does_not_reach_over_headings(text: str, title: str, setting: ChunkingSettings, tokenizer: Tokenizer) -> None:
    """A chunk repeats no more than was allowed, and nothing from before the last heading."""
    headings = outline(text).headings.tolist()
    for first, second in itertools.pairwise(cut(DOCUMENT, title, text, setting, tokenizer)):
        assert count(tokenizer, text[second.start : first.end]) <= setting.overlap_tokens
        assert not [position for position in headings if second.start < position < first.end]


@settings(deadline=None, max_examples=100)
@given(texts, titles, chunking, tokenizers)
def test_ids_are_unique_and_repeatable(text: str, title: str, setting: ChunkingSettings, tokenizer: Tokenizer) -> None:
    """The same document has the same chunks every time, and no id twice."""
    chunks = cut(DOCUMENT, title, text, setting, tokenizer)
    assert chunks == cut(DOCUMENT, title, text, setting, tokenizer)
    assert len(chunks) == len({chunk.id for chunk in chunks})
    assert all(re.fullmatch(r"d#[0-9a-f]{16}(\.[1-9]\d*)?", chunk.id) for chunk in chunks)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(3, 30), min_size=2, max_size=40), st.integers(0, 1000), chunking, tokenizers)
def test_no_two_neighbours_could_have_been_one(lengths: list[int], seed: int, setting: ChunkingSettings, tokenizer: Tokenizer) -> None:
    """Paragraphs without headings are merged until nothing more fits, but for the overlap."""
    text = "\n\n".join(prose(seed + index, length) for index, length in enumerate(lengths))
    limit = min(setting.max_tokens - SPECIAL_TOKENS, tokenizer.max_tokens)
    limit -= min(setting.overlap_tokens, limit // 2)
    for first, second in itertools.pairwise(cut(DOCUMENT, "", text, setting, tokenizer)):
        assert count(tokenizer, text[first.start : second.end]) > limit


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(30, 200), min_size=2, max_size=8), st.data(), tokenizers)
def test_a_change_in_one_section_keeps_the_ids_of_all_others(lengths: list[int], data: st.DataObject, tokenizer: Tokenizer) -> None:
    """Sections longer than a third of a chunk are cut independently of what stands before and after them."""
    sections = [f"## Section {index}\n\n{prose(index, length)}\n\n" for index, length in enumerate(lengths)]
    changed = data.draw(st.integers(0, len(lengths) - 1))
    edited = list(sections)
    edited[changed] = f"## Section {changed}\n\n{prose(1000 + data.draw(st.integers(0, 50)), data.draw(st.integers(30, 200)))}\n\n"
    setting = ChunkingSettings(64, 16)
    start = len("".join(sections[:changed]))
    before = cut(DOCUMENT, "title", "".join(sections), setting, tokenizer)
    after = cut(DOCUMENT, "title", "".join(edited), setting, tokenizer)
    elsewhere = {chunk.id for chunk in before if not start <= chunk.start < start + len(sections[changed])}
    assert elsewhere <= {chunk.id for chunk in after}


@pytest.mark.parametrize("separator", ["\n\n", "\n", " "])
def test_cuts_fall_back_into_step_after_a_change_without_headings(separator: str) -> None:
    """Of 300 paragraphs, lines or sentences of one paragraph, a longer first one changes the first chunks only."""
    parts = [prose(index, 20) + "." for index in range(300)]
    before = cut(DOCUMENT, "", separator.join(parts), ChunkingSettings(), TOKENIZERS[0])
    after = cut(DOCUMENT, "", separator.join([prose(999, 90) + ".", *parts[1:]]), ChunkingSettings(), TOKENIZERS[0])
    assert len(before) > 20
    assert {chunk.id for chunk in before[10:]} <= {chunk.id for chunk in after}


def test_equal_text_keeps_its_id_with_a_number_for_each_repeat() -> None:
    """The second and third chunk of the same text get `.1` and `.2`."""
    section = f"# Same\n\n{prose(1, 80)}\n\n"
    chunks = cut(DOCUMENT, "", section * 3, ChunkingSettings(128, 0), FakeTokenizer())
    first = chunks[0].id
    assert [first, f"{first}.1", f"{first}.2"] == [chunk.id for chunk in chunks]


def test_ids_depend_on_document_and_title() -> None:
    """The same text in another document, or under another title, has other ids."""
    ids = {cut(DocumentId(name), title, "text", ChunkingSettings(), TOKENIZERS[0])[0].id for name in "ab" for title in ("", "t")}
    assert len(ids) == 4


def test_a_document_that_fits_is_one_chunk() -> None:
    """Small sections are merged: a document within the limit is not cut at all."""
    text = "\n# One\n\nshort\n\n# Two\n\nshort too\n"
    assert [text.strip()] == [chunk.text for chunk in cut(DOCUMENT, "title", text, ChunkingSettings(), TOKENIZERS[0])]


@pytest.mark.parametrize("text", ["", " ", "\r\n\t \u3000\u00a0\n"])
def test_whitespace_has_no_chunks(text: str) -> None:
    """A text without anything to read gives no chunk."""
    assert cut(DOCUMENT, "title", text, ChunkingSettings(), TOKENIZERS[0]) == ()


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(("kinds", "expected"), [(4, 24), (3, 22), (2, 20), (1, 18), (0, 30)])
def test_the_best_place_wins(kinds: int, expected: int, line_end: str) -> None:
    """A chunk of at most 30 tokens ends before a heading, else a paragraph, a line, a sentence, and only else where it is full."""
    text, word = "word " * 17 + "word", "word word"
    for kind, separator in enumerate((". ", line_end, line_end * 2, f"{line_end}# ")):
        text += (separator if kind < kinds else " ") + word
    chunks = cut(DOCUMENT, "", text + " word" * 30, ChunkingSettings(32, 0), FakeTokenizer())
    assert len(chunks[0].text.split()) == expected


def test_headings_stay_with_their_text_and_code_has_none() -> None:
    """ATX and setext headings are found; comments in fenced code are not headings; headings in a row are one place to cut."""
    text = "# A\n## B\ntext\n\nSetext\n---\ntext\n\n```sh\n# comment\n```\n\n### C\ntext\n~~~\n# never closed"
    assert [text.index(heading) for heading in ("# A", "Setext", "### C")] == outline(text).headings.tolist()


def test_a_title_does_not_crowd_the_text_out() -> None:
    """Of a long title 48 tokens are embedded, or a quarter of a small chunk; the text fills the rest."""
    title, tokenizer = "title " * 300, TOKENIZERS[0]
    assert count(tokenizer, embedding_text(title, "", ChunkingSettings(), tokenizer)) == 48
    assert count(tokenizer, embedding_text(title, "", ChunkingSettings(32, 0), tokenizer)) == 7
    assert embedding_text("", "text", ChunkingSettings(), tokenizer) == "text"
    longest = max(count(tokenizer, chunk.text) for chunk in cut(DOCUMENT, title, "word " * 1000, ChunkingSettings(), tokenizer))
    assert longest == 254 - 48


def test_characters_are_not_cut_in_half() -> None:
    """Emoji of several code points and letters with combining marks stay whole where a single word has to be cut."""
    for whole in ("👨‍👩‍👧", "e\u0301\u0323", "👍🏽"):
        # One letter in front, because the bound of 480 code points is a multiple of the lengths of all three.
        chunks = cut(DOCUMENT, "", "x" + whole * 3000, ChunkingSettings(32, 0), TOKENIZERS[0])
        assert [chunk.text.replace(whole, "") for chunk in chunks] == ["x"] + [""] * (len(chunks) - 1)
        assert len(chunks) > 10


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(prose(1, 400_000)[:2_000_000], id="prose"),
        pytest.param("x" * 1_000_000, id="one word"),
        pytest.param("漢" * 300_000, id="Chinese"),
        pytest.param("a" + "\n" * 1_000_000 + "b", id="newlines"),
        pytest.param("#\n" * 100_000, id="headings"),
        pytest.param("```\n" * 100_000, id="fences"),
        pytest.param('."' * 150_000, id="quotes"),
        pytest.param("\r" * 1_000_000 + "x", id="carriage returns"),
    ],
)
def test_large_texts_are_cut_in_seconds(text: str) -> None:
    """The work is linear: the largest document takes 2 s on one core; anything quadratic would take hours."""
    began = time.process_time()
    chunks = cut(DOCUMENT, "title", text, ChunkingSettings(), TOKENIZERS[0])
    assert time.process_time() - began < 15
    assert all(len(chunk.text) <= 254 * 16 for chunk in chunks)
    # overlap aside, nothing is repeated
    assert sum(len(chunk.text) for chunk in chunks) < 1.5 * len(text)


def test_each_text_is_tokenised_once_as_a_whole() -> None:
    """A document is tokenised once, then each chunk and each overlap; a short one is tokenised once in all."""
    calls: Counter[int] = Counter()

    class Counting(FakeTokenizer):
        def offsets(self, text: str) -> list[tuple[int, int]]:
            calls[len(text)] += 1
            return list(super().offsets(text))

    text = prose(3, 20_000)
    chunks: tuple[Chunk, ...] = cut(DOCUMENT, "", text, ChunkingSettings(), Counting())
    assert calls[len(text)] == 1
    assert calls.total() <= 2 * len(chunks) + 3
    calls.clear()
    cut(DOCUMENT, "", "short text", ChunkingSettings(), Counting())
    assert calls == {10: 1}
