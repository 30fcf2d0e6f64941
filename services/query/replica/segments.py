"""Whether the files of a tantivy index are as they were written.

tantivy ends each file of a segment with a checksum of it, which its Python API cannot compare: `<content><JSON with "crc"><length of the
JSON><magic>`. Files that `meta.json` does not name are left over from a crash, may be torn, and do not matter.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, BinaryIO

import orjson

_MAGIC = 1337
_TAIL_BYTES = 8
_BLOCK_BYTES = 1 << 20
_PARTS = ("fast", "fieldnorm", "idx", "pos", "store", "term")


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of the committed segments that are missing or not as they were written; `meta.json`, if that cannot be read."""
    try:
        segments = orjson.loads((folder / "meta.json").read_bytes())["segments"]
        names = [name for segment in segments for name in _names(segment)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["meta.json"]
    return [name for name in names if not _is_whole(folder / name)]


def _names(segment: dict[str, Any]) -> list[str]:
    """The files of a segment, as `meta.json` describes it."""
    stem = segment["segment_id"].replace("-", "")
    deletes = segment["deletes"]
    return [*(f"{stem}.{part}" for part in _PARTS), *([] if deletes is None else [f"{stem}.{deletes['opstamp']}.del"])]


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
            footer_bytes, magic = int.from_bytes(tail[:4], "little"), int.from_bytes(tail[4:], "little")
            content_bytes = size - _TAIL_BYTES - footer_bytes
            if magic != _MAGIC or content_bytes < 0:
                return False
            file.seek(content_bytes)
            expected = orjson.loads(file.read(footer_bytes))["crc"]
            file.seek(0)
            return bool(_checksum(file, content_bytes) == expected)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checksum(file: BinaryIO, size: int) -> int:
    checksum = 0
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        checksum, size = zlib.crc32(block, checksum), size - len(block)
    return checksum
