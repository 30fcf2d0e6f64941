"""The manifests agree with the settings, the images and each other, and Kubernetes would take them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

from deployments.kubernetes.manifests import overlays, problems, versions
from services.indexer.config import IndexerSettings
from services.query.config import QuerySettings
from shared import config
from shared.config import CommonSettings
from shared.serving import LIVENESS, READINESS, STARTUP, ServingStates
from shared.version import VERSION
from tests.deployment.cluster import IMAGES, Pods, allowed, named, objects, pods, ports_of_service, selects, variables
from tests.deployment.dockerfile import last

OVERLAYS = overlays()
SERVICES: dict[str, type[CommonSettings]] = {"indexer": IndexerSettings, "query": QuerySettings}
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_service = pytest.mark.parametrize("service", SERVICES)
# What a process may need beyond its own grace: the runtime's signals, the closing of the container.
_SPARE_SECONDS = 5


@pytest.fixture
def settings(overlay: str, service: str, monkeypatch: pytest.MonkeyPatch) -> CommonSettings:
    """What the service in the cluster reads at its start."""
    for name, value in variables(overlay, pods(overlay)[service]).items():
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.setenv(name, value)
    return config.load(SERVICES[service])


def services_pods(overlay: str) -> Iterator[Pods]:
    """The pods of our own services."""
    return (pods(overlay)[name] for name in SERVICES)


@each_overlay
@pytest.mark.parametrize("release", versions())
def test_kubernetes_takes_every_manifest(overlay: str, release: str) -> None:
    """Every object of Kubernetes' own kinds fits its schema, without unknown fields."""
    assert list(problems(objects(overlay), release)) == []


def test_an_unknown_field_and_a_wrong_type_are_found() -> None:
    """The check above would say something."""
    manifests: list[Any] = copy.deepcopy([named("production", "Deployment")["query"]])
    container = manifests[0]["spec"]["template"]["spec"]["containers"][0]
    container["readinessProb"] = container.pop("readinessProbe")
    assert [line for line in problems(manifests, versions()[-1]) if "readinessProb" in line]

    manifests = copy.deepcopy([named("production", "PodDisruptionBudget")["query"]])
    manifests[0]["kind"] = "PodDisruptionBudge"
    assert [line for line in problems(manifests, versions()[-1]) if "schema" in line]


def test_the_newest_three_minor_versions_are_checked() -> None:
    """They follow one another."""
    minors = [tuple(map(int, release.split(".")[:2])) for release in versions()]

    assert [(major, minor - minors[0][1]) for major, minor in minors] == [(1, 0), (1, 1), (1, 2)]


@each_overlay
def test_images_are_those_that_are_built_and_the_pinned_chromadb(overlay: str) -> None:
    """Our own with the project's version; ChromaDB with the version whose API the adapter speaks."""
    images = {name: found.container["image"] for name, found in pods(overlay).items()}

    assert images == {
        "indexer": f"knowledgebeast/indexer:{VERSION}",
        "verify": f"knowledgebeast/indexer:{VERSION}",
        "query": f"knowledgebeast/query:{VERSION}",
        "chromadb": f"chromadb/chroma:{version('chromadb')}",
    }


@each_overlay
@each_service
def test_a_pod_opens_the_ports_of_the_settings(overlay: str, service: str, settings: CommonSettings) -> None:
    """Service, probes and metrics, and a listening address that others reach."""
    expected = {"grpc": f"{service}_port", "health": f"{service}_health_port", "http": f"{service}_http_port"}

    assert pods(overlay)[service].ports == {name: getattr(settings, field) for name, field in expected.items()}
    assert getattr(settings, f"{service}_host") == "0.0.0.0"  # noqa: S104 - a container's own network


@each_overlay
@each_service
def test_every_variable_is_a_setting_of_the_service(overlay: str, service: str) -> None:
    """One that is misspelt, or another service's, would change nothing and nobody would notice."""
    known = {config.env_name(name) for name in SERVICES[service].model_fields}
    given = {name for name in variables(overlay, pods(overlay)[service]) if name.startswith(config.ENV_PREFIX)}

    assert given - known == set()


@each_overlay
@each_service
@pytest.mark.parametrize(("probe", "name"), [("startupProbe", STARTUP), ("readinessProbe", READINESS), ("livenessProbe", LIVENESS)])
def test_probes_ask_the_health_port_for_a_name_that_it_knows(overlay: str, service: str, probe: str, name: str, settings: CommonSettings) -> None:
    """Probes of gRPC, each for its own name: a name that is not known counts as failed."""
    asked = pods(overlay)[service].container[probe]["grpc"]

    assert asked == {"port": getattr(settings, f"{service}_health_port"), "service": name}
    assert ServingStates().get(asked["service"]) is not None


@each_overlay
@each_service
def test_a_slow_answer_alone_restarts_nothing(overlay: str, service: str) -> None:
    """Python's lock may hold up an answer for seconds: liveness waits for more than one second, and for several failures (ADR 0017)."""
    probe = pods(overlay)[service].container["livenessProbe"]

    assert probe["timeoutSeconds"] > 1
    assert probe["failureThreshold"] >= 3


@each_overlay
@each_service
def test_a_start_has_the_time_that_the_service_may_take(overlay: str, service: str, settings: CommonSettings) -> None:
    """The startup probe gives up later than the service says that it has started, with a stale replica at the worst."""
    probe = pods(overlay)[service].container["startupProbe"]
    slowest = settings.warm_up_timeout + (settings.ready_lag_timeout if isinstance(settings, QuerySettings) else 0)

    assert probe["periodSeconds"] * probe["failureThreshold"] > 2 * slowest


@each_overlay
@each_service
def test_a_pod_has_the_time_to_end_by_itself(overlay: str, service: str, settings: CommonSettings) -> None:
    """Both preStop and KB_SHUTDOWN_GRACE are over before the pod is killed."""
    spec = pods(overlay)[service].spec
    sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    assert spec["terminationGracePeriodSeconds"] >= sleep + settings.shutdown_grace + _SPARE_SECONDS


@each_overlay
def test_query_pods_drain_and_the_indexer_does_not(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another pod can take the calls, clients get time to turn away; where there is none, waiting would only lengthen the pause."""
    drains = {found.name: float(variables(overlay, found)["KB_DRAIN_DELAY"]) for found in services_pods(overlay)}

    assert drains["query"] > 0 == drains["indexer"]
    assert pods(overlay)["query"].container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0


@each_overlay
@each_service
def test_data_is_written_where_a_volume_is(overlay: str, service: str, settings: CommonSettings) -> None:
    """The data folder is a volume: a durable one for the catalog, the pod's own for a replica. Besides, only /tmp can be written."""
    spec = pods(overlay)[service].spec
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    ephemeral = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
    claims = {claim["metadata"]["name"] for item in named(overlay, "StatefulSet").values() for claim in item["spec"]["volumeClaimTemplates"]}

    assert mounts.keys() == {str(settings.data_dir), "/tmp"}  # noqa: S108 - of the container
    assert (mounts[str(settings.data_dir)] in ephemeral) == (service == "query")
    assert service == "query" or mounts[str(settings.data_dir)] in claims
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


@each_overlay
def test_addresses_that_services_are_given_lead_to_the_right_port(overlay: str) -> None:
    """Each names a Service whose port leads to the pods' port for that."""
    for found in pods(overlay).values():
        given = variables(overlay, found)
        targets = {"KB_INDEXER_ADDRESS": ("indexer", "grpc"), "KB_QUERY_ADDRESS": ("query", "grpc"), "KB_CHROMA_URL": ("chromadb", "http")}
        for name in targets.keys() & given.keys():
            host, _, port = given[name].removeprefix("http://").partition(":")
            service, what = targets[name]
            assert (host, ports_of_service(overlay, host)[int(port)]) == (service, pods(overlay)[service].ports[what])
    assert {"KB_INDEXER_ADDRESS", "KB_CHROMA_URL"} <= variables(overlay, pods(overlay)["query"]).keys()
    assert "KB_CHROMA_URL" in variables(overlay, pods(overlay)["indexer"])
    assert {"KB_INDEXER_ADDRESS", "KB_QUERY_ADDRESS"} <= variables(overlay, pods(overlay)["verify"]).keys()


@each_overlay
def test_pods_satisfy_the_restricted_standard_that_the_namespace_enforces(overlay: str) -> None:
    """Not root, no capabilities, no way to gain any, the runtime's seccomp profile; besides, a root that cannot be written."""
    (namespace,) = named(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {item["metadata"].get("namespace", namespace["metadata"]["name"]) for item in objects(overlay)} == {namespace["metadata"]["name"]}

    for found in pods(overlay).values():
        assert found.spec["securityContext"].items() >= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}.items()
        assert found.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not found.spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
        assert {kind for volume in found.spec.get("volumes", []) for kind in volume if kind != "name"} <= {"emptyDir", "configMap"}


@each_overlay
def test_pods_run_as_the_user_that_the_images_are_made_for(overlay: str) -> None:
    """Else the data folder could not be written."""
    for found in pods(overlay).values():
        context = found.spec["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == last("indexer", "USER") == last("query", "USER")
        assert context.get("fsGroup", context["runAsGroup"]) == context["runAsGroup"]


@each_overlay
def test_no_pod_gets_a_token_of_the_cluster(overlay: str) -> None:
    """Each has a ServiceAccount of its own, without a token, and no variables that the cluster makes up."""
    accounts = named(overlay, "ServiceAccount")

    for found in pods(overlay).values():
        assert found.spec["serviceAccountName"] == found.name
        assert accounts[found.name]["automountServiceAccountToken"] is found.spec["automountServiceAccountToken"] is False
        assert found.spec["enableServiceLinks"] is False
    assert accounts.keys() == pods(overlay).keys()


@each_overlay
def test_every_pod_states_what_it_needs(overlay: str) -> None:
    """Requests for the scheduler and the autoscaler, and a bound for memory."""
    for found in pods(overlay).values():
        resources = found.container["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in resources["limits"]


@each_overlay
def test_only_those_that_need_to_can_talk_to_each_other(overlay: str) -> None:
    """All that is not named here is refused: above all, only the two services reach ChromaDB, which asks nobody who he is."""
    ports = {name: found.ports for name, found in pods(overlay).items()}

    assert allowed(overlay) == {
        ("indexer", "chromadb", ports["chromadb"]["http"]),
        ("query", "chromadb", ports["chromadb"]["http"]),
        ("query", "indexer", ports["indexer"]["grpc"]),
        ("verify", "indexer", ports["indexer"]["grpc"]),
        ("verify", "query", ports["query"]["grpc"]),
    }


@each_overlay
def test_a_pod_that_no_policy_names_is_cut_off_and_none_gets_out_but_to_the_name_servers(overlay: str) -> None:
    """Whatever is added later begins with nothing. No policy lets a pod out of the namespace, but for DNS."""
    policies = {name: item["spec"] for name, item in named(overlay, "NetworkPolicy").items()}
    outside = {
        name: rule["ports"]
        for name, policy in policies.items()
        for rule in policy.get("egress", [])
        if "to" not in rule or any(peer.keys() != {"podSelector"} for peer in rule["to"])
    }

    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert outside == {"dns": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}


@each_overlay
def test_from_other_namespaces_only_labelled_clients_and_prometheus_come_in(overlay: str) -> None:
    """Each by its own label and to its own port; nobody from outside reaches ChromaDB."""
    found = {
        (policy["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name", "*"), *peer["namespaceSelector"]["matchLabels"], port["port"])
        for policy in (item["spec"] for item in named(overlay, "NetworkPolicy").values())
        for rule in policy.get("ingress", [])
        for peer in rule["from"]
        if "namespaceSelector" in peer
        for port in rule["ports"]
    }

    clients = {("indexer", "knowledgebeast/writes", "grpc"), ("query", "knowledgebeast/searches", "grpc")}
    assert found - clients == ({("*", "kubernetes.io/metadata.name", "http")} if named(overlay, "ServiceMonitor") else set())
    assert clients <= found


@each_overlay
def test_one_writer_and_at_least_two_searchers_where_it_matters(overlay: str) -> None:
    """The catalog has one writer. Searches are taken by two pods or more in production, which nobody may evict at the same time."""
    deployment = named(overlay, "Deployment")["query"]["spec"]
    scalers = named(overlay, "HorizontalPodAutoscaler")

    assert {name: item["spec"]["replicas"] for name, item in named(overlay, "StatefulSet").items()} == {"chromadb": 1, "indexer": 1}
    # Both would set it, in turns.
    assert ("replicas" in deployment) != bool(scalers)
    if overlay == "production":
        assert scalers["query"]["spec"]["minReplicas"] >= 2
        assert scalers["query"]["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "query"}
        budget = named(overlay, "PodDisruptionBudget")["query"]["spec"]
        assert budget["maxUnavailable"] == 1
        assert selects(budget["selector"], pods(overlay)["query"].labels)
        spread = {item["topologyKey"]: item["whenUnsatisfiable"] for item in pods(overlay)["query"].spec["topologySpreadConstraints"]}
        assert spread == {"kubernetes.io/hostname": "DoNotSchedule", "topology.kubernetes.io/zone": "ScheduleAnyway"}


@each_overlay
def test_searches_are_balanced_by_the_client(overlay: str) -> None:
    """The query service's name resolves to its pods; the other two have one address, which stays."""
    headless = {name: item["spec"].get("clusterIP") == "None" for name, item in named(overlay, "Service").items()}

    assert headless == {"query": True, "indexer": False, "chromadb": False}


@each_overlay
def test_a_changed_setting_starts_pods_again(overlay: str) -> None:
    """Every ConfigMap that a pod uses has its content's hash in its name, and there is none that nobody uses."""
    used = {
        name
        for found in pods(overlay).values()
        for name in [
            *(source["configMapRef"]["name"] for source in found.container.get("envFrom", [])),
            *(volume["configMap"]["name"] for volume in found.spec.get("volumes", []) if "configMap" in volume),
        ]
    }

    assert used == named(overlay, "ConfigMap").keys()
    assert {name.rpartition("-")[0] for name in used} == {"chromadb", "kb-common", "kb-indexer", "kb-query"}


def test_the_nightly_comparison_is_a_command_that_kb_has() -> None:
    """Its words are those of the command line, in the image that has it."""
    from typer.testing import CliRunner  # noqa: PLC0415 - the command line is slow to import, and only this test needs it

    from services.cli.main import app  # noqa: PLC0415 - same

    job = pods("production")["verify"].container
    assert IMAGES[job["image"].rpartition(":")[0]] == "indexer"
    assert job["args"][:3] == ["python", "-m", "services.cli"]

    # With --help it checks every word before it, and calls nobody.
    assert CliRunner().invoke(app, [*job["args"][3:], "--help"]).exit_code == 0
