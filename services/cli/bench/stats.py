"""Percentiles of latencies, and ratios of things that were measured in turns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratios of neighbouring slices: their median, the middle half of them, and how many there are."""

    median: float
    low: float
    high: float
    pairs: int


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`p50_ms`, `p95_ms`, `p99_ms`, `max_ms` and `mean_ms` of latencies in seconds; empty if there are none."""
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1e3
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": float(values.max()), "mean_ms": float(values.mean())}


def median(values: Sequence[float]) -> float:
    """The middle value. Raises ValueError if there are none."""
    if not values:
        raise ValueError("no values")
    return float(np.median(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio | None:
    """How many times the first is the second, pair by pair, so that what slows the machine for a while slows both sides of a pair.

    The sequences are in the order of the rounds; pairs with a denominator of 0 are left out. None if no pair is left.
    """
    ratios = [a / b for a, b in zip(numerators, denominators, strict=False) if b > 0]
    if not ratios:
        return None
    low, middle, high = np.percentile(ratios, (25, 50, 75)).tolist()
    return Ratio(middle, low, high, len(ratios))
