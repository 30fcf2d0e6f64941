"""Consistency tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import consistency
from shared.domain import Cursor, ProjectId, SequenceNumber
from shared.errors import FailedPreconditionError, InvalidArgumentError

PROJECT = ProjectId("docs")


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(0, 2**62))
def test_a_token_gives_back_the_write_it_was_made_for(epoch: str, sequence: int) -> None:
    """Encoding and decoding are inverse."""
    cursor = Cursor(epoch, SequenceNumber(sequence))
    assert consistency.decode(consistency.encode(PROJECT, cursor), PROJECT) == cursor


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: "kb1." + data.hex()))
def test_anything_else_is_refused(text: str) -> None:
    """A token that was made up never becomes anything but INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgumentError, match="at_least_as_fresh"):
        consistency.decode(text, PROJECT)


def test_a_token_of_another_project_is_refused() -> None:
    """It proves nothing here."""
    token = consistency.encode(ProjectId("other"), Cursor("e", SequenceNumber(1)))
    with pytest.raises(InvalidArgumentError, match="another project"):
        consistency.decode(token, PROJECT)


def test_a_token_of_an_earlier_incarnation_is_told_apart() -> None:
    """After a restore the write that it proves may be gone."""
    consistency.require_epoch(Cursor("e1", SequenceNumber(1)), "e1")
    with pytest.raises(FailedPreconditionError, match="write again"):
        consistency.require_epoch(Cursor("e1", SequenceNumber(1)), "e2")
