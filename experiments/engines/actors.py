"""What lives on a Ray cluster: workers that hold the models and, where they are placed apart, the rewards.

Plain classes; the cluster makes actors of them.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.engines.making import Maker
from experiments.engines.pool import Died, Word
from experiments.engines.worker import Line, Setup, Surroundings, serve
from experiments.failures import Fault, fault_of
from experiments.interrupts import Stopped
from experiments.results import MARKER, Folder
from experiments.worlds import world_of

if TYPE_CHECKING:
    from searchkit.rewards import Scorer, View
    from searchkit.types import Scores

Answer = TypeVar("Answer")


class WorkerActor:
    """Makes trials in a thread, and says how far they are.

    Args:
        setup: pickled, as it may hold classes of the user's own, to be found in the surroundings.
        rewards: the actor that scores; None scores here.
    """

    def __init__(self, surroundings: Surroundings, setup: bytes, rewards: Any) -> None:
        self._surroundings = surroundings
        self._setup = setup
        self._rewards = rewards
        self._line = _Queues()

    def words(self) -> Iterator[Word]:
        """Yields all that the worker says, to the end."""
        try:
            setup = _unpacked(self._surroundings, self._setup)
        except OSError as error:
            yield Died(f"does not see the experiment on {os.uname().nodename} ({error}): one file system for all nodes")
            return
        threading.Thread(target=self._serve, args=(setup,), daemon=True).start()
        while (word := self._line.words.get()) is not None:
            yield word

    def take(self, trial: bytes) -> None:
        """Gives it a trial."""
        self._line.trials.put(trial)

    def stop(self) -> None:
        """Lets it leave its trial after the chunk in work."""
        self._line.stop.set()

    def _serve(self, setup: Setup) -> None:
        try:
            serve(self._line, setup, threads=self._surroundings.threads, load_maker=self._load_maker)
        except Exception as error:
            self._line.send(Died(f"could not start: {type(error).__name__}: {error}"))
        finally:
            self._line.words.put(None)

    def _load_maker(self, folder: Folder, line: Line) -> Maker:
        scorer = None if self._rewards is None else RemoteScorer(self._rewards)
        return Maker(folder=folder, tell=line.send, check=line.check, scorer=scorer)


class RewardActor:
    """Scores what workers make; arguments are those of `WorkerActor`. Loads its models when it is first asked."""

    def __init__(self, surroundings: Surroundings, setup: bytes) -> None:
        self._experiment = _unpacked(surroundings, setup).folder.experiment
        import torch

        torch.set_num_threads(surroundings.threads)

    def score(self, views: Sequence[View]) -> Sequence[Scores] | Fault:
        """Returns what the scorer's `score` does, or what went wrong with it."""
        return self._answer(lambda scorer: scorer.score(views))

    def score_whole(self, views: Sequence[View]) -> Sequence[float] | Fault:
        """Returns what the scorer's `score_whole` does, or what went wrong with it."""
        return self._answer(lambda scorer: scorer.score_whole(views))

    def _answer(self, ask: Callable[[Scorer], Answer]) -> Answer | Fault:
        import torch

        try:
            with torch.no_grad():
                return ask(world_of(self._experiment).make_scorer(self._experiment))
        except Exception as error:
            return fault_of(error)


@dataclass(frozen=True)
class RemoteScorer:
    """Scores where the rewards are: frames travel there, and scores back."""

    rewards: Any

    def score(self, views: Sequence[View]) -> Sequence[Scores]:
        scores: Sequence[Scores] = _answer(self.rewards.score.remote([_packed(view) for view in views]))
        return scores

    def score_whole(self, views: Sequence[View]) -> Sequence[float]:
        scores: Sequence[float] = _answer(self.rewards.score_whole.remote([_packed(view) for view in views]))
        return scores


def _answer(asked: Any) -> Any:
    import ray

    answer = ray.get(asked)
    if isinstance(answer, Fault):
        raise ValueError(answer.message) if answer.is_final else RuntimeError(f"a reward failed:\n\n{answer.trace}")
    return answer


def _packed(view: View) -> View:
    """Returns a view for another device; a piece of its window that is the newest one, too, travels once."""
    newest = view.newest.cpu()
    window = tuple(newest if piece is view.newest else piece.cpu() for piece in view.window)
    return view._replace(latents=tuple(piece.cpu() for piece in view.latents), window=window, newest=newest)


def _unpacked(surroundings: Surroundings, setup: bytes) -> Setup:
    """Returns the set-up of this process, which is in the engine's surroundings from now on.

    Raises:
        OSError: this node does not see it, or not the experiment's.
    """
    surroundings.enter()
    read: Setup = pickle.loads(setup)
    os.stat(read.folder.path / MARKER)
    return read


class _Queues:
    """A worker's line, within its process."""

    def __init__(self) -> None:
        self.trials: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.words: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        self.stop = threading.Event()

    def receive(self) -> bytes | None:
        return self.trials.get()

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def send(self, word: Word) -> None:
        self.words.put(word)
