"""Replays a recorded run with this code and compares: `python -m experiments.verify PATH`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from experiments.verify.beams import replay_beams
from experiments.verify.recording import Check, Pair, compare, load, load_facts
from experiments.verify.rewards import replay_end_to_end, replay_preprocessing, replay_reward
from experiments.verify.streams import replay_stream

ENDINGS = (".json", ".safetensors")


def verify(path: Path, *, tolerance: float = 2e-5) -> list[Check]:
    """Returns the checks of a replay of the run recorded at `path`, with the ending of one of its files or without.

    Raises:
        ValueError: there is no such run, or it is of no known format.
    """
    return compare(_replay(path.with_suffix("") if path.suffix in ENDINGS else path), tolerance)


def _replay(path: Path) -> Iterable[Pair]:
    facts = load_facts(path)
    names = facts.keys()
    if {"routes", "layout"} <= names:
        return replay_stream(load(path))
    if {"events", "kept", "final_pick"} <= names:
        return replay_beams(load(path))
    if {"config_flat", "head", "token_ids"} <= names:
        return replay_reward(load(path))
    if {"prompts", "rendered_chat_text_sha256_utf8"} <= names:
        return replay_end_to_end(path, load(path))
    if {"hpsv3_image", "videoreward_video"} <= names:
        return replay_preprocessing(facts)
    raise ValueError(f"path must name a recorded stream, beam search or reward, but {path}.json is none of them")


def main(path: Annotated[Path, tyro.conf.Positional], *, tolerance: float = 2e-5) -> None:
    """Replays a recorded run and prints the largest differences; exits with 1 if one is beyond the tolerance.

    Args:
        path: a recorded run, with or without the ending .safetensors or .json of its files.
        tolerance: largest difference allowed in network outputs and scores; noise, seeds, routes, layouts and
            selections must agree exactly. Rewards' hidden states, and scores of pixels and prompts, may differ by 1e-4.
    """
    try:
        checks = verify(path, tolerance=tolerance)
    except ValueError as error:
        sys.exit(f"verify: {error}")
    table = Table("quantity", "largest difference", "allowed", "", title=str(path))
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else "[red]beyond[/]"
        table.add_row(check.quantity, f"{check.difference:.2g}", f"{check.tolerance:.2g}", verdict)
    Console().print(table)
    if not all(check.passed for check in checks):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
