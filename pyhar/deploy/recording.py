"""A function of tensors on the CPU, recorded once and then repeated: what CUDA graphs are on a GPU.

The network is some hundred small operations, and what leads to each (checks, choice of the backend, new memory) takes
as long as the operation where pictures are small. A recording keeps the operations alone, with the memory they work
in: our kernels as one native call up to the next of PyTorch's, PyTorch's as calls that write where they wrote before.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from pyhar.kernels import native
from pyhar.kernels.cpu_entry import keeping

_EMPTY = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.clone.default}
_WASTE = 2
"""A block serves what needs at least one part in so many of it."""


class Recorded(NamedTuple):
    """What a function does, and where its result is afterwards."""

    steps: list[Callable[[], Any]]
    result: Any
    memory: dict[int, torch.UntypedStorage]
    """What launches of our kernels, which know addresses alone, read and write."""

    def repeat(self) -> None:
        """Do it again."""
        for step in self.steps:
            step()


class Pool:
    """Memory for recordings that are repeated one at a time: all of them work in the same blocks."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._free: set[int] = set()

    @property
    def size(self) -> int:
        """Bytes in all blocks."""
        return sum(len(block) for block in self._blocks)

    def begin(self) -> None:
        """All blocks are free for a new recording."""
        self._free = set(range(len(self._blocks)))

    def take(self, size: int) -> int:
        """The number of a block of at least `size` bytes, the smallest that is free, or a new one."""
        fitting = [n for n in self._free if size <= len(self._blocks[n]) <= _WASTE * size]
        if fitting:
            found = min(fitting, key=lambda n: len(self._blocks[n]))
            self._free.remove(found)
            return found
        self._blocks.append(torch.empty(size, dtype=torch.uint8))
        return len(self._blocks) - 1

    def give_back(self, number: int) -> None:
        """Nothing reads the block any more."""
        self._free.add(number)

    def place(self, number: int, like: Tensor, size: int) -> Tensor:
        """A tensor of the form of `like`, `size` bytes from first to last value, at the beginning of a block."""
        return self._blocks[number][:size].view(like.dtype).as_strided(like.size(), like.stride())

    def address(self, number: int) -> int:
        """Where a block begins."""
        return self._blocks[number].data_ptr()


def record(function: Callable[..., Any], inputs: tuple[Tensor, ...], pool: Pool) -> Recorded:
    """Call `function(*inputs)` and return what repeats it on whatever the same inputs then hold.

    The function must do the same with any values: it may not look at them. What it computes lies in the pool's memory,
    the result too, until another recording in that pool is made or repeated. Raises RuntimeError if the function looks
    at values, or if this thread is recording already.
    """
    recorder = _Recorder(pool)
    try:
        with recorder, keeping() as memory:
            result = function(*inputs)
    finally:
        recorder.close()
    return Recorded(recorder.steps, result, memory)


class _Recorder(TorchDispatchMode):
    """Sees each operation of PyTorch's, does it, and keeps it; in between, the native module keeps ours.

    A tensor's block is free again when the last tensor that lies in it is gone from the function. Steps hold tensors of
    their own, which do not count.
    """

    takes_kernels = True  # see pyhar.ops.dispatch.is_traced

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.steps: list[Callable[[], None]] = []
        self._uses: dict[int, int] = {}  # block -> tensors that lie in it
        self._block_at: dict[int, int] = {}  # address -> block
        self._watched: dict[int, weakref.ref[Tensor]] = {}  # id -> tensor that lies in a block
        self._launches: Any = None
        self._open = True
        pool.begin()
        self._listen()

    def close(self) -> None:
        """Keep no more."""
        self._open = False
        self._end_launches()
        self._watched.clear()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch asks. Skipping would import all of its compiler, which takes a second, at the first operation."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # what is only made of other operations is seen as those
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func in _EMPTY:
            return self._moved(func(*args, **kwargs))
        given = {_storage(leaf) for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)}
        result = func(*args, **kwargs)
        leaves, _ = tree_flatten(result)
        if given and any(isinstance(leaf, (bool, int, float)) for leaf in leaves):
            raise RuntimeError(f"{func} reads values of a tensor")
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
            self._keep(functools.partial(func, *_own(args), **_own(kwargs)))
            return result
        old = [_storage(leaf) in given for leaf in leaves if isinstance(leaf, Tensor)]
        if all(old):  # views
            return tree_map_only(Tensor, self._watch, result)
        if any(old):
            raise RuntimeError(f"{func} returns views among new tensors")
        result = tree_map_only(Tensor, self._moved, result)
        self._keep(_writer(func, _own(args), _own(kwargs), _own(tree_flatten(result)[0])))
        return result

    def _keep(self, step: Callable[[], Any]) -> None:
        self._end_launches()
        self.steps.append(step)
        self._listen()

    def _listen(self) -> None:
        module = native.load()
        if module is not None:
            self._launches = module.Recording()
            self._launches.begin()

    def _end_launches(self) -> None:
        if self._launches is not None:
            self._launches.end()
            if len(self._launches):
                self.steps.append(self._launches.run)
            self._launches = None

    def _moved(self, tensor: Tensor) -> Tensor:
        """The same in a block of the pool."""
        if tensor.numel() == 0:
            return tensor
        size = tensor.itemsize * (1 + sum((n - 1) * s for n, s in zip(tensor.size(), tensor.stride(), strict=True)))
        block = self.pool.take(size)
        placed = self.pool.place(block, tensor, size)
        placed.copy_(tensor)
        self._uses[block] = 0
        self._block_at[self.pool.address(block)] = block
        return self._watch(placed)

    def _watch(self, tensor: Tensor) -> Tensor:
        """Count a tensor that the function gets, if it lies in a block."""
        block, known = self._block_at.get(_storage(tensor)), self._watched.get(id(tensor))
        if block is None or (known is not None and known() is tensor):
            return tensor
        self._uses[block] += 1
        key = id(tensor)

        def gone(_: Any) -> None:
            self._watched.pop(key, None)
            self._uses[block] -= 1
            if self._open and not self._uses[block]:
                self.pool.give_back(block)

        self._watched[key] = weakref.ref(tensor, gone)
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _own(tree: Any) -> Any:
    """The same with tensors that nobody else holds, of the same memory."""
    return tree_map_only(Tensor, lambda t: t.as_strided(t.size(), t.stride(), t.storage_offset()), tree)


def _writer(func: OpOverload, args: Any, kwargs: Any, results: list[Any]) -> Callable[[], Any]:
    """What does `func(*args, **kwargs)` and writes what it returns into `results`."""
    if func in _COPIES:
        return functools.partial(results[0].copy_, args[0])
    into = _out_variant(func)
    if into is not None:
        names = [argument.name for argument in into._schema.arguments if argument.is_out]
        return functools.partial(into, *args, **kwargs, **dict(zip(names, results, strict=True)))

    if len(results) == 1:
        return lambda: results[0].copy_(func(*args, **kwargs))

    def write() -> None:
        found, _ = tree_flatten(func(*args, **kwargs))
        for place, value in zip(results, found, strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)

    return write


@functools.cache
def _out_variant(func: OpOverload) -> OpOverload | None:
    """The overload that takes what `func` takes and the tensors to write."""
    packet = func.overloadpacket
    wanted = [(argument.name, str(argument.type)) for argument in func._schema.arguments]
    for name in packet.overloads():
        other: OpOverload = getattr(packet, name)
        outs = [argument for argument in other._schema.arguments if argument.is_out]
        rest = [(a.name, str(a.type)) for a in other._schema.arguments if not a.is_out]
        single = all(str(argument.type) == "Tensor" for argument in outs)
        if outs and single and len(outs) == len(func._schema.returns) and rest == wanted:
            return other
    return None
