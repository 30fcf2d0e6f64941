"""Answers as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from services.cli.console import OUT, result
from services.cli.highlight import beginning, highlighted
from shared.client import Hit, LegContribution, LegScore, SearchAnswer, Timings

_WIDTH = 240  # characters of a text that has no snippet, as many as a snippet has by default
_OTHER_WIDTH = 100  # characters of a further chunk of a document
_STAGES = ("wait", "embed", "vector", "keyword", "assemble", "rerank")
_SHOWN = 0.00005  # seconds; less would be printed as 0.0 ms


def search_answer(value: SearchAnswer, *, shown: int | None = None, first: int = 1, whole: bool = False) -> None:
    """Prints hits, how their scores came about if the answer says so, what is missing from it, and the service's timings.

    Args:
        value: The answer.
        shown: How many hits to print; None prints all.
        first: Rank of the first hit.
        whole: Texts of chunks from beginning to end, instead of snippets.
    """
    if value.hits:
        OUT.print(_table(enumerate(value.hits[:shown], first), whole=whole))
    else:
        result("no hits")
    for rank, hit in enumerate(value.hits[:shown], first):
        _explanation(rank, hit)
    degradations(value)
    result(_summary(value, shown), style="dim")


def degradations(value: SearchAnswer) -> None:
    """Prints a yellow line for each thing that is missing from the answer."""
    for degradation in value.degradations:
        since = "" if degradation.since is None else f", since {degradation.since:%H:%M:%S} UTC"
        cause = ": ".join(filter(None, (degradation.component, degradation.reason.value)))
        result(f"degraded: {degradation.message or degradation.reason.value} ({cause}{since})", style="yellow")


def _table(hits: Iterable[tuple[int, Hit]], *, whole: bool) -> Table:
    table = Table("#", "score", "document", "vector", "keyword", "text", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for rank, hit in hits:
        document = Text(hit.title or hit.document_id, style="bold")
        if hit.title and hit.document_id != hit.title:
            document.append(f"\n{hit.document_id}", style="dim not bold")
        table.add_row(str(rank), f"{hit.score:.4f}", document, _leg(hit.vector), _leg(hit.keyword), _text(hit, whole=whole))
        for other in hit.more_chunks:
            text = other.chunk.text if whole else beginning(other.chunk.text, _OTHER_WIDTH)
            chunk = Text(f"  chunk {other.chunk.ordinal}", style="dim")
            table.add_row("", Text(f"{other.score:.4f}", style="dim"), chunk, _leg(other.vector), _leg(other.keyword), Text(text, style="dim"))
    return table


def _leg(leg: LegScore | None) -> str:
    return "–" if leg is None else f"{leg.rank}  {leg.score:.3f}"


def _text(hit: Hit, *, whole: bool) -> Text:
    """A line a snippet; the beginning of the chunk when there are none."""
    if whole:
        return Text(hit.chunk.text)
    if not hit.snippets:
        return Text(beginning(hit.chunk.text, _WIDTH))
    chunk = hit.chunk
    return Text("\n").join(highlighted(part, more_before=part.start > chunk.start, more_after=part.end < chunk.end) for part in hit.snippets)


def _summary(value: SearchAnswer, shown: int | None) -> str:
    fresh, count = value.freshness, len(value.hits)
    hits = "1 hit" if count == 1 else f"{count} hits" if shown is None or shown >= count else f"{shown} of {count} hits"
    stages = _stages(value.timings)
    spent = f"{value.timings.total * 1000:.1f} ms{f' ({stages})' if stages else ''}"
    behind = "" if fresh.sequence >= fresh.head else f" · {fresh.head - fresh.sequence} changes behind"
    cached = " · cached" if value.cached else ""
    kept = f" · found at {value.found_time:%H:%M:%S} UTC" if value.served_from_cache and value.found_time else ""
    return f"{hits} in {spent}{cached}{kept} · {value.mode.value} · sequence {fresh.sequence}{behind}"


def _stages(timings: Timings) -> str:
    spent = ((name, getattr(timings, name)) for name in _STAGES)
    return ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in spent if seconds is not None and seconds >= _SHOWN)


def _explanation(rank: int, hit: Hit) -> None:
    """Prints how a hit's score came about, if the answer says so: a row a leg, their sum, and what moved the hit afterwards."""
    explanation = hit.explanation
    if explanation is None:
        return
    result(f"\n#{rank} {hit.document_id}, chunk {hit.chunk.ordinal}", style="bold")
    table = Table("leg", box=None, padding=(0, 2, 0, 2), header_style="bold")
    for name in ("rank", "score", "normalized", "weight", "contribution"):
        table.add_column(name, justify="right")
    table.add_row("vector", *_contribution(explanation.vector))
    table.add_row("keyword", *_contribution(explanation.keyword))
    table.add_row(Text("sum", style="bold"), "", "", "", "", Text(f"{explanation.fused_score:.6f}", style="bold"))
    OUT.print(table)
    result(f"  {explanation.formula}", style="dim")
    if (step := explanation.diversity) is not None:
        figures = f"relevance {step.relevance:.4f}, similarity to a hit before it {step.similarity:.4f}, value {step.value:.4f}"
        result(f"  diversity: {figures}; place by score alone {step.rank_before}")
    if (reranked := explanation.reranking) is not None:
        result(f"  reranking: score {reranked.score:.4f}; place before {reranked.rank_before}")


def _contribution(value: LegContribution | None) -> tuple[str, ...]:
    if value is None:
        return ("–", "–", "–", "–", f"{0:.6f}")
    return (str(value.rank), f"{value.score:.4f}", f"{value.normalized_score:.6f}", f"{value.weight:g}", f"{value.contribution:.6f}")
