"""What is asked of the answers: the figures that a change must not fall below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.cli.quality.measure import Measures
from services.cli.quality.systems import DEFAULT, KEYWORD, VECTOR
from shared.golden.collection import GOLDEN

# The largest loss of NDCG@10 that serving the int8 export instead of the original model may cost.
INT8_LOSS = 0.005
# The largest difference of NDCG@10 that a dead ChromaDB may make: its graph misses one in a hundred of the nearest, which the replica's scan finds.
OUTAGE_LOSS = 0.002


@dataclass(frozen=True, slots=True)
class Bounds:
    """NDCG@10: of hybrid search by default at least, and of each leg alone below (a collection that one leg answers shows nothing of fusion)."""

    hybrid: float
    keyword_below: float = 1.0
    vector_below: float = 1.0


# Cranfield with 1,400 passages and 225 questions, the gain being 5 - code; SciFact as in BEIR, with 5,183 and 300.
_BOUNDS = {GOLDEN: Bounds(0.90, keyword_below=0.80, vector_below=0.90), "cranfield": Bounds(0.405), "scifact": Bounds(0.71)}


@dataclass(frozen=True, slots=True)
class Check:
    """A target, in words with the figures, and whether it is met."""

    text: str
    met: bool


def checks(name: str, measures: Mapping[str, Measures]) -> tuple[Check, ...]:
    """The targets of a collection. That hybrid search beats both legs is asked of every one.

    Args:
        name: of the collection; those that are not known have no bounds.
        measures: by the name of the system.
    """
    keyword, vector, hybrid = (measures[system].ndcg for system in (KEYWORD, VECTOR, DEFAULT))
    better = max(keyword, vector)
    found = [Check(f"hybrid {hybrid:.4f} is above the better leg, {better:.4f}", hybrid > better)]
    if bounds := _BOUNDS.get(name):
        found.append(Check(f"hybrid {hybrid:.4f} is at least {bounds.hybrid:g}", hybrid >= bounds.hybrid))
        legs = (("keyword", keyword, bounds.keyword_below), ("vector", vector, bounds.vector_below))
        found.extend(Check(f"{leg} alone {value:.4f} is below {bound:g}", value < bound) for leg, value, bound in legs if bound < 1)
    return tuple(found)


def int8_check(int8: Measures, original: Measures) -> Check:
    """Whether the exported model (int8) is as good as the original (fp32), both with hybrid search by default."""
    loss = original.ndcg - int8.ndcg
    return Check(f"int8 {int8.ndcg:.4f} is within {INT8_LOSS:g} of fp32 {original.ndcg:.4f}", loss <= INT8_LOSS)


def outage_checks(healthy: Measures, keyword: Measures, dead_vectors: Measures, dead_keyword: Measures) -> tuple[Check, ...]:
    """Whether answers without ChromaDB are what is promised: as good as with it, or as keyword search alone. Of hybrid search by default."""
    return tuple(
        Check(f"{what} {found.ndcg:.4f} is within {OUTAGE_LOSS:g} of {other} {wanted.ndcg:.4f}", abs(found.ndcg - wanted.ndcg) <= OUTAGE_LOSS)
        for what, found, other, wanted in (
            ("without ChromaDB, the replica's vectors", dead_vectors, "with it", healthy),
            ("without ChromaDB and without vectors", dead_keyword, "keyword alone", keyword),
        )
    )
