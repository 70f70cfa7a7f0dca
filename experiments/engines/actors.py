"""What lives on a Ray cluster: workers that hold the models and, where they are placed apart, the rewards.

Plain classes; the cluster makes actors of them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.engines.channel import Channel, accepted, listening
from experiments.engines.making import Maker
from experiments.engines.worker import Line, Setup, Surroundings, serve
from experiments.failures import Fault, fault_of
from experiments.results import MARKER, Folder
from experiments.worlds import world_of

if TYPE_CHECKING:
    from searchkit.rewards import Scorer, View
    from searchkit.types import Scores

Answer = TypeVar("Answer")


class WorkerActor:
    """Makes trials for an engine that connects to it, as a process of the engine's own machine does.

    Ray places a worker, and says what became of it; words go past Ray, to which each is dear. A worker is in one call
    as long as it lives: between calls Ray would ask for the interpreter's lock a hundred times a second.

    Args:
        setup: pickled, as it may hold classes of the user's own, to be found in the surroundings.
        rewards: the actor that scores; None scores here.
        key: a secret of the engine's, which whoever connects must know.
    """

    def __init__(self, surroundings: Surroundings, setup: bytes, rewards: Any, key: bytes) -> None:
        import ray

        self._surroundings = surroundings
        self._setup = setup
        self._rewards = rewards
        self._key = key
        self._listener = listening(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def address(self) -> tuple[str, int]:
        """Returns the host and port to connect to; to be asked for before the worker works."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def work(self) -> str:
        """Loads the models and makes trials until the engine is gone; returns what ended it, to follow "the worker"."""
        with accepted(self._listener, self._key) as connection:
            try:
                setup = _unpacked(self._surroundings, self._setup)
            except OSError as error:
                return f"does not see the experiment on {os.uname().nodename} ({error}): one file system for all nodes"
            try:
                serve(Channel(connection), setup, threads=self._surroundings.threads, load_maker=self._load_maker)
            except Exception as error:
                return f"could not work: {type(error).__name__}: {error}"
        return "has left"

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
