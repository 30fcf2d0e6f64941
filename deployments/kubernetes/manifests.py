"""The manifests of an overlay as kustomize makes them, and whether Kubernetes would take them. Needs the `dev` extra (kubectl, schemas)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions

OVERLAYS: Final = Path(__file__).resolve().parent / "overlays"
# Of the Prometheus operator. Kubernetes has no schema of them; the checker's package knows Kubernetes' own kinds only.
CUSTOM_KINDS: Final = frozenset({"ServiceMonitor", "PrometheusRule"})
_VERSIONS: Final = 3  # Kubernetes itself supports the newest three minor versions
_TIMEOUT: Final = 60.0  # seconds; kustomize takes a tenth of one

Manifest = Mapping[str, Any]


def overlays() -> list[str]:
    """Names of the overlays."""
    return sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


def versions() -> list[str]:
    """The newest minor versions of Kubernetes whose schemas are there, the oldest first, for example `1.35.0`."""
    known: list[str] = all_versions()  # the strict and the lenient schemas of a version are two entries
    return list(dict.fromkeys(known))[-_VERSIONS:]


def build(overlay: str) -> list[Manifest]:
    """The manifests of an overlay.

    Raises:
        subprocess.CalledProcessError: kustomize refuses it; `stderr` says why.
    """
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT)  # noqa: S603 - our folder; .venv's kubectl
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def problems(manifests: list[Manifest], version: str) -> Iterator[str]:
    """What Kubernetes of that version would not take, unknown fields included, one line each."""
    for manifest in manifests:
        if manifest["kind"] in CUSTOM_KINDS:
            continue
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        try:
            # Through JSON, so that no type of YAML's own (a date, for example) passes for what the API gets.
            kubernetes_validate.validate(json.loads(json.dumps(manifest)), version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name}: {error.message}"
