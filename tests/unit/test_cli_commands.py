"""`kb` against both services in memory: what it prints, and its exit status."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.cli.main import main
from shared.gen.knowledgebeast.ops.v1 import status_pb2
from tests.fakes.servers import REFUSED, FakeServices


@dataclass
class Outcome:
    """What a command left."""

    status: int
    out: str
    err: str

    def lines(self) -> list[dict[str, object]]:
        """What it printed, as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Kb = Callable[..., Outcome]


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


@pytest.fixture
def kb(services: FakeServices, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kb:
    """Runs a command in an empty folder, with the addresses in the environment."""
    monkeypatch.setenv("KB_INDEXER_ADDRESS", services.indexer)
    monkeypatch.setenv("KB_QUERY_ADDRESS", services.query)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, printed.out, printed.err)

    return run


@pytest.fixture
def notes(kb: Kb) -> Kb:
    """The same with a project `notes` of two documents."""
    Path("docs").mkdir()
    Path("docs/a.md").write_text("# Lions\n\nlions roar at night")
    Path("docs/b.txt").write_text("tigers sleep at night")
    assert kb("ingest", "docs", "-p", "notes", "--create").status == 0
    return kb


@pytest.mark.parametrize(
    "command",
    [[], ["up"], ["model"], ["ingest"], ["search"], ["similar"], ["status"], ["demo"]]
    + [["project", name] for name in ("create", "list", "show", "update", "delete")]
    + [["document", name] for name in ("list", "get", "delete")],
)
def test_every_command_explains_itself_with_an_example(kb: Kb, command: list[str]) -> None:
    """`--help` exits with 0 and shows a line that can be typed."""
    outcome = kb(*command, "--help")

    assert outcome.status == 0
    assert " ".join(["kb", *command]) in outcome.out.replace("\n", " ")


def test_the_environment_gives_way_to_options(kb: Kb, services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address on the command line wins."""
    monkeypatch.setenv("KB_INDEXER_ADDRESS", "127.0.0.1:1")

    assert kb("project", "list").status == 1
    assert kb("project", "list", "--indexer", services.indexer).status == 0


def test_a_project_is_managed_from_creation_to_deletion(kb: Kb) -> None:
    """Each command does what it says and shows it."""
    assert "created project p" in kb("project", "create", "p", "--name", "Pretty", "--label", "a=1", "--max-tokens", "64").out
    assert json.loads(kb("project", "show", "p", "--json").out)["chunking"] == {"max_tokens": 64, "overlap_tokens": 32}
    assert "Pretty" in kb("project", "list").out
    assert "b=2" in kb("project", "update", "p", "--label", "b=2").out
    assert json.loads(kb("project", "update", "p", "--no-labels", "--json").out)["labels"] == {}
    assert "deleted project p with 0 documents" in kb("project", "delete", "p", "--yes").out
    assert kb("project", "list", "--json").out == ""


def test_lists_in_json_are_one_object_a_line(notes: Kb) -> None:
    """Of any length, with stable keys."""
    (project,) = notes("project", "list", "--json").lines()
    documents = notes("document", "list", "-p", "notes", "--json").lines()

    assert (project["document_count"], project["lag"]) == (2, 0)
    assert [document["id"] for document in documents] == ["docs/a.md", "docs/b.txt"]
    assert {"id", "title", "metadata", "sequence", "chunk_count", "content_hash", "create_time", "update_time"} == set(documents[0])


def test_documents_are_listed_by_filter_read_and_deleted(notes: Kb) -> None:
    """A filter on the command line is the service's."""
    assert [document["id"] for document in notes("document", "list", "-p", "notes", "-f", "kind=txt", "--json").lines()] == ["docs/b.txt"]
    assert "Lions" in notes("document", "list", "-p", "notes", "--limit", "1").out
    assert notes("document", "get", "docs/a.md", "-p", "notes").out == "# Lions\n\nlions roar at night\n"
    assert json.loads(notes("document", "get", "docs/a.md", "-p", "notes", "--json").out)["chunks"][0]["ordinal"] == 0
    assert json.loads(notes("document", "delete", "-p", "notes", "-f", "not kind=md", "--yes", "--json").out)["deleted_count"] == 1
    assert "deleted 1 documents" in notes("document", "delete", "docs/a.md", "gone", "-p", "notes").out
    assert notes("document", "get", "docs/a.md", "-p", "notes").status == 1


def test_ingesting_again_writes_only_what_changed(notes: Kb) -> None:
    """The summary counts written and unchanged ones."""
    Path("docs/a.md").write_text("# Lions\n\nlions sleep too")

    outcome = notes("ingest", "docs", "-p", "notes", "--json")

    summary = json.loads(outcome.out)
    assert (outcome.status, summary["written"], summary["unchanged"], summary["failed"]) == (0, 1, 1, 0)
    assert "1 written, 1 unchanged, 0 failed" in outcome.err


def test_what_fails_is_said_counted_and_makes_the_exit_status_1(notes: Kb) -> None:
    """A refused document and an unreadable line do not stop the others; skipped files are no failure."""
    Path("docs/refused.txt").write_text(REFUSED)
    Path("docs/lines.jsonl").write_text('{"id": "x", "text": "fine"}\n{oops\n')
    Path("docs/binary").write_bytes(b"\0")

    outcome = notes("ingest", "docs", "-p", "notes", "--batch-size", "1")

    assert outcome.status == 1
    assert "failed: docs/refused.txt: refused: text: is refused by this fake" in outcome.err
    assert "failed: docs/lines.jsonl:2: is not JSON" in outcome.err
    assert "skipped: docs/binary: is binary" in outcome.err
    assert "1 written, 2 unchanged, 2 failed" in outcome.err


def test_arguments_that_cannot_be_read_are_one_line_each_and_the_rest_goes_on(notes: Kb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, forbidden and failing files end neither the command nor one another."""
    Path("ok.txt").write_text("text")
    Path("failing.txt").symlink_to("/proc/self/mem")  # whoever reads its beginning is told of an input/output error
    really = os.access
    # What other users than root are told of a file of mode 0, before anybody tries to open it.
    monkeypatch.setattr(os, "access", lambda path, *rest, **more: "failing" not in str(path) and really(path, *rest, **more))

    outcome = notes("ingest", "failing.txt", "missing.txt", "ok.txt", "-p", "notes")

    assert outcome.status == 1
    assert "failed: failing.txt: Input/output error\n" in outcome.err
    assert "failed: missing.txt: there is no such file or folder\n" in outcome.err
    assert "1 written, 0 unchanged, 2 failed, 0 skipped" in outcome.err


@pytest.mark.parametrize(("options", "said"), [((), "in empty ("), (("--glob", "*.md", "--glob", "*.txt"), "in empty that match *.md or *.txt (")])
def test_a_folder_without_files_fails_before_anything_is_created(kb: Kb, options: tuple[str, ...], said: str) -> None:
    """A mistyped folder or pattern is not taken for success."""
    Path("empty").mkdir()

    outcome = kb("ingest", "empty", "-p", "p", "--create", *options)

    assert outcome.status == 1
    assert f"kb: No files found {said}" in outcome.err
    assert kb("project", "show", "p").status == 1


def test_skipped_files_are_counted_and_empty_ones_have_no_line_each(notes: Kb) -> None:
    """The summary and --json count both kinds."""
    for number in range(12):
        Path(f"docs/empty{number}.txt").touch()
    Path("docs/binary").write_bytes(b"\0")

    outcome = notes("ingest", "docs", "-p", "notes", "--json")

    assert (outcome.status, json.loads(outcome.out)["skipped"]) == (0, 13)
    assert "0 written, 2 unchanged, 0 failed, 13 skipped" in outcome.err
    assert "12 empty files skipped\n" in outcome.err
    assert "empty0.txt" not in outcome.err


def test_ingesting_into_a_missing_project_says_how_to_create_it(kb: Kb) -> None:
    """Nothing is written."""
    Path("a.txt").write_text("text")

    outcome = kb("ingest", "a.txt", "-p", "p")

    assert (outcome.status, outcome.err) == (1, "kb: there is no project p: create it with `kb project create p`, or add --create\n")


def test_metadata_of_the_command_line_is_on_every_document(notes: Kb) -> None:
    """Numbers are numbers, so that they can be compared."""
    Path("c.txt").write_text("text")
    assert notes("ingest", "c.txt", "-p", "notes", "--metadata", "year=2024", "--metadata", "team=x").status == 0

    (document,) = notes("document", "list", "-p", "notes", "-f", "year>=2024", "--json").lines()

    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    assert {key: metadata[key] for key in metadata if key != "modified"} == {"path": "c.txt", "kind": "txt", "year": 2024, "team": "x"}


def test_waiting_ends_when_the_vectors_have_caught_up(notes: Kb, services: FakeServices) -> None:
    """The fake's vectors come one change closer with each look."""
    services.state.vectors_behind = 2
    Path("docs/c.txt").write_text("more")

    outcome = notes("ingest", "docs", "-p", "notes", "--wait")

    assert outcome.status == 0
    assert "embedding: 2 of 2 changes" in outcome.err
    assert json.loads(notes("project", "show", "notes", "--json").out)["lag"] == 0


def test_a_timeout_bounds_the_whole_wait(notes: Kb, services: FakeServices) -> None:
    """What is written is written; the wait alone is given up."""
    services.state.vectors_behind = 10_000
    Path("docs/lines.jsonl").write_text("".join(json.dumps({"id": str(number), "text": "x"}) + "\n" for number in range(100)))

    outcome = notes("ingest", "docs", "-p", "notes", "--wait", "--timeout", "0.6")

    assert outcome.status == 1
    assert "100 written" in outcome.err
    assert "kb: not everything in notes was searchable by meaning within 0.6 s" in outcome.err


def test_a_broken_stream_says_what_was_written_and_that_it_may_be_repeated(notes: Kb, services: FakeServices) -> None:
    """The summary is that of what was acknowledged."""
    services.state.fail_after = services.state.batches + 1
    for number in range(3):
        Path(f"docs/{number}.txt").write_text("new")

    outcome = notes("ingest", "docs", "-p", "notes", "--batch-size", "1")

    assert outcome.status == 1
    assert "interrupted: 1 written, 0 unchanged, 0 failed" in outcome.err
    assert "kb: the indexer" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_document_without_a_title_is_shown_by_its_id_alone(notes: Kb) -> None:
    """No empty line where the title would be; lists in metadata are read as words."""
    Path("c.jsonl").write_text(json.dumps({"id": "untitled", "text": "zebra", "metadata": {"tags": ["a", "b"]}}))
    assert notes("ingest", "c.jsonl", "-p", "notes").status == 0

    (row,) = [line for line in notes("search", "zebra", "-p", "notes").out.splitlines() if "zebra" in line]

    assert "untitled" in row
    assert "tags=a, b" in notes("document", "list", "-p", "notes").out


def test_status_shows_services_and_projects(notes: Kb) -> None:
    """Components with their figures, and how far each project is."""
    table, form = notes("status"), json.loads(notes("status", "--json").out)

    assert table.status == 0
    assert "query at 127.0.0.1:" in table.out
    assert "latency_ms 5" in table.out
    assert "notes" in table.out
    assert (form["healthy"], [service["answers"] for service in form["services"]], form["projects"][0]["id"]) == (True, [True, True], "notes")


def test_status_fails_when_a_service_is_unhealthy_or_silent(kb: Kb, services: FakeServices) -> None:
    """Degraded is no failure; the other service is shown all the same."""
    services.state.status = status_pb2.SERVICE_STATUS_DEGRADED
    assert kb("status").status == 0
    services.state.status = status_pb2.SERVICE_STATUS_UNHEALTHY
    assert kb("status").status == 1
    services.state.status = status_pb2.SERVICE_STATUS_HEALTHY
    services.stop_indexer()
    outcome = kb("status")

    assert outcome.status == 1
    assert f"the indexer does not answer at {services.indexer}: is `kb up` running?" in outcome.out
    assert "query at" in outcome.out


def test_an_indexer_that_is_not_there_is_one_line_that_says_what_to_do(kb: Kb, services: FakeServices) -> None:
    """No stack trace."""
    services.stop_indexer()

    outcome = kb("project", "list")

    expected = f"kb: the indexer does not answer at {services.indexer}: is `kb up` running? (--indexer and KB_INDEXER_ADDRESS say where)\n"
    assert (1, expected) == (outcome.status, outcome.err)


def test_a_query_service_that_is_not_there_is_called_by_its_name(notes: Kb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare, "the query" would be what was typed."""
    monkeypatch.setenv("KB_QUERY_ADDRESS", "127.0.0.1:1")

    assert "kb: the query service does not answer at 127.0.0.1:1: is `kb up` running?" in notes("search", "x", "-p", "notes").err
    assert "the query service does not answer at 127.0.0.1:1: is `kb up` running?" in notes("status").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "words"],
        ["search", "words", "-p", "p", "--mode", "best"],
        ["search", "words", "-p", "p", "--filter", "year~"],
        ["search", "words", "-p", "p", "--alpha", "2"],
        ["search", "words", "-p", "p", "--diversity", "1.5"],
        ["search", "words", "-p", "p", "--candidates", "99"],
        ["search", "words", "-p", "p", "--page", "token", "--all-pages"],
        ["similar", "-p", "p"],
        ["similar", "x", "-p", "p", "--min-score", "2"],
        ["document", "delete", "-p", "p"],
        ["document", "delete", "x", "-p", "p", "--filter", "a=1"],
        ["project", "update", "p"],
        ["project", "create", "p", "--label", "x"],
        ["ingest", "x", "-p", "p", "--metadata", "=1"],
        ["nothing"],
        ["demo", "--module", "no_such_module"],
    ],
)
def test_wrong_usage_exits_with_2(kb: Kb, arguments: list[str]) -> None:
    """Scripts can tell a typing error from a failure."""
    assert kb(*arguments).status == 2


def test_a_refused_request_names_the_field(notes: Kb) -> None:
    """One line, from the violations."""
    outcome = notes("search", "", "-p", "notes")

    assert (outcome.status, outcome.err) == (1, "kb: query: must have 1 to 4,000 characters\n")


def test_deleting_a_project_asks_first(notes: Kb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither "no" nor the end of the input deletes anything."""
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        outcome = notes("project", "delete", "notes")
        assert (outcome.status, outcome.err.splitlines()[-1]) == (1, "Aborted.")

    assert notes("project", "show", "notes").status == 0


def test_deleting_a_project_that_is_not_there_asks_nothing(kb: Kb, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer would change nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    outcome = kb("project", "delete", "gone")

    assert (outcome.status, outcome.out, outcome.err) == (1, "", "kb: there is no project gone\n")
