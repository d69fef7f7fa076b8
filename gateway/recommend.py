"""`POST /v1/recommendations`: history, replica, and when no model can answer, the shelf."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from contracts.problem import FieldError
from contracts.recommendation import RecommendationAnswer, RecommendationRequest
from contracts.replica import RankRequest, ScoredItem
from gateway.history import HistoryView, InProcessHistories
from gateway.metrics import GatewayMetrics
from gateway.pool import DeadlinePassed, NoReplica, Ranked, ReplicaPool
from gateway.problems import ProblemError, invalid, unavailable
from gateway.replica_client import ReplicaFailed, ReplicaRefused
from gateway.shelf import Shelf


class Fallback(StrEnum):
    """Why popularity answered in the model's place."""

    COLD_START = "cold_start"
    NO_REPLICA = "no_replica"
    REPLICA_FAILED = "replica_failed"
    DEADLINE = "deadline"


class Made(NamedTuple):
    """An answer and what is said about it in the headers.

    Attributes:
        replica: which one ranked; None for a fallback.
        history_length: how many of the user's events it was computed from and around.
    """

    answer: RecommendationAnswer
    replica: str | None
    history_length: int


@dataclass(frozen=True)
class _Question:
    request: RecommendationRequest
    key: str
    history: HistoryView
    exclude: list[str]
    request_id: str


class Recommender:
    """Answers every well-formed request: by a model, else by popularity with the reason named.

    A user without a history gets popularity, unless they ask for a model version: then the model ranks from its
    start token. A request that insists on a version never gets a fallback.
    """

    def __init__(
        self,
        histories: InProcessHistories,
        shelf: Shelf,
        pool: ReplicaPool,
        metrics: GatewayMetrics,
        *,
        exclude_seen: bool,
    ) -> None:
        self._histories = histories
        self._shelf = shelf
        self._pool = pool
        self._metrics = metrics
        self._exclude_seen = exclude_seen

    async def recommend(self, request: RecommendationRequest, request_id: str, deadline: float) -> Made:
        """The answer to `request`; `deadline` is on `time.monotonic()`'s clock.

        Raises:
            ProblemError: 422 unless exactly one of user_id and session_id is there; 503 when no replica serves
                `min_model_version` or it fails.
        """
        started = time.perf_counter()
        question = self._question(request, request_id)
        made = await self._model(question, deadline)
        if isinstance(made, Fallback):
            answer = self._popular(question, made, started)
            made_by, replica = made.value, None
        else:
            answer = self._answer(made.answer.items, made.answer.model_version, None, started)
            made_by, replica = "model", made.replica
        self._metrics.recommendation(request.scenario, made_by)
        return Made(answer, replica, question.history.length)

    def _question(self, request: RecommendationRequest, request_id: str) -> _Question:
        key = request.user_id or request.session_id
        if key is None or (request.user_id and request.session_id):
            detail = "give exactly one of user_id and session_id"
            raise invalid(detail, [FieldError("/user_id", detail)])
        history = self._histories.view(key)
        exclude = list(request.exclude)
        if self._exclude_seen:
            exclude = list(dict.fromkeys(exclude + history.seen))
        return _Question(request, key, history, exclude, request_id)

    async def _model(self, question: _Question, deadline: float) -> Ranked | Fallback:
        request = question.request
        minimum = request.min_model_version
        if not question.history.length and minimum is None:
            return Fallback.COLD_START
        rank = RankRequest(
            request_id=question.request_id,
            history=question.history.items,
            num_results=request.num_results,
            exclude=question.exclude,
            candidates=request.candidates,
        )
        try:
            ranked = await self._pool.rank(rank, question.key, deadline, minimum)
        except NoReplica:
            return self._fall_back(Fallback.NO_REPLICA, minimum)
        except DeadlinePassed:
            return self._fall_back(Fallback.DEADLINE, minimum)
        except (ReplicaFailed, ReplicaRefused):
            return self._fall_back(Fallback.REPLICA_FAILED, minimum)
        if minimum is not None and ranked.answer.model_version < minimum:
            raise _no_version(minimum, "the replica that had it has been rolled back")
        return ranked

    def _fall_back(self, why: Fallback, minimum: int | None) -> Fallback:
        if minimum is not None:
            raise _no_version(minimum, why.value)
        return why

    def _popular(self, question: _Question, why: Fallback, started: float) -> RecommendationAnswer:
        request = question.request
        items = self._shelf.top(request.num_results, question.exclude, request.candidates)
        return self._answer(items, None, why, started)

    @staticmethod
    def _answer(
        items: list[ScoredItem], version: int | None, fallback: Fallback | None, started: float
    ) -> RecommendationAnswer:
        return RecommendationAnswer(
            recommendation_id=uuid.uuid4().hex,
            model_version=version,
            items=items,
            fallback=fallback.value if fallback else None,
            took_ms=round((time.perf_counter() - started) * 1000, 3),
        )


def _no_version(minimum: int, why: str) -> ProblemError:
    detail = f"no answer from version {minimum} or a later one ({why}): ask again, or without min_model_version"
    return unavailable("model-version-unavailable", "Model version unavailable", detail)
