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
from experiments.engines.pool import ENDS, Died, Left, Word
from experiments.engines.worker import Line, Setup, Surroundings, serve
from experiments.failures import Fault, fault_of
from experiments.interrupts import Stopped
from experiments.progress import Place
from experiments.results import MARKER, Folder
from experiments.worlds import world_of

if TYPE_CHECKING:
    from searchkit.rewards import Scorer, View
    from searchkit.types import Scores

Answer = TypeVar("Answer")

TELL_SECONDS = 0.5  # between two places that are told, and after which a request to stop is noticed


class WorkerActor:
    """Makes trials in a thread, and says how far they are.

    A call listens to what it says, in the actor's first thread, and lasts as long as the trial: between calls Ray
    wakes that thread a hundred times a second, and each time it asks for the interpreter's lock, which a trial holds.

    Args:
        setup: pickled, as it may hold classes of the user's own, to be found in the surroundings.
        rewards: the actor that scores; None scores here.
    """

    def __init__(self, surroundings: Surroundings, setup: bytes, rewards: Any) -> None:
        self._surroundings = surroundings
        self._setup = setup
        self._rewards = rewards
        self._line = _Queues()
        self._num_trials = 0
        self._end: Word | None = None

    def start(self) -> Iterator[Word]:
        """Loads the models; yields what the worker says until it is ready."""
        try:
            setup = _unpacked(self._surroundings, self._setup)
        except OSError as error:
            yield Died(f"does not see the experiment on {os.uname().nodename} ({error}): one file system for all nodes")
            return
        threading.Thread(target=self._serve, args=(setup,), daemon=True).start()
        yield from self._words()

    def make(self, trial: bytes) -> Iterator[Word]:
        """Makes a trial; yields what the worker says until that has ended."""
        self._num_trials += 1
        self._end = None
        self._line.give(trial)
        yield from self._words()

    def leave(self, num_trials: int) -> Iterator[Word]:
        """Leaves a trial after the chunk in work, once its call is cancelled; yields what the worker says until then.

        Nothing that a cancelled call says arrives: the last word is said again.

        Args:
            num_trials: given to the worker so far, this one included.
        """
        self._line.stop.set()
        if self._num_trials < num_trials:  # cancelled before it had begun
            self._end = Left()
        yield from self._words()

    def _words(self) -> Iterator[Word]:
        import ray

        is_cancelled = ray.get_runtime_context().is_canceled
        while self._end is None and not is_cancelled():
            word = self._line.hear(TELL_SECONDS)
            if isinstance(word, ENDS):
                self._end = word
            elif word is not None:
                yield word
        if self._end is not None:
            yield self._end

    def _serve(self, setup: Setup) -> None:
        try:
            serve(self._line, setup, threads=self._surroundings.threads, load_maker=self._load_maker)
        except Exception as error:
            self._line.send(Died(f"could not start: {type(error).__name__}: {error}"))
        finally:
            self._line.send(Died("left"))

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
    """A worker's line, within its process; of places only the newest waits, as words are dear to Ray."""

    def __init__(self) -> None:
        self._trials: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._place: Place | None = None
        self.stop = threading.Event()

    def give(self, trial: bytes) -> None:
        self._place = None  # that of the trial before
        self._trials.put(trial)

    def hear(self, seconds: float) -> Word | None:
        """Returns the next word; after so many seconds without one the newest place, None where that was told."""
        try:
            return self._words.get(timeout=seconds)
        except queue.Empty:
            place, self._place = self._place, None
            return place

    def receive(self) -> bytes | None:
        return self._trials.get()

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def send(self, word: Word) -> None:
        if isinstance(word, Place):
            self._place = word
        else:
            self._words.put(word)
