"""The load generator against a real server."""

from __future__ import annotations

import subprocess
import sys

import grpc.aio

from services.cli.bench.ask import Ask
from services.cli.bench.load import LoadGenerator, TargetSpec, child_environment


async def test_the_load_generator_is_a_process_that_measures_a_grpc_server() -> None:
    """Jobs go to a process of its own, which ends with the context; a server that refuses every call counts as failures."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with LoadGenerator() as generator:
            target = TargetSpec("stub", {"query": f"127.0.0.1:{port}", "project": "p"})
            burst = await generator.run(target, [Ask("words"), Ask("more words")])
            assert generator.pid > 0
    finally:
        await server.stop(None)
    assert (burst.used, burst.failed, burst.latencies) == (2, 2, [])
    assert "UNIMPLEMENTED" in burst.errors[0]


def test_the_uninstrumented_service_observes_nothing() -> None:
    """In a process of its own, because it cannot be undone: metrics stay at zero, and of the layers only those are left that answers depend on."""
    program = (
        "from services.cli.bench.uninstrumented import take_out; take_out();"
        "from shared.observability import metrics; from shared.rpc import chain;"
        "metrics.BREAKER_REJECTIONS.inc(); metrics.KEYWORD_SEARCH_DURATION.observe(1.0);"
        "metrics.QUERY_DURATION.labels('hybrid', 'true').observe(1.0);"
        "timer = metrics.KEYWORD_SEARCH_DURATION.time(); timer.__enter__(); timer.__exit__(None, None, None);"
        "values = [s.value for m in (metrics.BREAKER_REJECTIONS, metrics.KEYWORD_SEARCH_DURATION) for f in m.collect() for s in f.samples];"
        "print(sum(values), [type(layer).__name__ for layer in chain.middlewares()])"
    )
    done = subprocess.run([sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0.0 ['ErrorMapping', 'Limits']"
