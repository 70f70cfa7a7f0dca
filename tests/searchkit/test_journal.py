"""A search that was stopped anywhere goes on to the same result, and makes nothing twice."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from policies import BeamSearch, BestOfN, BestOfNPerChunk, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.cost import Cost, total
from searchkit.fusion import RewardRouting
from searchkit.journal import Journaled, Remembered
from searchkit.journal_file import JournalFile, record_bounds
from searchkit.stream import Draft, Stream
from searchkit.types import Policy, Record, Request, SearchOutput, SearchProblem
from searchkit.wrappers import Budgeted

HORIZON = 6  # chunks: two of them leave the window
POLICIES = [
    Greedy(),
    BestOfN(num_candidates=2),
    BestOfNPerChunk(num_candidates=3),
    BeamSearch(),
    StreamT1(routing=RewardRouting(short_threshold=-1.0)),  # averages, which beams share
    StreamT1(seeds="counted"),
    PreviewPruning(children=3, preview_passes=1),
    FrontLoading(num_candidates=4, first_passes=3, later_passes=1),
]


@dataclass(frozen=True, kw_only=True)
class WalksBack:
    """A tree search: expands whatever has the best score so far, however long ago it was made."""

    num_expansions: int = 9

    def __call__(self, problem: SearchProblem, *, seed: int) -> SearchOutput:
        open_states, records, children = [problem.root], [], []
        for _ in range(self.num_expansions):
            state = max(open_states, key=lambda one: one.scores[-1].long if one.scores else 0.0)
            open_states.remove(state)
            made = problem.expand([Request(state, action) for action in problem.actions(state, num=2, seed=seed)])
            children += made
            open_states += [child.state for child in made if child.state.chunk < HORIZON]
            records += [
                Record(state.chunk, one.state.actions, one.state.actions[-1], one.scores, 0.0, True, one.cost)
                for one in made
            ]
        wholes = problem.score_whole([child.state for child in children])
        best = max(range(len(children)), key=lambda index: wholes[index].score)
        return SearchOutput(children[best].state, tuple(records), total(record.cost for record in records))


@dataclass(frozen=True, kw_only=True)
class CountingStream(Stream):
    """A stream that counts its denoising passes; the count is shared by all copies."""

    counted: list[int] = field(default_factory=lambda: [0], compare=False)

    def _advance_by_one(self, drafts: Sequence[Draft]) -> list[Draft]:
        self.counted[0] += len(drafts)
        return super()._advance_by_one(drafts)


@pytest.fixture
def make_counting(make_model: Callable[..., Any], scorer: Any) -> Callable[..., CountingStream]:
    model = make_model(max_batch=1)  # grouping changes the last digit

    def make(**options: Any) -> CountingStream:
        return CountingStream(**{"model": model, "scorer": scorer, "prompt": "a prompt", "horizon": HORIZON, **options})

    return make


def _search(policy: Policy, stream: Stream, path: Path) -> tuple[SearchOutput, Any, Journaled]:
    """Returns what a journaled search gives, its best state as the stream's, and the journal."""
    problem = Journaled(stream, path=path)
    output = policy(problem, seed=1)
    [best] = problem.real([output.best])
    return output, best, problem


def _timeless(cost: Cost) -> Cost:
    return replace(cost, seconds_generate=0.0, seconds_decode=0.0, seconds_score=0.0)


def _assert_same(output: SearchOutput, best: Any, other: SearchOutput, other_best: Any) -> None:
    assert [record._replace(cost=_timeless(record.cost)) for record in output.records] == [
        record._replace(cost=_timeless(record.cost)) for record in other.records
    ]
    assert _timeless(output.cost) == _timeless(other.cost)
    assert torch.equal(torch.cat(best.latents), torch.cat(other_best.latents))
    assert best.actions == other_best.actions and best.scores == other_best.scores


def _first_records(journal: Path, count: int, to: Path) -> Path:
    to.write_bytes(journal.read_bytes()[: record_bounds(journal)[count]])
    return to


@pytest.mark.parametrize("policy", [*POLICIES, WalksBack()], ids=lambda policy: type(policy).__name__)
def test_search_goes_on_from_any_level_to_the_same_result(policy, make_counting, tmp_path):
    plain = policy(make_counting(), seed=1)
    whole, best, journal = _search(policy, make_counting(), tmp_path / "whole")
    _assert_same(whole, best, plain, plain.best)
    assert not journal.num_remembered
    num_records = len(record_bounds(tmp_path / "whole")) - 1
    assert num_records >= HORIZON
    for count in range(num_records + 1):
        stream = make_counting()
        path = _first_records(tmp_path / "whole", count, tmp_path / str(count))
        resumed, resumed_best, journal = _search(policy, stream, path)
        _assert_same(resumed, resumed_best, whole, best)
        assert (journal.num_remembered > 0) == (count > 0)
        assert len(record_bounds(path)) == num_records + 1
        if count == num_records:
            assert stream.counted == [0]


class _Killed(Exception):
    pass


@pytest.mark.parametrize("limit", ["passes", "seconds"])
def test_budget_ends_a_search_that_goes_on_where_it_ended_the_first(limit, make_counting, tmp_path):
    full = BeamSearch()(Journaled(make_counting(), path=tmp_path / "x"), seed=1)
    spent = total(record.cost for record in full.records if record.chunk < 3)
    stream = make_counting()
    budgeted = Budgeted(Journaled(stream, path=tmp_path / "x"), **{limit: getattr(spent, limit) - 1e-6})
    output = BeamSearch()(budgeted, seed=1)
    assert output.records == full.records[: len(output.records)] and output.best.chunk == 3
    assert total(record.cost for record in output.records) == spent
    assert stream.counted[0] == 0


@pytest.mark.parametrize("policy", [BeamSearch(), StreamT1(), PreviewPruning(children=3, preview_passes=1)])
def test_no_level_is_denoised_twice(policy, make_counting, tmp_path):
    whole = make_counting()
    policy(whole, seed=1)
    for num_levels in range(1, HORIZON + 1):
        levels = iter(range(1, num_levels + 1))

        def kill(children: Any, notes: Any, levels: Any = levels, last: int = num_levels) -> None:
            if next(levels) == last:
                raise _Killed

        first, rest, path = make_counting(), make_counting(), tmp_path / str(num_levels)
        with pytest.raises(_Killed):
            policy(Journaled(first, path=path, told=kill), seed=1)
        _search(policy, rest, path)
        assert 0 < first.counted[0] == whole.counted[0] - rest.counted[0]


def _check_going_on(make: Callable[[], Stream], folder: Path) -> None:
    """Checks that Stream-T1 comes to the same video from any level on."""
    whole, best, _ = _search(StreamT1(), make(), folder / "whole")
    for count in range(HORIZON + 1):
        journal = _first_records(folder / "whole", count, folder / str(count))
        resumed, resumed_best, _ = _search(StreamT1(), make(), journal)
        _assert_same(resumed, resumed_best, whole, best)
        assert torch.equal(resumed_best.video, best.video)


@pytest.mark.parametrize("positions", ["stream", "window"])
def test_search_goes_on_where_the_prompt_changes_and_parents_take_turns(positions, make_counting, make_model, tmp_path):
    memory = replace(make_model().memory, positions=positions, sink_on_switch="rerun")
    model = replace(make_model(max_batch=1, memory=memory), prefix_budget=0)
    options = {"model": model, "prompt": "one, then @3 another", "long_window": 2}
    _check_going_on(lambda: make_counting(**options), tmp_path)


def test_search_goes_on_after_given_chunks(make_counting, tmp_path):
    given = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    _check_going_on(lambda: make_counting(given=given), tmp_path)


def test_state_made_again_holds_what_it_held(make_counting, tmp_path):
    _, best, _ = _search(StreamT1(), make_counting(), tmp_path / "x")
    _, again, journal = _search(StreamT1(), make_counting(), tmp_path / "x")
    assert journal.num_remembered > HORIZON  # the final pick, too
    assert again is not best
    for name in ("frames", "decoder_cache"):
        for one, other in zip(getattr(again, name), getattr(best, name), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(again.noise, best.noise)
    for one, other in zip(again.memory.blocks, best.memory.blocks, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
        assert one.start_frame == other.start_frame and one.is_average == other.is_average
    assert again.slot.block.start_frame == best.slot.block.start_frame and again.leaving == best.leaving


def test_remembered_states_tell_policies_what_the_streams_own_tell(make_counting, tmp_path):
    stream = make_counting()
    problem = Journaled(stream, path=tmp_path / "x")
    state = problem.root
    seen = []
    for _ in range(HORIZON):
        [child] = problem.expand([Request(state, problem.actions(state, num=1, seed=0)[0])])
        state = child.state
        seen.append((state.chunk, state.actions, state.scores, state.leaving))
    problem, state = Journaled(stream, path=tmp_path / "x"), stream.root
    for expected in seen:
        [child] = problem.expand([Request(state, problem.actions(state, num=1, seed=0)[0])])
        state = child.state
        assert isinstance(state, Remembered)
        assert (state.chunk, state.actions, state.scores, state.leaving) == expected


def test_policy_may_look_at_whatever_a_stream_has(make_counting, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Looks(BestOfNPerChunk):
        """Asks for what the protocol of states does not promise, and searches by it."""

        def __call__(self, problem: SearchProblem, *, seed: int) -> SearchOutput:
            state, records = problem.root, []
            for chunk in range(HORIZON):
                actions = problem.actions(state, num=self.num_candidates, seed=seed)
                made = problem.expand([Request(state, action) for action in actions])
                records += [
                    Record(chunk, c.state.actions, c.state.actions[-1], c.scores, 0.0, True, c.cost) for c in made
                ]
                state = max((child.state for child in made), key=lambda one: float(one.latents[-1].mean()))
                assert state.frames[-1].shape[1] == 3
            return SearchOutput(state, tuple(records), total(record.cost for record in records))

    policy = Looks(num_candidates=2)
    whole, best, _ = _search(policy, make_counting(), tmp_path / "whole")
    resumed, again, journal = _search(policy, make_counting(), _first_records(tmp_path / "whole", 4, tmp_path / "cut"))
    assert journal.num_remembered == 4
    _assert_same(resumed, again, whole, best)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = Remembered(None, actions=(), scores=(), leaving=None, again=lambda states: [best]).colour


@pytest.mark.parametrize("damage", ["truncated", "no-json", "other-format"])
def test_damaged_record_ends_the_journal_there(damage, make_counting, tmp_path, monkeypatch):
    path = tmp_path / "x"
    whole, best, _ = _search(BeamSearch(), make_counting(), path)
    bounds, content = record_bounds(path), path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[: bounds[3] - 1])
        case "no-json":
            path.write_bytes(content[: bounds[2] + 20] + b"]" + content[bounds[2] + 21 :])
        case "other-format":
            monkeypatch.setattr("searchkit.journal_file.FORMAT", 0)
    resumed, resumed_best, journal = _search(BeamSearch(), make_counting(), path)
    _assert_same(resumed, resumed_best, whole, best)
    assert journal.num_remembered == (0 if damage == "other-format" else 2)
    assert len(record_bounds(path)) == len(bounds)


def test_records_give_back_what_they_hold(tmp_path):
    tensors = {
        "half": torch.randn(2, 3, 4).bfloat16(),
        "strided": torch.arange(12.0).view(3, 4).T,
        "none": torch.zeros(0, 3),
        "one": torch.tensor(2**40),
    }
    file = JournalFile(tmp_path / "deep" / "x")
    file.append([{"kind": "first"}], tensors)
    file.append([{"kind": "second"}], {})
    for each in (file, JournalFile(tmp_path / "deep" / "x")):
        assert [each.calls(record) for record in range(3)] == [[{"kind": "first"}], [{"kind": "second"}], []]
        found = each.tensors(0)
        assert found.keys() == tensors.keys() and each.tensors(1) == {}
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    file.cut(1)
    assert file.calls(1) == [] == JournalFile(tmp_path / "deep" / "x").calls(1) and file.calls(0)


def test_policy_that_asks_for_something_else_goes_on_from_there(make_counting, tmp_path, caplog):
    _search(BestOfNPerChunk(num_candidates=2), make_counting(), tmp_path / "x")
    policy = BestOfNPerChunk(num_candidates=3)
    whole, best, _ = _search(policy, make_counting(), tmp_path / "y")
    resumed, resumed_best, journal = _search(policy, make_counting(), tmp_path / "x")
    _assert_same(resumed, resumed_best, whole, best)
    assert not journal.num_remembered and "holds another search from its level 0 on" in caplog.text


def test_record_that_answers_in_part_is_written_whole(make_counting, tmp_path, caplog):
    """Two prunings whose stages begin alike: what the second one writes serves it the next time."""
    _search(PreviewPruning(children=4, preview_passes=1), make_counting(horizon=1), tmp_path / "x")

    @dataclass(frozen=True, kw_only=True)
    class FinishesAll:
        def __call__(self, problem: Any, *, seed: int) -> SearchOutput:
            drafts = problem.start(
                [Request(problem.root, one) for one in problem.actions(problem.root, num=4, seed=seed)]
            )
            previews = problem.preview(problem.advance(drafts, passes=1))
            children = problem.finish(problem.advance([one.draft for one in previews]))
            return SearchOutput(children[0].state, (), total(child.cost for child in children))

    plain = FinishesAll()(make_counting(horizon=1), seed=1)
    for num_remembered in (3, 5):
        output, best, journal = _search(FinishesAll(), make_counting(horizon=1), tmp_path / "x")
        assert journal.num_remembered == num_remembered
        assert _timeless(output.cost) == _timeless(plain.cost)
        assert torch.equal(torch.cat(best.latents), torch.cat(plain.best.latents))


def test_notes_are_taken_once_and_told_every_time(make_counting, tmp_path):
    looks = []

    def observe(children: Any) -> dict[str, torch.Tensor]:
        looks.append(len(children))
        return {"bright": torch.tensor([float(child.state.frames[-1].mean()) for child in children])}

    told: list[list[tuple[Any, float]]] = []
    for _ in range(2):
        heard: list[tuple[Any, float]] = []
        told.append(heard)

        def tell(children: Any, notes: Any, heard: list[tuple[Any, float]] = heard) -> None:
            heard += [(one.state.actions, float(note)) for one, note in zip(children, notes["bright"], strict=True)]

        BeamSearch()(Journaled(make_counting(), path=tmp_path / "x", observe=observe, told=tell), seed=0)
    assert looks == [4] * HORIZON
    assert told[0] == told[1] and len(told[0]) == 4 * HORIZON


def test_journal_of_random_stops_comes_to_the_same_end(make_counting, tmp_path):
    """A file that is cut off at random places, again and again."""
    drawn, path = random.Random(0), tmp_path / "x"
    whole, best, _ = _search(StreamT1(), make_counting(), path)
    for _ in range(12):
        path.write_bytes(path.read_bytes()[: drawn.randrange(path.stat().st_size)])
        resumed, resumed_best, _ = _search(StreamT1(), make_counting(), path)
        _assert_same(resumed, resumed_best, whole, best)
