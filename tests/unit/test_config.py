"""Settings: read from KB_* variables, checked, and explained when they are wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from shared.config import CommonSettings, Port, load, parse_log_levels
from shared.config_docs import render
from shared.errors import ConfigurationError
from shared.version import VERSION


class ServiceSettings(CommonSettings):
    """Settings of a service."""

    service_port: Port = Field(default=50051, description="Port of the service.")
    log_level: str = Field(default="debug", description="A level of its own.")  # type: ignore[assignment] # wider on purpose


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CommonSettings.model_fields:
        monkeypatch.delenv(f"KB_{name.upper()}", raising=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KB_ variable sets the field of its name; the others keep their defaults."""
    monkeypatch.setenv("KB_DATA_DIR", "/data")
    monkeypatch.setenv("KB_CHROMA_URL", "https://chroma.example:8443/")
    settings = load(CommonSettings)
    assert (settings.data_dir, settings.model_dir) == (Path("/data"), Path("/data/models"))
    assert settings.chroma_url == "https://chroma.example:8443"
    assert settings.breaker_failures == 5


def test_an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and manifests pass unset variables on as empty ones."""
    monkeypatch.setenv("KB_BREAKER_FAILURES", "")
    assert load(CommonSettings).breaker_failures == 5


def test_a_drain_that_leaves_no_time_to_stop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both variables; exactly half of the grace is allowed."""
    monkeypatch.setenv("KB_DRAIN_DELAY", "10")
    assert load(CommonSettings).drain_delay == 10
    monkeypatch.setenv("KB_DRAIN_DELAY", "10.5")
    with pytest.raises(ConfigurationError) as raised:
        load(CommonSettings)
    assert raised.value.message == "KB_DRAIN_DELAY=10.5 leaves too little of KB_SHUTDOWN_GRACE=20: it must be at most half of it"


def test_settings_cannot_be_changed() -> None:
    """Settings are read once: later changes would be seen by some and not by others."""
    with pytest.raises(ValidationError):
        load(CommonSettings).retry_attempts = 5  # type: ignore[misc] # that it is refused is the point


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("KB_BREAKER_FAILURES", "0", "at least 1, at most 1,000"),
        ("KB_CHROMA_TIMEOUT", "nan", "finite"),
        ("KB_CHROMA_TIMEOUT", "soon", "valid number"),
        ("KB_CHROMA_URL", "ftp://host", "'http' or 'https'"),
        ("KB_LOG_FORMAT", "xml", "'auto', 'json' or 'console'"),
        ("KB_LOG_LEVELS", "grpc=loud", "logger=level"),
        ("KB_MAX_MESSAGE_BYTES", "1", "at least 16,777,216"),
    ],
)
def test_a_wrong_value_is_named_and_explained(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str) -> None:
    """The message has the variable, its value and what is allowed, and nothing of the library."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as raised:
        load(CommonSettings)
    assert raised.value.message.startswith(f"{variable}='{value}': ")
    assert expected in raised.value.message
    assert "pydantic" not in raised.value.message


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who made three mistakes learns of three."""
    for variable in ("KB_RETRY_ATTEMPTS", "KB_RETRY_MAX", "KB_TRACE_SAMPLE_RATIO"):
        monkeypatch.setenv(variable, "-1")
    with pytest.raises(ConfigurationError) as raised:
        load(CommonSettings)
    assert all(name in raised.value.message for name in ("KB_RETRY_ATTEMPTS", "KB_RETRY_MAX", "KB_TRACE_SAMPLE_RATIO"))


def test_levels_of_single_loggers_are_read() -> None:
    """`a=debug, b=error` sets two loggers."""
    assert parse_log_levels("a=debug, b=error,") == {"a": "debug", "b": "error"}


def test_the_documentation_has_every_setting_once() -> None:
    """Each class's table has its own settings with type, default and meaning; a setting stated anew stands in both."""
    text = render([CommonSettings, ServiceSettings])
    common, own = text.split("## Settings of a service")
    for name in CommonSettings.model_fields:
        assert common.count(f"| `KB_{name.upper()}` |") == 1
    assert "| `KB_SERVICE_PORT` | integer, at least 0, at most 65,535 | `50051` | Port of the service. |" in own
    assert "`KB_LOG_LEVEL`" in own
    assert "KB_DATA_DIR" not in own


def test_every_setting_is_described() -> None:
    """No setting without a meaning."""
    assert [name for name, field in CommonSettings.model_fields.items() if not field.description] == []


def test_the_version_is_that_of_the_project() -> None:
    """The constant and pyproject.toml say the same."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
