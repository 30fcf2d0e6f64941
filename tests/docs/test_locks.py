"""The locks satisfy pyproject.toml and hold what they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deployments" / "setup" / "requirements"
NOT_LOCKED = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
# What the serving processes must never import, and what only the reference model needs.
NOT_AT_RUN_TIME = {"sentence-transformers", "transformers", "scikit-learn", "scipy", "sympy", "pytest", "mypy", "ruff", "uv"}
# The model's package states that it needs sentence-transformers; the services read its files and import nothing of it.
TORCH_NEEDS = {"sympy", "networkx", "jinja2", "filelock", "fsspec", "typing-extensions", "mpmath", "setuptools"}


def entries(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package of a lock."""
    text = (LOCKS / f"{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line[0].partition("==")[0]: (line[0].partition("==")[2], line[1:]) for line in lines}


def direct(*extras: str) -> list[Requirement]:
    """The direct requirements of pyproject.toml, with those of extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in listed]


def unsatisfied(requirements: list[Requirement], lock: dict[str, tuple[str, list[str]]], *, but: set[str]) -> list[str]:
    """Requirements that the lock does not satisfy, those for packages in `but` left out."""
    wanted = [(canonicalize_name(requirement.name), requirement) for requirement in requirements]
    return [
        str(requirement) for name, requirement in wanted if name not in but and not (name in lock and requirement.specifier.contains(lock[name][0]))
    ]


def test_the_development_lock_satisfies_every_requirement_but_torch() -> None:
    """A change of pyproject.toml without `make lock` is noticed."""
    assert unsatisfied(direct("dev", "export", "convert"), entries("dev"), but={"torch"}) == []


def test_the_runtime_lock_satisfies_what_the_services_need() -> None:
    """All run-time requirements but the reference model's."""
    assert unsatisfied(direct(), entries("runtime"), but={"sentence-transformers"}) == []


@pytest.mark.parametrize("name", ["dev", "runtime", "serving", "export"])
def test_every_package_is_pinned_with_sha256_hashes(name: str) -> None:
    """Installation requires hashes, so each entry has a version and at least one hash."""
    wrong = [
        package
        for package, (version, hashes) in entries(name).items()
        if not version or not hashes or not all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in hashes)
    ]

    assert wrong == []


@pytest.mark.parametrize("name", ["dev", "runtime", "serving", "export"])
def test_no_lock_names_torch_or_cuda_packages_or_a_registry(name: str) -> None:
    """The machine's own pip settings decide where torch comes from, and which build."""
    assert [package for package in entries(name) if NOT_LOCKED.fullmatch(package)] == []
    assert re.search(r"https?:|file:|--(extra-)?index|--find-links", (LOCKS / f"{name}.lock").read_text(encoding="utf-8")) is None


def test_the_development_lock_has_what_torch_needs() -> None:
    """So the installation of torch fetches nothing else that is unlocked."""
    assert entries("dev").keys() >= TORCH_NEEDS


def test_the_runtime_lock_is_a_part_of_the_development_lock_without_the_reference_model() -> None:
    """What is tested is what is served: the same version of every package."""
    dev, runtime = entries("dev"), entries("runtime")

    assert {package: version for package, (version, _) in runtime.items() if dev.get(package, ("", []))[0] != version} == {}
    assert runtime.keys() & NOT_AT_RUN_TIME == set()


@pytest.mark.parametrize("name", ["serving", "export"])
def test_images_are_made_of_what_is_tested(name: str) -> None:
    """Both stages install the same version of every package as set-up does."""
    dev, lock = entries("dev"), entries(name)

    assert {package: version for package, (version, _) in lock.items() if dev.get(package, ("", []))[0] != version} == {}


def test_the_images_lock_satisfies_what_the_services_need_without_the_vector_store_and_the_hub() -> None:
    """ChromaDB runs in an image of its own, and nothing is downloaded at run time; a cluster's client and another web server would come with them."""
    serving = entries("serving")

    assert unsatisfied(direct(), serving, but={"chromadb"}) == []
    assert serving.keys() & (NOT_AT_RUN_TIME | {"chromadb", "huggingface-hub", "kubernetes", "uvicorn"}) == set()


def test_the_exporters_lock_has_the_exporter_and_what_torch_needs() -> None:
    """So the build stage installs torch alone beside it, and nothing unlocked."""
    lock = entries("export")

    assert unsatisfied(direct("export"), lock, but={"torch", "chromadb"}) == []
    assert lock.keys() >= TORCH_NEEDS
