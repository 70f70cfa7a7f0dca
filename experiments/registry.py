"""Policies by the names of the command line, and their options by the names of the command line. No torch here."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments.ablations import ABLATIONS
from policies import BeamSearch, BestOfN, BestOfNPerChunk, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.types import Policy

# What a name stands for: a class at its defaults, or a function that returns other options of a class.
Start = Callable[[], Policy]

POLICIES: Mapping[str, Start] = {
    "greedy": Greedy,
    "best-of-n": BestOfN,
    "best-of-n-per-chunk": BestOfNPerChunk,
    "beam-search": BeamSearch,
    "preview-pruning": PreviewPruning,
    "front-loading": FrontLoading,
    "stream-t1": StreamT1,
    **ABLATIONS,
}

CALIBRATION = "fusion.calibration."  # before the options of a calibration
SCALE = f"{CALIBRATION}scale"


def policy_start(name: str) -> Start:
    """Returns what makes the policy of a name: a built-in one, or a user's own as `module:ClassName`.

    Raises:
        ValueError: the name is unknown, does not import, or is no frozen dataclass with `__call__`.
    """
    if ":" in name:
        return _import(name)
    if name not in POLICIES:
        raise ValueError(f"policy {name!r} is unknown{nearest(name, POLICIES)}, or a module:ClassName of your own")
    return POLICIES[name]


def policy_name(policy: Policy) -> str:
    """Returns the name that says most of a policy: of those of its class, the one with the fewest other options."""
    return _named(policy)[0]


def policy_label(policy: Policy) -> str:
    """Returns the policy's name and the options that differ from the name's.

    Of a measured calibration a hash tells it from others: its four numbers would say no more, and are stored.
    """
    name, others = _named(policy)
    if others.get(SCALE) == "fixed":
        measured = {option: value for option, value in others.items() if option.startswith(CALIBRATION)}
        digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
        others = {option: value for option, value in others.items() if option not in measured}
        others[CALIBRATION.removesuffix(".")] = f"fixed:{digest}"
    return f"{name} ({', '.join(f'{option}={value}' for option, value in others.items())})" if others else name


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a dataclass's options by their names on the command line: `{"fusion.short-cap": 0.4, ...}`."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        name, value = prefix + field.name.replace("_", "-"), getattr(options, field.name)
        found |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flat options as values for JSON, which knows no infinities: these become words."""
    finite = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in options.items()
    }
    values: dict[str, Any] = json.loads(json.dumps(finite, default=str))
    return values


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ": the nearest is ..., of ..." for the message of an unknown name."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f": the nearest is {close[0]!r}, of {', '.join(known)}"


def _named(policy: Policy) -> tuple[str, dict[str, Any]]:
    """Returns the name with the fewest options that differ from the policy's, the first of equals, and those."""
    options = flat(policy)
    differing = {
        name: {option: value for option, value in options.items() if option not in start or start[option] != value}
        for name, start in _starting_options(type(policy)).items()
    }
    name = min(differing, key=lambda name: len(differing[name]))
    return name, differing[name]


@functools.cache
def _starting_options(own: type[Any]) -> dict[str, dict[str, Any]]:
    """Returns the options that names of a class stand for; a class of the user's own has one name."""
    named = [(name, start()) for name, start in POLICIES.items()]
    known = {name: flat(policy) for name, policy in named if type(policy) is own}
    if known:
        return known
    try:
        defaults = flat(own())
    except TypeError:  # some option has no default
        defaults = {}
    return {f"{own.__module__}:{own.__qualname__}": defaults}


def _import(name: str) -> type[Policy]:
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"policy {name!r} does not import: {type(error).__name__}: {error}") from error
    if not _is_policy(found):
        raise ValueError(
            f"policy {name!r} is no policy: it must be a frozen dataclass with __call__(self, problem, *, seed)"
        )
    policy: type[Policy] = found
    return policy


def _is_policy(found: Any) -> bool:
    return (
        isinstance(found, type)
        and dataclasses.is_dataclass(found)
        and bool(found.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        and any("__call__" in base.__dict__ for base in found.__mro__)
    )
