"""ChromaDB's pod agrees with the configuration that it is given."""

from __future__ import annotations

import pytest
import yaml

from deployments.kubernetes.manifests import overlays
from tests.deployment.cluster import named, pods


@pytest.mark.parametrize("overlay", overlays())
def test_chromadb_listens_and_writes_where_its_pod_expects(overlay: str) -> None:
    """Port, folder, and the path of the configuration; a reset by whoever asks is refused."""
    found = pods(overlay)["chromadb"]
    mounts = {mount["name"]: mount["mountPath"] for mount in found.container["volumeMounts"]}
    (volume,) = (volume for volume in found.spec["volumes"] if "configMap" in volume)
    (file, text), *_ = named(overlay, "ConfigMap")[volume["configMap"]["name"]]["data"].items()
    configuration = yaml.safe_load(text)

    assert found.container["args"] == ["run", f"{mounts['config']}/{file}"]
    assert (configuration["port"], configuration["listen_address"]) == (found.ports["http"], "0.0.0.0")  # noqa: S104 - a container's own network
    assert configuration["persist_path"] == mounts["data"]
    assert configuration["allow_reset"] is False
    assert [claim["metadata"]["name"] for claim in named(overlay, "StatefulSet")["chromadb"]["spec"]["volumeClaimTemplates"]] == ["data"]


@pytest.mark.parametrize("overlay", overlays())
def test_chromadb_is_asked_what_its_api_has(overlay: str) -> None:
    """All three probes ask a path of its second API, which needs no body and no name of a collection."""
    probes = {kind: found["httpGet"] for kind, found in pods(overlay)["chromadb"].container.items() if kind.endswith("Probe")}

    assert probes == {
        "startupProbe": {"path": "/api/v2/heartbeat", "port": "http"},
        "readinessProbe": {"path": "/api/v2/healthcheck", "port": "http"},
        "livenessProbe": {"path": "/api/v2/heartbeat", "port": "http"},
    }
