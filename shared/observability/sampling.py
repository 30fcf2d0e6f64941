"""Which traces are recorded: a share of the new ones, those that came in recorded, and background work for recorded requests."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes


def sampler(ratio: float) -> Sampler:
    """The sampler of a process: a whole trace is recorded or not, by whoever begins it; `ratio` is the share of those that begin here, 0 to 1."""
    return ParentBased(_Roots(ratio))


class _Roots(Sampler):
    """Decides on traces that begin here.

    What is done in the background for several requests is a trace of its own with links to them. It is recorded if one of them is: else the links
    that their spans have to it would lead nowhere.
    """

    def __init__(self, ratio: float) -> None:
        self._share = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See `Sampler`."""
        chosen = ALWAYS_ON if any(link.context.trace_flags.sampled for link in links or ()) else self._share
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"LinkedOr({self._share.get_description()})"
