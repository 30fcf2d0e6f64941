"""A real Prometheus and a real Alertmanager that watch real services, and what starts them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.cli.observe.alertmanager_api import AlertmanagerApi, ReceivedAlert
from services.cli.observe.configuration import DEPLOYMENTS, Local, alertmanager_configuration, duration, prometheus_configuration, rule_files, seconds
from services.cli.observe.monitoring import Monitoring, MonitoringPorts, Targets
from services.cli.observe.prometheus_api import PrometheusApi, Target
from services.cli.stack.process import free_port
from services.cli.stack.stack import Ports, Stack
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import DocumentId, DocumentInput
from shared.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from tests.dashboards.tools import alerts, recordings, require_programs
from tests.waiting import eventually

SCRIPT = DEPLOYMENTS / "setup" / "system-packages.sh"
DOWN, SYMPTOM = "KnowledgeBeastChromaDBDown", "KnowledgeBeastDegradedAnswers"
LOCAL = Local({"kb-query": ("q:1",), "kb-indexer": ("i:1",), "prometheus": ("p:1",), "alertmanager": ("a:1",)}, "a:1", 0.5, 0.01)


@asynccontextmanager
async def watching(folder: Path, stack: Stack) -> AsyncIterator[Monitoring]:
    """Both programs, with short intervals, watching a stack."""
    require_programs()
    monitoring = Monitoring(folder, Targets.of(stack), MonitoringPorts.free(), scrape_seconds=0.5, wait_factor=0.01)
    try:
        await monitoring.start()
        yield monitoring
    finally:
        await monitoring.stop()


@asynccontextmanager
async def searching(stack: Stack) -> AsyncIterator[None]:
    """Somebody who searches all the time, each time for something else; what fails is no matter."""

    async def search() -> None:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.create_project("docs")
            written = await client.upsert("docs", [DocumentInput(DocumentId("a"), "", "A cat on a mat.", {})])
            number = 0
            while True:
                with suppress(UnavailableError, DeadlineExceededError):
                    await client.search(
                        "docs", SearchQuery(f"cat {(number := number + 1)}", SearchMode.VECTOR, at_least_as_fresh=written.consistency_token)
                    )

    task = asyncio.create_task(search())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def named(received: tuple[ReceivedAlert, ...], name: str) -> list[ReceivedAlert]:
    """The alerts of one name."""
    return [alert for alert in received if alert.name == name]


async def test_every_target_is_scraped_and_every_rule_is_evaluated(tmp_path: Path, stack: Stack) -> None:
    """Both services and both programs are up; all rules of the files are loaded and none fails."""
    async with watching(tmp_path, stack) as monitoring:
        targets = await eventually(monitoring.prometheus.targets, lambda seen: seen and all(target.health == "up" for target in seen), seconds=30)
        rules = await eventually(monitoring.prometheus.rules, lambda seen: seen and all(rule.health == "ok" for rule in seen), seconds=30)

        assert sorted(target.job for target in targets) == ["alertmanager", "kb-indexer", "kb-query", "prometheus"]
        assert Target("kb-query", f"127.0.0.1:{stack.ports.query_http}", "up", "") in targets
        assert {rule.name for rule in rules if rule.kind == "alerting"} == {alert["alert"] for alert in alerts()}
        assert {rule.name for rule in rules if rule.kind == "recording"} == {rule["record"] for rule in recordings()}
        waits = {rule.name: rule.wait for rule in rules}
        assert waits["KnowledgeBeastSearchSlow"] == pytest.approx(3.0)  # 5 minutes, a hundredth


async def test_a_dead_chromadb_is_heard_of_at_once_and_silences_its_symptoms(tmp_path: Path, model_dir: Path) -> None:
    """The alert fires in Prometheus and reaches Alertmanager, where it suppresses the one on degraded answers; when ChromaDB is back it is over."""
    settings = {"KB_BREAKER_RECOVERY": "1", "KB_RETRY_INITIAL": "0.01"}
    stack = Stack(tmp_path / "stack", model_dir, Ports.free(), settings=settings)
    try:
        await stack.start()
        async with watching(tmp_path / "monitoring", stack) as monitoring, searching(stack):
            prometheus, alertmanager = monitoring.prometheus, monitoring.alertmanager
            await eventually(lambda: prometheus.query("kb_chromadb_up == 1"), lambda seen: len(seen) == 2, seconds=30)
            assert [alert.name for alert in await prometheus.alerts() if alert.name == DOWN] == []

            stack.kill_chroma()
            firing = await eventually(
                prometheus.alerts, lambda seen: any(alert.name == DOWN and alert.state == "firing" for alert in seen), seconds=30
            )
            down = next(alert for alert in firing if alert.name == DOWN)
            assert down.labels["severity"] == "critical"
            assert "does not answer kb-" in down.annotations["description"]
            assert (DEPLOYMENTS.parent / down.annotations["runbook_url"]).parent == DEPLOYMENTS.parent / "docs" / "operations" / "runbooks"

            received = await eventually(
                alertmanager.alerts, lambda seen: named(seen, DOWN) and any(one.suppressed for one in named(seen, SYMPTOM)), seconds=60
            )
            sources = {alert.fingerprint for alert in named(received, DOWN)}
            assert {alert.receivers for alert in named(received, DOWN)} == {("pager",)}
            assert not any(alert.suppressed for alert in named(received, DOWN))
            assert {alert.labels["installation"] for alert in received} == {"knowledgebeast"}
            assert all(set(alert.inhibited_by) <= sources for alert in named(received, SYMPTOM) if alert.suppressed)

            await stack.start_chroma()
            await eventually(prometheus.alerts, lambda seen: all(alert.name != DOWN for alert in seen), seconds=30)
            await eventually(alertmanager.alerts, lambda seen: not named(seen, DOWN), seconds=30)
    finally:
        await stack.stop()


async def test_questions_and_answers(tmp_path: Path, stack: Stack) -> None:
    """A scalar, a vector and a range come back as values; nonsense is refused with Prometheus' own words."""
    async with watching(tmp_path, stack) as monitoring:
        prometheus = monitoring.prometheus
        up = await eventually(lambda: prometheus.query('up{job="kb-query"} == 1'), len, seconds=30)
        (now,) = await prometheus.query("time()")
        ranges = await eventually(
            lambda: prometheus.query_range("up", start=now.value - 5, end=now.value + 30, step=0.5),
            lambda seen: any(len(one.points) > 2 for one in seen),
        )

        assert (up[0].labels["instance"], up[0].value) == (f"127.0.0.1:{stack.ports.query_http}", 1.0)
        assert now.labels == {}
        assert all(time <= after for one in ranges for (time, _), (after, _) in zip(one.points, one.points[1:], strict=False))
        assert await prometheus.query("up", at=now.value - 3600) == ()
        with pytest.raises(InvalidArgumentError, match="parse error"):
            await prometheus.query("up{")


async def test_a_search_that_is_traced_leaves_its_trace_in_prometheus(tmp_path: Path, stack: Stack) -> None:
    """The exemplar of its latency, with the trace id that the client sent, is kept and found."""
    trace_id, project = uuid.uuid4().int, f"p-{uuid.uuid4().hex[:12]}"
    parent = NonRecordingSpan(SpanContext(trace_id, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    async with watching(tmp_path, stack) as monitoring, KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project(project)
        written = await client.upsert(project, [DocumentInput(DocumentId("a"), "", "Something to be found.", {})])
        began = time.time()
        token = context.attach(trace.set_span_in_context(parent))
        try:
            await client.search(project, SearchQuery("something", at_least_as_fresh=written.consistency_token))
        finally:
            context.detach(token)
        found = await eventually(
            lambda: monitoring.prometheus.exemplars("kb_query_duration_seconds_bucket", began - 60, time.time() + 60),
            lambda seen: any(one.labels["trace_id"] == format(trace_id, "032x") for one in seen),
            seconds=30,
        )

    (mine,) = (one for one in found if one.labels["trace_id"] == format(trace_id, "032x"))
    assert mine.series["job"] == "kb-query"
    assert 0 < mine.value < 30
    assert began - 1 < mine.time < time.time() + 1


async def test_who_does_not_answer_is_named() -> None:
    """Nothing at the port is unavailable; something that accepts and is silent is late; both name the program and the address."""
    with pytest.raises(UnavailableError, match="prometheus at http://127"):
        await PrometheusApi(f"http://127.0.0.1:{free_port()}").query("up")
    with pytest.raises(UnavailableError, match="alertmanager at http://127"):
        await AlertmanagerApi(f"http://127.0.0.1:{free_port()}").alerts()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"):
            await PrometheusApi(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2).query("up")


def test_waits_are_shortened_and_limits_are_not() -> None:
    """`for` and Alertmanager's intervals are a hundredth; expressions are those of the files; targets are the given ones."""
    rules = "".join(rule_files(LOCAL).values())
    configuration = prometheus_configuration(LOCAL)

    assert "for: 3000ms" in rules
    assert "kb:search_latency_seconds:p99_5m > 0.15" in rules
    assert "group_wait: 50ms" in alertmanager_configuration(LOCAL)
    assert "scrape_interval: 500ms" in configuration
    assert re.findall(r"- (\w:1)$", configuration, re.MULTILINE) == ["a:1", "q:1", "i:1", "p:1", "a:1"]


def test_a_job_without_targets_is_refused() -> None:
    """A new job in the file must get targets here, too."""
    with pytest.raises(FailedPreconditionError, match="kb-query"):
        prometheus_configuration(Local({}, "a:1", 1, 1))


@pytest.mark.parametrize(("text", "value"), [("0s", 0.0), ("1h30m", 5400.0), ("500ms", 0.5), ("7d", 604800.0)])
def test_durations(text: str, value: float) -> None:
    """As Prometheus writes them, there and back."""
    assert seconds(text) == value
    assert seconds(duration(value)) == max(value, 0.001)


@pytest.mark.parametrize("text", ["", "5", "m", "5m x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No guess is made."""
    with pytest.raises(FailedPreconditionError, match="no duration"):
        seconds(text)


def kb(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `kb` to its end."""
    command = [str(Path(sys.executable).with_name("kb")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment})


async def test_kb_observe_watches_until_ctrl_c(tmp_path: Path, stack: Stack) -> None:
    """It scrapes the services that it is told of, prints where to look, ends with status 0 at Ctrl-C, and leaves nothing running."""
    require_programs()
    ports = MonitoringPorts.free()
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("kb"), "observe", "--data-dir", tmp_path),
        *("--prometheus-port", str(ports.prometheus), "--alertmanager-port", str(ports.alertmanager), "--scrape-interval", "0.5"),
        *("--query-metrics", f"127.0.0.1:{stack.ports.query_http}", "--indexer-metrics", f"127.0.0.1:{stack.ports.indexer_http}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        first = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        prometheus = PrometheusApi(f"http://127.0.0.1:{ports.prometheus}")
        await eventually(lambda: prometheus.query('up{job=~"kb-.+"} == 1'), lambda seen: len(seen) == 2, seconds=30)
        process.send_signal(signal.SIGINT)
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()

    assert prometheus.url in first
    assert f"http://127.0.0.1:{ports.alertmanager}" in output.decode()
    assert process.returncode == 0
    ports.check_free()
    assert (tmp_path / "observe" / "prometheus" / "wal").is_dir()


def test_kb_observe_says_which_port_is_taken(tmp_path: Path) -> None:
    """The port, and the option that chooses another; nothing is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = kb("observe", "--data-dir", str(tmp_path), "--prometheus-port", port)

    assert ended.returncode == 1
    assert f"port {port} is taken" in ended.stderr
    assert "--prometheus-port" in ended.stderr


def test_kb_observe_says_what_to_install(tmp_path: Path) -> None:
    """Without the programs in PATH: the packages' names and the command."""
    ports = MonitoringPorts.free()
    options = ("--prometheus-port", str(ports.prometheus), "--alertmanager-port", str(ports.alertmanager))
    ended = kb("observe", "--data-dir", str(tmp_path), *options, PATH=str(tmp_path))

    assert ended.returncode == 1
    assert "prometheus prometheus-alertmanager" in ended.stderr
    assert "make system-packages" in ended.stderr


def packages_script(path: Path, *programs: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs system-packages.sh where PATH has the ordinary tools that it needs, none that installs, and `programs`."""
    for tool in ("bash", "dirname", "grep"):
        (path / tool).symlink_to(shutil.which(tool) or tool)
    for program in programs:
        (path / program).write_text("#!/bin/sh\n")
        (path / program).chmod(0o755)
    bash = shutil.which("bash") or "bash"
    return subprocess.run([bash, str(SCRIPT)], capture_output=True, text=True, timeout=30, check=False, env={"PATH": str(path), **environment})


def test_nothing_is_installed_where_everything_is_there(tmp_path: Path) -> None:
    """With the programs in PATH the script says and does nothing."""
    ended = packages_script(tmp_path, "prometheus", "promtool", "alertmanager", "amtool")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(("environment", "why"), [({}, "this is not Debian"), ({"KB_SKIP_SYSTEM_PACKAGES": "1"}, "KB_SKIP_SYSTEM_PACKAGES is set")])
def test_where_nothing_can_be_installed_it_is_said_what_is_missing(tmp_path: Path, environment: dict[str, str], why: str) -> None:
    """Without apt-get, or where it is not wanted: the packages, the reason, and status 0, so that the other tests run."""
    ended = packages_script(tmp_path, "prometheus", "promtool", **environment)

    assert ended.returncode == 0
    assert f"not installed: prometheus-alertmanager ({why})" in ended.stderr


def installing(folder: Path, apt: str) -> subprocess.CompletedProcess[str]:
    """Runs system-packages.sh as if nothing were installed, with its policy and its lock in `folder` and this apt-get."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("system-packages.sh installs only as root on Debian")
    script, programs = folder / "setup" / "here" / SCRIPT.name, folder / "programs"
    script.parent.mkdir(parents=True, exist_ok=True)
    text = SCRIPT.read_text().replace("/usr/sbin/policy-rc.d", str(folder / "policy")).replace("/run/", f"{folder}/")
    assert text.count(str(folder)) == 2
    script.write_text(text)
    programs.mkdir(exist_ok=True)
    for tool in ("bash", "dirname", "grep", "flock", "mktemp", "rm", "chmod", "cat"):
        (programs / tool).unlink(missing_ok=True)
        (programs / tool).symlink_to(shutil.which(tool) or tool)
    (programs / "apt-get").write_text(f"#!/bin/sh\n{apt}\n")
    (programs / "apt-get").chmod(0o755)
    command = [str(programs / "bash"), str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={"PATH": str(programs), "TMPDIR": str(folder)})


def test_a_policy_that_a_killed_installation_left_behind_is_taken_away(tmp_path: Path) -> None:
    """While packages are installed no daemon may start; afterwards all may again, also when the first run was killed in the middle of it."""
    policy = tmp_path / "policy"
    killed = installing(tmp_path, "kill -9 $PPID")
    left = policy.read_text()
    done = installing(tmp_path, f"{policy}; test $? = 101")

    assert (killed.returncode, "exit 101" in left) == (-signal.SIGKILL, True)
    assert "installed; their services are neither running nor enabled" in done.stdout, done.stderr
    assert not policy.exists()


def test_a_policy_that_is_left_behind_is_taken_away_also_when_nothing_is_to_be_installed(tmp_path: Path) -> None:
    """The killed run may have been through with the packages."""
    installing(tmp_path, "kill -9 $PPID")
    for program in ("prometheus", "promtool", "alertmanager", "amtool"):
        (tmp_path / "programs" / program).symlink_to("/bin/true")
    done = installing(tmp_path, "exit 1")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "policy").exists()


def test_the_owners_policy_stays(tmp_path: Path) -> None:
    """One that keeps daemons from starting, and one that does not: then nothing is installed."""
    policy = tmp_path / "policy"
    for status, said in ((101, "    installed;"), (0, "lets daemons start")):
        policy.write_text(f"#!/bin/sh\nexit {status}\n")
        policy.chmod(0o755)
        done = installing(tmp_path, "exit 0")

        assert said in done.stdout + done.stderr
        assert policy.read_text() == f"#!/bin/sh\nexit {status}\n"
