"""Settings that both services share: `KB_*` environment variables, checked once at start, frozen afterwards.

A service subclasses `CommonSettings` with its own fields and reads them with `load`. Every field carries a description that states its unit;
`shared/config_docs.py` makes the documentation from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, AnyHttpUrl, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigurationError

ENV_PREFIX: Final = "KB_"

LogLevel = Literal["debug", "info", "warning", "error"]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose a free one."""

_HTTP_URL: Final = TypeAdapter(AnyHttpUrl)


def _http_url(value: str) -> str:
    """The URL as it was written, without a trailing slash, if it is an http(s) URL."""
    _HTTP_URL.validate_python(value)
    return value.rstrip("/")


def _log_levels(value: str) -> str:
    """The text as it was written, if `parse_log_levels` understands it."""
    parse_log_levels(value)
    return value


def parse_log_levels(value: str) -> Mapping[str, str]:
    """`"grpc=warning,services.query=debug"` as a mapping of logger name to level.

    Raises:
        ValueError: when an entry is not `name=level`, or the level is unknown.
    """
    levels: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        name, _, level = entry.partition("=")
        if not name or level not in {"debug", "info", "warning", "error"}:
            raise ValueError(f"'{entry}' is not of the form logger=level, with level one of debug, info, warning, error")
        levels[name] = level
    return levels


HttpUrl = Annotated[str, AfterValidator(_http_url)]
LogLevels = Annotated[str, AfterValidator(_log_levels)]


class CommonSettings(BaseSettings):
    """Settings of every service."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, env_ignore_empty=True, extra="ignore", protected_namespaces=())

    data_dir: Path = Field(default=Path(".kb"), description="Folder of everything that a service writes.")
    model_dir: Path = Field(
        default_factory=lambda data: data["data_dir"] / "models",
        description="Folder of exported embedding models. Default: `models` inside KB_DATA_DIR.",
        json_schema_extra={"default_text": "KB_DATA_DIR/models"},
    )
    embedding_backend: Literal["onnx", "torch"] = Field(
        default="onnx", description="What runs the embedding model: the exported model, or the original one (needs the `export` extra)."
    )
    embedding_model: str = Field(default="all-MiniLM-L6-v2", min_length=1, max_length=200, description="Name of the default embedding model.")
    embedding_concurrency: int = Field(
        default=2, ge=1, le=64, description="Embedding calls that run at the same time, each on one core: the number of cores is a good value."
    )

    chroma_url: HttpUrl = Field(default="http://127.0.0.1:8000", description="Base URL of the ChromaDB server, http or https.")
    chroma_tenant: str = Field(default="default_tenant", min_length=1, description="Tenant in ChromaDB.")
    chroma_database: str = Field(default="default_database", min_length=1, description="Database in ChromaDB.")
    chroma_timeout: Seconds = Field(default=10.0, description="Seconds that one write to ChromaDB may take; searches have a limit of their own.")
    chroma_connect_timeout: Seconds = Field(default=1.0, description="Seconds that connecting to ChromaDB may take.")
    chroma_pool_size: int = Field(default=32, ge=1, le=1024, description="Connections to ChromaDB that a service keeps at most.")

    breaker_failures: int = Field(default=5, ge=1, le=1000, description="Failures within KB_BREAKER_WINDOW that open the circuit breaker.")
    breaker_window: Seconds = Field(default=60.0, description="Seconds over which the circuit breaker counts failures.")
    breaker_recovery: Seconds = Field(default=30.0, description="Seconds that the circuit breaker stays open before it lets one probe through.")
    retry_attempts: int = Field(default=3, ge=1, le=10, description="Attempts at a call to ChromaDB, the first one included.")
    retry_initial: Seconds = Field(default=1.0, description="Seconds before the second attempt.")
    retry_multiplier: float = Field(default=2.0, ge=1, le=10, description="Factor by which the wait grows from one attempt to the next.")
    retry_max: Seconds = Field(default=10.0, description="The longest wait between two attempts, in seconds.")

    log_level: LogLevel = Field(default="info", description="Least severe level that is logged.")
    log_levels: LogLevels = Field(default="", description="Levels of single loggers, for example `grpc=warning,services.query=debug`.")
    log_format: Literal["auto", "json", "console"] = Field(default="auto", description="Form of log lines; auto: console on a terminal, else JSON.")
    trace_endpoint: str = Field(
        default="", max_length=500, description="OTLP/gRPC endpoint of a trace collector, for example `http://127.0.0.1:4317`. Empty: no export."
    )
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1, description="Share of new traces that are recorded, 0 to 1.")
    trace_content: bool = Field(
        default=False, description="Put the texts of queries into traces. Whoever may read the traces can then read what people search for."
    )

    liveness_stall: Seconds = Field(
        default=10.0, description="Seconds that the service's event loop may stand still before it counts as no longer alive."
    )
    warm_up_timeout: Seconds = Field(
        default=10.0, description="Seconds at start that the first query to ChromaDB may take before the service takes requests all the same."
    )

    drain_delay: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="Seconds after SIGTERM during which the service says NOT_SERVING and still takes new calls, so that load balancers turn away.",
    )
    shutdown_grace: Seconds = Field(default=20.0, description="Seconds from SIGTERM until the service must have stopped.")
    max_message_bytes: int = Field(
        default=16 * 1024 * 1024, ge=16 * 1024 * 1024, le=512 * 1024 * 1024, description="Size limit of a gRPC message in bytes, both ways."
    )

    @model_validator(mode="after")
    def _leaves_time_to_stop(self) -> Self:
        if self.drain_delay > self.shutdown_grace / 2:
            raise ValueError(
                f"KB_DRAIN_DELAY={self.drain_delay:g} leaves too little of KB_SHUTDOWN_GRACE={self.shutdown_grace:g}: it must be at most half of it"
            )
        return self


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def env_name(field: str) -> str:
    """Name of the environment variable of a field, for example `KB_DATA_DIR`."""
    return ENV_PREFIX + field.upper()


def load(settings: type[SettingsT], **overrides: Any) -> SettingsT:  # noqa: ANN401 - values of any field
    """Reads and checks the settings; `overrides` win over the environment.

    Raises:
        ConfigurationError: names each variable that is wrong, what is wrong with it and what is allowed.
    """
    try:
        return settings(**overrides)
    except ValidationError as error:
        problems = [_problem(settings, dict(detail)) for detail in error.errors(include_url=False) if detail["type"] != "default_factory_not_called"]
        raise ConfigurationError("; ".join(problems)) from error


def allowed(field: FieldInfo) -> str:
    """What a field allows beyond its type, for example `at least 1, at most 10`; empty when it is not bounded."""
    bounds = {name: getattr(constraint, name) for constraint in field.metadata for name in ("gt", "ge", "lt", "le") if hasattr(constraint, name)}
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    return ", ".join(f"{words[name]} {bounds[name]:,}" for name in words if name in bounds)


def _problem(settings: type[CommonSettings], detail: Mapping[str, Any]) -> str:
    """One clear line about one wrong value, or about values that do not go together."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    field = settings.model_fields.get(name)
    value = str(detail["input"])[:100]
    text = f"{env_name(name)}='{value}': {message[:1].lower()}{message[1:]}"
    if field is None:
        return text
    bounds = allowed(field)
    return text + (f"; allowed: {bounds}" if bounds else "") + (f" ({field.description})" if field.description else "")
