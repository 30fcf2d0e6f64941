"""`make k8s-check`: would Kubernetes take the manifests? Every overlay, against the newest three minor versions."""

from __future__ import annotations

import subprocess
import sys

from deployments.kubernetes.manifests import CUSTOM_KINDS, build, overlays, problems, versions


def main() -> int:
    """Prints what is wrong; the exit status is 1 if something is."""
    wrong = 0
    for overlay in overlays():
        try:
            manifests = build(overlay)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{overlay}: {error.stderr.strip()}\n")
            return 1
        custom = sum(manifest["kind"] in CUSTOM_KINDS for manifest in manifests)
        checked = len(manifests) - custom
        for version in versions():
            found = list(problems(manifests, version))
            wrong += len(found)
            for problem in found:
                sys.stderr.write(f"{overlay}, Kubernetes {version}: {problem}\n")
            sys.stdout.write(f"{overlay}: {checked - len(found)} of {checked} manifests are valid in Kubernetes {version}\n")
        if custom:
            sys.stdout.write(f"{overlay}: {custom} manifests of the Prometheus operator, whose schemas are not here, are not checked against one\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
