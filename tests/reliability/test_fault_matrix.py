"""The fault matrix on real processes: every fault that this machine can inject, and what becomes of searches, writes and health.

The machinery is that of `kb chaos`: a row is put in under steady load and taken out again, and each of its promises is a check. Here a fault lasts
a second and a half, or three where something has to run out before anybody notices, and the breaker recovers quickly; rows with stacks of their own
are tried two at a time. The promises of milliseconds, which need a quiet machine, are left to `kb chaos`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from services.cli.chaos.matrix import ROWS
from services.cli.chaos.outcome import Outcome
from services.cli.chaos.plan import Plan
from services.cli.chaos.run import Runner

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(seconds=1.5, recovery=2.0, patience=60.0)
# A silent feed is noticed after 2 s (14, 17, 20), a hung ChromaDB after five searches of a second (2, 3); a kill or a stop takes a start (10, 27).
LONG = replace(PLAN, seconds=3.0)
LONG_ROWS = frozenset({"2", "3", "10", "14", "17", "20", "27"})
# Rows with stacks of their own, whose start is most of their time: one is tried while the other starts.
SIDE_BY_SIDE = (("12", "12b"), ("13", "21"), ("15", "28"))
MILLISECONDS = ("breaker open: p50 of keyword", "after the breaker has opened, p99", "p99 of admitted")
AWAY = "vector_store_unavailable"
STALE = "replica_stale"

TryRow = Callable[[str], Awaitable[Outcome]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run_row(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> AsyncIterator[TryRow]:
    """Tries a row; those of one plan that leave a stack as it was share one."""
    folder = tmp_path_factory.mktemp("chaos")
    async with Runner(folder / "plan", model_dir, PLAN) as running, Runner(folder / "long", model_dir, LONG) as longer:

        async def run(name: str) -> Outcome:
            return await (longer if name in LONG_ROWS else running).run(next(row for row in ROWS if row.name == name))

        yield run


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Rows that have been tried, for tests that look at different sides of one."""
    return {}


@pytest.fixture
def tried(run_row: TryRow, outcomes: dict[str, Outcome]) -> TryRow:
    """Tries a row: none of its promises may be broken. Skips what this machine cannot inject, and says what it lacks."""

    async def run(name: str) -> Outcome:
        if name not in outcomes:
            names = next((pair for pair in SIDE_BY_SIDE if name in pair), (name,))
            outcomes.update(zip(names, await asyncio.gather(*map(run_row, names)), strict=True))
        outcome = outcomes[name]
        if outcome.skipped is not None:
            pytest.skip(f"row {name} {outcome.skipped}")
        assert [check for check in outcome.broken if not check.promise.startswith(MILLISECONDS)] == []
        return outcome

    return run


def all_answered(outcome: Outcome) -> bool:
    """There were searches, and each was answered."""
    return outcome.answered == outcome.requests > 0 and not outcome.errors


def all_kept(outcome: Outcome) -> bool:
    """There were writes, and each was acknowledged and found afterwards."""
    return outcome.found == outcome.acknowledged == outcome.sent > 0


def works(outcome: Outcome, service: str, component: str) -> bool | None:
    """Whether a service said of a component that it works; None if it said nothing."""
    components = outcome.health[service].components
    return None if components is None else components[component] == "healthy"


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5"], ids=["killed", "suspended", "black hole", "slow", "cut off"])
async def test_without_chromadb_every_search_is_answered_and_every_write_is_kept(tried: TryRow, name: str) -> None:
    """Answers are degraded, say why and come within their deadline; both services take requests; full service comes back by itself."""
    outcome = await tried(name)

    assert all_answered(outcome)
    assert outcome.degraded == outcome.requests
    assert set(outcome.reasons) == {AWAY}
    assert outcome.worst <= PLAN.deadline + 0.05
    assert all_kept(outcome)
    assert outcome.recovery is not None
    assert outcome.health["query"].ready
    assert outcome.health["indexer"].ready


async def test_health_says_that_chromadb_is_gone_and_the_services_stay_ready(tried: TryRow) -> None:
    """Killed, it is unhealthy as a component of both, and neither is taken out of service for it."""
    outcome = await tried("1")

    assert (works(outcome, "query", "chromadb"), works(outcome, "indexer", "chromadb")) == (False, False)
    assert (works(outcome, "query", "database"), works(outcome, "indexer", "database")) == (True, True)
    assert all(health.live and health.ready for health in outcome.health.values())


async def test_keyword_searches_go_on_while_the_breaker_is_open(tried: TryRow) -> None:
    """They go to a service with ChromaDB and to one without in turns, and none fails. How fast they are is for `kb chaos` to judge."""
    outcome = await tried("1b")

    assert all_answered(outcome)
    assert any("searches each" in check.seen for check in outcome.checks)


async def test_while_some_answers_of_chromadb_are_5xx_every_search_is_answered(tried: TryRow) -> None:
    """Those that fail are answered from the copy, the others as ever, until the breaker opens."""
    outcome = await tried("6")

    assert all_answered(outcome)
    assert 0 < outcome.degraded <= outcome.requests
    assert set(outcome.reasons) == {AWAY}
    assert all_kept(outcome)


async def test_fifty_callers_that_wait_send_one_probe(tried: TryRow) -> None:
    """The one that comes first when the breaker may be tried asks ChromaDB; the other 49 are answered from the copy."""
    outcome = await tried("7")

    assert all_answered(outcome)
    probe = next(check for check in outcome.checks if "exactly one" in check.promise)
    assert probe.seen.startswith("1 before the first answer; 1 of 50")


@pytest.mark.parametrize("name", ["8", "29"], ids=["wiped", "collection deleted"])
async def test_what_chromadb_has_lost_is_written_again(tried: TryRow, name: str) -> None:
    """Searches are answered meanwhile, writes are kept, and afterwards answers are whole."""
    outcome = await tried(name)

    assert all_answered(outcome)
    assert set(outcome.reasons) <= {AWAY}
    assert all_kept(outcome)
    assert outcome.recovery is not None


async def test_a_record_that_chromadb_refuses_holds_nobody_up(tried: TryRow) -> None:
    """It alone goes into quarantine and is found by keyword; the others reach ChromaDB; retried when it is accepted, it leaves quarantine."""
    outcome = await tried("9")

    assert all_answered(outcome)
    assert outcome.degraded == 0
    assert all_kept(outcome)


async def test_an_indexer_that_is_killed_again_and_again_loses_nothing(tried: TryRow) -> None:
    """Each acknowledged document is in the catalog and found by search; searches never fail."""
    outcome = await tried("10")

    assert all_answered(outcome)
    assert outcome.degraded == 0 or set(outcome.reasons) == {STALE}
    assert 0 < outcome.acknowledged < outcome.sent
    assert outcome.found == outcome.acknowledged


async def test_an_indexer_that_hangs_fails_its_probes_and_its_writers(tried: TryRow) -> None:
    """Writes end at their deadline, probes fail, and searches go on and say that they may be stale."""
    outcome = await tried("11")

    assert all_answered(outcome)
    assert outcome.refusals == {"DEADLINE_EXCEEDED": outcome.sent}
    assert (outcome.health["indexer"].live, outcome.health["indexer"].ready) == (False, False)
    assert (outcome.health["query"].live, outcome.health["query"].ready) == (True, True)


@pytest.mark.parametrize(("name", "reason"), [("12", "DISK_LOW"), ("12b", "DISK_FULL")], ids=["below the reserve", "no byte left"])
async def test_a_full_disk_refuses_documents_and_nothing_else(tried: TryRow, name: str, reason: str) -> None:
    """Documents are refused as a whole and with a reason, searches are whole; with space again, documents are taken."""
    outcome = await tried(name)

    assert all_answered(outcome)
    assert outcome.degraded == 0
    assert set(outcome.refusals) == {reason}
    assert 0 < outcome.acknowledged == outcome.found


async def test_an_fsync_that_fails_ends_the_indexer(tried: TryRow) -> None:
    """Nothing is acknowledged after it, and what was acknowledged before is there when the disk works again."""
    outcome = await tried("13")

    assert all_answered(outcome)
    assert outcome.acknowledged == 0 < outcome.sent
    assert any(check.promise == "the indexer ends with status 1" for check in outcome.checks)


async def test_a_damaged_catalog_is_not_served(tried: TryRow) -> None:
    """The indexer does not start and says how to restore; searches go on from the copy."""
    outcome = await tried("14")

    assert all_answered(outcome)
    assert set(outcome.reasons) == {STALE}
    assert outcome.recovery is not None


async def test_a_restored_catalog_is_what_everybody_goes_by(tried: TryRow) -> None:
    """What was written after the backup is shown by no search, and what is in it, or written since it was restored, is found."""
    outcome = await tried("15")

    assert all_kept(outcome)
    assert outcome.recovery is not None


async def test_a_second_indexer_on_one_catalog_ends_by_itself(tried: TryRow) -> None:
    """With status 1 and the reason; whoever uses the first one notices nothing."""
    outcome = await tried("16")

    assert all_answered(outcome)
    assert outcome.degraded == 0
    assert all_kept(outcome)


async def test_without_the_feed_searches_say_that_they_may_be_stale(tried: TryRow) -> None:
    """Writes are kept meanwhile, and found when the feed is back."""
    outcome = await tried("17")

    assert all_answered(outcome)
    assert set(outcome.reasons) == {STALE}
    assert all_kept(outcome)
    assert outcome.health["query"].ready


async def test_a_replica_whose_files_are_lost_or_damaged_is_ready_when_it_has_everything_again(tried: TryRow) -> None:
    """The first search after the start is whole, and every document is found."""
    outcome = await tried("19")

    assert all_answered(outcome)
    assert all_kept(outcome)
    assert outcome.notes == ["files removed", "files cut in half"]


async def test_without_chromadb_and_without_the_feed_searches_are_answered_and_say_both(tried: TryRow) -> None:
    """From the copy, which may be stale; writes are kept."""
    outcome = await tried("20")

    assert all_answered(outcome)
    assert set(outcome.reasons) == {AWAY, STALE}
    assert all_kept(outcome)


async def test_a_wall_clock_that_jumps_changes_nothing(tried: TryRow) -> None:
    """An hour ahead and two hours back: searches are whole, writes are kept in their order."""
    outcome = await tried("21")

    assert all_answered(outcome)
    assert outcome.degraded == 0
    assert all_kept(outcome)


async def test_too_many_callers_are_refused_and_the_others_answered(tried: TryRow) -> None:
    """Refused with OVERLOADED and the time to retry after; writes and health are not touched by it."""
    outcome = await tried("24")

    assert set(outcome.errors) == {"OVERLOADED"}
    assert outcome.answered > 0
    assert all_kept(outcome)


async def test_bad_requests_are_refused_as_such_and_disturb_nobody(tried: TryRow) -> None:
    """Bombs, oversized messages, noise and nonsense: never INTERNAL; searches and writes of others go on."""
    outcome = await tried("25")

    assert all_answered(outcome)
    assert outcome.degraded == 0
    assert all_kept(outcome)


async def test_a_slow_consumer_of_the_feed_costs_the_indexer_no_memory(tried: TryRow) -> None:
    """Writes are kept, searches are answered with what has arrived, and everything arrives in the end."""
    outcome = await tried("26")

    assert all_answered(outcome)
    assert all_kept(outcome)
    assert any(check.promise == "the indexer's memory stays bounded" for check in outcome.checks)


async def test_services_that_are_asked_to_stop_one_after_another_fail_no_search(tried: TryRow) -> None:
    """Each says NOT_SERVING first and ends with status 0; what the indexer acknowledged is there."""
    outcome = await tried("27")

    assert all_answered(outcome)
    assert outcome.found == outcome.acknowledged > 0


async def test_without_the_model_searches_are_by_keyword_and_writes_are_kept(tried: TryRow) -> None:
    """Answers say that the query could not be embedded, health says so, too; with the model back everything is found by meaning."""
    outcome = await tried("28")

    assert all_answered(outcome)
    assert outcome.reasons == {"embedding_unavailable": outcome.requests}
    assert all_kept(outcome)
    assert works(outcome, "query", "embedding_model") is False
    assert outcome.health["query"].ready


async def test_every_row_of_the_matrix_is_run_or_says_where_it_is_looked_at() -> None:
    """The 29 rows are there in their order; three are not run: one is a test of its own, two wait for certificates and keys."""
    numbers = [int(row.name.rstrip("b")) for row in ROWS]
    instead = {row.name: row.instead for row in ROWS if row.run is None}

    assert sorted(set(numbers)) == list(range(1, 30))
    assert numbers == sorted(numbers)
    assert set(instead) == {"18", "22", "23"}
    assert (ROOT / instead["18"]).is_file()
    assert all(instead[name].startswith("not yet") for name in ("22", "23"))
