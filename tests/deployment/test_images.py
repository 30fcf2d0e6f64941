"""The Dockerfile agrees with the settings, and the images have what the services import."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.indexer.config import IndexerSettings
from services.query.config import QuerySettings
from shared import config, health_server
from shared.config import CommonSettings
from shared.serving import LIVENESS, ServingStates
from tests.deployment.dockerfile import PATH, ROOT, environment, last, lineage, stages, words

SERVICES: dict[str, type[CommonSettings]] = {"indexer": IndexerSettings, "query": QuerySettings}
LOCKS = ROOT / "deployments" / "setup" / "requirements"
PROBE = ROOT / "deployments" / "docker" / "probe.py"


def defaults(service: str) -> dict[str, int]:
    """The ports that a service listens on when nobody says otherwise, by what they are for."""
    fields = SERVICES[service].model_fields
    return {name: fields[f"{service}_{name}".removesuffix("_")].default for name in ("port", "health_port", "http_port")}


def test_the_dockerfile_is_clean() -> None:
    """No finding of hadolint."""
    done = subprocess.run(["hadolint", str(PATH)], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_base_images_are_pinned_by_an_argument_with_a_version() -> None:
    """Every stage begins with another stage or with a build argument, whose default names a whole version."""
    names = stages()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", PATH.read_text(encoding="utf-8").split("\nFROM ")[0], re.MULTILINE))
    bases = {stage.base.strip("${}") for stage in names.values()} - names.keys()

    assert bases == {"PYTHON_IMAGE", "BUILD_IMAGE"} == arguments.keys()
    assert arguments["BUILD_IMAGE"] == "$PYTHON_IMAGE"
    assert re.fullmatch(r"\S+:3\.11\.\d+-\S+", arguments["PYTHON_IMAGE"])


def test_the_model_is_exported_with_the_pinned_torch() -> None:
    """The build argument's default is the version of pyproject.toml, with which the export was verified."""
    exporter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]["export"]

    assert f"TORCH={next(line for line in exporter if line.startswith('torch'))}" in stages()["model"].all("ARG")


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_run_while_a_run_time_image_is_built(service: str) -> None:
    """So the base needs no tools and none get in: only folders are copied, and of the stage that has torch only the model."""
    runtime = [stage for stage in lineage(service) if stage.name in {"runtime", service}]
    copies = [arguments for stage in runtime for arguments in stage.all("COPY")]

    assert ["runtime", service] == [stage.name for stage in runtime]
    assert [stage.all("RUN") for stage in runtime] == [[], []]
    assert [arguments for arguments in copies if "--from=model" in arguments] == ["--from=model /models /models"]
    assert all(arguments.startswith(("--from=packages", "--from=model")) for arguments in copies)


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_exposes_and_probes_the_ports_that_the_service_opens(service: str) -> None:
    """EXPOSE has the three ports of the settings, and the health command asks the one for probes."""
    ports = defaults(service)

    assert {int(port) for port in last(service, "EXPOSE").split()} == set(ports.values())
    assert words(last(service, "HEALTHCHECK").partition(" CMD ")[2]) == ["python", "/app/probe.py", str(ports["health_port"])]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_starts_its_service_as_another_user_than_root(service: str) -> None:
    """The command is a module that the image has, without a shell; the user is a number, which Kubernetes can tell from root."""
    command = words(last(service, "CMD"))
    user, group = last(service, "USER").split(":")

    assert command == ["python", "-m", f"services.{service}"]
    assert importlib.util.find_spec(f"services.{service}.__main__") is not None
    assert min(int(user), int(group)) > 0
    assert last(service, "STOPSIGNAL") == "SIGTERM"
    assert f"--chown={user}:{group} /empty /data" in " ".join(argument for stage in lineage(service) for argument in stage.all("COPY"))


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_image_sets_are_settings_of_its_service(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each KB_ variable is one, its value is taken, and the service listens where others can reach it."""
    variables = {name: value for name, value in environment(service).items() if name.startswith(config.ENV_PREFIX)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = config.load(SERVICES[service])

    assert variables.keys() <= {config.env_name(name) for name in SERVICES[service].model_fields}
    assert getattr(settings, f"{service}_host") == "0.0.0.0"  # noqa: S104 - a container's own network
    assert (str(settings.data_dir), str(settings.model_dir)) == (last(service, "VOLUME"), "/models")


def test_the_builder_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    """.dockerignore is a list of what is let through: a key or a database in this folder never reaches a builder."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    sources = {
        source for stage in stages().values() for arguments in stage.all("COPY") if "--from=" not in arguments for source in arguments.split()[:-1]
    }
    allowed = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}

    assert patterns[0] == "*"
    assert {re.sub(r"\w+\.lock$", "*.lock", source) for source in sources} == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []


_IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
from importlib.metadata import packages_distributions

installed = set(sys.argv[1].split())
distributions = {top: {name.lower().replace("_", "-") for name in names} for top, names in packages_distributions().items()}
ours = {"services", "shared", "deployments", "tests", "docs"}

class Missing:
    "Hides what the images do not have."
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ours and top in distributions and not distributions[top] & installed:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Missing())
import services.indexer, services.query, shared
development = {"shared.gen.generate", "shared.embedding.export", "shared.embedding.conversion"}
for package in (services.indexer, services.query, shared):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in development:
            importlib.import_module(module.name)
import services.cli.main
"""


def test_the_services_and_kb_import_nothing_that_the_images_lack() -> None:
    """Every module of both services, and the command line, with the packages of serving.lock alone."""
    packages = re.findall(r"^([a-z0-9._-]+)==", (LOCKS / "serving.lock").read_text(encoding="utf-8"), re.MULTILINE)
    command = [sys.executable, "-c", _IMPORT_EVERYTHING, " ".join(packages)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)

    assert (done.stderr[-2000:], done.returncode) == ("", 0)


@asynccontextmanager
async def _health(states: ServingStates) -> AsyncIterator[int]:
    async with health_server.serving(states, "127.0.0.1", 0, stall=60.0) as port:
        yield port


async def _probe(*arguments: str) -> tuple[int | None, str]:
    """Exit status and output of the images' health command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROBE), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output.decode()


async def test_the_health_command_tells_ready_from_not_ready() -> None:
    """Status 0 only while the service takes requests; liveness is asked by its name."""
    states = ServingStates()
    async with _health(states) as port:
        before = await _probe(str(port))
        alive = await _probe(str(port), LIVENESS)
        states.set_ready(True)
        after = await _probe(str(port))

    assert before == (1, f"readiness on port {port}: NOT_SERVING\n")
    assert alive == (0, f"liveness on port {port}: SERVING\n")
    assert after == (0, f"readiness on port {port}: SERVING\n")


async def test_the_health_command_fails_where_nothing_listens() -> None:
    """And says so in one line, not with a stack."""
    async with _health(ServingStates()) as port:
        pass

    assert await _probe(str(port)) == (1, f"readiness on port {port}: UNAVAILABLE\n")


async def test_the_health_command_fails_for_a_name_that_is_not_known() -> None:
    """A misspelt name is not taken for health."""
    async with _health(ServingStates()) as port:
        assert await _probe(str(port), "liveliness") == (1, f"liveliness on port {port}: NOT_FOUND\n")
