"""The command line: first the choice of preset and policies, then all options, typed by what was chosen."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from experiments.budget import NUM_CHUNKS, at_budget, parse_budget
from experiments.calibration import read as read_calibration
from experiments.calibration import with_calibration
from experiments.config import PUBLISHED, Execution, Experiment
from experiments.presets import PRESETS, preset
from experiments.registry import POLICIES, Start, policy_label, policy_start
from experiments.worlds import SHAPES, world_of
from searchkit.backbones.presets import MODELS
from searchkit.fusion import RewardRouting
from searchkit.types import Policy

PROGRAM = "python -m experiments.run"
DESCRIPTION = """Searches videos of a streaming model with several policies and compares them at equal compute.

Without arguments it runs the preset shapes-quick, and with --model NAME alone the preset of that name. Options of a
policy follow its name: --policy stream-t1 --policy.beam-width 3. The same command again skips the trials that are done.
Presets, policies and their options are listed below."""
DEFAULT_PRESET = "shapes-quick"
NAME_WIDTH = 32  # of the lists' first column


class Command(NamedTuple):
    """What a command line asks for."""

    preset: str
    experiment: Experiment
    execution: Execution


class _Choice(NamedTuple):
    """What is read before all other options: it says which ones there are."""

    preset: str | None
    model: str | None
    policies: Sequence[str] | None
    policy: str | None
    budget: str | None
    prompts: Sequence[str] | None
    num_prompts: str | None


def parse(argv: Sequence[str]) -> Command:
    """Returns what a command line asks for.

    Raises:
        ValueError: something in it is wrong; one sentence says what.
        SystemExit: it asks for help, which is printed.
    """
    argv = [re.sub(r"^(--[^=]+=)?none$", r"\1None", word) for word in argv]  # as tyro spells it
    choice = _choose(argv)
    budget = None if choice.budget is None else parse_budget(choice.budget)
    name, base = _start(choice)
    typed = _typed(choice, name, base)
    with contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            given = tyro.cli(typed, args=argv, prog=PROGRAM, description=DESCRIPTION)
        except SystemExit as exit_status:
            if exit_status.code:
                raise ValueError(_sentence(complaint.getvalue())) from None
            _print_names("presets, each policy's name being one more", PRESETS)
            _print_names("policies", POLICIES)
            if choice.policy is None:
                _print_policy_options()
            raise
    experiment: Experiment = given.experiment
    if choice.policy is not None:
        experiment = replace(experiment, policies=(given.options,))
    elif choice.policies is not None:
        experiment = replace(experiment, policies=tuple(_as_named(name) for name in choice.policies))
    if budget is not None:
        passes, num = world_of(experiment).passes_a_chunk(experiment), experiment.num_chunks or NUM_CHUNKS
        policies = tuple(
            at_budget(policy, budget, passes_a_chunk=passes, num_chunks=num) for policy in experiment.policies
        )
        experiment = replace(experiment, policies=policies)
    if given.calibration is not None:
        calibration = read_calibration(given.calibration, experiment)
        experiment = replace(experiment, policies=with_calibration(experiment.policies, calibration))
    policies = tuple(_with_gate(policy, experiment.long_window) for policy in experiment.policies)
    experiment = replace(experiment, policies=policies)
    return Command(name, experiment, given.execution)


def _with_gate(policy: Policy, long_window: int) -> Policy:
    """Returns a policy whose gate looks back as far as the long score does, unless it was told how far (Stream-T1)."""
    routing = getattr(policy, "routing", None)
    if not isinstance(routing, RewardRouting) or routing.window != RewardRouting().window:
        return policy
    options: Any = policy
    changed: Policy = replace(options, routing=replace(routing, window=long_window))
    return changed


def _choose(argv: Sequence[str]) -> _Choice:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", const="")
    parser.add_argument("--model", nargs="?", const="")
    parser.add_argument("--policies", nargs="*")
    parser.add_argument("--policy", nargs="?", const="")
    parser.add_argument("--budget", nargs="?", const="")
    parser.add_argument("--prompts", nargs="*")
    parser.add_argument("--num-prompts", "--num_prompts", nargs="?", const="")
    given, others = parser.parse_known_args(argv)
    choice = _Choice(**vars(given))
    if choice.policy is not None and choice.policies is not None:
        raise ValueError("--policy runs one policy and --policies several at their defaults: give one of the two")
    if choice.prompts is not None and choice.num_prompts is not None:
        raise ValueError("--prompts takes prompts of your own and --num-prompts unseen ones: give one of the two")
    stray = [word for word in others if word.startswith("--policy.")]
    if stray and choice.policy is None:
        raise ValueError(f"{stray[0]} is an option of a policy: name it with --policy NAME")
    return choice


def _start(choice: _Choice) -> tuple[str, Experiment]:
    """Returns the name of the preset to start from, and its experiment with the prompts and the model asked for."""
    model = choice.model if choice.model in MODELS else None  # what is unknown is refused with all other options
    name = (model or DEFAULT_PRESET) if choice.preset is None else choice.preset
    base = preset(name)
    if choice.prompts is not None:
        base = replace(base, prompts=tuple(choice.prompts), num_prompts=None)
    if model is not None and model != base.model:
        base = replace(base, model=model, memory=MODELS[model].memory)
    if choice.num_prompts is not None and base.model == SHAPES:
        base = replace(base, prompts=(), num_prompts=base.num_prompts or 1)  # until the number given is read
    return name, base


def _typed(choice: _Choice, preset_name: str, base: Experiment) -> type[Any]:
    """Returns a dataclass of all options, those of the chosen policy among them."""
    labels = tuple(policy_label(policy) for policy in base.policies)
    preset_help = f"the experiment to start from: {', '.join(PRESETS)}, or the name of a policy to run alone"
    policies_help = "policies to compare, by their names below, or a module:ClassName of your own"
    policy_help = "one policy to run alone, with --policy.OPTION for its options"
    budget_help = (
        "let a video cost at most so many times greedy's denoising passes, such as 4x; sets num_candidates, or "
        "beam_width and children, of every policy, whatever they are set to (see docs/policies.md)"
    )
    calibration_help = (
        "file of python -m experiments.calibrate, by which every policy puts the short and the long score on one scale"
    )
    sweep_help = (
        "file of a W&B sweep of method grid: runs every point of it here, without a server, with the other options "
        "given (see docs/tracking.md)"
    )
    options: list[Any] = [
        ("preset", _option(str, preset_help), preset_name),
        ("policies", _option(tuple[str, ...], policies_help), labels),
        ("policy", _option(str | None, policy_help), None),
        ("budget", _option(str | None, budget_help), None),
        ("calibration", _option(Path | None, calibration_help), None),
        ("sweep", _option(Path | None, sweep_help), None),
    ]
    if choice.policy is not None:
        start = policy_start(choice.policy)
        default = MISSING if _needs_options(start) else start()
        kind = start if isinstance(start, type) else type(default)
        options.append(("options", Annotated[kind, tyro.conf.arg(name="policy")], field(default=default)))
    flattened = tyro.conf.arg(name="")
    options.append(("experiment", Annotated[Experiment, flattened], base))
    options.append(("execution", Annotated[Execution, flattened], Execution()))
    return make_dataclass("Options", options, kw_only=True, frozen=True)


def _option(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _as_named(name: str) -> Policy:
    start = policy_start(name)
    if _needs_options(start):
        raise ValueError(f"policy {name!r} has options without defaults: run it with --policy {name}")
    return start()


def _needs_options(start: Start) -> bool:
    if not isinstance(start, type):
        return False
    return any(field.default is MISSING and field.default_factory is MISSING for field in fields(start))


def _print_names(title: str, known: Mapping[str, Callable[[], Any]]) -> None:
    """Prints what names stand for: the first lines of docstrings."""
    width = shutil.get_terminal_size().columns
    print(f"\n{title}:")
    for name, meaning in known.items():
        line = (meaning.__doc__ or "").partition("\n")[0]
        print(
            textwrap.fill(
                line, width, initial_indent=f"  {name:{NAME_WIDTH}}", subsequent_indent=" " * (NAME_WIDTH + 2)
            )
        )


def _print_policy_options() -> None:
    """Prints the part of tyro's help that is about a policy, once a class that has options."""
    variants = {type(start()) for start in POLICIES.values() if not isinstance(start, type)}
    for name, policy in POLICIES.items():
        if not isinstance(policy, type) or not fields(policy):
            continue
        options = make_dataclass("Options", [("policy", policy, field(default=policy()))], kw_only=True)
        page = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            tyro.cli(options, args=["--help"], prog=PROGRAM)
        page.seek(0)
        text = page.read()
        panels = re.search(r"^.*\bpolicy(\.\w+)? options", text, re.MULTILINE)
        title = f"--policy {name}" + (", and its variants" if policy in variants else "")
        print(f"\n{title}\n{text[panels.start() if panels else 0 :]}", end="")


def _sentence(box: str) -> str:
    """Returns the message and the hint of tyro's error box, drawn in either of its styles, as one line."""
    lines = [line.strip("│╰╯ ") for line in box.strip().splitlines()[1:]]
    blocks = [list(block) for is_rule, block in itertools.groupby(lines, _is_rule) if not is_rule]
    if not blocks:
        return box.strip()
    message = " ".join(blocks[0])
    for own in ("options", "experiment", "execution"):
        message = message.removeprefix(f"Error parsing {own}: ").removeprefix(f"Error parsing {own}.")
    message = message.removeprefix("published: ").removeprefix(PUBLISHED)
    hints = [line.split()[0] for block in blocks[1:] for line in block if line.startswith("--")]
    return f"{message} (perhaps {hints[0]})" if hints and message.startswith("Unrecognized") else message


def _is_rule(line: str) -> bool:
    return set(line) <= set("-─")
