"""What the ranks' words come to."""

from __future__ import annotations

import pytest

from online_trainer.rounds.word import Agreement, Word


@pytest.mark.parametrize(
    ("words", "begins", "over"),
    [
        ([Word(), Word()], False, False),
        ([Word(ready=1), Word()], True, False),
        ([Word(ready=1), Word(owes=1)], False, False),
        ([Word(ready=1), Word(exhausted=1)], True, False),
        ([Word(exhausted=1), Word(exhausted=1)], False, True),
        ([Word(ready=1), Word(ending=1)], True, True),
    ],
)
def test_a_round_begins_when_one_has_a_batch_and_none_owes_one(words: list[Word], begins: bool, over: bool) -> None:
    agreed = Agreement(words)
    assert (agreed.begins, agreed.over) == (begins, over)


def test_one_journal_s_word_about_the_encoding_is_stronger_than_what_others_would_choose() -> None:
    assert Agreement([Word(encoding=0), Word(encoding=1, journalled=1)]).compressed is True
    assert Agreement([Word(encoding=0), Word(encoding=0)]).compressed is False
    assert Agreement([Word(), Word()]).compressed is None


def test_one_sick_or_passed_rank_is_enough_and_rank_0_alone_names_the_version() -> None:
    agreed = Agreement([Word(version=7), Word(version=9, sick=1, passed=1)])
    assert agreed.sick and agreed.passed and agreed.version == 7
    assert not Agreement([Word(), Word()]).sick and not Agreement([Word(), Word()]).passed
