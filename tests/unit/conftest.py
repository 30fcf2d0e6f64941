"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.cli.main import main
from tests.fakes.servers import FakeServices

Kb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


@pytest.fixture
def kb(services: FakeServices, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kb:
    """Runs a command in an empty folder, with the addresses of `services` in the environment: exit status, stdout, stderr."""
    monkeypatch.setenv("KB_INDEXER_ADDRESS", services.indexer)
    monkeypatch.setenv("KB_QUERY_ADDRESS", services.query)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return run
