"""Numbers and sentences of the report. What an interval does not show is not claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.report.comparisons import Difference
from experiments.report.statistics import FEW_PROMPTS, MIN_PROMPTS, MIN_TO_SHOW, Estimate

NONE = "–"


def number(value: float, digits: int = 3) -> str:
    return NONE if math.isnan(value) else f"{value:z,.{digits}f}"


def percent(value: float) -> str:
    return NONE if math.isnan(value) else f"{100 * value:.0f} %"


def interval(one: Estimate, *, signed: bool = False) -> str:
    """Returns "0.645 [0.601, 0.688]", or the mean alone where there is no interval."""
    if one.num_prompts == 0:
        return NONE
    # An end just below zero reads -0.000; but one of zero, and of rounding errors, +0.000.
    mean, low, high = (format(round(end, 9) + 0.0, "+.3f" if signed else ".3f") for end in one[:3])
    return f"{mean} [{low}, {high}]" if one.has_interval else mean


def times(passes: float, reference: float) -> str:
    """Returns "at 3.6 times its passes"."""
    ratio = passes / reference
    return (
        "at the same passes" if f"{ratio:.2f}" == "1.00" else f"at {ratio:.{2 if ratio < 2 else 1}f} times its passes"
    )


def verdict(label: str, difference: Difference, measure: str, *, cost: str = "") -> str:
    """Returns what a difference shows, as "beam-search is 0.093 [0.061, 0.124] above greedy in truth".

    Args:
        cost: what is said of the passes, as by `times`.
    """
    one, other = difference.estimate, difference.reference
    cost = f" {cost}" if cost else ""
    if difference.num_pairs == 0:
        return f"{label} and {other} finished no prompt and seed in common."
    if not one.can_show:
        measured = f"{label} less {other} is {interval(one, signed=True)} in {measure}{cost}"
        return f"{measured}, but nothing is shown: {too_few(one.num_prompts)}."
    if one.is_above_zero:
        return f"{label} is {interval(one)} above {other} in {measure}{cost}."
    if one.is_below_zero:
        return f"{label} is {interval(_turned(one))} below {other} in {measure}{cost}."
    return f"No difference in {measure} is shown between {label} and {other} ({interval(one, signed=True)}){cost}."


def shown(estimates: Mapping[str, Estimate], *, above: str, below: str) -> str:
    """Returns which of several differences are shown, as "above: a (+0.1 [...]); no difference is shown for b (...)".

    Args:
        above, below: what is said before those above and below zero.
    """
    if not any(one.can_show for one in estimates.values()):
        return f"nothing is shown: {too_few(max(one.num_prompts for one in estimates.values()))}"
    groups: dict[str, list[str]] = {above: [], below: [], "no difference is shown for": []}
    for label, one in estimates.items():
        start = above if one.is_above_zero else below if one.is_below_zero else "no difference is shown for"
        groups[start].append(f"{label} ({interval(one, signed=True)})")
    return "; ".join(f"{start} {listed(names)}" for start, names in groups.items() if names)


def too_few(num_prompts: int) -> str:
    """Returns what so few prompts cannot give; nothing if they are enough."""
    if num_prompts < MIN_PROMPTS:
        return f"there are too few prompts for an interval, {num_prompts} of at least {MIN_PROMPTS}"
    if num_prompts < MIN_TO_SHOW:
        return f"there are too few prompts to show a difference, {num_prompts} of at least {MIN_TO_SHOW}"
    if num_prompts < FEW_PROMPTS:
        return f"with fewer than {FEW_PROMPTS} prompts, intervals are narrower than they should be"
    return ""


def listed(names: Sequence[str]) -> str:
    """Returns "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def capitalised(text: str) -> str:
    """Returns a text with its first letter large and the others as they are."""
    return text[:1].upper() + text[1:]


def counted(count: int, noun: str) -> str:
    """Returns "1 comparison" or "2 comparisons"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _turned(one: Estimate) -> Estimate:
    return Estimate(-one.mean, -one.high, -one.low, one.num_prompts)
