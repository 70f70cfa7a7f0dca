"""Models and memories that are in the CPU's memory but for when a device needs them.

accelerate's hooks would copy weights back after every call, and leave a model on the device if its call fails. Here
weights stay where they are, and their copies go.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from searchkit.codecs import Decoder

if TYPE_CHECKING:
    from searchkit.rewards import Scorer, View
    from searchkit.types import Scores

Device = torch.device | str
_DEPTH = 3  # a judge's reward, its encoder, and that one's network


def modules_of(model: object, depth: int = _DEPTH) -> list[nn.Module]:
    """Returns the networks that a reward or a judge is made of: itself, what it holds, and what that holds."""
    if isinstance(model, nn.Module):
        return [model]
    held = vars(model).values() if depth and hasattr(model, "__dict__") else ()
    return [module for value in held for module in modules_of(value, depth - 1)]


@contextmanager
def visiting(modules: Sequence[nn.Module], device: Device) -> Iterator[None]:
    """Has modules compute on a device with copies of their weights, and then with their own again, whatever happens."""
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (tensors, name, tensor)
        for module in modules
        for part in module.modules()
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    copies: dict[int, Tensor] = {}  # by what they are of: weights that are shared stay shared
    try:
        for tensors, name, tensor in places:
            if id(tensor) not in copies:
                copies[id(tensor)] = _copied(tensor, device)
            tensors[name] = copies[id(tensor)]
        yield
    finally:
        for tensors, name, tensor in places:
            tensors[name] = tensor


def _copied(tensor: Tensor, device: Device) -> Tensor:
    copy = tensor.detach().to(device)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


@contextmanager
def leaving(module: nn.Module) -> Iterator[None]:
    """Has a module in the CPU's memory, and then back on its device, whatever happens."""
    device = next(module.parameters()).device
    try:
        module.to("cpu")
        yield
    finally:
        module.to(device)


class Seat:
    """A device's room for one of several models that are in the CPU's memory: who is called sits down, and stays.

    Not for several threads.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._seated: object = None
        self._visit = ExitStack()

    def for_calls_of(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a model that sits down when it is called; whoever sat there leaves."""

        @functools.wraps(model, assigned=(), updated=())  # for its signature, which tells what a reward scores
        def call(*args: Any, **given: Any) -> Any:
            if self._seated is not model:
                self.clear()
                self._visit.enter_context(visiting(modules_of(model), self.device))
                self._seated = model
            return model(*args, **given)

        return call

    def clear(self) -> None:
        """Has the seat empty."""
        self._seated = None
        self._visit.close()

    @contextmanager
    def until_empty(self) -> Iterator[None]:
        """Has the seat empty in the end, whatever happens."""
        try:
            yield
        finally:
            self.clear()


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorerWithin:
    """A scorer while which others make room.

    Attributes:
        room: entered in this order while it scores.
    """

    scorer: Scorer
    room: tuple[Callable[[], AbstractContextManager[None]], ...]

    def score(self, views: Sequence[View]) -> Sequence[Scores]:
        with ExitStack() as stack:
            self._enter(stack)
            return self.scorer.score(views)

    def score_whole(self, views: Sequence[View]) -> Sequence[float]:
        with ExitStack() as stack:
            self._enter(stack)
            return self.scorer.score_whole(views)

    def _enter(self, stack: ExitStack) -> None:
        for room in self.room:
            stack.enter_context(room())


@dataclass(frozen=True, kw_only=True, eq=False)
class WaitingCaches:
    """A decoder whose caches are in the CPU's memory, but for those of the streams that are being decoded."""

    decoder: Decoder
    device: Device

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
        """Returns frames on the device and caches on the CPU; see `Decoder`."""
        frames, after = self.decoder.decode(latents, [_moved(cache, self.device) for cache in caches])
        return frames, [_moved(cache, "cpu") for cache in after]


def _moved(cache: Any, device: Device) -> Any:
    """Returns a decoder's cache, which is a tensor, a tuple of such, or something without bytes, on a device."""
    if isinstance(cache, tuple):
        return tuple(_moved(entry, device) for entry in cache)
    return cache.to(device) if isinstance(cache, Tensor) else cache
