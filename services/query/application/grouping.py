"""Grouping candidates by document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that make one hit: the best, and others of its document, best first."""

    head: int
    others: Sequence[int] = ()


def each_alone(order: Sequence[int]) -> list[Group]:
    """Every candidate is a hit of its own."""
    return [Group(key) for key in order]


def by_document(order: Sequence[int], documents: Mapping[int, int], more: int) -> list[Group]:
    """One group a document, in the order of their best candidates.

    Args:
        order: candidates, best first.
        documents: the document of each; candidates without one are left out.
        more: how many others a group has at most.
    """
    heads: dict[int, int] = {}
    others: dict[int, list[int]] = {}
    for key in order:
        document = documents.get(key)
        if document is None:
            continue
        if document not in heads:
            heads[document] = key
            others[document] = []
        elif len(others[document]) < more:
            others[document].append(key)
    return [Group(head, others[document]) for document, head in heads.items()]
