"""The tokenizer of an embedding model, from its `tokenizer.json`, without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as _Tokenizer

from shared.embedding.models import ModelSource
from shared.errors import ConfigurationError


def read_tokenizer(content: bytes) -> _Tokenizer:
    """A tokenizer that neither cuts nor pads: the file of all-MiniLM-L6-v2 says to do both, at 128 tokens.

    Raises ValueError when `content` is not a tokenizer.
    """
    try:
        tokenizer = _Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class ModelTokenizer:
    """Counts and locates tokens as the model will. Satisfies `shared.ports.Tokenizer`.

    It is read from the original model, so documents can be cut before the model is exported.
    """

    def __init__(self, source: ModelSource) -> None:
        """Reads the tokenizer, in some 30 ms. Raises ConfigurationError when it cannot be read."""
        try:
            self._tokenizer = read_tokenizer((source.directory / "tokenizer.json").read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the tokenizer of embedding model '{source.name}' cannot be read: {error}") from error
        self._max_tokens = source.max_sequence - self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @property
    def max_tokens(self) -> int:
        """Tokens that the model reads of a text, special tokens left out: 254 for all-MiniLM-L6-v2."""
        return self._max_tokens

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each token of the text begins and ends (exclusive), in code points; special tokens left out."""
        offsets: Sequence[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets
