"""What labels of policies say: which are one policy at several budgets, and what each is compared with."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

import pandas as pd

from experiments.ablations import ABLATIONS
from experiments.summary import REFERENCE

GREEDY = REFERENCE
BEST_OF_N = "best-of-n"
STREAM_T1 = "stream-t1"
_BUDGET = re.compile(r"(?:, )?\b(?:num-candidates|beam-width|children)=\d+")  # what `experiments.budget` sets


def curve_of(label: str) -> str:
    """Returns a label without the options that a budget sets: what one curve over budgets is called.

    "beam-search (beam-width=2, children=4)" and "beam-search" are both points of "beam-search".
    """
    name, options = split(label)
    others = _BUDGET.sub("", options).removeprefix(", ")
    return f"{name} ({others})" if others else name


def split(label: str) -> tuple[str, str]:
    """Returns a label's name and what its brackets hold."""
    name, _, options = label.partition(" (")
    return name, options.removesuffix(")")


def ordered(trials: pd.DataFrame) -> list[str]:
    """Returns the labels of a run: curves as they first appear, each from its smallest budget on."""
    passes = mean_passes(trials)
    curves = list(dict.fromkeys(map(curve_of, passes)))
    return sorted(passes, key=lambda label: (curves.index(curve_of(label)), passes[label]))


def curves(trials: pd.DataFrame) -> dict[str, list[str]]:
    """Returns each curve's labels, from its smallest budget on."""
    joined: dict[str, list[str]] = {}
    for label in ordered(trials):
        joined.setdefault(curve_of(label), []).append(label)
    return joined


def at_one_budget(trials: pd.DataFrame) -> list[str]:
    """Returns one label a curve, each nearest to the largest budget that all of them have: for plots without room."""
    passes, joined = mean_passes(trials), curves(trials)
    largest = [passes[labels[-1]] for curve, labels in joined.items() if curve != GREEDY]
    shared = min(largest, default=passes[ordered(trials)[-1]])
    return [min(labels, key=lambda label: _distance(passes[label], shared)) for labels in joined.values()]


def without_ablations(joined: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Returns the curves that are no ablations, which would hide them in a plot; all if there are no others."""
    return {curve: labels for curve, labels in joined.items() if split(curve)[0] not in ABLATIONS} or dict(joined)


def mean_passes(trials: pd.DataFrame) -> dict[str, float]:
    """Returns the passes of each label's mean trial, in the order of their first appearance."""
    return dict(trials.groupby("policy", sort=False)["passes"].mean())


def greedy_references(trials: pd.DataFrame) -> dict[str, str]:
    """Returns greedy for every other label; nothing where it did not run."""
    labels = ordered(trials)
    return {label: GREEDY for label in labels if label != GREEDY} if GREEDY in labels else {}


def nearest_references(trials: pd.DataFrame, curve: str) -> dict[str, str]:
    """Returns, for every label of another curve but greedy, the one of a curve that spends the most similar passes."""
    passes = mean_passes(trials)
    known = [label for label in passes if curve_of(label) == curve]
    others = [label for label in ordered(trials) if label not in (*known, GREEDY)]
    if not known:
        return {}
    return {label: min(known, key=lambda one: _distance(passes[one], passes[label])) for label in others}


def ablation_references(trials: pd.DataFrame) -> dict[str, str]:
    """Returns, for every ablation, the Stream-T1 with the same other options, where that ran."""
    labels = ordered(trials)
    full = {label: label.replace(split(label)[0], STREAM_T1, 1) for label in labels if split(label)[0] in ABLATIONS}
    return {label: reference for label, reference in full.items() if reference in labels}


def smaller_budgets(trials: pd.DataFrame) -> dict[str, str]:
    """Returns, for every label, the next smaller budget of its curve; none for the smallest."""
    return {larger: smaller for labels in curves(trials).values() for smaller, larger in itertools.pairwise(labels)}


def _distance(passes: float, others: float) -> float:
    return abs(math.log(passes / others))
