"""Comparing every project of the replica with the catalog now and then, unasked."""

from __future__ import annotations

import asyncio
import random
import time

from services.query.application.verify import VerifyReplica
from services.query.ports import ProjectCopy
from shared.errors import KnowledgeBeastError
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.resilience.deadline import Deadline

# Seconds: the first round comes when a service that has just started has done what is more urgent.
_FIRST_ROUND = 300.0
# Seconds for one project: reading a million chunks takes a few, the rest is for a moment without changes to come.
_PATIENCE = 60.0
_log = get_logger(__name__)


class VerifySchedule:
    """Verifies, with repair, one project after another, then rests.

    Args:
        verify: the use case.
        copy: whose projects they are.
        interval: seconds between two rounds; each is up to a tenth earlier or later, so that replicas do not come to the indexer together.
    """

    def __init__(self, verify: VerifyReplica, copy: ProjectCopy, interval: float) -> None:
        self._verify = verify
        self._copy = copy
        self._interval = interval

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.sleep(min(self._interval, _FIRST_ROUND) * random.uniform(0.4, 1.0))  # noqa: S311 - spreads load, keeps no secret
        while True:
            await self.round()
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - same

    async def round(self) -> None:
        """Verifies every project once. One that cannot be is logged, and has its turn again in the next round."""
        complete = True
        for project in self._copy.projects():
            project_id = project.project.id
            try:
                await self._verify.run(project_id, Deadline.after(_PATIENCE), repair=True)
            except KnowledgeBeastError as error:
                complete = False
                _log.info("replica_not_verified", project=project_id, reason=error.reason, detail=error.message)
            except Exception:  # noqa: BLE001 - a defect in comparing one project must not end the service; it is logged with its stack
                complete = False
                _log.exception("replica_verification_failed", project=project_id)
        if complete:
            metrics.REPLICA_VERIFIED.set(time.time())
