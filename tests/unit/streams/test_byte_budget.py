from __future__ import annotations

import threading

from streams.byte_budget import ByteBudget


def test_nothing_is_taken_beyond_the_limit() -> None:
    budget = ByteBudget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.used == 6
    assert budget.take(4)
    budget.give_back(6)
    assert budget.take(6)
    assert budget.used == 10


def test_threads_never_exceed_the_limit() -> None:
    budget = ByteBudget(1000)
    taken: list[int] = []

    def work() -> None:
        taken.append(sum(budget.take(3) for _ in range(500)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 333
    assert budget.used == 999
