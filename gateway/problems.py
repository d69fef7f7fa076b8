"""Saying no: RFC 9457 documents, and msgspec's complaints turned into JSON pointers."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts.problem import PROBLEM_JSON, FieldError, Problem, problem

T = TypeVar("T")
_PATH = re.compile(r" - at `(?:key in )?\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


class ProblemError(Exception):
    """Raised anywhere below a route; the app answers with `document` and `headers`."""

    def __init__(self, document: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(document.detail)
        self.document = document
        self.headers = headers or {}


def invalid(detail: str, errors: list[FieldError]) -> ProblemError:
    """422: the body is JSON but not what the route takes."""
    return ProblemError(problem("invalid-request", "Invalid request", 422, detail, errors))


def unavailable(kind: str, title: str, detail: str, retry_after_seconds: int = 1) -> ProblemError:
    """503 with `Retry-After`."""
    return ProblemError(problem(kind, title, 503, detail), {"Retry-After": str(retry_after_seconds)})


def not_found(kind: str, detail: str) -> ProblemError:
    """404."""
    return ProblemError(problem(kind, "Not found", 404, detail))


def field_error(error: msgspec.ValidationError) -> FieldError:
    """msgspec's `… - at `$.events[0].item_id`` as pointer `/events/0/item_id` and what was wrong."""
    text = str(error)
    found = _PATH.search(text)
    if found is None:
        return FieldError("", text)
    steps = [name or index for name, index in _STEP.findall(found.group(1))]
    pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
    return FieldError(pointer, text[: found.start()])


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type.

    Raises:
        ProblemError: 400 when it is not JSON in UTF-8, 422 with a pointer when a field is wrong.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        wrong = field_error(error)
        raise invalid(f"{wrong.pointer or 'the body'}: {wrong.detail}", [wrong]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"the body must be JSON in UTF-8: {error}"
        raise ProblemError(problem("malformed-json", "Malformed JSON", 400, detail)) from error


def problem_response(document: Problem, instance: str, headers: dict[str, str] | None = None) -> Response:
    """`document` with the request's id as its instance."""
    body = msgspec.json.encode(msgspec.structs.replace(document, instance=instance))
    return Response(body, document.status, headers, PROBLEM_JSON)


def status_problem(status: int, detail: str) -> Problem:
    """The problem for a status that the framework raised (404, 405, …)."""
    title = HTTPStatus(status).phrase
    return problem(title.lower().replace(" ", "-"), title, status, detail)


def request_id(request: Request) -> str:
    """The id `gateway.asgi.RequestId` gave this request."""
    return str(request.scope.get("state", {}).get("request_id", ""))
