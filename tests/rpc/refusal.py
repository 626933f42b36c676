"""What a refused call looks like to a caller (CONTRACT rule 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from twotower import v1

# The status of each reason that a call or an entry can have here, as error.proto says.
STATUS = {
    "ITEM_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "SCHEMA_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "RELEASE_NOT_LOADED": grpc.StatusCode.FAILED_PRECONDITION,
    "RELEASE_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "RELEASE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}


def status_of(reason: str) -> grpc.StatusCode:
    return STATUS.get(reason, grpc.StatusCode.INVALID_ARGUMENT)


def refused(call: Callable[[Any], Any], request: Any, reason: str, field: str | None = "") -> str:
    """Calls, and checks status, message and details of the refusal. Returns the message.

    field: None = whatever it is.
    """
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error: Any = caught.value
    assert error.code() is status_of(reason), error
    message = str(error.details())
    assert message.startswith(f"{reason}: ")
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], message)
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("twotower", reason)
    if field is not None:
        assert info.metadata.get("field", "") == field
    return message


def check_problem(problem: v1.Problem, index: int, reason: str, field: str) -> None:
    """Checks an entry that failed alone."""
    assert problem.index == index
    assert v1.ErrorReason.Name(problem.reason) == f"ERROR_REASON_{reason}"
    assert problem.code == status_of(reason).value[0]
    assert problem.message.startswith(f"{reason}: ")
    assert problem.field == field
