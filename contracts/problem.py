"""RFC 9457 problem details: how every HTTP API of ours says no."""

from __future__ import annotations

import msgspec

PROBLEM_JSON = "application/problem+json"
PROBLEM_TYPE_BASE = "https://slipstream.invalid/problems/"
"""`.invalid` (RFC 2606) never resolves: the type is a name, explained in docs/problems.md."""


class FieldError(msgspec.Struct, frozen=True):
    """One field that is wrong: a JSON pointer into the body, and what would be right."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document.

    Attributes:
        type: a URI that names the kind of problem.
        title: the kind, in words that do not change.
        status: the HTTP status.
        detail: this occurrence, naming the mend.
        instance: the request's id.
        errors: the fields that are wrong, where fields are.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    errors: list[FieldError] = msgspec.field(default_factory=list)


def problem(kind: str, title: str, status: int, detail: str, errors: list[FieldError] | None = None) -> Problem:
    """A `Problem` whose type is `PROBLEM_TYPE_BASE` + `kind`."""
    return Problem(type=PROBLEM_TYPE_BASE + kind, title=title, status=status, detail=detail, errors=errors or [])
