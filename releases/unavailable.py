"""A release store that can't be reached: how that is told from other errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_TOO_MANY_REQUESTS, _NOT_IMPLEMENTED = 429, 501


class StoreUnavailable(OSError):
    """The store does not answer, or says 5xx. What was asked may have been done all the same; ask again later."""


def _unreachable() -> tuple[type[Exception], ...]:
    """What connections raise that can't be made, break or time out; the libraries come with the extras."""
    found: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    try:
        from botocore import exceptions as botocore
    except ImportError:
        pass
    else:
        found += (botocore.ConnectionError, botocore.HTTPClientError)
    try:
        from aiohttp import ClientConnectionError, ClientPayloadError
    except ImportError:
        return found
    return (*found, ClientConnectionError, ClientPayloadError)


_UNREACHABLE = _unreachable()


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Raises StoreUnavailable, naming `url`, where a call in here finds the store out of reach."""
    try:
        yield
    except _UNREACHABLE as error:
        raise _unavailable(url, error) from error
    except OSError as error:
        if not _is_the_server_s_fault(error):
            raise
        raise _unavailable(url, error) from error


def _unavailable(url: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"the release store {url} can't be reached ({type(error).__name__}: {error}); see that it runs, and that its "
        "endpoint (AWS_ENDPOINT_URL for S3) and the network between are right"
    )


def _is_the_server_s_fault(error: OSError) -> bool:
    """By the HTTP status of the answer that s3fs made `error` of. A server that can't do it (501) is no outage."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return False
    status: int = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status == _TOO_MANY_REQUESTS or (status >= 500 and status != _NOT_IMPLEMENTED)
