"""What traces, metrics and logs cost a search: query services with and without them on the same data, in turns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from services.cli.bench.context import Bench
from services.cli.bench.dataset import PROJECT, followed
from services.cli.bench.echo import EchoServer
from services.cli.bench.interleave import Source, Variant, interleave
from services.cli.bench.load import TargetSpec, child_environment
from services.cli.bench.records import ratio_values
from services.cli.bench.stats import median
from services.cli.stack.health import is_ready
from services.cli.stack.process import ManagedProcess, free_port
from shared.client import KnowledgeBeast

_START_TIMEOUT = 180.0  # seconds; each copies the corpus from the feed first
_GRACE = 25.0
_LONGER = 4  # times the load of other variants: the difference that is looked for is a few per cent
_OFF, _ON, _ALL = "off", "on, 1 % of traces recorded", "on, every trace recorded"


async def run(bench: Bench) -> None:
    """Starts three more query services and measures them in turns; `cpu_ms` is the service's own processor time a search."""
    folder = bench.root / "overhead"
    shutil.rmtree(folder, ignore_errors=True)
    async with EchoServer(b"") as collector:  # takes spans and answers with an empty message, as a collector does
        exported = {"KB_TRACE_ENDPOINT": f"http://{collector.address}"}
        settings: dict[str, tuple[str, dict[str, str]]] = {
            _OFF: ("services.cli.bench.uninstrumented", {"OTEL_SDK_DISABLED": "true", "KB_LOG_LEVEL": "error"}),
            _ON: ("services.query", {**exported, "KB_TRACE_SAMPLE_RATIO": "0.01"}),
            _ALL: ("services.query", {**exported, "KB_TRACE_SAMPLE_RATIO": "1"}),
        }
        services: dict[str, tuple[ManagedProcess, str]] = {}
        try:
            for name, (module, more) in settings.items():
                process, address = _service(bench, folder / str(len(services)), module, more)
                services[name] = process, address
                await process.start(_START_TIMEOUT)
                async with KnowledgeBeast(query=address) as kb:
                    await followed(kb, bench.dataset.project)
            await _measure(bench, services)
        finally:
            for process, _ in services.values():
                await process.stop(_GRACE)
    shutil.rmtree(folder)


async def _measure(bench: Bench, services: Mapping[str, tuple[ManagedProcess, str]]) -> None:
    for kind in ("uncached", "cached"):
        variants = {}
        for name, (_, address) in services.items():
            target = TargetSpec("stub", {"query": address, "project": PROJECT})
            source: Source = bench.repeated() if kind == "cached" else bench.fresh()
            labels = {"instrumentation": name, "cache": kind}
            variants[name] = Variant(f"hybrid search, {kind}, instrumentation {name}", target, source, labels=labels)
        seconds = bench.seconds * _LONGER
        rounds = max(1, round(seconds / bench.slice_seconds))
        with bench.meter(f"instrumentation, {kind}", "slices", rounds * len(variants)) as meter:
            await interleave(
                bench.generator,
                list(variants.values()),
                seconds=seconds,
                slice_seconds=bench.slice_seconds,
                processes={name: process.pid for name, (process, _) in services.items() if process.pid is not None},
                on_slice=meter.advance,
            )
        for name, variant in variants.items():
            bench.record_variant("overhead", variant, **_compared(name, variant, variants[_OFF]))


def _compared(name: str, variant: Variant, off: Variant) -> dict[str, float]:
    """Its own processor time a search, and what it costs more than the service without instrumentation."""
    cpu, cpu_off = _cpu(variant, name), _cpu(off, _OFF)
    values = {"cpu_ms": median(cpu)}
    if variant is off:
        return values
    slower = [(a - b) * 1e3 for a, b in zip(variant.medians(), off.medians(), strict=True) if a and b]
    if slower:
        values["cost_ms"] = median(slower)
    values["cpu_cost_ms"] = median([a - b for a, b in zip(cpu, cpu_off, strict=True)])
    return {**values, **ratio_values("to_off", variant.ratio_to(off))}


def _cpu(variant: Variant, name: str) -> list[float]:
    """Milliseconds of the service's processor time a search, slice by slice."""
    return [used[name] / max(1, len(burst.latencies)) * 1e3 for burst, used in zip(variant.bursts, variant.cpu, strict=True)]


def _service(bench: Bench, data_dir: Path, module: str, more: Mapping[str, str]) -> tuple[ManagedProcess, str]:
    """One more query service that follows the stack's indexer; its own data folder, its own ports."""
    port, http_port = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    environment = {
        **child_environment(),
        "KB_DATA_DIR": str(data_dir),
        "KB_MODEL_DIR": str(bench.stack.model_dir),
        "KB_CHROMA_URL": bench.stack.chroma_url,
        "KB_INDEXER_ADDRESS": bench.stack.indexer_address,
        "KB_QUERY_HOST": "127.0.0.1",
        "KB_QUERY_PORT": str(port),
        "KB_QUERY_HTTP_PORT": str(http_port),
        "KB_QUERY_HEALTH_PORT": "0",
        "KB_LOG_FORMAT": "json",
        **more,
    }

    async def ready() -> bool:
        return await is_ready(address)

    process = ManagedProcess("query", (sys.executable, "-m", module), log=data_dir / "query.log", env=environment, ready=ready)
    return process, address
