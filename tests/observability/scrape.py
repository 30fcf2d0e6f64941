"""What a service shows at /metrics, as a scraper reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# What Prometheus 2.42 sends.
PROMETHEUS: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@dataclass(frozen=True, slots=True)
class Scrape:
    """The families of one scrape, by the names that the format gives them: counters without `_total`."""

    families: Mapping[str, Metric] = field(repr=False)  # a thousand samples
    content_type: str

    def samples(self, name: str) -> Iterator[Sample]:
        """Samples of a name with its suffix, like `kb_retries_total`."""
        return (sample for family in self.families.values() for sample in family.samples if sample.name == name)

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; NaN if there is none."""
        found = [sample.value for sample in self.samples(name) if labels.items() <= sample.labels.items()]
        return math.fsum(found) if found else math.nan

    def labels(self, name: str, label: str) -> set[str]:
        """Values of a label."""
        return {sample.labels[label] for sample in self.samples(name)}

    def traces(self, family: str) -> set[str]:
        """Trace ids of the exemplars of a histogram."""
        return {sample.exemplar.labels["trace_id"] for sample in self.families[family].samples if sample.exemplar is not None}


async def scrape(port: int, accept: str = PROMETHEUS) -> Scrape:
    """Reads a service's metrics in OpenMetrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}) as response:
        text, content_type = await response.text(), response.headers["Content-Type"]
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call] # the library has no annotations
    return Scrape({family.name: family for family in families}, content_type)
