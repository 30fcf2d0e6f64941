"""The status table: complete, told to clients without internals, and read back."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from shared import errors
from shared.errors import CollectionNotFoundError, FieldViolation, InvalidArgumentError, KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from shared.rpc.status import CODES, code_of, from_item_error, from_rpc_error, item_error, to_status

EXAMPLES: list[KnowledgeBeastError] = [
    InvalidArgumentError("m", (FieldViolation("a.b", "wrong"),)),
    errors.NotFoundError("m"),
    errors.NotFoundError("m", reason="PROJECT_NOT_FOUND"),
    errors.AlreadyExistsError("m"),
    errors.ConflictError("m"),
    errors.FailedPreconditionError("m"),
    ResourceExhaustedError("m", retry_after=2.5),
    errors.DeadlineExceededError("m"),
    UnavailableError("m", component="embedding_model", retry_after=3.0),
    errors.VectorStoreUnavailableError("m", retry_after=4.0),
    errors.CircuitOpenError("m", retry_after=5.0),
    errors.VectorStoreError("m"),
    CollectionNotFoundError("m"),
    errors.CorruptionError("m"),
    errors.ConfigurationError("m"),
    KnowledgeBeastError("m"),
]


def rpc_error(error: BaseException, request_id: str = "") -> grpc.aio.AioRpcError:
    """The error as a client receives it."""
    status = to_status(error, request_id)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailing_metadata), status.message)


def all_kinds(kind: type[KnowledgeBeastError] = KnowledgeBeastError) -> set[type[KnowledgeBeastError]]:
    """A kind of error and those below it in `shared.errors`; services have kinds of their own, which never reach a client."""
    below = [each for each in kind.__subclasses__() if each.__module__ == kind.__module__]
    return {kind}.union(*map(all_kinds, below))


def test_every_kind_of_error_has_an_example_here() -> None:
    """A kind that is added to the tree must be added to these tests."""
    assert {type(example) for example in EXAMPLES} == all_kinds()


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{error.reason}")
def test_an_error_comes_back_as_it_was(error: KnowledgeBeastError) -> None:
    """Type, message, reason, violations, component and time to retry survive."""
    result = from_rpc_error(rpc_error(error))
    assert type(result) is type(error)
    assert {**vars(result), "reason": result.reason} == {**vars(error), "reason": error.reason}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: f"{type(error).__name__}-{error.reason}")
def test_the_error_of_an_item_comes_back_as_it_was(error: KnowledgeBeastError) -> None:
    """Type, code, message, reason and violations survive; an item has no time to retry."""
    message = item_error(error)
    assert message.code == code_of(error).value[0]
    result = from_item_error(message)
    assert (type(result), result.message, result.reason) == (type(error), error.message, error.reason)
    assert getattr(result, "violations", ()) == getattr(error, "violations", ())


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConflictError, grpc.StatusCode.ABORTED),
        (errors.CircuitOpenError, grpc.StatusCode.UNAVAILABLE),
        (errors.CorruptionError, grpc.StatusCode.DATA_LOSS),
        (CollectionNotFoundError, grpc.StatusCode.INTERNAL),
    ],
)
def test_codes_follow_the_tree(kind: type[KnowledgeBeastError], code: grpc.StatusCode) -> None:
    """A kind without an entry has the code of the nearest one above it."""
    assert code_of(kind("m")) is code


def test_an_error_that_is_not_ours_tells_nothing() -> None:
    """Neither its type nor its text; the request id finds it in the log."""
    error = rpc_error(RuntimeError("/secret/path"), "r-7")
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error; request id r-7")
    assert item_error(RuntimeError("/secret/path"), "r-7").message == "internal error; request id r-7"
    assert "secret" not in repr(error.trailing_metadata())


def test_a_status_fits_into_the_headers_that_a_client_accepts() -> None:
    """Long messages and many violations are cut: a client refuses more than 8 KB of headers."""
    violations = tuple(FieldViolation(f"documents[{n}].metadata." + "ü" * 200, "ö" * 400) for n in range(5000))
    status = to_status(InvalidArgumentError("ä" * 5000, violations))
    binary = sum(len(value) * 4 / 3 for _, value in status.trailing_metadata)
    assert binary + 3 * len(status.message.encode()) < 8192 - 1024
    assert len(status.message) > 100


@pytest.mark.parametrize("code", list(set(grpc.StatusCode) - {grpc.StatusCode.OK}))
def test_a_status_without_details_becomes_an_error_of_our_tree(code: grpc.StatusCode) -> None:
    """A proxy or an unreachable server sends no details; the client still gets an error with the right code where the table has one."""
    error = from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "text"), "indexer")
    assert error.message == "text"
    if code is grpc.StatusCode.CANCELLED:  # by the server, which is going down: worth another try
        assert isinstance(error, UnavailableError)
    elif code in set(CODES.values()) - {grpc.StatusCode.INTERNAL}:
        assert code_of(error) is code
    else:
        assert (type(error), error.reason) == (KnowledgeBeastError, code.name)
    if isinstance(error, UnavailableError):
        assert error.component == "indexer"


def test_details_that_contradict_the_status_are_ignored() -> None:
    """A proxy may replace the status and leave our details behind."""
    status = to_status(errors.NotFoundError("m"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailing_metadata), "proxy")
    assert isinstance(from_rpc_error(error), UnavailableError)
