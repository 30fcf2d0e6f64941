"""What an Alertmanager knows, over its HTTP API (v2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.cli.observe.http_json import get_json

_TIMEOUT = 10.0  # seconds for one call
_PROGRAM = "alertmanager"


@dataclass(frozen=True, slots=True)
class ReceivedAlert:
    """One alert that has been received and is not over. `suppressed`: silenced or inhibited; then nobody is told.

    `inhibited_by` holds the fingerprints of the alerts that suppress it.
    """

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    fingerprint: str
    receivers: tuple[str, ...]
    suppressed: bool
    inhibited_by: tuple[str, ...]


class AlertmanagerApi:
    """Asks the Alertmanager at `url`. It keeps no connection, so it may be used from any event loop."""

    def __init__(self, url: str, *, timeout: float = _TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    async def alerts(self) -> tuple[ReceivedAlert, ...]:
        """The alerts that are not over, suppressed ones included.

        Raises DeadlineExceededError when it does not answer in time, UnavailableError when it does not answer at all.
        """
        answer = await get_json(_PROGRAM, f"{self.url}/api/v2/alerts", {}, self._timeout)
        return tuple(
            ReceivedAlert(
                one["labels"]["alertname"],
                one["labels"],
                one["annotations"],
                one["fingerprint"],
                tuple(receiver["name"] for receiver in one["receivers"]),
                one["status"]["state"] == "suppressed",
                tuple(one["status"]["inhibitedBy"]),
            )
            for one in answer
        )
