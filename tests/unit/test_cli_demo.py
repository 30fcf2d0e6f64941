"""Parts of `kb demo` that need no stack."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.demo import remove_left_over
from services.cli.demo_steps import PROJECT, Demo
from services.cli.stack.lock import LOCK_NAME
from services.cli.stack.stack import Ports, Stack
from shared.client import KnowledgeBeast
from shared.domain import DocumentId, DocumentInput
from tests.fakes.servers import FakeServices


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


async def _search(services: FakeServices, folder: Path, *modules: str) -> Demo:
    demo = Demo(Stack(folder, folder, Ports.free()), modules)
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project(PROJECT)
        await kb.upsert(PROJECT, [DocumentInput(DocumentId("gzip.GzipFile.mtime"), "", "gzip mtime", {})])
        await demo.searches(kb, "")
    return demo


async def test_searches_are_checked_for_what_was_ingested_and_the_rest_is_said(
    services: FakeServices, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one module, what others have is no failure."""
    demo = await _search(services, tmp_path, "gzip")

    out = capsys.readouterr().out
    assert (demo.failed, demo.passed) == ([], 4)
    assert "✓ gzip.GzipFile.mtime is among the first ten" in out
    assert "– not checked that random.Random.shuffle is among the first ten: it is in none of the chosen modules" in out


async def test_without_chosen_modules_every_search_is_checked(services: FakeServices, tmp_path: Path) -> None:
    """What is missing from the whole library is a failure."""
    demo = await _search(services, tmp_path)

    assert demo.failed == ["random.Random.shuffle is among the first ten", "optparse.OptionParser is among the first ten"]


def test_folders_of_killed_demos_are_removed_and_no_others(tmp_path: Path) -> None:
    """A folder stays when its demo runs, when it is not a demo's, or while it may just be starting."""
    for name in ("kb-demo-killed", "kb-demo-running", "kb-demo-starting", "kb-demo-foreign", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("unknown" if name == "kb-demo-foreign" else LOCK_NAME)).touch()
    for name in ("kb-demo-killed", "kb-demo-running", "other"):
        os.utime(tmp_path / name / LOCK_NAME, (0, 0))
    with (tmp_path / "kb-demo-running" / LOCK_NAME).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        remove_left_over(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"kb-demo-running", "kb-demo-starting", "kb-demo-foreign", "other"}
