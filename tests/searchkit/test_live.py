"""Chunks of a search that is going on: the ones of its video, in order, each as soon as it is decided."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import pytest
import torch

from policies import BeamSearch, BestOfN, Greedy, PreviewPruning, StreamT1
from searchkit.fusion import Fusion
from searchkit.gym_adapter import GymProblem
from searchkit.live import LiveSearch
from searchkit.memory import MemoryConfig
from searchkit.model import VideoModel
from searchkit.pruning import keep_best
from searchkit.rewards import View
from searchkit.search import search
from searchkit.state import StreamState
from searchkit.stream import Stream
from searchkit.types import Action, Child, Policy, Request, S, Scores, SearchOutput, SearchProblem
from searchkit.wrappers import Budgeted, Watched

MakeStream = Callable[..., Stream]
POLICIES = [
    Greedy(),
    BeamSearch(beam_width=2, children=2),
    BestOfN(num_candidates=3),
    PreviewPruning(beam_width=2, children=2, preview_passes=1),
    StreamT1(),
]


def _is_running() -> bool:
    return any(thread.name == "live search" for thread in threading.enumerate())


@dataclass
class _Levels:
    """Counts the levels of a search."""

    num_made: int = 0

    def watch(self, problem: SearchProblem[StreamState]) -> Watched[StreamState]:
        return Watched(problem, on_level=self._made)

    def _made(self, _: Sequence[Child[StreamState]]) -> None:
        self.num_made += 1


@pytest.mark.parametrize("decoding", ["streamed", "cold"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_joined_frames_are_the_video_that_the_search_returns(make_stream: MakeStream, policy: Policy, decoding: str):
    stream = make_stream(decoding=decoding)
    live = LiveSearch(policy=policy, problem=stream, seed=3)
    decided = list(live)
    assert live.output is not None
    best = live.output.best
    assert torch.cat([one.frames for one in decided]).equal(best.video)
    assert [one.chunk for one in decided] == list(range(7))
    assert tuple(one.action for one in decided) == best.actions
    assert tuple(one.scores for one in decided) == best.scores
    seconds = [one.seconds for one in decided]
    assert seconds[0] > 0.0 and seconds == sorted(seconds)
    assert not _is_running()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_search_is_the_same_whether_it_is_read_or_not(make_stream: MakeStream, policy: Policy):
    stream = make_stream(horizon=5)
    live = LiveSearch(policy=policy, problem=stream, seed=1)
    for _ in live:
        pass
    plain = policy(stream, seed=1)
    assert live.output is not None
    assert [one.lineage for one in live.output.records] == [one.lineage for one in plain.records]
    assert live.output.best.actions == plain.best.actions
    for name in ("passes", "calls", "prefixes", "latent_frames_decoded", "frames_scored", "peak_bytes"):
        assert getattr(live.output.cost, name) == pytest.approx(getattr(plain.cost, name)), name


def test_greedys_chunk_arrives_before_the_next_one_is_made(make_stream: MakeStream):
    stream = make_stream(horizon=4)
    arrived = [threading.Event() for _ in range(4)]

    class Waiting:
        root, horizon, actions, score_whole = stream.root, stream.horizon, stream.actions, stream.score_whole

        def expand(self, requests: Sequence[Request[StreamState]]) -> Sequence[Child[StreamState]]:
            chunk = requests[0].state.chunk
            assert chunk == 0 or arrived[chunk - 1].wait(timeout=30.0), f"chunk {chunk - 1} did not arrive"
            return stream.expand(requests)

    for decided in LiveSearch(policy=Greedy(), problem=Waiting(), seed=0):
        arrived[decided.chunk].set()
    assert all(event.is_set() for event in arrived)


def test_beams_hand_over_what_they_have_in_common_before_the_search_ends(make_stream: MakeStream):
    levels = _Levels()
    made: list[int] = []
    for _ in LiveSearch(policy=BeamSearch(), problem=levels.watch(make_stream(horizon=30)), seed=0):
        made.append(levels.num_made)
    assert made[0] < 30 and made == sorted(made)


def test_videos_of_best_of_n_are_decided_at_the_end(make_stream: MakeStream):
    levels = _Levels()
    for _ in LiveSearch(policy=BestOfN(num_candidates=2), problem=levels.watch(make_stream(horizon=4)), seed=0):
        assert levels.num_made == 4


def test_slow_reader_holds_the_search_back(make_stream: MakeStream):
    levels = _Levels()
    for decided in LiveSearch(policy=Greedy(), problem=levels.watch(make_stream(horizon=12)), seed=0):
        time.sleep(0.05)  # long enough for several levels, if the search did not wait
        # One chunk is with the reader, one waits to be read, and one to be handed over.
        assert levels.num_made <= decided.chunk + 3


@pytest.mark.parametrize("policy", [Greedy(), PreviewPruning(preview_passes=1)], ids=["expand", "start"])
def test_reader_that_leaves_ends_the_search_with_the_best_so_far(make_stream: MakeStream, policy: Policy):
    levels = _Levels()
    live = LiveSearch(policy=policy, problem=levels.watch(make_stream(horizon=500, long_window=2)), seed=0)
    frames = []
    for decided in live:
        frames.append(decided.frames)
        if decided.chunk == 2:
            break
    made = levels.num_made
    assert not _is_running()
    assert live.output is not None and 3 <= live.output.best.chunk == made < 500
    assert live.output.best.video[: sum(map(len, frames))].equal(torch.cat(frames))


def test_closed_iterator_yields_nothing_more(make_stream: MakeStream):
    chunks: Any = iter(LiveSearch(policy=Greedy(), problem=make_stream(), seed=0))
    assert next(chunks).chunk == 0
    chunks.close()
    assert not _is_running() and list(chunks) == []


def test_reader_may_leave_while_the_rest_of_the_video_is_handed_over(make_stream: MakeStream):
    live = LiveSearch(policy=BestOfN(), problem=make_stream(), seed=0)
    for _ in live:
        break
    assert not _is_running()
    assert live.output is not None and live.output.best.chunk == 7


def test_policy_of_its_own_loop_is_ended_too(make_stream: MakeStream):
    class Endless:
        def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
            state = problem.root
            while True:
                state = problem.expand([Request(state, Action(seed))])[0].state

    live = LiveSearch(policy=Endless(), problem=make_stream(), seed=0)
    for decided in live:
        if decided.chunk == 3:
            break
    assert not _is_running() and live.output is None


@dataclass(frozen=True)
class _Failing:
    """Fails at the third level."""

    levels: list[int] = field(default_factory=list)

    def score(self, views: Sequence[View]) -> list[Scores]:
        self.levels.append(len(views))
        if len(self.levels) == 3:
            raise RuntimeError("out of memory")
        return [Scores(0.0, 0.0)] * len(views)

    def score_whole(self, views: Sequence[View]) -> list[float]:
        return [0.0] * len(views)


def test_error_of_the_search_is_raised_in_the_reader(make_stream: MakeStream):
    read = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for decided in LiveSearch(policy=Greedy(), problem=make_stream(scorer=_Failing()), seed=0):
            read.append(decided.chunk)
    assert read == [0, 1] and not _is_running()


@pytest.mark.parametrize("policy", [Greedy(), StreamT1(), PreviewPruning(preview_passes=1)])
def test_endless_stream_ends_with_its_budget(
    make_stream: MakeStream, make_model: Callable[..., VideoModel], policy: Policy
):
    memory = MemoryConfig(chunk_frames=2, window_frames=8, sink_frames=2, max_sink_frames=6, positions="window")
    problem = Budgeted(make_stream(model=make_model(memory=memory), horizon=None), passes=100)
    live = LiveSearch(policy=policy, problem=problem, seed=0)
    decided = list(live)
    assert live.output is not None
    assert live.output.best.chunk == len(decided) > 4
    assert problem.spent.passes == pytest.approx(live.output.cost.passes)
    level = sum(one.cost.passes for one in live.output.records if one.chunk == len(decided) - 1)
    assert 100 <= problem.spent.passes < 100 + level


@pytest.mark.parametrize("rank", [0, 1])
def test_beam_that_has_ended_may_still_win(make_stream: MakeStream, rank: int):
    """Its chunks are not those that the other beam goes on with, so nothing is decided before the end."""
    stream = make_stream(horizon=4)
    ended = stream.actions(stream.root, num=2, seed=0)[rank]

    def policy(problem: SearchProblem[StreamState], *, seed: int) -> SearchOutput[StreamState]:
        def propose(state: StreamState, _: int) -> Sequence[Action]:
            return [] if ended in state.actions else problem.actions(state, num=2, seed=seed)

        return search(problem, propose=propose, select=keep_best(2**62, Fusion()))

    live = LiveSearch(policy=policy, problem=stream, seed=0)
    frames = torch.cat([one.frames for one in live])
    assert live.output is not None and frames.equal(live.output.best.video)


def test_policy_that_goes_back_is_refused(make_stream: MakeStream):
    """As one does that makes its videos one after the other."""

    def policy(problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        outputs = [Greedy()(problem, seed=seed + video) for video in range(2)]
        return outputs[0]

    with pytest.raises(ValueError, match=r"all candidates of a chunk before the next .* without chunk 5, which"):
        list(LiveSearch(policy=policy, problem=make_stream(), seed=0))
    assert not _is_running()


def test_reading_keeps_no_state_alive(make_stream: MakeStream):
    stream = make_stream(horizon=6)
    alive: list[int] = []
    made: list[weakref.ref[StreamState]] = []

    class Counting:
        root, horizon, actions, score_whole = stream.root, stream.horizon, stream.actions, stream.score_whole

        def expand(self, requests: Sequence[Request[StreamState]]) -> Sequence[Child[StreamState]]:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            children = stream.expand(requests)
            made.extend(weakref.ref(child.state) for child in children)
            return children

    for _ in LiveSearch(policy=BeamSearch(beam_width=2, children=3), problem=Counting(), seed=0):
        pass
    assert alive == [0, 2, 2, 2, 2, 2]


def test_problem_without_pictures_is_refused():
    problem: Any = GymProblem(env=gymnasium.make("FrozenLake-v1"), horizon=3)
    with pytest.raises(ValueError, match=r"problem must be a stream, .* got GymProblem"):
        LiveSearch(policy=Greedy(), problem=problem, seed=0)


def test_search_whose_abandoned_iterator_is_garbage_ends(make_stream: Callable[..., Stream]):
    class _Cycle:
        iterator: object

    cycle = _Cycle()
    cycle.iterator = iter(LiveSearch(policy=Greedy(), problem=make_stream(horizon=40), seed=0))
    next(cycle.iterator)  # type: ignore[call-overload]
    cycle.cycle = cycle  # type: ignore[attr-defined]
    del cycle
    [search] = [thread for thread in threading.enumerate() if thread.name == "live search"]
    gc.collect()
    search.join(timeout=30)
    assert not search.is_alive()


def test_error_after_the_reader_has_gone_is_kept(make_stream: Callable[..., Stream]):
    @dataclass(frozen=True)
    class _Failing:
        def __call__(self, problem: Any, *, seed: int) -> Any:
            try:
                return Greedy()(problem, seed=seed)
            finally:
                raise ZeroDivisionError("late")

    live = LiveSearch(policy=_Failing(), problem=make_stream(), seed=0)
    for _ in live:
        break
    assert isinstance(live.error, ZeroDivisionError) and live.output is None
