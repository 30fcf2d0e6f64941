"""What an overlay's manifests make of a cluster: its pods, what they are told, and who may talk to whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from deployments.kubernetes.manifests import build
from tests.deployment.dockerfile import environment

Object = Mapping[str, Any]
IMAGES = {"knowledgebeast/indexer": "indexer", "knowledgebeast/query": "query"}


@dataclass(frozen=True)
class Pods:
    """The pods of one workload, of which each has one container."""

    name: str
    kind: str
    labels: Mapping[str, str]
    spec: Object

    @property
    def container(self) -> Object:
        """Its one container."""
        (container,) = self.spec["containers"]
        found: Object = container
        return found

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by name."""
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}


@cache
def objects(overlay: str) -> list[Object]:
    """The manifests of an overlay."""
    return build(overlay)


def named(overlay: str, kind: str) -> dict[str, Object]:
    """The manifests of a kind by name."""
    return {item["metadata"]["name"]: item for item in objects(overlay) if item["kind"] == kind}


def pods(overlay: str) -> dict[str, Pods]:
    """The pods of every workload, by its name."""
    return {found.name: found for found in _pods(overlay)}


def _pods(overlay: str) -> Iterator[Pods]:
    for item in objects(overlay):
        if item["kind"] in {"Deployment", "StatefulSet", "CronJob"}:
            template = (item["spec"]["jobTemplate"]["spec"] if item["kind"] == "CronJob" else item["spec"])["template"]
            yield Pods(item["metadata"]["name"], item["kind"], template["metadata"]["labels"], template["spec"])


def variables(overlay: str, workload: Pods) -> dict[str, str]:
    """What the process of a container finds in its environment: the image's variables, the ConfigMaps', then its own."""
    maps = named(overlay, "ConfigMap")
    image = workload.container["image"].rpartition(":")[0]
    found = environment(IMAGES[image]) if image in IMAGES else {}
    for source in workload.container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]["data"]
    # A field's value is known only in the cluster: its path stands for it.
    return found | {item["name"]: item.get("value") or item["valueFrom"]["fieldRef"]["fieldPath"] for item in workload.container.get("env", [])}


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a selector takes something with these labels. An empty one takes everything."""
    if not all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()):
        return False
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions), "teach `selects` the other operators"
    return all(labels.get(expression["key"]) in expression["values"] for expression in expressions)


def ports_of_service(overlay: str, name: str) -> dict[int, int]:
    """The pods' port behind each port of a Service."""
    service = named(overlay, "Service")[name]["spec"]
    (target,) = (workload for workload in pods(overlay).values() if selects({"matchLabels": service["selector"]}, workload.labels))
    return {port["port"]: target.ports[port["targetPort"]] for port in service["ports"]}


def allowed(overlay: str) -> set[tuple[str, str, int]]:
    """Which pods may open a connection to which port of which others: where both the one's egress and the other's ingress have a rule for it."""
    every = pods(overlay).values()
    return {
        (source.name, target.name, port)
        for source in every
        for target in every
        for name, port in target.ports.items()
        if _passes(overlay, "Egress", source, target, name) and _passes(overlay, "Ingress", target, source, name)
    }


def _passes(overlay: str, direction: str, subject: Pods, peer: Pods, port: str) -> bool:
    """Whether the policies of `subject` have a rule for `peer`, a pod of the same namespace; without any policy everything passes."""
    applying = [
        policy["spec"]
        for policy in named(overlay, "NetworkPolicy").values()
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], subject.labels)
    ]
    rules = [rule for policy in applying for rule in policy.get(direction.lower(), [])]
    side = "from" if direction == "Ingress" else "to"
    return not applying or any(
        # A peer with a namespaceSelector is for other namespaces.
        (side not in rule or any("namespaceSelector" not in other and selects(other["podSelector"], peer.labels) for other in rule[side]))
        and ("ports" not in rule or any(item["port"] == port for item in rule["ports"]))
        for rule in rules
    )
