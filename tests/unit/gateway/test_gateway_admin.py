"""The operators' door: its token, and what it says no to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from gateway.admin import create_admin_app
from gateway.service import Gateway

TOKEN = {"Authorization": "Bearer secret"}
ROUTES = [
    ("GET", "/admin/status"),
    ("POST", "/admin/pause"),
    ("POST", "/admin/resume"),
    ("POST", "/admin/roll-back"),
    ("POST", "/admin/models/1:promote"),
]


@pytest.fixture
def admin(gateway: Gateway) -> Iterator[TestClient]:
    with TestClient(create_admin_app(gateway, "secret"), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("header", [{}, {"Authorization": "secret"}, {"Authorization": "Bearer other"}])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_without_the_token(admin: TestClient, method: str, path: str, header: dict[str, str]) -> None:
    response = admin.request(method, path, headers=header)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["type"].endswith("/unauthorised")


def test_an_empty_token_opens_no_door(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match="empty"):
        create_admin_app(gateway, "")


def test_pause_and_resume(admin: TestClient, gateway: Gateway) -> None:
    assert admin.post("/admin/pause", headers=TOKEN).status_code == 200
    assert gateway.rollout.paused
    assert admin.post("/admin/resume", headers=TOKEN).status_code == 200
    assert not gateway.rollout.paused


def test_what_can_t_be_done_is_a_conflict(admin: TestClient) -> None:
    for path in ("/admin/roll-back", "/admin/models/7:promote"):
        response = admin.post(path, headers=TOKEN)
        assert response.status_code == 409
        assert response.json()["type"].endswith("/rollout-refused")
    assert admin.post("/admin/models/x:promote", headers=TOKEN).status_code == 404
    assert admin.post("/admin/models/0:promote", headers=TOKEN).status_code == 422


def test_the_operators_routes_are_not_on_the_public_port(client: TestClient) -> None:
    for method, path in ROUTES:
        assert client.request(method, path, headers=TOKEN).status_code == 404
