"""How good the answers of a real stack are: the golden set always, more collections where they are.

Each has a stack of its own: BM25's statistics are those of a whole index, so projects of other tests would change them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.cli.progress import Meter
from services.cli.quality.ask import HITS, rankings, write
from services.cli.quality.measure import Measures, mean, measure
from services.cli.quality.systems import DEFAULT, KEYWORD, SYSTEMS, VECTOR
from services.cli.quality.targets import checks
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast
from shared.golden.collection import Collection, below, golden

pytest.importorskip("ir_measures", reason="of the extra `bench`")

DATASETS = os.environ.get("KB_DATASETS", "")
COMPARED = {KEYWORD, VECTOR, DEFAULT}


async def figures(stack: Stack, collection: Collection, hits: int) -> dict[str, Measures]:
    """Both legs alone, and hybrid search by default, over the questions of a collection."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=60.0) as kb:
        token = await write(kb, collection)
        with Meter("asking", "questions") as meter:
            found = {system.name: await rankings(kb, collection, system, token, meter, hits=hits) for system in SYSTEMS if system.name in COMPARED}
    return {name: mean(measure(ranked, collection.judgements).values()) for name, ranked in found.items()}


async def test_hybrid_search_answers_the_golden_set_and_neither_leg_does(own_stack: Stack) -> None:
    """NDCG@10 above .90 by default, while keyword alone stays below .80 and vector alone below .90."""
    measured = await figures(own_stack, golden(), hits=20)

    assert [check.text for check in checks("golden", measured) if not check.met] == []
    assert measured[DEFAULT].mrr > max(measured[KEYWORD].mrr, measured[VECTOR].mrr)


@pytest.mark.skipif(not DATASETS, reason="KB_DATASETS names no folder of labelled collections")
@pytest.mark.parametrize("name", ["cranfield", "scifact"])
@pytest.mark.timeout(1800)
async def test_hybrid_search_reaches_the_targets_of_public_collections(own_stack: Stack, name: str) -> None:
    """It beats the better leg, and its figure on this collection is not lost. Takes minutes: thousands of passages are embedded."""
    chosen = [collection for collection in below(Path(DATASETS)) if collection.name == name]
    if not chosen:
        pytest.skip(f"there is no {name} in {DATASETS}")

    measured = await figures(own_stack, chosen[0], hits=HITS)

    assert [check.text for check in checks(name, measured) if not check.met] == []
