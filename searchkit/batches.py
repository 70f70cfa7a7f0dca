"""Batches of rows, which become smaller where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence

log = logging.getLogger(__name__)


class Batches:
    """Runs rows in batches, and remembers how many fitted.

    Where a batch runs out of memory, its half is tried, and no later batch is larger, as if that had been the most
    from the start. Nothing else is changed by a batch that fails: what it made is gone, and its rows run again.

    Args:
        what: the rows' use, for the message that says that batches become smaller.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._fitting: int | None = None

    def run(self, keys: Sequence[Hashable], most: int, call: Callable[[list[int]], None]) -> int:
        """Calls with the indices of equal keys together, in the order of the keys' first appearance.

        Args:
            most: rows of a batch, unless fewer fit.
            call: runs a batch; called again with some of its rows if it ran out of memory.

        Returns:
            The calls that ran to their end.

        Raises:
            torch.OutOfMemoryError: a batch of one row does not fit.
        """
        groups: dict[Hashable, list[int]] = {}
        for index, key in enumerate(keys):
            groups.setdefault(key, []).append(index)
        num_calls = 0
        for waiting in groups.values():
            while waiting:
                batch = waiting[: most if self._fitting is None else min(most, self._fitting)]
                if self._fits(batch, call):
                    waiting = waiting[len(batch) :]
                    num_calls += 1
        return num_calls

    def _fits(self, batch: list[int], call: Callable[[list[int]], None]) -> bool:
        """Runs a batch and returns whether it fitted; a function of its own, so that nothing of a failed one is left.

        The exception holds all that the call had allocated, and is gone when this returns.
        """
        import torch  # late, so that rewards can be named without it

        try:
            call(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self._fitting = len(batch) // 2
            log.warning(
                "out of memory in a batch of %d for %s: going on with at most %d", len(batch), self.what, self._fitting
            )
            return False
        return True
