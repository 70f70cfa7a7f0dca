"""Policies by name: what a name stands for, what a policy is called, and that no two are called the same."""

import itertools
import json
import math
from dataclasses import dataclass, replace

import pytest

from experiments.ablations import ABLATIONS
from experiments.registry import POLICIES, flat, plain, policy_label, policy_name, policy_start
from policies import BeamSearch, Greedy, PreviewPruning, StreamT1
from searchkit.fusion import Calibration, Fusion, RewardRouting
from searchkit.types import Route, S, Scores, SearchOutput, SearchProblem

SCORES = [Scores(0.0, 0.0), Scores(1.0, 0.0), Scores(2.0, -5.0), Scores(-9.0, 9.0)]  # steady, transition, bad
CHANGES = {
    "stream-t1-without-propagation": {"noise-correlation": 0.0},
    "stream-t1-without-pruning": {"pruning": "random"},
    "stream-t1-without-memory": {"routing.short-threshold": math.inf},
    "stream-t1-short-only": {"fusion.short-cap": 1.0, "fusion.ramp": 1},
    "stream-t1-long-only": {"fusion.short-cap": 0.0},
    "stream-t1-ema-only": {"routing.long-threshold": math.inf},
    "stream-t1-append-only": {"routing.long-threshold": -math.inf},
}


@dataclass(frozen=True, kw_only=True)
class Wanting:
    """A policy of a user's own that has an option without a default."""

    num_tries: int

    def __call__(self, problem: SearchProblem[S], *, seed: int) -> SearchOutput[S]:
        raise NotImplementedError


def test_named_policy_is_called_by_its_name():
    for name, start in POLICIES.items():
        assert policy_label(start()) == policy_name(start()) == name
        assert policy_start(name) is start


def test_ablations_change_what_they_are_named_after_and_nothing_else():
    assert ABLATIONS.keys() == CHANGES.keys()
    for name, start in ABLATIONS.items():
        assert flat(start()) == {**flat(StreamT1()), **CHANGES[name]}


@pytest.mark.parametrize(
    ("name", "routes"),
    [
        ("stream-t1", [Route.EMA_SINK, Route.APPEND_SINK, Route.DISCARD]),
        ("stream-t1-without-memory", [Route.DISCARD, Route.DISCARD, Route.DISCARD]),
        ("stream-t1-ema-only", [Route.EMA_SINK, Route.EMA_SINK, Route.DISCARD]),
        ("stream-t1-append-only", [Route.APPEND_SINK, Route.APPEND_SINK, Route.DISCARD]),
    ],
)
def test_ablations_of_memory_leave_routes_out(name, routes):
    policy = POLICIES[name]()
    assert [policy.routing(SCORES, leaving) for leaving in (1, 2, 3)] == routes


@pytest.mark.parametrize(("name", "kind"), [("stream-t1-short-only", "short"), ("stream-t1-long-only", "long")])
def test_ablations_of_fusion_compare_by_one_score(name, kind):
    for chunk in range(7):
        fused = POLICIES[name]().fusion(SCORES, chunk=chunk, horizon=7)
        assert fused == [getattr(score, kind) for score in SCORES]


@pytest.mark.parametrize(
    ("policy", "label"),
    [
        (BeamSearch(beam_width=3), "beam-search (beam-width=3)"),
        (PreviewPruning(preview_passes=1), "preview-pruning (preview-passes=1)"),
        (StreamT1(noise_correlation=0.2), "stream-t1 (noise-correlation=0.2)"),
        (StreamT1(noise_correlation=0.0), "stream-t1-without-propagation"),
        (StreamT1(noise_correlation=0.0, beam_width=3), "stream-t1-without-propagation (beam-width=3)"),
        (
            StreamT1(routing=RewardRouting(window=None), seeds="counted"),
            "stream-t1 (routing.window=None, seeds=counted)",
        ),
        (StreamT1(fusion=Fusion(short_cap=1.0)), "stream-t1 (fusion.short-cap=1.0)"),
        (Wanting(num_tries=3), f"{__name__}:Wanting (num-tries=3)"),
    ],
)
def test_other_options_are_told_beside_the_nearest_name(policy, label):
    assert policy_label(policy) == label
    assert policy_name(policy) == label.partition(" ")[0]


def test_policies_with_different_options_have_different_labels():
    changes = [
        {"beam_width": 3},
        {"noise_correlation": 0.0},
        {"pruning": "random"},
        {"seeds": "counted"},
        {"routing": RewardRouting(short_threshold=math.inf)},
        {"routing": RewardRouting(long_threshold=math.inf)},
        {"fusion": Fusion(short_cap=0.0)},
        {"fusion": Fusion(short_cap=1.0, ramp=1)},
        {"fusion": Fusion(calibration=Calibration(scale="rank"))},
    ]
    policies = {StreamT1(), Greedy(), BeamSearch(), *(start() for start in POLICIES.values())}
    for count in (1, 2, 3):
        for some in itertools.combinations(changes, count):
            policies.add(replace(StreamT1(), **{name: value for change in some for name, value in change.items()}))
    assert len({policy_label(policy) for policy in policies}) == len(policies) > 100


def test_plain_options_are_strict_json():
    def _refuse(constant: str) -> None:
        raise AssertionError(constant)

    for start in POLICIES.values():
        options = plain(flat(start()))
        assert json.loads(json.dumps(options), parse_constant=_refuse) == options
    assert plain(flat(POLICIES["stream-t1-append-only"]()))["routing.long-threshold"] == "-inf"
