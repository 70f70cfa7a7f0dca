"""Equal compute: what a budget makes of each policy's options, and what these then cost."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from envs.shapes import model
from experiments.ablations import ABLATIONS
from experiments.arguments import parse
from experiments.budget import PASSES_A_CHUNK, at_budget, parse_budget
from experiments.registry import POLICIES
from policies import BeamSearch, BestOfN, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.types import Policy

NUM_CHUNKS = 7
BUDGETS = (1, 2, 4, 8, 16)
OTHERS = [name for name in POLICIES if name not in ABLATIONS]
PAGE = (Path(__file__).parents[2] / "docs/policies.md").read_text()
PROMPT = "a fast red circle moving left on a sand background"


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A policy of a user's own, with the option that a budget goes by."""

    num_candidates: int = 3
    limit: float = 0.5

    def __call__(self, problem, *, seed):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Unsized:
    """A policy of a user's own that a budget knows nothing of."""

    num_tries: int = 3

    def __call__(self, problem, *, seed):
        raise NotImplementedError


def _spent(policy: Policy) -> tuple[int, int]:
    """Returns the denoising and the clean passes of a video, by what the policy's options mean."""
    match policy:
        case Greedy():
            started, finished, gone_on_from = 1, 1, 1
        case BestOfN(num_candidates=num):
            started, finished, gone_on_from = num, num, num
        case FrontLoading():
            return _front_loaded(policy)
        case PreviewPruning(beam_width=width, children=children):
            started, finished, gone_on_from = width * children, math.ceil(width * children / 2), width
        case BeamSearch(beam_width=width, children=children) | StreamT1(beam_width=width, children=children):
            started, finished, gone_on_from = width * children, width * children, width
        case _:
            started, finished, gone_on_from = policy.num_candidates, policy.num_candidates, 1
    previewed = getattr(policy, "preview_passes", 0)
    passes = started * previewed + finished * (PASSES_A_CHUNK - previewed)
    return NUM_CHUNKS * passes, (NUM_CHUNKS - 1) * gone_on_from


def _front_loaded(policy: FrontLoading) -> tuple[int, int]:
    left = [policy.num_candidates]
    while len(left) < NUM_CHUNKS:
        left.append(math.ceil(left[-1] / 2))
    return policy.num_candidates * policy.first_passes + policy.later_passes * sum(left[1:]), sum(left[1:])


def _cell(policy: Policy) -> str:
    denoise, clean = _spent(policy)
    sizes = [getattr(policy, name) for name in ("num_candidates", "beam_width", "children") if hasattr(policy, name)]
    return (f"{' x '.join(map(str, sizes))}: " if sizes else "") + f"{denoise} + {clean}"


@pytest.mark.parametrize("name", OTHERS)
def test_page_has_the_options_and_passes_of_every_budget(name):
    cells = " | ".join(_cell(at_budget(POLICIES[name](), num)) for num in BUDGETS)
    shown = "`stream-t1` and its ablations" if name == "stream-t1" else f"`{name}`"
    assert f"\n| {shown} | {cells} |\n" in PAGE


def test_page_names_every_policy():
    assert all(f"\n| `{name}` | " in PAGE for name in POLICIES)


@pytest.mark.parametrize("name", OTHERS)
def test_search_at_a_budget_costs_what_the_page_says(name, small_world):
    policy = at_budget(POLICIES[name](), 4)
    cost = policy(model.make_stream(PROMPT, horizon=NUM_CHUNKS), seed=0).cost
    assert (round(cost.denoise_passes, 6), round(cost.clean_passes, 6)) == _spent(policy)


@pytest.mark.parametrize("name", OTHERS)
def test_no_budget_is_exceeded_and_hardly_any_is_left(name):
    for num in range(1, 40):
        denoise, _ = _spent(at_budget(POLICIES[name](), num))
        most = num * NUM_CHUNKS * PASSES_A_CHUNK
        assert denoise <= most
        assert name == "greedy" or denoise > most - 3 * NUM_CHUNKS


def test_front_loading_fits_as_many_streams_as_its_passes_let_it():
    half = FrontLoading(first_passes=6, later_passes=2)
    assert at_budget(half, 2) == FrontLoading(num_candidates=6, first_passes=6, later_passes=2)
    with pytest.raises(ValueError, match=r"--budget must pay for one stream of 12 first_passes .* 30 passes .* got 28"):
        at_budget(FrontLoading(first_passes=12), 1)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_have_the_sizes_of_stream_t1_and_stay_what_they_are(name):
    policy = at_budget(ABLATIONS[name](), 8)
    assert (policy.beam_width, policy.children) == (2, 4)
    assert at_budget(policy, 4) == ABLATIONS[name]()


@pytest.mark.parametrize(
    ("num", "width", "children"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (6, 2, 3), (7, 1, 7), (16, 4, 4)]
)
def test_width_and_children_are_the_factors_nearest_to_each_other(num, width, children):
    assert at_budget(BeamSearch(), num) == BeamSearch(beam_width=width, children=children)


def test_preview_pruning_keeps_its_width_where_that_fits():
    assert at_budget(PreviewPruning(beam_width=2), 8) == PreviewPruning(beam_width=2, children=5)
    assert at_budget(PreviewPruning(beam_width=3), 1) == PreviewPruning(beam_width=1, children=1)
    assert at_budget(PreviewPruning(preview_passes=4), 5) == PreviewPruning(preview_passes=4, children=5)


def test_passes_are_those_of_shapes():
    assert model.SAMPLER.num_passes == PASSES_A_CHUNK


def test_users_own_policies_go_by_the_names_of_their_options():
    assert at_budget(Sized(limit=0.1), 5) == Sized(num_candidates=5, limit=0.1)
    with pytest.raises(ValueError, match=r"policy '.*:Unsized' cannot keep to --budget"):
        at_budget(Unsized(), 5)


@pytest.mark.parametrize(("text", "num"), [("4", 4), ("4x", 4), ("2.5x", 2), ("1x", 1), ("16x", 16)])
def test_budget_is_a_multiple_in_whole_candidates(text, num):
    assert parse_budget(text) == num


@pytest.mark.parametrize("text", ["0x", "0.5x", "abc", "", "x", "-4x", "4xx", "4 x", "nan", "1e3", "٤x"])
def test_budget_that_pays_for_no_candidate_is_refused(text):
    with pytest.raises(ValueError, match="--budget") as error:
        parse_budget(text)
    assert repr(text) in str(error.value)


def test_budget_sets_all_policies_of_a_command():
    line = "--policies greedy best-of-n beam-search preview-pruning stream-t1-ema-only --budget 8x"
    greedy, best, beam, preview, ema = parse(line.split()).experiment.policies
    assert greedy == Greedy() and best == BestOfN(num_candidates=8) and beam == BeamSearch(beam_width=2, children=4)
    assert preview == PreviewPruning(children=10) and ema.routing.long_threshold == math.inf and ema.children == 4
    (one,) = parse(["--policy", "stream-t1", "--policy.noise-correlation", "0.3", "--budget=2.5x"]).experiment.policies
    assert one == StreamT1(noise_correlation=0.3, beam_width=1, children=2)
    assert parse(["--preset", "shapes-quick", "--budget", "4x"]).experiment == parse([]).experiment
