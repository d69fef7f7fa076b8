"""The public API. Read `create_app` first: every route is one function, and none holds state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import structlog
from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from contracts.item import Item
from contracts.problem import PROBLEM_JSON, problem
from contracts.recommendation import EventBatch, EventReceipt, RecommendationAnswer, RecommendationRequest
from contracts.topics import EVENTS
from gateway.asgi import BodyLimit, RequestId, RequestMetrics
from gateway.errors import install_error_handlers
from gateway.openapi import answers, body, describe
from gateway.problems import ProblemError, decode_body, not_found, request_id
from gateway.service import Gateway
from gateway.views import HistoryAnswer, ModelsAnswer, NotReady, Ready, history_answer, models_answer

_MAX_DEADLINE_MS = 60_000
_logger = structlog.get_logger("slipstream.gateway.api")
_request_decoder = msgspec.json.Decoder(RecommendationRequest)
_batch_decoder = msgspec.json.Decoder(EventBatch)
_encode = msgspec.json.Encoder().encode
router = APIRouter()


def create_app(gateway: Gateway) -> FastAPI:
    """The public app around `gateway`, which it starts and stops."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = FastAPI(
        title="Slipstream",
        version="1",
        summary="Events in, recommendations that have learned from them out.",
        lifespan=lifespan,
    )
    app.state.gateway = gateway
    app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=gateway.settings.max_body_bytes)
    app.add_middleware(RequestMetrics, metrics=gateway.metrics)
    app.add_middleware(RequestId)
    describe(app)
    return app


@router.post(
    "/v1/recommendations",
    openapi_extra=body(RecommendationRequest),
    responses=answers(200, RecommendationAnswer, "A list, by a model or by popularity.", 400, 413, 422, 503),
)
async def recommend(request: Request) -> Response:
    """Recommend items to a user or a session; `X-Deadline-Ms` bounds how long it may take."""
    deadline = _deadline(request)
    gateway = _gateway(request)
    asked = decode_body(await request.body(), _request_decoder)
    made = await gateway.recommender.recommend(asked, request_id(request), deadline)
    answer = made.answer
    headers = {"X-History-Length": str(made.history_length)}
    if made.replica is not None:
        headers |= {"X-Model-Version": str(answer.model_version), "X-Replica": made.replica}
    _logger.info(
        "recommended",
        request_id=request_id(request),
        recommendation_id=answer.recommendation_id,
        version=answer.model_version,
        fallback=answer.fallback,
        took_ms=answer.took_ms,
        **({"context": asked.context} if asked.context else {}),
    )
    return _json(answer, 200, headers)


@router.post(
    "/v1/events",
    status_code=202,
    openapi_extra=body(EventBatch),
    responses=answers(202, EventReceipt, "The log has every accepted event.", 400, 413, 422, 503),
)
async def events(request: Request) -> Response:
    """Take 1 to 500 events. Each is looked at on its own; an `event_id` counts once however often it is sent."""
    batch = decode_body(await request.body(), _batch_decoder)
    return _json(await _gateway(request).intake.take(batch.events), 202)


@router.get("/v1/items/{item_id}", responses=answers(200, Item, "The item.", 404))
async def item(request: Request, item_id: str) -> Response:
    """One item of the catalogue."""
    found = _gateway(request).items.get(item_id)
    if found is None:
        raise not_found("unknown-item", f"there is no item {item_id!r} in the catalogue")
    return _json(found)


@router.get("/v1/users/{user_id}/history", responses=answers(200, HistoryAnswer, "Oldest first; may be empty."))
async def history(request: Request, user_id: str) -> Response:
    """A user's last interactions."""
    gateway = _gateway(request)
    return _json(history_answer(gateway, user_id, rebuilding=not gateway.tail.caught_up(EVENTS)))


@router.get("/v1/models", responses=answers(200, ModelsAnswer, "Versions, releases and replicas."))
async def models(request: Request) -> Response:
    """What is served, and by which replicas."""
    return _json(models_answer(_gateway(request)))


@router.get("/livez", responses=answers(200, Ready, "The process answers."))
async def live(request: Request) -> Response:
    """Whether the process is alive: restart it when this fails."""
    return _json(Ready(status="alive"))


@router.get("/startupz", responses=answers(200, Ready, "The gateway has started.", 503))
async def started(request: Request) -> Response:
    """Whether the start is over; the log and the replicas need not be there."""
    if not _gateway(request).started:
        raise ProblemError(problem("starting", "Starting", 503, "the gateway is starting"), {"Retry-After": "1"})
    return _json(Ready(status="started"))


@router.get(
    "/readyz", responses=answers(200, Ready, "All is well.") | answers(503, NotReady, "`checks` says what is missing.")
)
async def ready(request: Request) -> Response:
    """Whether log, histories and replicas are all there. Recommendations are made meanwhile, as well as they can be."""
    checks = _gateway(request).checks()
    if not checks:
        return _json(Ready())
    detail = "; ".join(f"{part}: {what}" for part, what in checks.items())
    base = problem("not-ready", "Not ready", 503, detail)
    document = NotReady(
        type=base.type, title=base.title, status=503, detail=detail, instance=request_id(request), checks=checks
    )
    return Response(_encode(document), 503, {"Retry-After": "1"}, PROBLEM_JSON)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(_gateway(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _json(message: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(message), status, headers, "application/json")


def _deadline(request: Request) -> float:
    """When the answer is due, on `time.monotonic()`'s clock."""
    given = request.headers.get("x-deadline-ms")
    if given is None:
        return time.monotonic() + _gateway(request).settings.default_deadline_seconds
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= _MAX_DEADLINE_MS:
        detail = f"X-Deadline-Ms: {given!r} is not a whole number of milliseconds from 1 to {_MAX_DEADLINE_MS}"
        raise ProblemError(problem("bad-header", "Bad header", 400, detail))
    return time.monotonic() + int(given) / 1000
