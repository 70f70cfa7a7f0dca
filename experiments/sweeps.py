"""A grid of command lines, from the file that W&B's sweeps take, without a server: `--sweep FILE`. No torch here.

Points that differ in policies only are one experiment, with a policy for each. Points that differ in more, such as
num-chunks, are an experiment each, in folders of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.arguments import Command, parse
from experiments.config import with_prompts
from experiments.results import MARKER, default_path

KEYS = ("program", "command", "method", "metric", "name", "description", "project", "entity", "parameters")
MODULE = "experiments.run"
MACRO = re.compile(r"\$\{.*\}")
ARGS = "${args}"  # every option as --NAME=VALUE
ARGS_WITH_FLAGS = "${args_no_boolean_flags}"  # the same, but --NAME for what is true and nothing for what is not


class Part(NamedTuple):
    """An experiment to run.

    name: of its folder in the sweep's, and empty where it is the only one.
    """

    name: str
    command: Command
    out: Path


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a sweep's file says.

    Attributes:
        words: of the command line, for all points.
        parameters: values of the options that differ, by the options' names.
    """

    words: tuple[str, ...]
    parameters: Mapping[str, Sequence[Any]]

    @property
    def points(self) -> list[dict[str, Any]]:
        """The grid, the last option changing first."""
        return [
            dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*self.parameters.values())
        ]


def commands(argv: Sequence[str]) -> list[Part]:
    """Returns what a command line asks for: one experiment, or all those of a sweep. Prompts are there as texts.

    Raises:
        ValueError: something in it, or in the sweep's file, is wrong; one sentence says what.
        SystemExit: it asks for help, which is printed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", nargs="?", const="")
    given, others = parser.parse_known_args(argv)
    if given.sweep is None:
        command = _resolved(parse(argv))
        return [Part("", command, command.execution.out or default_path(command.preset, command.experiment))]
    if not given.sweep:
        raise ValueError("--sweep takes the file of a sweep")
    grid = read(Path(given.sweep))
    asked = {"sweep", *_options(others)}
    for name in (*_options(grid.words), *grid.parameters):
        if name.replace("_", "-") in asked:
            raise ValueError(f"--{name} is in sweep {given.sweep} already: give it in one of the two")
    points = [(point, _resolved(parse([*grid.words, *others, *_words(point)]))) for point in grid.points]
    return _parts(Path(given.sweep).stem, points)


def read(path: Path) -> Grid:
    """Returns the grid of a sweep's file.

    Raises:
        ValueError: it cannot be read, is no grid, or an option in it has no list of values.
    """
    import yaml

    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"sweep {str(path)!r} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"sweep {str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("parameters"), dict) or not stored["parameters"]:
        raise ValueError(f"sweep {str(path)!r} has no parameters")
    if stored.get("method") != "grid":
        raise ValueError(
            f"sweep {str(path)!r} must be of method grid, got {stored.get('method')}: others need a server"
        )
    if unknown := [key for key in stored if key not in KEYS]:
        raise ValueError(f"sweep {str(path)!r} has {unknown[0]}, which needs a server")
    parameters = {str(name): _values(str(name), one) for name, one in stored["parameters"].items()}
    words, macro = _split(path, stored["command"]) if "command" in stored else ((), ARGS)
    for name, values in parameters.items():
        if macro == ARGS and any(isinstance(value, bool) for value in values):
            raise ValueError(f"parameter {name!r} is a flag, which takes {ARGS_WITH_FLAGS} in the sweep's command")
    return Grid(words=tuple(words), parameters=parameters)


def _values(name: str, parameter: Any) -> list[Any]:
    """Returns the values of an option, as W&B writes them: one `value`, or `values`."""
    if isinstance(parameter, dict) and parameter.keys() <= {"value", "distribution"} and "value" in parameter:
        values = [parameter["value"]]
    elif isinstance(parameter, dict) and isinstance(parameter.get("values"), list) and parameter["values"]:
        values = parameter["values"]
    else:
        raise ValueError(f"parameter {name!r} of a grid must have a list of values, got {parameter}")
    if any(isinstance(value, (list, dict)) for value in values):
        raise ValueError(f"parameter {name!r} must have plain values, got {values}")
    return values


def _split(path: Path, command: Any) -> tuple[list[str], str]:
    """Returns what a sweep's command gives to our module at every point, and the macro that is a point's own options.

    Raises:
        ValueError: an agent would do something else with it than we.
    """
    words = [str(word) for word in command] if isinstance(command, list) else [str(command)]
    if MODULE not in words:
        raise ValueError(f"command of sweep {str(path)!r} must run {MODULE}, got {' '.join(words)}")
    given = words[words.index(MODULE) + 1 :]
    macros = [word for word in given if MACRO.search(word)]
    if len(macros) != 1 or macros[0] not in (ARGS, ARGS_WITH_FLAGS):
        raise ValueError(
            f"command of sweep {str(path)!r} must have {ARGS} after {MODULE}, and no other macro, "
            f"got {' '.join(macros) or 'none'}"
        )
    return [word for word in given if word != macros[0]], macros[0]


def _words(point: Mapping[str, Any]) -> list[str]:
    """Returns a point as a command line, as W&B's agent writes it."""
    return [
        f"--{name}" if isinstance(value, bool) else f"--{name}={value}"
        for name, value in point.items()
        if value is not False
    ]


def _options(words: Sequence[str]) -> list[str]:
    """Returns the names of the options in a command line."""
    names = [word[2:].partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return [name.removeprefix("no-") for name in names]


def _resolved(command: Command) -> Command:
    return command._replace(experiment=with_prompts(command.experiment))


def _parts(stem: str, points: Sequence[tuple[dict[str, Any], Command]]) -> list[Part]:
    """Returns one experiment for all points that differ in their policies only."""
    execution = points[0][1].execution
    groups: list[list[tuple[dict[str, Any], Command]]] = []
    for point, command in points:
        if command.execution != execution:
            raise ValueError(f"a sweep is over options of results, got one over {', '.join(point)}")
        for group in groups:
            first = group[0][1].experiment
            if replace(command.experiment, policies=first.policies) == first:
                group.append((point, command))
                break
        else:
            groups.append([(point, command)])
    merged = [
        replace(
            group[0][1].experiment, policies=tuple(one for _, command in group for one in command.experiment.policies)
        )
        for group in groups
    ]
    if len(merged) == 1:
        return [Part("", Command(stem, merged[0], execution), execution.out or default_path(stem, merged[0]))]
    text = json.dumps([experiment.describe() for experiment in merged], sort_keys=True)
    out = execution.out or Path("runs") / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if (out / MARKER).exists():
        raise ValueError(
            f"output folder {out} holds an experiment, and this sweep is {len(merged)}: choose another --out"
        )
    names = _names([[point for point, _ in group] for group in groups])
    return [
        Part(name, Command(stem, experiment, execution), out / name)
        for name, experiment in zip(names, merged, strict=True)
    ]


def _names(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Returns what tells each group of points from the others: the options that are one within each, not in all."""
    telling = [
        name
        for name in groups[0][0]
        if all(len({str(point[name]) for point in group}) == 1 for group in groups)
        and len({str(group[0][name]) for group in groups}) > 1
    ]
    return [",".join(f"{name}={group[0][name]}" for name in telling).replace("/", "-") for group in groups]
