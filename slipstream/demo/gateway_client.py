"""What the demo asks of the gateway and the replicas beside the load: a few calls, each an answer or an exception."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import httpx2

from contracts.recommendation import RecommendationAnswer
from contracts.replica import ChecksumReport, RankAnswer, RankRequest
from contracts.wire import decode, encode


class NotReadyInTime(Exception):
    """A process that did not say ready in time; the text holds what it said last."""


class GatewayClient:
    """The public and the operators' API of one gateway."""

    def __init__(self, url: str, admin_url: str, admin_token: str) -> None:
        self.url = url
        self._admin_url = admin_url
        self._admin_headers = {"Authorization": f"Bearer {admin_token}"}
        self._http = httpx2.AsyncClient(timeout=30.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def recommend(self, user_id: str, **options: Any) -> RecommendationAnswer:
        """A list for `user_id`. Raises httpx2.HTTPStatusError."""
        response = await self._http.post(f"{self.url}/v1/recommendations", json={"user_id": user_id, **options})
        response.raise_for_status()
        return decode(response.content, RecommendationAnswer)

    async def recommend_from(self, user_id: str, version: int, patience_seconds: float) -> RecommendationAnswer:
        """The first list that version `version` or a later one makes. Raises NotReadyInTime."""
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            answer = await self.recommend(user_id)
            if answer.model_version is not None and answer.model_version >= version:
                return answer
            await asyncio.sleep(0.05)
        raise NotReadyInTime(f"no answer from version {version} within {patience_seconds} s")

    async def pause(self) -> None:
        """New releases wait from now on; returns once no swap is going on."""
        await self._admin("pause")

    async def resume(self) -> None:
        """Roll the newest release out, and those after it."""
        await self._admin("resume")

    async def rank(self, replica_url: str, history: list[str]) -> RankAnswer:
        """What a replica's weights give for a history, asked past the gateway; nothing of it is ranked again."""
        request = RankRequest(request_id="demo", history=history, exclude=history)
        response = await self._http.post(f"{replica_url}/v1/rank", content=encode(request))
        response.raise_for_status()
        return decode(response.content, RankAnswer)

    async def checksum(self, replica_url: str) -> ChecksumReport:
        """What a replica's memory holds."""
        response = await self._http.get(f"{replica_url}/v1/checksum")
        response.raise_for_status()
        return decode(response.content, ChecksumReport)

    async def wait_ready(self, url: str, patience_seconds: float) -> None:
        """Until `url`/readyz says 200. Raises NotReadyInTime with its last words."""
        said = "nothing answered there"
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            try:
                response = await self._http.get(f"{url}/readyz")
            except httpx2.TransportError:
                pass
            else:
                if response.status_code == 200:
                    return
                said = response.text
            await asyncio.sleep(0.2)
        raise NotReadyInTime(f"{url} was not ready within {patience_seconds:.0f} s: {said}")

    async def _admin(self, verb: str) -> None:
        response = await self._http.post(f"{self._admin_url}/admin/{verb}", headers=self._admin_headers)
        response.raise_for_status()
