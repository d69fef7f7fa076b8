"""The log of orders: what was synced comes back; a torn end is cut, damage elsewhere is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from online_trainer.exchange.messages import Encoding, Order, Push, Pushed
from online_trainer.exchange.write_ahead import Entry, LogDamaged, Ordered, WriteAheadLog


def ordered(index: int) -> Ordered:
    one = Pushed(
        worker="a", incarnation=1, seq=index, base=0, staleness=0, scale=1.0, encoding=Encoding.DENSE, start=0, stop=2
    )
    push = Push(
        worker="a", incarnation=1, seq=index, generation=0, base=0, ranges={0: (index - 1, index)}, rows=[],
        encoding=Encoding.DENSE, start=0, stop=2, residual_norm=0.0,
    )  # fmt: skip
    return Ordered(Entry(order=Order(index=index, pushes=[one]), pushes=[push], sizes=[4]), [bytes([index]) * 4])


def written(folder: Path, count: int) -> Path:
    log = WriteAheadLog(folder)
    assert list(log.replay(0)) == []
    for index in range(1, count + 1):
        assert log.append([ordered(index)])
    log.close()
    return folder


def replayed(folder: Path, after: int = 0) -> list[Ordered]:
    log = WriteAheadLog(folder)
    found = list(log.replay(after))
    log.close()
    return found


def test_orders_come_back_behind_any_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, 5)
    assert replayed(tmp_path) == [ordered(index) for index in range(1, 6)]
    assert replayed(tmp_path, 3) == [ordered(4), ordered(5)]


def test_a_torn_end_is_cut_wherever_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, 2) / "000000000000.orders"
    whole = path.read_bytes()
    entry = len(whole) // 2
    for length in (entry + 3, entry + 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert replayed(tmp_path) == [ordered(1)]
        assert path.stat().st_size == entry


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, 3) / "000000000000.orders"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(LogDamaged, match="byte 0"):
        replayed(tmp_path)


def test_files_behind_the_checkpoints_go(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path)
    list(log.replay(0))
    for index in range(1, 7):
        log.append([ordered(index)])
        if index % 2 == 0:
            log.rotate(index, keep_after=index - 2)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000004.orders", "000000000006.orders"]
    assert replayed(tmp_path, 4) == [ordered(5), ordered(6)]
    with pytest.raises(LogDamaged, match="order 5 where 3 comes next"):
        replayed(tmp_path, 2)
