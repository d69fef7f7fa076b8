"""The release's transition table, every pair of it."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.release_states import TRANSITIONS, IllegalTransition, ReleaseBook, ReleaseState

PUBLISHED, STAGED, LIVE = ReleaseState.PUBLISHED, ReleaseState.STAGED, ReleaseState.LIVE
ROLLED_BACK, SUPERSEDED = ReleaseState.ROLLED_BACK, ReleaseState.SUPERSEDED

ALLOWED = {
    (PUBLISHED, STAGED),
    (PUBLISHED, SUPERSEDED),
    (STAGED, LIVE),
    (STAGED, SUPERSEDED),
    (LIVE, SUPERSEDED),
    (LIVE, ROLLED_BACK),
    (ROLLED_BACK, STAGED),
    (SUPERSEDED, STAGED),
    (SUPERSEDED, LIVE),
}


def test_the_table_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(ReleaseState)


@pytest.mark.parametrize(("before", "after"), list(product(ReleaseState, ReleaseState)))
def test_each_pair(before: ReleaseState, after: ReleaseState) -> None:
    book = ReleaseBook()
    book.add(1, before)
    if before is after or (before, after) in ALLOWED:
        book.move(1, after)
        assert book.state(1) is after
    else:
        with pytest.raises(IllegalTransition):
            book.move(1, after)
        assert book.state(1) is before


def test_at_most_one_release_is_live() -> None:
    book = ReleaseBook()
    for version in (1, 2, 3):
        book.add(version, STAGED)
        book.make_live(version)
        assert [v for v, state in book.states().items() if state is LIVE] == [version]
    book.make_live(2, rolled_back=True)
    assert book.states() == {1: SUPERSEDED, 2: LIVE, 3: ROLLED_BACK}


def test_releases_passed_over_are_superseded_and_the_book_has_an_end() -> None:
    book = ReleaseBook()
    book.add(1, LIVE)
    for version in range(2, 300):
        book.add(version)
        book.supersede(version)
    assert book.live == 1
    assert book.state(298) is SUPERSEDED
    assert book.state(299) is PUBLISHED
    assert len(book.states()) <= 101
