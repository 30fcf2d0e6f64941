"""HTML, PDF and Word files to Markdown through markitdown, an optional dependency."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from shared.errors import InvalidArgumentError

# By suffix: the converter's class in markitdown.converters, and what pip installs for it.
_CONVERTERS = {
    ".html": ("HtmlConverter", "markitdown"),
    ".htm": ("HtmlConverter", "markitdown"),
    ".pdf": ("PdfConverter", "markitdown[pdf]"),
    ".docx": ("DocxConverter", "markitdown[docx]"),
}
CONVERTIBLE = frozenset(_CONVERTERS)


class MissingConverterError(Exception):
    """Files of this kind cannot be read until something is installed; the text says what."""


class Converter:
    """Converts files; keeps the converters it has loaded, since loading takes half a second.

    Converters are used by themselves, not through `MarkItDown`, which tries one after another by content and so reads a damaged PDF as text.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def convert(self, path: Path) -> tuple[str, str]:
        """Markdown text of the file, and its title (empty if it states none).

        Raises MissingConverterError, OSError, and InvalidArgumentError when the file is damaged or not what its suffix says.
        """
        suffix = path.suffix.lower()
        class_name, requirement = _CONVERTERS[suffix]
        missing = f"reading {suffix} files needs a converter: pip install '{requirement}'"
        try:
            converter = self._loaded.get(class_name) or getattr(import_module("markitdown.converters"), class_name)()
            stream_info = import_module("markitdown").StreamInfo(extension=suffix)
            not_installed = import_module("markitdown").MissingDependencyException
        except ImportError as error:
            raise MissingConverterError(missing) from error
        self._loaded[class_name] = converter
        logging.getLogger("pdfminer").setLevel(logging.ERROR)  # it warns of every oddity of a PDF that it reads all the same
        with path.open("rb") as file:
            try:
                result = converter.convert(file, stream_info)
            except not_installed as error:
                raise MissingConverterError(missing) from error
            except Exception as error:
                # A third party's parser on anybody's file: it raises whatever it trips over.
                raise InvalidArgumentError(f"could not be read as {suffix[1:].upper()}: {type(error).__name__}: {error}".splitlines()[0]) from error
        return result.text_content or "", (result.title or "").strip()
