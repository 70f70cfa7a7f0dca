"""Makes a stored trial again and says whether it is the same: `python -m experiments.run --replay TRIAL_FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.arguments import parse
from experiments.manifest import fingerprint
from experiments.trials import Outcome, run_trial
from experiments.worlds import world_of
from searchkit.placement import Placement

BIT_EQUAL = "bit-equal"
TIMELESS = ("short", "long", "fused", "passes")  # of a chunk of the chosen video


def replay(folder: Path) -> Iterator[str]:
    """Yields sentences on a trial that is made again; the last one is "bit-equal" or begins with "differs".

    It runs with the threads and the placement that made the trial, and on this machine.

    Raises:
        ValueError: the folder holds no trial, or it cannot be made here.
    """
    import torch

    try:
        stored = json.loads((folder / "trial.json").read_text())
        made_with, result, pixels = stored["made-with"], stored["result"], stored["pixels"]
        prompt, words, threads = result["prompt"], made_with["command"], int(made_with["threads"])
        placement = Placement(**made_with["placement"])
    except OSError as error:
        raise ValueError(f"replay must be a trial's folder, got {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"replay must be a trial's folder, got {folder}: its trial.json is damaged or older"
        ) from error
    torch.set_num_threads(threads)
    # The prompt is the text itself, whatever it looks like.
    experiment = replace(parse(words).experiment, prompts=(prompt,), placement=placement)
    [trial] = experiment.trials
    yield f"{result['label']}, seed {trial.seed}, {prompt!r}"
    stream = world_of(experiment).make_stream(experiment, prompt)
    outcome = run_trial(experiment, trial, stream=stream, on_chunk=lambda chunk: None)
    yield from _changes(made_with, json.loads(json.dumps(outcome.made_with)))
    yield _verdict(outcome, result, is_equal=fingerprint(outcome.pixels) == pixels)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is not as it was when the trial was made."""
    old, new = _flat(before), _flat(now)
    for name in sorted(old.keys() | new.keys()):
        if name != "command" and old.get(name) != new.get(name):
            yield f"{name} was {old.get(name)} and is {new.get(name)}"


def _flat(made_with: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(made_with)
    for name in ("versions", "grouping", "placement", "weights"):
        values |= {f"{name}.{key}": value for key, value in values.pop(name, {}).items()}
    return values


def _verdict(outcome: Outcome, result: Mapping[str, Any], *, is_equal: bool) -> str:
    curve, before = outcome.result.curve, result["curve"]
    if len(curve) != len(before):
        return f"differs: {len(curve)} chunks instead of {len(before)}"
    pairs = list(zip(curve, before, strict=True))
    if is_equal and all(getattr(new, name) == old[name] for new, old in pairs for name in TIMELESS):
        return BIT_EQUAL
    apart = max(abs(getattr(new, name) - old[name]) for new, old in pairs for name in ("short", "long"))
    return f"differs: pixels are {'equal' if is_equal else 'others'}, scores of chunks at most {apart:.2g} apart"
