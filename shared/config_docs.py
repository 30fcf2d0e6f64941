"""Documentation of the settings, made from the settings themselves."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared.config import CommonSettings, allowed, env_name


def render(classes: Sequence[type[CommonSettings]]) -> str:
    """One Markdown table a class: its own settings, those of its base classes left to the base class.

    A class's first docstring line is the heading of its table.
    """
    return "\n".join(_table(settings) for settings in classes)


def _table(settings: type[CommonSettings]) -> str:
    inherited = {name for base in settings.__mro__[1:] if issubclass(base, CommonSettings) for name in base.model_fields}
    own = {name: field for name, field in settings.model_fields.items() if name not in inherited or field is not _base_field(settings, name)}
    heading = (settings.__doc__ or settings.__name__).strip().splitlines()[0].rstrip(".")
    rows = [f"| `{env_name(name)}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |" for name, field in own.items()]
    return "\n".join([f"## {heading}", "", "| Variable | Type | Default | Meaning |", "|---|---|---|---|", *rows, ""])


def _base_field(settings: type[CommonSettings], name: str) -> FieldInfo | None:
    """The field as a base class has it, unless this class states it anew."""
    return None if name in settings.__annotations__ else settings.model_fields.get(name)


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return _cell(" | ".join(f"`{value}`" for value in typing.get_args(annotation)))
    words = {"str": "text", "int": "integer", "float": "number", "Path": "path", "bool": "`true` or `false`"}
    name = getattr(annotation, "__name__", str(annotation))
    bounds = allowed(field)
    return _cell(words.get(name, name) + (f", {bounds}" if bounds else ""))


def _default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_text" in extra:
        return f"`{extra['default_text']}`"
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if value == "":
        return "(empty)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
