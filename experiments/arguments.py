"""The command line: first the choice of preset and policies, then all options, typed by what was chosen."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, field, fields, make_dataclass, replace
from typing import Annotated, Any, NamedTuple

import tyro

from experiments.config import Execution, Experiment
from experiments.presets import PRESETS, preset
from experiments.registry import POLICIES, policy_class, policy_name
from searchkit.types import Policy

PROGRAM = "python -m experiments.run"
DESCRIPTION = """Searches videos of a streaming model with several policies and compares them at equal compute.

Without arguments it runs the preset shapes-quick. Options of a policy follow its name: --policy stream-t1
--policy.beam-width 3. The same command again skips the trials that are done."""


class Command(NamedTuple):
    """What a command line asks for."""

    preset: str
    experiment: Experiment
    execution: Execution


class _Choice(NamedTuple):
    preset: str
    policies: Sequence[str] | None
    policy: str | None


def parse(argv: Sequence[str]) -> Command:
    """Returns what a command line asks for.

    Raises:
        ValueError: something in it is wrong; one sentence says what.
        SystemExit: it asks for help, which is printed.
    """
    choice = _choose(argv)
    base = preset(choice.preset)
    typed = _typed(choice, base)
    with contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            given = tyro.cli(typed, args=argv, prog=PROGRAM, description=DESCRIPTION)
        except SystemExit as exit_status:
            if exit_status.code:
                raise ValueError(_sentence(complaint.getvalue())) from None
            if choice.policy is None:
                _print_policy_options()
            raise
    experiment: Experiment = given.experiment
    if choice.policy is not None:
        experiment = replace(experiment, policies=(given.options,))
    elif choice.policies is not None:
        experiment = replace(experiment, policies=tuple(_at_defaults(name) for name in choice.policies))
    return Command(choice.preset, experiment, given.execution)


def _choose(argv: Sequence[str]) -> _Choice:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", default="shapes-quick", const="")
    parser.add_argument("--policies", nargs="*")
    parser.add_argument("--policy", nargs="?", const="")
    given, others = parser.parse_known_args(argv)
    choice = _Choice(given.preset, given.policies, given.policy)
    if choice.policy is not None and choice.policies is not None:
        raise ValueError("--policy runs one policy and --policies several at their defaults: give one of the two")
    stray = [word for word in others if word.startswith("--policy.")]
    if stray and choice.policy is None:
        raise ValueError(f"{stray[0]} is an option of a policy: name it with --policy NAME")
    return choice


def _typed(choice: _Choice, base: Experiment) -> type[Any]:
    """Returns a dataclass of all options, those of the chosen policy among them."""
    names = tuple(policy_name(policy) for policy in base.policies)
    several = f"policies to compare at their defaults: {', '.join(POLICIES)}, or a module:ClassName of your own"
    options: list[Any] = [
        ("preset", _option(str, f"the experiment to start from: {', '.join(PRESETS)}"), choice.preset),
        ("policies", _option(tuple[str, ...], several), names),
        ("policy", _option(str | None, "one policy to run alone, with --policy.OPTION for its options"), None),
    ]
    if choice.policy is not None:
        chosen = policy_class(choice.policy)
        default = MISSING if _needs_options(chosen) else chosen()
        options.append(("options", Annotated[chosen, tyro.conf.arg(name="policy")], field(default=default)))
    flattened = tyro.conf.arg(name="")
    options.append(("experiment", Annotated[Experiment, flattened], base))
    options.append(("execution", Annotated[Execution, flattened], Execution()))
    return make_dataclass("Options", options, kw_only=True, frozen=True)


def _option(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _at_defaults(name: str) -> Policy:
    policy = policy_class(name)
    if _needs_options(policy):
        raise ValueError(f"policy {name!r} has options without defaults: run it with --policy {name}")
    return policy()


def _needs_options(policy: type[Any]) -> bool:
    return any(field.default is MISSING and field.default_factory is MISSING for field in fields(policy))


def _print_policy_options() -> None:
    """Prints the part of tyro's help that is about a policy, for each that has options."""
    for name, policy in POLICIES.items():
        if not fields(policy):  # type: ignore[arg-type]
            continue
        options = make_dataclass("Options", [("policy", policy, field(default=policy()))], kw_only=True)
        page = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            tyro.cli(options, args=["--help"], prog=PROGRAM)
        page.seek(0)
        text = page.read()
        panels = re.search(r"^.*\bpolicy(\.\w+)? options", text, re.MULTILINE)
        print(f"\n--policy {name}\n{text[panels.start() if panels else 0 :]}", end="")


def _sentence(box: str) -> str:
    """Returns the message and the hint of tyro's error box, drawn in either of its styles, as one line."""
    lines = [line.strip("│╰╯ ") for line in box.strip().splitlines()[1:]]
    blocks = [list(block) for is_rule, block in itertools.groupby(lines, _is_rule) if not is_rule]
    if not blocks:
        return box.strip()
    message = " ".join(blocks[0])
    for own in ("options", "experiment", "execution"):
        message = message.removeprefix(f"Error parsing {own}: ").removeprefix(f"Error parsing {own}.")
    hints = [line.split()[0] for block in blocks[1:] for line in block if line.startswith("--")]
    return f"{message} (perhaps {hints[0]})" if hints and message.startswith("Unrecognized") else message


def _is_rule(line: str) -> bool:
    return set(line) <= set("-─")
