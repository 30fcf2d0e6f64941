"""NDCG@10 as a picture: a panel a collection, and one for the kinds of questions of a collection that has kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.cli.quality.run import Outcome, Scores
from services.cli.quality.systems import DEFAULT, KEYWORD, VECTOR

_COLOURS = {KEYWORD: "#8d99ae", VECTOR: "#5c7cba", DEFAULT: "#d1495b"}
_OTHERS = "#c9d6ea"
_PANEL = (4.6, 3.4)  # inches


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - of the extra `bench`, and slow to import

    panels: list[tuple[str, list[tuple[Scores, float]]]] = []
    for outcome in outcomes:
        name = outcome.collection.name
        panels.append((f"{name}, {len(outcome.collection.topics)} questions", [(score, score.overall.ndcg) for score in outcome.scores]))
        panels.extend(
            (f"{name}: {kind}, {outcome.scores[0].kinds[kind].queries} questions", [(score, score.kinds[kind].ndcg) for score in outcome.scores])
            for kind in outcome.collection.kinds
        )
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for place, (title, bars) in zip(axes, panels, strict=False):
        labels = [score.system.label for score, _ in bars]
        values = [value for _, value in bars]
        place.barh(labels, values, color=[_COLOURS.get(score.system.name, _OTHERS) for score, _ in bars])
        for row, value in enumerate(values):
            place.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=8)
        place.invert_yaxis()
        place.set_xlim(0, 1.12)  # room for the figure beside a bar of 1
        place.set_title(title, fontsize=10)
        place.tick_params(labelsize=8)
        place.set_xlabel("NDCG@10", fontsize=8)
        place.spines[["top", "right"]].set_visible(False)
    for place in list(figure.axes)[len(panels) :]:
        place.set_axis_off()
    figure.savefig(path, dpi=110)
