"""The replica's ways to say no, as RFC 9457 documents."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts.problem import PROBLEM_JSON, FieldError, Problem, problem
from contracts.wire import encode
from releases.bundle import ReleaseCorrupt
from releases.store import ReleaseMissing
from releases.unavailable import StoreUnavailable
from serving.engine import EngineDead, SwapRefused
from serving.replica import NotServing, Overloaded

T = TypeVar("T")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_RETRY_AFTER_SECONDS = "1"

KINDS: dict[type[Exception], tuple[str, str, int]] = {
    SwapRefused: ("swap-refused", "Swap refused", 409),
    ReleaseCorrupt: ("release-corrupt", "Release fails its checksum", 422),
    ReleaseMissing: ("release-missing", "No such release", 404),
    StoreUnavailable: ("store-unavailable", "Release store can't be reached", 503),
    NotServing: ("replica-not-serving", "Replica is not serving", 503),
    Overloaded: ("replica-overloaded", "Replica is full", 503),
    EngineDead: ("engine-dead", "Engine is gone", 503),
}
"""Kind, title and status of each exception that reaches a route."""


class InvalidBody(Exception):
    """A body that is not what the route takes."""

    def __init__(self, document: Problem) -> None:
        super().__init__(document.detail)
        self.document = document


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises InvalidBody: 400 when it is no JSON, 422 with a pointer to the field that is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        pointer = "".join(f"/{name or index}" for name, index in _STEP.findall(path.rstrip("`")))
        document = problem("invalid-request", "Invalid request", 422, str(error), [FieldError(pointer, text)])
        raise InvalidBody(document) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        document = problem("not-json", "Not JSON", 400, f"the body must be one JSON object in UTF-8: {error}")
        raise InvalidBody(document) from error


def problem_response(document: Problem) -> Response:
    """The document as an answer; a 503 says when to come again."""
    headers = {"Retry-After": _RETRY_AFTER_SECONDS} if document.status == 503 else {}
    return Response(encode(document), document.status, headers, PROBLEM_JSON)


async def answer_problem(request: Request, error: Exception) -> Response:
    """An exception handler for every type in `KINDS`, and for InvalidBody."""
    if isinstance(error, InvalidBody):
        return problem_response(error.document)
    kind, title, status = KINDS[type(error)]
    return problem_response(problem(kind, title, status, str(error)))
