"""A trial's curve is the chosen video's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from experiments.config import Trial
from experiments.presets import shapes_quick
from experiments.trials import make_stream, run_trial
from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search
from searchkit.types import Action, Route, S, SearchOutput, SearchProblem


@dataclass(frozen=True, kw_only=True)
class EveryRoute:
    """Tries one seed a chunk, under all three routes."""

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        def propose(state: S, rank: int) -> Sequence[Action]:
            (action,) = problem.actions(state, num=1, seed=seed)
            return [action._replace(route=route) for route in Route]

        return search(problem, propose=propose, select=keep_best(1, Fusion()))


def test_candidates_of_one_seed_are_told_apart_by_their_routes():
    experiment = replace(shapes_quick(), num_chunks=6)
    trial = Trial(EveryRoute(), experiment.prompts[0], 0)
    outcome = run_trial(experiment, trial, stream=make_stream(experiment, trial.prompt), on_chunk=lambda chunk: None)
    on_path = [record for record in outcome.records if record.lineage == outcome.chosen[: len(record.lineage)]]
    assert [record.chunk for record in on_path] == list(range(6))
    # The window still holds the whole video, so its last long score is the whole one's.
    assert outcome.result.curve[-1].long == pytest.approx(outcome.result.reward)
