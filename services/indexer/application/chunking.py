"""Cuts documents into chunks that an embedding model can read whole. Pure: the same input gives the same chunks on every machine.

The text is walked from left to right. Each chunk takes what fits, and ends at the best place of `outline` in the second half of that: a heading,
else a paragraph, a line, a sentence, a word. Words are cut only when a single one does not fit.

Two rules keep the ids of chunks when text far away changes, so that little is embedded again. A section longer than a third of a chunk always ends
a chunk; a short one is merged with what follows, the last one with what precedes. And among equally good places the one whose following text has the
smallest checksum is taken, not the last one: cuts then depend on the text around them rather than on their distance from the beginning, so after a
change they fall back into step (content-defined chunking, as in LBFS: Muthitacharoen, Chen, Mazières, SOSP 2001).
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from services.indexer.application.outline import Level, Outline, Positions, outline, whole_character
from shared.domain import Chunk, ChunkId, ChunkingSettings, DocumentId
from shared.ports import Tokenizer

# Tokens that models of the BERT family put around every text: [CLS] and [SEP].
SPECIAL_TOKENS = 2
# A title is at most this long, and at most a quarter of the chunk, so that it never crowds the text out.
TITLE_TOKENS = 48
# Bounds chunks of text that has next to no tokens: padded tables, one word without end. English has 4 to 5 characters a token.
CHARACTERS_PER_TOKEN = 16
# Characters after a place that decide between it and others as good.
_FINGERPRINT = 64


def _limit(settings: ChunkingSettings, tokenizer: Tokenizer) -> int:
    """Tokens that an embedding text may have, special tokens left out."""
    return max(1, min(settings.max_tokens - SPECIAL_TOKENS, tokenizer.max_tokens))


def _heading(title: str, settings: ChunkingSettings, tokenizer: Tokenizer) -> str:
    """The part of the title that is embedded, with the line end behind it; empty when there is no title."""
    title = title.strip()
    tokens = min(TITLE_TOKENS, _limit(settings, tokenizer) // 4)
    title = title[: tokens * CHARACTERS_PER_TOKEN]
    while title and len(offsets := tokenizer.offsets(title)) > tokens:
        # A cut inside a word may give it other, and more, tokens: look again until it fits.
        title = title[: min(offsets[tokens][0], len(title) - 1)].rstrip()
    return f"{title}\n" if title else ""


def embedding_text(title: str, text: str, settings: ChunkingSettings, tokenizer: Tokenizer) -> str:
    """What is embedded for a chunk: the title on a line of its own, then the chunk's text.

    Args:
        title: Title of the document. All but its first 48 tokens (less when `settings.max_tokens` is below 200) is left out.
        text: Text of the chunk.
        settings: As the chunk was cut with.
        tokenizer: As the chunk was cut with.
    """
    return _heading(title, settings, tokenizer) + text


class _Cutter:
    """One walk over one text. Its methods work on positions: offsets in code points."""

    def __init__(self, heading: str, text: str, settings: ChunkingSettings, tokenizer: Tokenizer) -> None:
        self._heading = heading
        self._text = text
        self._tokenizer = tokenizer
        self._limit = _limit(settings, tokenizer)
        self._budget = max(1, self._limit - len(tokenizer.offsets(heading)))
        self._overlap = min(settings.overlap_tokens, self._budget // 2)
        self._outline: Outline = outline(text)
        offsets = np.array(tokenizer.offsets(text), np.int64).reshape(-1, 2)
        # Accumulated, because byte-level tokenizers may give the bytes of one character in any order.
        self._starts: Positions = np.maximum.accumulate(offsets[:, 0])
        self._ends: Positions = np.maximum.accumulate(offsets[:, 1])

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start and end of each chunk, without whitespace at either end."""
        if not len(self._outline.words):
            return
        start, covered = int(self._outline.words[0]), 0
        while True:
            cut, end = self._cut(start, covered)
            if cut <= covered:  # the overlap left no room for anything new
                start = covered
                continue
            yield start, end
            if cut >= self._outline.end:
                return
            start, covered = self._next_start(start, cut), cut

    def _cut(self, start: int, covered: int) -> tuple[int, int]:
        """Where the chunk that begins at `start` is cut, and where its text ends before that.

        The tokens of a piece need not be those of the whole text, when the cut is inside a word. So the piece is counted, and made smaller until
        it fits: by the share that is too much, so it takes few rounds.
        """
        tokens, characters = self._budget, self._budget * CHARACTERS_PER_TOKEN
        while True:
            cut = self._best_cut(start, covered, tokens, characters)
            piece = self._text[start:cut].rstrip()
            count = len(self._tokenizer.offsets(self._heading + piece))
            if count <= self._limit or len(piece) == 1:
                return cut, start + len(piece)
            tokens = max(1, min(tokens - 1, tokens * self._limit // count))
            characters = max(1, min(characters, len(piece)) - 1) if tokens > 1 else max(1, len(piece) // 2)

    def _best_cut(self, start: int, covered: int, tokens: int, characters: int) -> int:
        """The best place to end a chunk of at most `tokens` and `characters` that begins at `start`, later than `covered` where possible."""
        outline_ = self._outline
        farthest = self._reach(start, tokens, characters)
        third = self._reach(start, tokens // 3, characters // 3)
        section = self._between(outline_.headings, max(third, covered), farthest)
        if len(section) and self._reach(int(section[0]), tokens // 3, characters // 3) < outline_.end:
            return int(section[0])
        if farthest >= outline_.end:
            return outline_.end
        latest = self._leave_a_third(farthest, tokens, characters)
        half = self._reach(start, tokens // 2, characters // 2)
        first, last = np.searchsorted(outline_.words, (max(half, covered), latest), side="right")
        if first < last:
            levels = outline_.levels[first:last]
            best = levels.max()
            places = outline_.words[first:last][levels == best]
            return int(places[-1]) if best == Level.WORD else min(map(int, places), key=self._fingerprint)
        words = self._between(outline_.words, max(start, covered), farthest)
        if len(words):
            return int(words[-1])
        inside = whole_character(self._text, farthest, start)
        return self._next_word(inside) if self._text[inside].isspace() else inside

    def _reach(self, start: int, tokens: int, characters: int) -> int:
        """The farthest end of a piece that begins at `start`, or the end of the text. At least one character."""
        following = int(np.searchsorted(self._ends, start, side="right")) + tokens
        by_tokens = int(self._starts[following]) if following < len(self._starts) else self._outline.end
        return max(start + 1, min(by_tokens, start + characters, self._outline.end))

    def _next_word(self, position: int) -> int:
        """Where the whitespace at `position` ends."""
        return int(self._outline.words[np.searchsorted(self._outline.words, position)])

    def _leave_a_third(self, farthest: int, tokens: int, characters: int) -> int:
        """`farthest`, or so much less that the last piece before the next heading, or the end, is at least a third of a chunk."""
        following = self._between(self._outline.headings, farthest, self._outline.end)
        boundary = int(following[0]) if len(following) else self._outline.end
        if self._reach(farthest, tokens // 3, characters // 3) < boundary:
            return farthest
        token = int(np.searchsorted(self._starts, boundary)) - tokens // 3
        by_tokens = int(self._starts[token]) if 0 <= token < len(self._starts) else boundary
        return min(farthest, max(by_tokens, boundary - characters // 3))

    def _next_start(self, start: int, cut: int) -> int:
        """Where the next chunk begins: at the cut, or a little before it when a block was cut in the middle."""
        blocks = self._outline.blocks
        block = int(blocks[np.searchsorted(blocks, cut, side="right") - 1])
        token = max(0, int(np.searchsorted(self._starts, cut)) - self._overlap)
        earliest = int(self._starts[token]) if token < len(self._starts) else cut
        earliest = max(earliest, block, start + 1, cut - self._overlap * CHARACTERS_PER_TOKEN)
        first, last = np.searchsorted(self._outline.words, (earliest, cut))
        if first >= last:
            return cut
        place = int(self._outline.words[first + int(np.argmax(self._outline.levels[first:last]))])
        # Part of a word that is one unknown token may be many tokens.
        return place if len(self._tokenizer.offsets(self._text[place:cut])) <= self._overlap else cut

    def _fingerprint(self, position: int) -> tuple[int, int]:
        """Orders equally good places by their text; equal texts by position, the last one first."""
        return zlib.crc32(self._text[position : position + _FINGERPRINT].encode("utf-8", "surrogatepass")), -position

    @staticmethod
    def _between(positions: Positions, after: int, until: int) -> Positions:
        """The positions in `(after, until]`."""
        first, last = np.searchsorted(positions, (after, until), side="right")
        return positions[first:last]


def _spans(heading: str, text: str, settings: ChunkingSettings, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk. Most documents fit as they are, and are tokenised once."""
    stripped = text.strip()
    limit = _limit(settings, tokenizer)
    short = len(stripped) <= limit * CHARACTERS_PER_TOKEN and len(tokenizer.offsets(heading + stripped)) <= limit
    if stripped and short:
        start = len(text) - len(text.lstrip())
        return iter([(start, start + len(stripped))])
    return _Cutter(heading, text, settings, tokenizer).spans()


def cut(document_id: DocumentId, title: str, text: str, settings: ChunkingSettings, tokenizer: Tokenizer) -> tuple[Chunk, ...]:
    """The chunks of a document, in order; none when the text is whitespace.

    - `chunk.text == text[chunk.start:chunk.end]`, without whitespace at either end; all other text is in at least one chunk.
    - `embedding_text(title, chunk.text, …)` with its special tokens is at most `settings.max_tokens` and what the model reads.
    - A chunk repeats at most `settings.overlap_tokens` of the chunk before, and only when a paragraph was cut in the middle.
    - The id is the document's id and 16 hex digits of BLAKE2b of the embedding text; `.1`, `.2`… follow where a text is repeated. Equal text
      in an equal document keeps its id.

    Time is linear in the length of the text. The text is tokenised once as a whole, then each chunk and each overlap.
    """
    heading = _heading(title, settings, tokenizer)
    seen: Counter[str] = Counter()
    chunks = []
    for ordinal, (start, end) in enumerate(_spans(heading, text, settings, tokenizer)):
        piece = text[start:end]
        digest = hashlib.blake2b((heading + piece).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        repeat = f".{seen[digest]}" if seen[digest] else ""
        seen[digest] += 1
        chunks.append(Chunk(ChunkId(f"{document_id}#{digest}{repeat}"), ordinal, piece, start, end))
    return tuple(chunks)
