"""Bodies and answers of ChromaDB's v2 REST API, as far as the adapter uses it. Pure.

Decoders raise ValueError, TypeError, KeyError or IndexError when an answer has another shape; the transport turns those into one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from shared.domain import ChunkId, Vector, Vectors
from shared.ports import ScoredChunk


@dataclass(frozen=True, slots=True)
class HnswSettings:
    """Parameters of the graph, fixed when a collection is created.

    The defaults are a balance of what is found and how fast vectors can be written and asked for. Two measurements with 384 numbers a vector: real
    docstrings and other text that is installed with Python; and 16 texts of another kind among 8,000 docstrings, asked for by 264 queries about
    those, three times over, which is where a graph that was built in haste misses things. Recall is against exact search. The first five rows were
    measured on a busy machine, the last four with 30,000 vectors on an idle one (recall@10 is 1.000 in each): vectors
    added a second, recall@100, milliseconds a query for 121 neighbours.

    | ef_construction / max_neighbors / ef_search | recall@10 of the odd texts' queries | µs a vector |
    |---|---|---|
    | 400 / 64 / 400 | .998 | 1,090 (at 10,000) |
    | 200 / 32 / 400 | .996 | 874 (at 100,000) |
    | 150 / 32 / 400 | .994 | 684 (at 100,000) |
    | 100 / 32 / 400 | .980 | 492 (at 100,000) |
    | 200 / 32 / 200 | .981 | 545 (at 10,000) |

    | ef_construction / max_neighbors / ef_search | added a second | recall@100 | ms a query |
    |---|---|---|---|
    | 150 / 32 / 400 | 3,400 | .9994 | 2.7 |
    | 150 / 32 / 200 | 3,300 | .9968 | 2.1 |
    | 150 / 32 / 150 | 3,400 | .9949 | 2.2 |
    | 200 / 48 / 200 | 2,650 | .9981 | 2.2 |

    With 100,000 vectors and queries that people might write, 200 / 48 / 400 finds .991 of the true ten in 4.1 ms, 200 / 48 / 200 finds .970 in 3.1.

    On worst-case (random) data ChromaDB's own defaults found 0.34, `ef_search` 400 found 0.75. `ef_search` cannot be changed later without a restart
    of the server. A collection that is there keeps the settings that it was made with; writing it again gives it these.

    Attributes:
        ef_search: Candidates looked at in a query; more find more and take longer.
        ef_construction: The same while adding.
        max_neighbors: Edges a vector; more find more and take memory.
    """

    ef_search: int = 400
    ef_construction: int = 200
    max_neighbors: int = 48


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as the server knows it. `space` is its distance, None where the server does not say."""

    id: str
    name: str
    space: str | None


def create_body(name: str, hnsw: HnswSettings) -> bytes:
    """Creates a collection with cosine distance, or finds the one of that name."""
    settings = {
        "space": "cosine",
        "ef_search": hnsw.ef_search,
        "ef_construction": hnsw.ef_construction,
        "max_neighbors": hnsw.max_neighbors,
    }
    return orjson.dumps({"name": name, "get_or_create": True, "configuration": {"hnsw": settings}})


def query_body(vector: Vector, limit: int) -> bytes:
    """Asks for ids (always there) and distances alone: documents and metadata cost 1-2 ms more and are in the replica."""
    return orjson.dumps(
        {"query_embeddings": [vector], "n_results": limit, "include": ["distances"]},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def add_body(chunk_ids: Sequence[ChunkId], vectors: Vectors) -> bytes:
    """Adds vectors, shape `(len(chunk_ids), dimension)`, C-contiguous. About 10 µs a vector of 384 numbers."""
    return orjson.dumps({"ids": list(chunk_ids), "embeddings": vectors}, option=orjson.OPT_SERIALIZE_NUMPY)


def delete_body(chunk_ids: Sequence[ChunkId]) -> bytes:
    """Deletes vectors by id."""
    return orjson.dumps({"ids": list(chunk_ids)})


def ids_body(chunk_ids: Sequence[ChunkId]) -> bytes:
    """Asks which of the ids are there."""
    return orjson.dumps({"ids": list(chunk_ids), "include": []})


def page_body(offset: int, limit: int) -> bytes:
    """Asks for a page of the ids that are there."""
    return orjson.dumps({"offset": offset, "limit": limit, "include": []})


def decode_collection(body: bytes) -> Collection:
    """One collection. Its id is checked to be a UUID, since it becomes part of paths."""
    return _collection(orjson.loads(body))


def decode_collections(body: bytes) -> tuple[Collection, ...]:
    """A page of collections."""
    return tuple(_collection(item) for item in orjson.loads(body))


def decode_hits(body: bytes) -> tuple[ScoredChunk, ...]:
    """Hits of the one vector that was asked for. Cosine distance is 1 - similarity, so similarity is 1 - distance."""
    answer = orjson.loads(body)
    (ids,), (distances,) = answer["ids"], answer["distances"]
    if not {str}.issuperset(map(type, ids)):
        raise TypeError("an id is not a string")
    return tuple([ScoredChunk(chunk_id, 1.0 - distance) for chunk_id, distance in zip(ids, distances, strict=True)])


def decode_ids(body: bytes) -> tuple[ChunkId, ...]:
    """Ids alone."""
    return tuple(ChunkId(_text(chunk_id)) for chunk_id in orjson.loads(body)["ids"])


def decode_count(body: bytes) -> int:
    """A number of vectors."""
    count = orjson.loads(body)
    if not isinstance(count, int) or count < 0:
        raise ValueError("a count is a whole number")
    return count


def decode_object(body: bytes) -> None:
    """An acknowledgement, whose content says nothing of use: any JSON object."""
    if not isinstance(orjson.loads(body), dict):
        raise TypeError("not a JSON object")


def decode_heartbeat(body: bytes) -> None:
    """The heartbeat: tells ChromaDB from another server that answers 200."""
    int(orjson.loads(body)["nanosecond heartbeat"])


def _collection(item: object) -> Collection:
    if not isinstance(item, dict):
        raise TypeError("not a JSON object")
    configuration = item.get("configuration_json")
    hnsw = configuration.get("hnsw") if isinstance(configuration, dict) else None
    space = hnsw.get("space") if isinstance(hnsw, dict) else None
    return Collection(str(UUID(_text(item["id"]))), _text(item["name"]), space)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value
