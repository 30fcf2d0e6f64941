"""NDCG@10, Recall@100 and MRR@10, by `ir_measures`, which has them from trec_eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from shared.errors import FailedPreconditionError
from shared.golden.collection import Judgements


@dataclass(frozen=True, slots=True)
class Measures:
    """Means over questions, each 0 to 1. The gain of NDCG is the judgement itself (linear), as in trec_eval.

    Attributes:
        ndcg: of the first 10 documents.
        recall: share of the documents with a gain that is among the first 100.
        mrr: 1 / rank of the first document with a gain, 0 when it is not among the first 10.
        queries: number of questions.
    """

    ndcg: float
    recall: float
    mrr: float
    queries: int

    def as_json(self) -> dict[str, float]:
        """Rounded to four places, as such figures are quoted."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def require_library() -> None:
    """Raises FailedPreconditionError if `ir_measures` is not installed, before hours of work are done in vain."""
    try:
        import ir_measures  # noqa: F401, PLC0415 - of the extra `bench`, which the services do without
    except ImportError as error:
        raise FailedPreconditionError(
            "kb quality needs the extra `bench` (ir-measures, matplotlib): `make setup` installs it, or pip install -e '.[bench]'"
        ) from error


def measure(rankings: Mapping[str, Sequence[str]], judgements: Judgements) -> dict[str, Measures]:
    """Measures of each question of `rankings`: documents by question, best first, each once."""
    import ir_measures  # noqa: PLC0415 - of the extra `bench`, which the services do without
    from ir_measures import RR, R, nDCG  # noqa: PLC0415 - same

    ndcg, recall, mrr = nDCG @ 10, R @ 100, RR @ 10
    qrels = [ir_measures.Qrel(topic, document, gain) for topic in rankings for document, gain in judgements[topic].items()]
    # The rank as the score: scores that are equal would be put in the order of the documents' ids.
    run = [ir_measures.ScoredDoc(topic, document, -float(rank)) for topic, ranking in rankings.items() for rank, document in enumerate(ranking)]
    values: dict[str, dict[object, float]] = {topic: {} for topic in rankings}
    for metric in ir_measures.iter_calc([ndcg, recall, mrr], qrels, run):
        values[metric.query_id][metric.measure] = metric.value
    # A question without any hit is in no run; it counts 0.
    return {topic: Measures(of.get(ndcg, 0.0), of.get(recall, 0.0), of.get(mrr, 0.0), 1) for topic, of in values.items()}


def mean(measures: Iterable[Measures]) -> Measures:
    """The mean over questions; `measures` has at least one."""
    of = list(measures)
    return Measures(
        sum(each.ndcg for each in of) / len(of), sum(each.recall for each in of) / len(of), sum(each.mrr for each in of) / len(of), len(of)
    )
