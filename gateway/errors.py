"""Every way in which a route can end badly, as a problem document."""

from __future__ import annotations

from typing import cast

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from contracts.problem import FieldError, problem
from gateway.problems import ProblemError, invalid, problem_response, request_id, status_problem

_logger = structlog.get_logger("slipstream.gateway.errors")


def install_error_handlers(app: FastAPI) -> None:
    """Have `app` answer every exception with `application/problem+json`."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(Exception, _bug)


async def _problem(request: Request, error: Exception) -> Response:
    known = cast(ProblemError, error)
    return problem_response(known.document, request_id(request), known.headers)


async def _http(request: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    detail = f"{request.method} {request.url.path}: {known.detail}; the routes are listed under /docs"
    return problem_response(status_problem(known.status_code, detail), request_id(request), dict(known.headers or {}))


async def _parameters(request: Request, error: Exception) -> Response:
    wrong = cast(RequestValidationError, error).errors()
    errors = [FieldError("/" + "/".join(map(str, e["loc"])), e["msg"]) for e in wrong]
    return problem_response(invalid("a parameter is wrong", errors).document, request_id(request))


async def _bug(request: Request, error: Exception) -> Response:
    _logger.error("unhandled", path=request.url.path, request_id=request_id(request), exc_info=error)
    detail = "a bug of ours; the gateway's log has it under this request's id"
    return problem_response(problem("internal-error", "Internal error", 500, detail), request_id(request))
