"""Policies by the names of the command line, and their options by the names of the command line. No torch here."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from policies import BeamSearch, BestOfN, BestOfNPerChunk, Greedy, StreamT1
from searchkit.types import Policy

POLICIES: Mapping[str, type[Policy]] = {
    "greedy": Greedy,
    "best-of-n": BestOfN,
    "best-of-n-per-chunk": BestOfNPerChunk,
    "beam-search": BeamSearch,
    "stream-t1": StreamT1,
}


def policy_class(name: str) -> type[Policy]:
    """Returns the policy of a name: a built-in one, or a user's own as `module:ClassName`.

    Raises:
        ValueError: the name is unknown, does not import, or is no frozen dataclass with `__call__`.
    """
    if ":" in name:
        return _import(name)
    if name not in POLICIES:
        raise ValueError(f"policy {name!r} is unknown{nearest(name, POLICIES)}, or a module:ClassName of your own")
    return POLICIES[name]


def policy_name(policy: Policy) -> str:
    """Returns the name by which the command line knows a policy."""
    own = type(policy)
    names = (name for name, known in POLICIES.items() if known is own)
    return next(names, f"{own.__module__}:{own.__qualname__}")


def policy_label(policy: Policy) -> str:
    """Returns the policy's name and the options that are not at their defaults."""
    defaults = _default_options(type(policy))
    changed = [f"{name}={value}" for name, value in flat(policy).items() if defaults.get(name) != value]
    return f"{policy_name(policy)} ({', '.join(changed)})" if changed and defaults else policy_name(policy)


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a dataclass's options by their names on the command line: `{"fusion.short-cap": 0.4, ...}`."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        name, value = prefix + field.name.replace("_", "-"), getattr(options, field.name)
        found |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ": the nearest is ..., of ..." for the message of an unknown name."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f": the nearest is {close[0]!r}, of {', '.join(known)}"


def _default_options(policy: type[Any]) -> dict[str, Any]:
    """Returns a policy's default options, or none if some option has no default."""
    try:
        return flat(policy())
    except TypeError:
        return {}


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
