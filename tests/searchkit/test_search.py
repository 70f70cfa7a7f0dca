"""The search loop and the policies, on a problem whose scores come from the seeds alone."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from policies import BeamSearch, BestOfN, BestOfNPerChunk, Greedy, StreamT1
from policies.stream_t1 import Pruning, Seeds
from searchkit.cost import Cost, total
from searchkit.fusion import Fusion, RewardRouting
from searchkit.noise import derive_seed, draw
from searchkit.pruning import keep_all, keep_best
from searchkit.search import BudgetSpent, Level, Selection, search
from searchkit.stream import Stream
from searchkit.types import Action, Child, Policy, Record, Request, Route, Scores, SearchOutput, Whole


@dataclass(frozen=True, eq=False)
class _Walk:
    """A state that is its lineage."""

    actions: tuple[Action, ...] = ()
    scores: tuple[Scores, ...] = ()
    leaving: int | None = None

    @property
    def chunk(self) -> int:
        return len(self.actions)


def _score(actions: Sequence[Action]) -> Scores:
    rng = random.Random(str([action.seed for action in actions]))
    return Scores(rng.random(), rng.random())


@dataclass
class _Walks:
    """A problem that scores a lineage by its seeds, which no model has to make.

    max_chunks: lineages end after so many chunks, given their first seed; None lets all go on.
    """

    horizon: int | None = 4
    score: Callable[[Sequence[Action]], Scores] = _score
    max_chunks: Callable[[int], int] | None = None
    levels: list[int] = field(default_factory=list)
    root: _Walk = field(default_factory=_Walk)

    def actions(self, state: _Walk, *, num: int, seed: int) -> list[Action]:
        if self.max_chunks and state.chunk and state.chunk >= self.max_chunks(state.actions[0].seed):
            return []
        return [Action(derive_seed(seed, [a.seed for a in state.actions], index)) for index in range(num)]

    def expand(self, requests: Sequence[Request[_Walk]]) -> list[Child[_Walk]]:
        self.levels.append(len(requests))
        return [self._child(*request) for request in requests]

    def score_whole(self, states: Sequence[_Walk]) -> list[Whole]:
        return [Whole(math.fsum(s.long for s in state.scores), Cost(frames_scored=1)) for state in states]

    def _child(self, state: _Walk, action: Action) -> Child[_Walk]:
        actions = (*state.actions, action)
        scores = self.score(actions)
        leaving = len(actions) - 2 if len(actions) > 2 else None
        return Child(_Walk(actions, (*state.scores, scores), leaving), scores, Cost(denoise_passes=4, denoise_calls=1))


def _found(output: SearchOutput[_Walk]) -> tuple[tuple[Action, ...], tuple[Scores, ...]]:
    return output.best.actions, output.best.scores


POLICIES: list[Policy] = [
    Greedy(),
    BestOfN(),
    BestOfNPerChunk(),
    BeamSearch(),
    StreamT1(),
    StreamT1(pruning="random", seeds="counted"),
]


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_width_one_equals_best_of_n_per_chunk(seed: int):
    beam = BeamSearch(beam_width=1, children=5)(_Walks(), seed=seed)
    best_of_n = BestOfNPerChunk(num_candidates=5)(_Walks(), seed=seed)
    assert _found(beam) == _found(best_of_n)
    assert beam.records == best_of_n.records


@pytest.mark.parametrize(
    "policy", [BeamSearch(beam_width=1, children=1), BestOfNPerChunk(num_candidates=1), BestOfN(num_candidates=1)]
)
def test_search_with_one_candidate_equals_greedy(policy: Policy):
    assert _found(policy(_Walks(), seed=7)) == _found(Greedy()(_Walks(), seed=7))


@pytest.mark.parametrize("policy", POLICIES)
def test_search_is_the_same_for_the_same_seed(policy: Policy):
    assert policy(_Walks(), seed=1).records == policy(_Walks(), seed=1).records
    assert policy(_Walks(), seed=1).best.actions != policy(_Walks(), seed=2).best.actions


@pytest.mark.parametrize("policy", POLICIES)
def test_records_and_costs_add_up(policy: Policy):
    problem = _Walks()
    output = policy(problem, seed=0)
    assert len(output.records) == sum(problem.levels)
    assert output.cost.denoise_passes == 4 * len(output.records)
    finalists = {record.lineage for record in output.records if record.kept and record.chunk == 3}
    assert output.cost.frames_scored == (len(finalists) if len(finalists) > 1 else 0)
    assert output.best.actions in finalists


@pytest.mark.parametrize("policy", POLICIES)
def test_lineage_of_the_best_was_kept_all_along(policy: Policy):
    output = policy(_Walks(), seed=0)
    kept = {record.lineage: record for record in output.records if record.kept}
    lineage = output.best.actions
    along = [kept[lineage[: chunk + 1]] for chunk in range(4)]
    assert tuple(record.scores for record in along) == output.best.scores
    assert tuple(record.action for record in along) == output.best.actions


def test_beam_search_keeps_the_best_of_all_beams():
    output = BeamSearch(beam_width=2, children=3, fusion=Fusion(short_cap=0.5))(_Walks(), seed=0)
    for chunk in range(4):
        level = [record for record in output.records if record.chunk == chunk]
        assert len(level) == 6
        best = sorted(level, key=lambda record: -record.fused)[:2]
        assert {record.lineage for record in level if record.kept} == {record.lineage for record in best}


def test_best_of_n_keeps_all_its_streams_to_the_end():
    problem = _Walks()
    output = BestOfN(num_candidates=5)(problem, seed=0)
    assert problem.levels == [5, 5, 5, 5]
    assert all(record.kept for record in output.records)
    totals = {
        lineage[0]: sum(r.scores.long for r in output.records if r.lineage[0] == lineage[0])
        for lineage in (record.lineage for record in output.records)
    }
    assert output.best.actions[0] == max(totals, key=lambda first: totals[first])


def test_fused_scores_are_those_of_the_policys_fusion():
    fusion = Fusion(short_cap=0.5, ramp=3)
    output = BestOfNPerChunk(fusion=fusion)(_Walks(), seed=0)
    assert all([r.fused] == fusion([r.scores], chunk=r.chunk, horizon=4) for r in output.records)


@pytest.mark.parametrize("pruning", ["reward", "random"])
@pytest.mark.parametrize("seeds", ["own", "counted"])
def test_stream_t1_routes_by_the_scores_and_carries_noise_on(pruning: Pruning, seeds: Seeds):
    routing = RewardRouting(long_threshold=0.0)
    policy = StreamT1(noise_correlation=-0.2, routing=routing, pruning=pruning, seeds=seeds)
    problem = _Walks(horizon=6)
    output = policy(problem, seed=0)
    assert {record.action.correlation for record in output.records} == {-0.2}
    routes = [action.route for action in output.best.actions]
    assert routes[:3] == [Route.DISCARD] * 3
    assert routes == [routing(output.best.scores[:chunk], chunk - 2 if chunk > 2 else None) for chunk in range(6)]


def _levels(output: SearchOutput[_Walk]) -> list[list[Record]]:
    """The records of each chunk, in the order of the proposals."""
    return [list(level) for _, level in itertools.groupby(output.records, key=lambda record: record.chunk)]


@pytest.mark.parametrize(("beam_width", "children"), [(1, 1), (1, 4), (3, 1), (2, 2), (3, 4)])
def test_counted_seeds_repeat_each_beams_last_and_count_up_by_chunk_rank_and_child(beam_width: int, children: int):
    fusion = Fusion(short_cap=0.5)
    output = StreamT1(beam_width=beam_width, children=children, fusion=fusion, seeds="counted")(_Walks(), seed=7000)
    first, *later = _levels(output)
    assert [record.action.seed for record in first] == [7000 + index for index in range(beam_width * children)]
    for chunk, level in enumerate(later, 1):
        for place, record in enumerate(level):
            rank, child = divmod(place, children)
            counted = 7000 + 1000 * chunk + 100 * rank + child
            assert record.action.seed == (counted if child else record.lineage[-2].seed)


def test_counted_seeds_rank_beams_by_their_fused_scores():
    output = StreamT1(beam_width=3, children=2, seeds="counted")(_Walks(), seed=0)
    for before, level in itertools.pairwise(_levels(output)):
        parents = [record.lineage[:-1] for record in level[::2]]
        best_first = sorted((record for record in before if record.kept), key=lambda record: -record.fused)
        assert parents == [record.lineage for record in best_first]


def test_own_seeds_never_come_back():
    output = StreamT1(beam_width=3, children=3)(_Walks(), seed=0)
    seeds = [record.action.seed for record in output.records]
    assert len(set(seeds)) == len(seeds)


def test_counted_seeds_are_those_of_a_stream_whose_noise_then_returns(make_stream: Callable[..., Stream]):
    """Child 0 draws its parent's fresh noise again, so that its own is the parent's, scaled."""
    output = StreamT1(beam_width=1, children=1, seeds="counted")(make_stream(horizon=2), seed=5)
    assert [action.seed for action in output.best.actions] == [5, 5]
    [first, *_] = draw(5, make_stream().model.chunk_shape, count=1)
    assert output.best.noise is not None
    assert output.best.noise.allclose((math.sqrt(0.99) - 0.1) * first, atol=1e-6)


def test_random_pruning_keeps_others_than_the_reward_does_at_the_same_cost():
    def run(pruning: Pruning, seed: int) -> SearchOutput[_Walk]:
        return StreamT1(beam_width=2, children=3, pruning=pruning)(_Walks(), seed=seed)

    ranks: list[int] = []
    for seed in range(40):
        best, chance = run("reward", seed), run("random", seed)
        assert chance.cost == best.cost
        # All trials try the same at first, and compare it alike.
        first, other = _levels(chance)[0], _levels(best)[0]
        assert [record._replace(kept=False) for record in first] == [record._replace(kept=False) for record in other]
        for level in _levels(chance):
            assert sum(record.kept for record in level) == 2
            best_first = sorted(level, key=lambda record: -record.fused)
            ranks += [rank for rank, record in enumerate(best_first) if record.kept]
    # By chance, the kept ones are neither the best nor the worst.
    assert math.fsum(ranks) / len(ranks) == pytest.approx(2.5, abs=0.4)
    assert set(ranks) == set(range(6))


def test_random_pruning_is_the_same_for_the_same_seed_only():
    def kept(seed: int) -> list[bool]:
        return [record.kept for record in StreamT1(pruning="random")(_Walks(), seed=seed).records]

    assert kept(3) == kept(3)
    assert len({tuple(kept(seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruning": "best"}, "pruning must be one of reward, random, got 'best'"),
        ({"seeds": "hashed"}, "seeds must be one of own, counted, got 'hashed'"),
        ({"noise_correlation": 1.5}, "noise_correlation must be from -1 to 1, got 1.5"),
        ({"noise_correlation": -1.01}, "noise_correlation must be from -1 to 1, got -1.01"),
        ({"noise_correlation": math.nan}, "noise_correlation must be from -1 to 1, got nan"),
    ],
)
def test_stream_t1_refusal_names_option_and_value(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        StreamT1(**options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["short", "long"])
def test_score_that_is_not_finite_names_its_candidate(name: str, value: float):
    worst = Greedy()(_Walks(), seed=0).best.actions[2].seed

    def score(actions: Sequence[Action]) -> Scores:
        bad = actions[-1].seed == worst
        return _score(actions)._replace(**{name: value}) if bad else _score(actions)

    with pytest.raises(ValueError, match=rf"the {name} reward returned {value} for chunk 2, .* seed {worst}"):
        Greedy()(_Walks(score=score), seed=0)


def test_nan_reward_of_a_stream_names_its_candidate(make_stream: Callable[..., Stream]):
    class Broken:
        def score(self, views: Sequence[object]) -> list[Scores]:
            return [Scores(0.0, math.nan) for _ in views]

    stream = make_stream(scorer=Broken())
    first = stream.actions(stream.root, num=1, seed=0)[0]
    with pytest.raises(ValueError, match=f"the long reward returned nan for chunk 0, candidate seed {first.seed}"):
        Greedy()(stream, seed=0)


def test_budget_spent_returns_the_best_so_far():
    class Limited(_Walks):
        def expand(self, requests: Sequence[Request[_Walk]]) -> list[Child[_Walk]]:
            if len(self.levels) == 2:
                raise BudgetSpent("enough")
            return super().expand(requests)

    output = BeamSearch()(Limited(horizon=None), seed=0)
    assert output.best.chunk == 2
    assert {record.chunk for record in output.records} == {0, 1}


def test_problem_without_horizon_goes_on_until_all_beams_have_ended():
    problem = _Walks(horizon=None, max_chunks=lambda first: 1 + first % 9)
    output = BestOfN(num_candidates=8)(problem, seed=0)
    ends = [1 + record.lineage[0].seed % 9 for record in output.records if record.chunk == 0]
    assert len(problem.levels) == max(ends)
    assert problem.levels == [sum(end > chunk for end in ends) for chunk in range(max(ends))]


def test_beam_that_has_ended_stays_and_wins_if_it_is_best():
    def score(actions: Sequence[Action]) -> Scores:
        return Scores(0.0, 1.0 if actions[0].seed % 2 else 0.1)

    problem = _Walks(score=score, max_chunks=lambda first: 1 if first % 2 else 9)
    output = BeamSearch(beam_width=6, children=1)(problem, seed=0)
    first_level = [record for record in output.records if record.chunk == 0]
    assert {record.scores.long for record in first_level} == {0.1, 1.0}
    assert output.best.chunk == 1
    assert len({record.lineage for record in output.records}) == len(output.records)


def test_beam_that_has_ended_makes_way_for_better_ones():
    def score(actions: Sequence[Action]) -> Scores:
        return Scores(0.0, len(actions))

    ends = {seed: index % 2 for index, seed in enumerate(a.seed for a in _Walks().actions(_Walk(), num=4, seed=0))}
    problem = _Walks(score=score, max_chunks=lambda first: 1 if ends[first] else 9)
    output = BeamSearch(beam_width=2, children=2)(problem, seed=0)
    assert output.best.chunk == 4
    assert problem.levels == [4, 2, 4, 4]  # one of two beams ends at once and leaves at the next level


def test_equal_beams_that_go_on_come_before_those_that_have_ended():
    ending = {action.seed for action in _Walks().actions(_Walk(), num=4, seed=0)[:3]}
    problem = _Walks(score=lambda _: Scores(0.0, 0.0), max_chunks=lambda first: 1 if first in ending else 9)
    levels: list[list[int]] = []

    def select(level: Level[_Walk]) -> Selection:
        levels.append([child.state.chunk for child in level.children])
        return keep_best(4, Fusion())(level)

    search(problem, propose=lambda state, rank: problem.actions(state, num=4, seed=0), select=select)
    assert levels == [[1] * 4, [2] * 4 + [1] * 3, [3] * 16, [4] * 16]


def test_selection_prefers_the_earlier_of_equals():
    children = [Child(_Walk(), Scores(0.0, long), Cost()) for long in (1.0, 2.0, 2.0, 1.0)]
    selection = keep_best(3, Fusion())(Level(0, 4, children))
    assert list(selection.kept) == [1, 2, 0]
    assert list(selection.fused) == [1.0, 2.0, 2.0, 1.0]
    assert list(keep_all(Fusion())(Level(0, 4, children)).kept) == [1, 2, 0, 3]


def test_proposals_get_the_rank_of_their_beam_best_first():
    problem, asked = _Walks(), []

    def propose(state: _Walk, rank: int) -> list[Action]:
        asked.append((state.chunk, rank, state.scores[-1].long if state.scores else None))
        return problem.actions(state, num=3, seed=0)

    search(problem, propose=propose, select=keep_best(2, Fusion(short_cap=0.0)))
    assert [(chunk, rank) for chunk, rank, _ in asked] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    for (_, _, better), (_, _, worse) in zip(asked[1::2], asked[2::2], strict=True):
        assert better > worse


def test_search_of_a_stream_spends_what_its_records_say(make_stream: Callable[..., Stream]):
    output = BeamSearch(beam_width=2, children=2)(make_stream(horizon=3, long_window=2), seed=0)
    spent = total(record.cost for record in output.records)
    assert output.cost.passes == pytest.approx(3 * 4 * 2 + 2 * 2)
    assert spent.latent_frames_decoded == pytest.approx(3 * 4 * 2)
    # The final pick decodes both beams anew, as the window is shorter than the stream.
    assert output.cost.latent_frames_decoded == pytest.approx(3 * 4 * 2 + 2 * 3 * 2)
    assert output.cost.peak_bytes == max(record.cost.peak_bytes for record in output.records) > 0


@pytest.mark.parametrize("policy_class", [BeamSearch, StreamT1])
@pytest.mark.parametrize("name", ["beam_width", "children"])
def test_policy_refuses_options_below_one(policy_class: type[Policy], name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        policy_class(**{name: 0})
