"""JSON over HTTP from a monitoring program of this machine: every call has a deadline, every failure is an error of `shared/errors.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from shared.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError

_REFUSED = (400, 422)  # what was asked is wrong, or cannot be computed; both programs say why in the body


async def get_json(program: str, url: str, parameters: Mapping[str, str], timeout: float) -> Any:  # noqa: ANN401 - JSON
    """The JSON that `url` answers with. A connection a call: the caller belongs to no event loop.

    Raises:
        InvalidArgumentError: `program` refuses the question; the message is what it says.
        DeadlineExceededError: there was no answer within `timeout` seconds.
        UnavailableError: nothing answers there, or with something else than JSON.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
            session.get(url, params=parameters) as response,
        ):
            if response.status in _REFUSED:
                raise InvalidArgumentError(f"{program} refuses the question: {_reason(await response.text())}")
            response.raise_for_status()
            return await response.json()
    except TimeoutError as error:
        raise DeadlineExceededError(f"{program} at {url} did not answer within {timeout:g} s") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise UnavailableError(f"{program} at {url} does not answer as it should: {error}", component=program) from error


async def is_ready(url: str, timeout: float) -> bool:
    """Whether a program says at `url`/-/ready that it serves; False also when nothing answers within `timeout` seconds."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
            session.get(f"{url}/-/ready") as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _reason(body: str) -> str:
    return body.strip()[:500]
