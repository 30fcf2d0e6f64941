"""The compose files and what Grafana is provisioned with: what the Compose specification allows, and what the code has. No container is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.observe.configuration import DEPLOYMENTS, read
from services.cli.stack.chroma import MAX_PAYLOAD_BYTES
from services.cli.stack.stack import Ports, Stack
from services.indexer.config import IndexerSettings
from services.query.config import QuerySettings
from shared.config import CommonSettings, env_name, load
from shared.domain import TraceContext
from shared.observability import exemplars
from shared.version import VERSION
from tests.deployment import dockerfile

FILES = ("docker-compose.yml", "docker-compose.observability.yml")
SETTINGS: dict[str, type[CommonSettings]] = {"indexer": IndexerSettings, "query": QuerySettings}
TOOLS = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000, "jaeger": 16686}
_FULL_VERSION = re.compile(r":v?\d+\.\d+\.\d+$")


def merged() -> dict[str, dict[str, Any]]:
    """The services of both files put together, the second over the first, as far as it matters here."""
    services: dict[str, dict[str, Any]] = {}
    for file in FILES:
        for name, service in read(file)["services"].items():
            known = services.setdefault(name, {})
            environment = {**known.get("environment", {}), **service.get("environment", {})}
            known.update(service, environment=environment)
    return services


def port(settings: type[CommonSettings], field: str) -> int:
    """Default of a port."""
    return int(settings.model_fields[field].default)


@pytest.mark.parametrize("file", FILES)
def test_the_compose_specification_allows_it(file: str) -> None:
    """check-jsonschema accepts the file."""
    command = (Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOYMENTS / file)
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_gets_settings_that_it_has(service: str) -> None:
    """Each KB_ variable is a setting of the service, none says again what the image says, and the service takes the values."""
    environment = merged()[service]["environment"]
    fields = {env_name(field): field for field in SETTINGS[service].model_fields}

    assert set(environment) <= set(fields) - dockerfile.environment(service).keys()
    settings = load(SETTINGS[service], **{fields[name]: value for name, value in environment.items()})
    assert settings.trace_endpoint == "http://jaeger:4317"
    assert str(settings.chroma_url).rstrip("/") == "http://chromadb:8000"


def test_services_find_each_other_under_the_names_and_ports_that_they_have() -> None:
    """Addresses name services of the files, with the ports that these listen on."""
    services = merged()
    hosts = [
        re.sub(r"^http://", "", value) for service in SETTINGS for value in services[service]["environment"].values() if re.search(r":\d+$", value)
    ]
    known = {
        f"chromadb:{read('chromadb/config.yaml')['port']}",
        f"indexer:{port(IndexerSettings, 'indexer_port')}",
        f"jaeger:{services['jaeger']['environment']['COLLECTOR_OTLP_GRPC_HOST_PORT'].rpartition(':')[2]}",
    }

    assert hosts
    assert set(hosts) <= known


def test_ports_are_the_programs_own_and_of_the_loopback_interface() -> None:
    """Each is opened on 127.0.0.1 unless somebody says otherwise, under the number that the program has inside."""
    services = merged()
    opened: dict[str, set[int]] = {}
    for name, service in services.items():
        for entry in service.get("ports", ()):
            address, outside, inside = re.fullmatch(r"\$\{\w+:-([\d.]+)\}:(\d+):(\d+)", entry).groups()  # type: ignore[union-attr] # fails the test
            assert (address, outside) == ("127.0.0.1", inside)
            opened.setdefault(name, set()).add(int(inside))

    assert opened["indexer"] == {port(IndexerSettings, "indexer_port"), port(IndexerSettings, "indexer_http_port")}
    assert opened["query"] == {port(QuerySettings, "query_port"), port(QuerySettings, "query_http_port")}
    assert {tool: min(opened[tool]) for tool in ("prometheus", "alertmanager", "grafana")} == {tool: TOOLS[tool] for tool in list(TOOLS)[:3]}
    assert opened["jaeger"] == {16686, 4317}
    assert "chromadb" not in opened  # it has no authentication


def test_files_that_are_mounted_are_there() -> None:
    """Each bind mount names a file or folder of the project; each volume is declared."""
    declared = {volume for file in FILES for volume in read(file)["volumes"]}
    for service in merged().values():
        for volume in service.get("volumes", ()):
            source, _, options = volume.partition(":")
            if source.startswith("."):
                assert (DEPLOYMENTS / source).exists(), source
                assert options.endswith(":ro")
            else:
                assert source in declared


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_is_what_the_dockerfile_builds(service: str) -> None:
    """Its target and arguments are there, its data is on a volume, and its command and health check are the image's own, asked every half minute."""
    compose = merged()[service]
    build = compose["build"]
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile.PATH.read_text(), re.MULTILINE))

    assert (DEPLOYMENTS / build["context"]).resolve() == dockerfile.ROOT
    assert dockerfile.ROOT / build["dockerfile"] == dockerfile.PATH
    assert build["target"] == service
    assert "command" not in compose
    assert [volume.partition(":")[2] for volume in compose["volumes"]] == [dockerfile.last(service, "VOLUME")]
    assert compose["healthcheck"]["test"] == ["CMD", *dockerfile.words(dockerfile.last(service, "HEALTHCHECK").partition(" CMD ")[2])]
    assert compose["healthcheck"]["interval"] == "30s"
    assert f"VERSION={VERSION}" in build["args"]
    assert {argument.partition("=")[0] for argument in build["args"]} <= arguments


def test_images_are_pinned() -> None:
    """A full version each, ChromaDB's that of the library; ours the version of the project."""
    services = merged()
    for name, service in services.items():
        image = re.sub(r"^\$\{\w+:-(.+)\}$", r"\1", service["image"])
        assert _FULL_VERSION.search(image), image
        if name in SETTINGS:
            assert image == f"knowledgebeast/{name}:{VERSION}"

    pinned = re.search(r'"chromadb==([\d.]+)"', (DEPLOYMENTS.parent / "pyproject.toml").read_text())
    assert pinned is not None
    assert services["chromadb"]["image"] == f"chromadb/chroma:{pinned[1]}"


def test_everything_is_bounded_and_kept_small() -> None:
    """Limits of memory and processor, a health check, no more rights than needed, and a file system that is not written to."""
    for name, service in merged().items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["healthcheck"]["test"][0] == "CMD"
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
        assert service["restart"] == "unless-stopped"


def test_health_checks_ask_what_the_services_answer(stack: Stack) -> None:
    """The very commands, with this stack's ports in them, succeed on running services; where nothing listens they fail."""
    services = merged()
    ports = {50061: stack.ports.indexer_health, 50062: stack.ports.query_health}
    assert (Ports().indexer_health, Ports().query_health) == tuple(ports)
    for name, inside in (("indexer", 50061), ("query", 50062)):
        command, interpreter, *arguments = services[name]["healthcheck"]["test"]
        assert (command, interpreter) == ("CMD", "python")
        for outside, status in ((ports[inside], 0), (1, 1)):
            here = {"/app/probe.py": str(DEPLOYMENTS / "docker" / "probe.py"), str(inside): str(outside)}
            assert set(here) == set(arguments)
            probe = [sys.executable, *(here[argument] for argument in arguments)]
            assert subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == status

    command, *bash = [
        argument.replace("$$", "$").replace("/8000", f"/{stack.ports.chroma}") for argument in services["chromadb"]["healthcheck"]["test"]
    ]
    assert subprocess.run(bash, capture_output=True, timeout=30, check=False).returncode == 0


def test_prometheus_keeps_30_days_and_exemplars() -> None:
    """Both are flags; without the second no panel leads to a trace."""
    command = merged()["prometheus"]["command"]

    assert "--storage.tsdb.retention.time=30d" in command
    assert "--enable-feature=exemplar-storage" in command


def test_grafana_has_no_default_password_and_lets_nobody_in_unasked() -> None:
    """The password must be given; neither anonymous users nor sign-up."""
    environment = merged()["grafana"]["environment"]

    assert re.fullmatch(r"\$\{\w+:\?.+\}", environment["GF_SECURITY_ADMIN_PASSWORD"])
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_grafana_finds_its_data_sources_and_the_dashboard_by_itself() -> None:
    """Data sources with the addresses of the files, links from exemplars to traces, and the folder of dashboards where it is mounted."""
    sources = {source["uid"]: source for source in read("grafana/provisioning/datasources/datasources.yml")["datasources"]}
    grafana = merged()["grafana"]
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
    folder = read("grafana/provisioning/dashboards/dashboards.yml")["providers"][0]["options"]["path"]

    assert {uid: source["url"] for uid, source in sources.items()} == {
        tool: f"http://{tool}:{TOOLS[tool]}" for tool in ("prometheus", "jaeger", "alertmanager")
    }
    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["datasourceUid"] == "jaeger"
    assert link["name"] in (exemplars.of(TraceContext(f"00-{1:032x}-{1:016x}-01")) or {})
    assert list((DEPLOYMENTS / mounts[folder]).glob("*.json"))
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEPLOYMENTS / mounts[str(home.parent)] / home.name).is_file()
    assert sources["prometheus"]["jsonData"]["timeInterval"] == read("prometheus/prometheus.yml")["global"]["scrape_interval"]


def test_chromadb_takes_what_the_services_send() -> None:
    """Its limit on a request is the one that the services are built for, and nobody may reset it."""
    settings = yaml.safe_load((DEPLOYMENTS / "chromadb" / "config.yaml").read_text())

    assert settings["max_payload_size_bytes"] == MAX_PAYLOAD_BYTES
    assert settings["allow_reset"] is False
