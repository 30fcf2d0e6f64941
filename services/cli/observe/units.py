"""Values as Grafana writes them in a unit. Pure."""

from __future__ import annotations

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_COUNTS = ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"))
_AFTER = {"reqps": " req/s", "ops": " ops/s"}


def text(value: float, unit: str) -> str:
    """For people: `12.5 ms` of 0.0125 `s`."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return _scaled(value, _TIMES, " ")
    if unit == "bytes":
        return _scaled(value, _BYTES, " ")
    if unit == "short":
        return _scaled(value, _COUNTS, "")
    return f"{f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'}{_AFTER.get(unit, '')}"


def _scaled(value: float, scales: tuple[tuple[float, str], ...], space: str) -> str:
    for factor, name in scales:
        if abs(value) >= factor:
            return f"{value / factor:.3g}{space}{name}"
    return f"{value:.3g}" if value else "0"
