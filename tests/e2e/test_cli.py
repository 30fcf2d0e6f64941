"""`kb` as a user runs it, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from services.cli.stack.lock import exclusive
from services.cli.stack.process import free_port
from services.cli.stack.stack import Ports, Stack

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 90.0  # seconds until a line must have come; a start takes 5 to 10


def _environment(**addresses: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **addresses}


def _kb_now(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "services.cli", *arguments)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)


async def _kb(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(_kb_now, folder, environment, *arguments)


class Up:
    """A running `kb up`."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Ports) -> None:
        self.process = process
        self.environment = _environment(KB_INDEXER_ADDRESS=f"127.0.0.1:{ports.indexer}", KB_QUERY_ADDRESS=f"127.0.0.1:{ports.query}")
        self.ports = ports
        self.output = ""

    async def until(self, text: str) -> None:
        """Reads its output until a line has the text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            while True:
                line = (await self.process.stdout.readline()).decode()
                self.output += line
                assert line, f"ended before it said {text!r}:\n{self.output}"
                if text in line:
                    return

    def child(self, name: str) -> psutil.Process:
        """One of the three, by what `kb up` said last of it."""
        return psutil.Process(int(re.findall(rf"{name} is ready \(process (\d+)\)", self.output)[-1]))

    async def end(self) -> int:
        """Reads the rest of its output; its exit status."""
        rest, _ = await asyncio.wait_for(self.process.communicate(), _PATIENCE)
        self.output += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def _up(folder: Path, model_dir: Path) -> AsyncIterator[Up]:
    ports = Ports.free()
    options = {
        "indexer": ports.indexer,
        "indexer-http": ports.indexer_http,
        "indexer-health": ports.indexer_health,
        "query": ports.query,
        "query-http": ports.query_http,
        "query-health": ports.query_health,
        "chroma": ports.chroma,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--data-dir", "data", "--model-dir", str(model_dir)),
        *(argument for name, port in options.items() for argument in (f"--{name}-port", str(port))),
        cwd=folder,
        env=_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        up = Up(process, ports)
        await up.until("Ctrl-C stops everything.")
        yield up
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_up_serves_survives_chromadb_and_stops_without_leaving_a_process(model_dir: Path, tmp_path: Path) -> None:
    """Write, search, kill -9 ChromaDB, search on, ChromaDB comes back, Ctrl-C: exit status 0 and no child is left."""
    (tmp_path / "a.md").write_text("# Lions\n\nlions roar at night")
    async with _up(tmp_path, model_dir) as up:
        children = [up.child(name) for name in ("chromadb", "indexer", "query")]
        ingested = await _kb(tmp_path, up.environment, "ingest", "a.md", "-p", "notes", "--create", "--wait", "--json")
        token = json.loads(ingested.stdout)["consistency_token"]
        found = await _kb(
            tmp_path, up.environment, "search", "predators of the savanna", "-p", "notes", "--fresh", token, "--mode", "vector", "--json"
        )
        grpcurl = (str(Path(sys.executable).with_name("grpcurl")), "-plaintext", f"127.0.0.1:{up.ports.query}", "list")
        listed = await asyncio.to_thread(subprocess.run, grpcurl, capture_output=True, text=True, timeout=30, check=False)

        children[0].kill()
        await up.until("searches go on, degraded")
        answered = await _kb(tmp_path, up.environment, "search", "big cats", "-p", "notes")
        await up.until("ChromaDB is back")
        status = await _kb(tmp_path, up.environment, "status", "--json")

        left = psutil.Process(up.process.pid).children(recursive=True)
        up.process.send_signal(signal.SIGINT)
        code = await up.end()

    assert ingested.returncode == 0, ingested.stderr
    answer = json.loads(found.stdout)
    assert ([hit["document_id"] for hit in answer["hits"]], answer["degraded"]) == (["a.md"], False)
    assert "knowledgebeast.query.v1.QueryService" in listed.stdout.splitlines()
    assert answered.returncode == 0, answered.stderr
    assert "a.md" in answered.stdout
    assert status.returncode == 0, status.stdout
    assert code == 0
    assert len(left) >= 3
    assert not any(process.is_running() for process in [*children, *left])
    assert "Traceback" not in up.output


async def test_a_second_up_on_the_same_data_is_refused_before_it_touches_anything(model_dir: Path, tmp_path: Path) -> None:
    """Other ports do not help: no file is written and no process started, and the first one serves on; after its end the folder is free."""
    async with _up(tmp_path, model_dir) as up:
        configuration = (tmp_path / "data/logs/chroma.yaml").read_bytes()
        logged = (tmp_path / "data/logs/chroma.log").read_bytes()
        options = [f"--{name}-port={free_port()}" for name in ("indexer", "indexer-http", "query", "query-http", "chroma")]
        refused = await _kb(tmp_path, _environment(), "up", "--data-dir", "data", "--model-dir", str(model_dir), *options)
        assert (tmp_path / "data/logs/chroma.log").read_bytes() == logged
        status = await _kb(tmp_path, up.environment, "status")
        up.process.send_signal(signal.SIGINT)
        await up.end()

    expected = "kb: another `kb up` uses data: stop it, or choose another folder with --data-dir\n"
    assert (1, expected, "") == (refused.returncode, refused.stderr, refused.stdout)
    assert (tmp_path / "data/logs/chroma.yaml").read_bytes() == configuration
    assert status.returncode == 0, status.stdout
    with exclusive(tmp_path / "data"):
        pass


async def test_up_killed_with_kill_9_takes_its_processes_with_it(model_dir: Path, tmp_path: Path) -> None:
    """The kernel ends the children of a `kb up` that had no time to."""
    async with _up(tmp_path, model_dir) as up:
        children = psutil.Process(up.process.pid).children(recursive=True)
        up.process.kill()
        await up.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)

    assert len(children) >= 3
    assert alive == []


async def test_up_ends_with_1_when_a_service_dies_and_says_which(model_dir: Path, tmp_path: Path) -> None:
    """The rest is stopped."""
    async with _up(tmp_path, model_dir) as up:
        children = psutil.Process(up.process.pid).children(recursive=True)
        up.child("indexer").kill()
        code = await up.end()

    assert code == 1
    assert f"kb: indexer was killed by signal 9: see {tmp_path}/data/logs/indexer.log" in up.output
    assert "Traceback" not in up.output
    assert not any(process.is_running() for process in children)


def test_up_says_which_port_is_taken(model_dir: Path, tmp_path: Path) -> None:
    """Before anything is started or written."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = [f"--{name}-port={free_port()}" for name in ("indexer", "indexer-http", "indexer-health", "query-http", "query-health", "chroma")]
        refused = _kb_now(tmp_path, _environment(), "up", "--data-dir", "data", "--model-dir", str(model_dir), *options, f"--query-port={port}")

    expected = f"kb: port {port} is taken: is another `kb up` running? Choose another with --query-port\n"
    assert (1, expected) == (refused.returncode, refused.stderr)
    assert list(tmp_path.iterdir()) == []


async def test_files_are_found_by_word_and_by_meaning(stack: Stack, tmp_path: Path) -> None:
    """Ingest a folder with every kind of file into the shared stack, search it with a filter, delete it."""
    environment = _environment(KB_INDEXER_ADDRESS=stack.indexer_address, KB_QUERY_ADDRESS=stack.query_address)
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "docs/cars.md").write_text("# Cars\n\nAn automobile needs petrol.")
    (tmp_path / "docs/bread.html").write_text("<title>Bread</title><p>Knead the dough and bake it.</p>")
    (tmp_path / "docs/lines.jsonl").write_text(json.dumps({"id": "sea", "text": "The ocean is deep.", "metadata": {"year": 2001}}))

    ingested = await _kb(tmp_path, environment, "ingest", "docs", "-p", "cli-files", "--create", "--wait", "--json")
    token = json.loads(ingested.stdout)["consistency_token"]
    again = await _kb(tmp_path, environment, "ingest", "docs", "-p", "cli-files", "--json")

    async def search(*arguments: str) -> list[str]:
        found = await _kb(tmp_path, environment, "search", *arguments, "-p", "cli-files", "--fresh", token, "--json")
        assert found.returncode == 0, found.stderr
        return [hit["document_id"] for hit in json.loads(found.stdout)["hits"]]

    assert json.loads(again.stdout)["unchanged"] == 3
    by_word, by_meaning, filtered = await asyncio.gather(
        search("dough", "--mode", "keyword"), search("gasoline vehicles", "--mode", "vector"), search("deep water", "--filter", "year>=2000")
    )
    assert by_word == ["docs/bread.html"]
    assert by_meaning[0] == "docs/cars.md"
    assert filtered == ["sea"]
    deleted = await _kb(tmp_path, environment, "project", "delete", "cli-files", "--yes")
    assert deleted.stdout == "deleted project cli-files with 3 documents\n"
