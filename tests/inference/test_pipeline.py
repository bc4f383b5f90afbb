import threading
from collections.abc import Iterator

import pytest

from pyhar.inference.pipeline import Ahead, in_background

PATIENCE_S = 30.0


def test_items_come_in_order_from_another_thread() -> None:
    threads: set[int] = set()

    def numbers() -> Iterator[int]:
        for i in range(100):
            threads.add(threading.get_ident())
            yield i

    with Ahead(numbers(), 3) as ahead:
        assert list(ahead) == list(range(100))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert ahead.dropped == 0


def test_no_more_items_are_made_than_may_wait() -> None:
    made: list[int] = []
    full = threading.Event()

    def numbers() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            if len(made) == 4:
                full.set()
            yield i

    with Ahead(numbers(), 2) as ahead:
        for taken, item in enumerate(ahead, start=1):
            if taken == 1:
                assert full.wait(PATIENCE_S)  # two wait beside the one in use and the one in the making
            assert item == taken - 1
            assert len(made) <= taken + 3


def test_an_error_comes_once_after_the_items_before_it() -> None:
    def numbers() -> Iterator[int]:
        yield 0
        yield 1
        raise KeyError("two")

    seen: list[int] = []
    with Ahead(numbers(), 5) as ahead:
        with pytest.raises(KeyError, match="two"):
            seen.extend(iter(ahead))
        assert list(ahead) == []
    assert seen == [0, 1]


def test_leaving_early_closes_the_source_in_its_thread() -> None:
    closed: list[int] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.get_ident())

    def leave() -> None:
        with Ahead(endless(), 2) as ahead:
            next(iter(ahead))
            raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        leave()
    assert threading.active_count() == before
    assert len(closed) == 1
    assert closed[0] != threading.get_ident()


def test_the_newest_wins_and_the_others_are_counted() -> None:
    made, go_on = threading.Event(), threading.Event()

    def camera() -> Iterator[int]:
        yield from range(10)
        made.set()
        assert go_on.wait(PATIENCE_S)
        yield 10

    with Ahead(camera(), newest=True) as ahead:
        assert made.wait(PATIENCE_S)
        frames = iter(ahead)
        assert next(frames) == 9
        go_on.set()
        assert list(frames) == [10]
    assert ahead.dropped == 9


def test_stopping_does_not_wait_for_a_source_that_hangs() -> None:
    hang = threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        hang.wait(PATIENCE_S)
        yield 1

    with Ahead(camera()) as ahead:
        frames = iter(ahead)
        assert next(frames) == 0
        threading.Timer(0.05, ahead.stop).start()
        assert list(frames) == []
        hang.set()


def test_work_in_the_background_is_done_in_order_before_the_block_ends() -> None:
    done: list[int] = []
    threads: set[int] = set()

    def work(item: int) -> None:
        threads.add(threading.get_ident())
        done.append(item)

    with in_background(work, 2) as put:
        for i in range(50):
            put(i)
    assert done == list(range(50))
    assert threading.get_ident() not in threads


def test_no_more_work_waits_than_may() -> None:
    begun, go_on = threading.Event(), threading.Event()
    given: list[int] = []

    def work(item: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    def give() -> None:
        with in_background(work, 2) as put:
            for i in range(10):
                put(i)
                given.append(i)

    thread = threading.Thread(target=give)
    thread.start()
    assert begun.wait(PATIENCE_S)
    thread.join(0.2)
    assert thread.is_alive()
    assert len(given) <= 3  # one at work, two waiting
    go_on.set()
    thread.join(PATIENCE_S)
    assert len(given) == 10


@pytest.mark.parametrize("at", [0, 19])
def test_an_error_in_the_background_is_raised_once(at: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == at:
            raise KeyError(item)
        done.append(item)

    def give() -> None:
        with in_background(work, 2) as put:
            for i in range(20):
                put(i)

    with pytest.raises(KeyError) as caught:
        give()
    assert caught.value.args == (at,)
    assert caught.value.__cause__ is None
    assert done == list(range(at))


def test_an_error_of_the_block_forgets_what_waits() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        done.append(item)

    def give() -> None:
        with in_background(work, 5) as put:
            for i in range(4):
                put(i)
            assert begun.wait(PATIENCE_S)
            threading.Timer(0.2, go_on.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give()
    assert done == [0]
