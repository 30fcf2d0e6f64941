"""What the documents point to is there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_that_are_there(path: Path) -> None:
    """Every link that is not a URL names a file or folder of the repository."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in _LINK.findall(text) if not re.match(r"[a-z]+:|#", target)]
    # The template's link is a placeholder.
    missing = [target for target in targets if not target.startswith("NNNN") and not (path.parent / target).exists()]

    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_commands_in_documents_are_targets(path: Path) -> None:
    """Whatever a document tells to `make` is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    commands = set(re.findall(r"`make ([a-z0-9-]+)", text)) | set(re.findall(r"^make ([a-z0-9-]+)", text, re.MULTILINE))

    assert commands <= targets


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.svg")), ids=lambda path: path.name)
def test_pictures_are_self_contained_and_described(path: Path) -> None:
    """An SVG is well-formed, fetches nothing, has a title and a description, and knows light and dark."""
    root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - a file of this repository
    namespace = "{http://www.w3.org/2000/svg}"
    references = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]

    assert root.find(f"{namespace}title") is not None
    assert root.find(f"{namespace}desc") is not None
    assert [reference for reference in references if not reference.startswith("#")] == []
    assert "prefers-color-scheme: dark" in "".join(root.itertext())
