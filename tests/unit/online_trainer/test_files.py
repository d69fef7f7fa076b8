"""Append-only files, journal and ledger: what a crash or a full disk leaves of them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_trainer.append_file import AppendFile, is_disk_full
from online_trainer.journal import Beginning, Journal, JournalDamaged, Passed
from online_trainer.ledger import Ledger, LedgerRow, Untrained, read_rows
from online_trainer.plan import BatchPlan
from online_trainer.state import StateFolder, StateInUse


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to let files grow past `size`, as on a full disk (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def plan(number: int) -> BatchPlan:
    return BatchPlan(number=number, ranges={0: (number * 2, number * 2 + 2), 3: (number, number + 1)})


BEGINNING = Beginning(model="tiny", history_from={0: 0, 3: 0}, train_from={0: 2, 3: 1})


def test_what_was_not_synced_is_lost_and_what_was_is_kept(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "file")
    file.append(b"one")
    assert file.sync() == 3
    file.append(b"two")
    file.close()
    assert AppendFile(tmp_path / "file").read() == b"one"


def test_a_file_is_cut_back_to_the_length_that_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"committed, torn")
    file = AppendFile(tmp_path / "file", 9)
    file.append(b"!")
    file.sync()
    assert (tmp_path / "file").read_bytes() == b"committed!"
    with pytest.raises(ValueError, match="has 10 bytes and should have 11"):
        AppendFile(tmp_path / "file", 11)


def test_a_full_disk_leaves_no_torn_end_and_nothing_is_lost(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "file")
    file.append(b"a" * 100)
    file.sync()
    file.append(b"b" * 100)
    with file_size_limit(150), pytest.raises(OSError, match="too large") as refused:
        file.sync()
    assert is_disk_full(refused.value)
    assert (tmp_path / "file").read_bytes() == b"a" * 100
    file.append(b"c")
    assert file.sync() == 201
    assert file.read() == b"a" * 100 + b"b" * 100 + b"c"


def test_the_journal_remembers_across_processes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for entry in (BEGINNING, plan(1), plan(2), Passed(first=2, last=2), plan(3)):
        assert journal.append(entry)
    journal.close()
    journal = Journal(tmp_path / "journal")
    assert journal.beginning == BEGINNING
    assert journal.last_plan == 3
    assert journal.plans_after(1) == [plan(2), plan(3)]
    assert [journal.is_passed(number) for number in (1, 2, 3)] == [False, True, False]


@given(st.integers(0, 5), st.integers(1, 60))
def test_a_torn_last_line_never_happened(whole: int, torn: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal(path)
        for number in range(1, whole + 2):
            journal.append(plan(number))
        journal.close()
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:whole]) + lines[whole][: min(torn, len(lines[whole]) - 1)])
        journal = Journal(path)
        assert journal.last_plan == whole
        assert journal.append(plan(whole + 1))
        journal.close()
        assert path.read_bytes() == b"".join(lines)


def test_a_journal_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in (1, 2, 3):
        journal.append(plan(number))
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[2])
    with pytest.raises(JournalDamaged, match="line 2"):
        Journal(path)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(JournalDamaged, match="plan 3 follows plan 1"):
        Journal(path)


def test_a_full_disk_delays_journal_entries_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert journal.append(plan(1))
    with file_size_limit(path.stat().st_size + 10):
        assert not journal.append(plan(2))
        assert not journal.append(plan(3))
    assert Path(path).read_bytes().count(b"\n") == 1
    assert journal.append(plan(4))
    journal.close()
    assert Journal(path).last_plan == 4


def test_ledger_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        LedgerRow(partition=0, offset=7, batch=1, trained=True, ndcg=0.5, event_id="e", user_id="u", item_id="i"),
        LedgerRow(partition=0, offset=8, batch=1, trained=False, reason=Untrained.UNREADABLE),
    ]
    ledger = Ledger(tmp_path / "ledger", 0)
    for row in rows:
        ledger.append(row)
    length = ledger.sync()
    ledger.append(rows[0])
    ledger.sync()
    ledger.close()
    assert read_rows(tmp_path / "ledger") == [*rows, rows[0]]
    assert list(Ledger(tmp_path / "ledger", length).rows()) == rows


def test_a_state_folder_is_one_trainer_s(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    with pytest.raises(StateInUse, match="another trainer runs on"):
        StateFolder(tmp_path / "state")
    state.close()
    StateFolder(tmp_path / "state").close()
