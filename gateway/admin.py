"""The operators' API, on a port and with a token of its own: pause, resume, promote, roll back."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable

import msgspec
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from contracts.problem import problem
from gateway.asgi import RequestId
from gateway.errors import install_error_handlers
from gateway.problems import ProblemError
from gateway.rollout import RolloutRefused
from gateway.service import Gateway
from gateway.views import models_answer


def create_admin_app(gateway: Gateway, token: str) -> FastAPI:
    """The admin app around a `gateway` that something else starts and stops.

    Raises:
        ValueError: an empty token, which everybody would know.
    """
    if not token:
        raise ValueError("the admin token is empty: set it to something secret, or leave the admin port closed")
    app = FastAPI(title="Slipstream admin", version="1")
    app.state.gateway = gateway
    app.state.token = token
    app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(RequestId)
    return app


async def _authorised(request: Request) -> None:
    given = request.headers.get("authorization", "")
    expected = f"Bearer {request.app.state.token}"
    if not hmac.compare_digest(given.encode(), expected.encode()):
        document = problem("unauthorised", "Unauthorised", 401, "send the admin token: `Authorization: Bearer TOKEN`")
        raise ProblemError(document, {"WWW-Authenticate": "Bearer"})


router = APIRouter(prefix="/admin", dependencies=[Depends(_authorised)])


@router.get("/status")
async def status(request: Request) -> Response:
    """What is live, what is newest, what each replica serves, whether the rollout is paused."""
    return _status(request)


@router.post("/pause")
async def pause(request: Request) -> Response:
    """New releases wait. Returns once no swap is going on."""
    await _gateway(request).rollout.pause()
    return _status(request)


@router.post("/resume")
async def resume(request: Request) -> Response:
    """Roll out the newest release, and every one after it."""
    await _gateway(request).rollout.resume()
    return _status(request)


@router.post("/models/{version:int}:promote")
async def promote(request: Request, version: int) -> Response:
    """Serve this version everywhere; any other than the newest also pauses the rollout."""
    if version < 1:
        raise ProblemError(problem("bad-version", "Bad version", 422, "versions begin at 1"))
    await _or_conflict(_gateway(request).rollout.promote(version))
    return _status(request)


@router.post("/roll-back")
async def roll_back(request: Request) -> Response:
    """Serve the version before the live one everywhere, and pause the rollout."""
    await _or_conflict(_gateway(request).rollout.roll_back())
    return _status(request)


async def _or_conflict(change: Awaitable[list[str]]) -> None:
    try:
        await change
    except RolloutRefused as error:
        raise ProblemError(problem("rollout-refused", "Rollout refused", 409, str(error))) from error


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _status(request: Request) -> Response:
    return Response(msgspec.json.encode(models_answer(_gateway(request))), media_type="application/json")
