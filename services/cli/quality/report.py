"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from services.cli.console import OUT, result
from services.cli.quality.run import Outcome, Scores
from services.cli.quality.systems import DEFAULT


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints a table for each collection, and its targets."""
    for outcome in outcomes:
        collection = outcome.collection
        sizes = f"{len(collection.documents):,} documents in {outcome.chunks:,} chunks, {len(collection.topics):,} questions"
        result(f"\n{collection.name}: {sizes}", style="bold")
        OUT.print(_table(outcome.scores, collection.kinds))
        if outcome.original:
            result("with the original model in fp32")
            OUT.print(_table(outcome.original, collection.kinds))
        if outcome.outage:
            result("without ChromaDB")
            OUT.print(_table(outcome.outage, collection.kinds))
        for check in outcome.checks:
            result(f"{'met   ' if check.met else 'MISSED'}  {check.text}", style="green" if check.met else "red")


def _table(scores: Sequence[Scores], kinds: Sequence[str]) -> Table:
    table = Table("", "NDCG@10", "Recall@100", "MRR@10", *(f"NDCG@10 {kind}" for kind in kinds), box=None, padding=(0, 2, 0, 0), header_style="bold")
    for score in scores:
        values = (score.overall.ndcg, score.overall.recall, score.overall.mrr, *(score.kinds[kind].ndcg for kind in kinds))
        table.add_row(score.system.label, *(f"{value:.4f}" for value in values), style="bold" if score.system.name == DEFAULT else "")
    return table


def as_json(outcomes: Sequence[Outcome], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything, with stable keys; `fp32` and `outage` are there if they were asked for."""
    return {"environment": environment, "met": all(outcome.met for outcome in outcomes), "collections": [_collection(each) for each in outcomes]}


def _collection(outcome: Outcome) -> dict[str, Any]:
    collection = outcome.collection
    form = {
        "name": collection.name,
        "fingerprint": collection.fingerprint,
        "documents": len(collection.documents),
        "chunks": outcome.chunks,
        "queries": len(collection.topics),
        "systems": [_system(score) for score in outcome.scores],
        "targets": [{"text": check.text, "met": check.met} for check in outcome.checks],
    }
    more = {"fp32": outcome.original, "outage": outcome.outage}
    return {**form, **{key: [_system(score) for score in scores] for key, scores in more.items() if scores}}


def _system(score: Scores) -> dict[str, Any]:
    kinds = {kind: measures.as_json() for kind, measures in score.kinds.items()}
    return {"name": score.system.name, "label": score.system.label, **score.overall.as_json(), **({"kinds": kinds} if kinds else {})}
