"""Samples in batches, for runs that must go on when one of them cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from pyhar.data.batches import collate
from pyhar.errors import UserError

Key = TypeVar("Key")


@dataclass
class Skipped:
    """How many samples could not be read, and the first reasons."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.reasons) < 5 and reason not in self.reasons:
            self.reasons.append(reason)


class _Guarded(Dataset[Any], Generic[Key]):
    """Item i is (key, sample), or (key, message) where reading it failed."""

    def __init__(self, read: Callable[[Key], Any], keys: Sequence[Key]) -> None:
        self.read, self.keys = read, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> tuple[Key, Any]:
        key = self.keys[place]
        try:
            return key, self.read(key)
        except (UserError, OSError) as error:
            return key, str(error)


def _collate(items: list[tuple[Key, Any]]) -> tuple[list[Key], Any, list[tuple[Key, str]]]:
    good = [(key, sample) for key, sample in items if not isinstance(sample, str)]
    bad = [(key, sample) for key, sample in items if isinstance(sample, str)]
    return [key for key, _ in good], collate([sample for _, sample in good]) if good else None, bad


def batches(
    read: Callable[[Key], Any], keys: Sequence[Key], batch_size: int, workers: int, pin: bool = False
) -> Iterator[tuple[list[Key], Any, list[tuple[Key, str]]]]:
    """Call `read` for each of `keys` and yield (keys, collated samples or None, failures as (key, message)), batch by
    batch in order.

    UserError and OSError make a failure; other errors are bugs and come through. workers: processes that read, 0 for
    none.
    """
    loader: DataLoader[Any] = DataLoader(
        _Guarded(read, keys), batch_size=batch_size, num_workers=workers, collate_fn=_collate, pin_memory=pin
    )
    yield from loader
