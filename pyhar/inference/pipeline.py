"""Stages that run side by side in threads, with bounded queues between them: order is kept, memory is constant.

OpenCV and PyTorch release Python's lock while they work, so that decoding, cropping, the network, drawing and encoding
overlap.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_S = 0.5
"""A waiting thread looks this often whether a signal's handler ended its queue."""
_PATIENCE_S = 5.0
"""A reader that does not return, as of a camera that hangs, is left behind after this long."""


class Channel(Generic[T]):
    """A bounded queue between two threads, which both can end."""

    def __init__(self, most: int, *, newest: bool = False) -> None:
        """most: items that wait in it. newest: when it is full the oldest is dropped, where otherwise `put` waits."""
        self.dropped = 0
        self._most = most
        self._newest = newest
        self._items: deque[T] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()  # on a lock that a signal's handler may take again

    def put(self, item: T) -> bool:
        """Append an item, once there is room; False, and the item is lost, if the channel was ended."""
        with self._changed:
            if self._newest and len(self._items) >= self._most:
                self._items.popleft()
                self.dropped += 1
            while len(self._items) >= self._most and not self._ended:
                self._changed.wait(_LOOK_S)
            if not self._ended:
                self._items.append(item)
                self._changed.notify_all()
            return not self._ended

    def end(self, error: BaseException | None = None) -> None:
        """No more items come. `error` is raised where they are taken, after the last."""
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """End, and forget the items that wait: nobody takes them any more."""
        with self._changed:
            self._items.clear()
            self.end()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    self._changed.wait(_LOOK_S)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # or it would live on until the next one comes
        error, self._error = self._error, None
        if error is not None:
            raise error


class Ahead(Generic[T]):
    """Items made in a thread, ahead of the one in use. Iterate once, inside a `with`, which ends the thread."""

    def __init__(self, items: Iterable[T], most: int = 1, *, newest: bool = False) -> None:
        """most: items that wait beside the one in the making. newest: see `Channel`, for a source that does not wait.

        What `items` raises is raised here, after the items before it. If `items` is a generator, it is closed in the
        thread.
        """
        self._channel: Channel[T] = Channel(most, newest=newest)
        self._thread = threading.Thread(target=_produce, args=(items, self._channel), daemon=True)

    @property
    def dropped(self) -> int:
        """Items that newer ones replaced before they were taken."""
        return self._channel.dropped

    def stop(self) -> None:
        """End the iteration after the items that wait; may be called from a signal's handler."""
        self._channel.end()

    def __iter__(self) -> Iterator[T]:
        return iter(self._channel)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()
        self._thread.join(_PATIENCE_S)


@contextmanager
def in_background(consume: Callable[[T], None], most: int = 2) -> Iterator[Callable[[T], None]]:
    """Give a function that hands an item to `consume`, which runs in a thread, one item after the other.

    The function waits while `most` items wait. What `consume` raises is raised by the function or at the end of the
    block, once. The block's end waits for all items; if it raises, those that wait are forgotten.
    """
    channel: Channel[T] = Channel(most)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for item in channel:
                consume(item)
                del item
        except BaseException as error:
            failed.append(error)
            channel.close()

    def put(item: T) -> None:
        if not channel.put(item):
            raise failed[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield put
        channel.end()
        thread.join()
    except BaseException:
        channel.close()
        thread.join()
        raise
    if failed:
        raise failed[0]


def _produce(items: Iterable[T], channel: Channel[T]) -> None:
    error: BaseException | None = None
    iterator = iter(items)
    try:
        for item in iterator:
            if not channel.put(item):
                break
            del item
    except BaseException as raised:
        error = raised
    try:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
    except BaseException as raised:
        error = error or raised
    channel.end(error)
