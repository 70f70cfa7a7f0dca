"""Models chosen by name on the command line, with options and weights: `0.7*pickscore(stride=4) + 0.3*aesthetic`.

No torch here: an expression is checked before anything is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from searchkit.backbones.sources import Source
from searchkit.checkpoint import file_identity, find_file
from searchkit.placement import is_same

if TYPE_CHECKING:
    from searchkit.offload import Seat

Value = str | int | float | bool
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# Options may hold anything but brackets and commas: file names have plus signs.
_TERM = re.compile(rf"\s*(?:({_NUMBER})\s*\*\s*)?([^\s()+*,=]+)\s*(?:\(([^()]*)\)\s*)?(?:\+(?=.)|$)", re.DOTALL)
_OF_FILES = ("weights", "revision", "tokenizer", "base", "base_revision", "clip")  # nothing to random weights
ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number
_SIZE = re.compile(r"([\d.]+) GB in (\w+)$")  # the end of a card's line
_RANDOM = "random"  # in place of weights
# Any of these holds the weights of a model of transformers.
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class Files(NamedTuple):
    """Files that a model reads.

    option: says where they are: a file, a folder or a hub id.
    default: where they are unless it does; None for nowhere.
    names: of files, the first of which that is there is read.
    revision: the option that has the commit of a hub id, if there is one.
    with_others: whether what lies beside it is read, too, as it is by transformers.
    """

    option: str
    default: str | None
    names: tuple[str, ...]
    revision: str | None = None
    with_others: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a name stands for.

    Attributes:
        target: `module:Class`, with the class method `load`, and `random` for random weights.
        options: names of what the two take.
        card: licence and size of the weights, in a line.
        required: options without a default.
        files: what is read, unless weights are random.
    """

    target: str
    options: tuple[str, ...]
    card: str
    required: tuple[str, ...] = ()
    files: tuple[Files, ...] = ()

    def weight_bytes(self, dtype: str | None) -> float:
        """Returns the bytes of the weights in a dtype, or in the one that the card names."""
        size = _SIZE.search(self.card)
        assert size is not None, self.card
        return float(size[1]) * 1e9 * ITEMSIZES[dtype or size[2]] / ITEMSIZES[size[2]]


class Term(NamedTuple):
    """One model of an expression: its weight, its name, or `module:name` of the user's own, and its options."""

    weight: float
    name: str
    options: tuple[tuple[str, Value], ...]

    @property
    def is_own(self) -> bool:
        """Whether it is the user's."""
        return ":" in self.name


def parse(what: str, expression: str, known: Mapping[str, Known]) -> tuple[Term, ...]:
    """Returns the terms of an expression.

    Args:
        what: the option that holds it, for messages.
        known: what there is besides the user's own.

    Raises:
        ValueError: it is no sum of weighted names, or a name or an option of one is unknown; the nearest is named.
    """
    terms: list[Term] = []
    position = 0
    while position < len(expression) or not terms:
        match = _TERM.match(expression, position)
        if match is None:
            raise ValueError(f"{what} must be a name, or a sum such as 0.7*a(option=1) + 0.3*b, got {expression!r}")
        weight, name, options = match.groups()
        terms.append(Term(1.0 if weight is None else float(weight), name, _options(what, name, options or "")))
        position = match.end()
    for term in terms:
        _check(what, term, known)
    return tuple(terms)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ": the nearest is ..., of ..." for the message of an unknown name."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f": the nearest is {close[0]!r}, of {', '.join(names)}"


def find_target(what: str, target: str) -> Any:
    """Returns what `module:name` is; modules in the working directory are found, too.

    Raises:
        ValueError: it does not import.
    """
    module, _, attribute = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"{what} {target!r} does not import: {type(error).__name__}: {error}") from error


def load_known(known: Known, options: Mapping[str, Value]) -> Any:
    """Returns what a name stands for, loaded with options; `weights=random` needs no files."""
    given: dict[str, Any] = dict(options)
    if "dtype" in given:
        import torch

        given["dtype"] = getattr(torch, given["dtype"])
    made = find_target("the model", known.target)
    if given.get("weights") != _RANDOM:
        return made.load(**given)
    if not hasattr(made, "random"):
        raise ValueError(f"weights of {known.target} cannot be random")
    return made.random(**{name: value for name, value in given.items() if name not in _OF_FILES})


def load_seated(known: Known, options: Mapping[str, Value], seat: Seat | None) -> Any:
    """Returns what a name stands for, as by `load_known`; if it is for a seat's device, it waits in CPU memory."""
    if seat is None or not is_same(str(options["device"]), str(seat.device)):
        return load_known(known, options)
    if options.get("weights") != _RANDOM:
        return seat.for_calls_of(load_known(known, {**options, "device": "cpu"}))
    from searchkit.offload import modules_of  # names are known without torch

    model = load_known(known, options)  # drawn where it is going to compute: a CPU takes minutes for the largest
    for module in modules_of(model):
        module.to("cpu")
    return seat.for_calls_of(model)


def file_identities(terms: Iterable[Term], known: Mapping[str, Known]) -> dict[str, str]:
    """Returns names of what the files of terms hold, other ones for other files, by where they are.

    Finds the files, and fetches those of hub ids, but loads none. What a user's own models read is not known.

    Raises:
        ValueError: a file is not there; the model that wants it is named.
    """
    found: dict[str, str] = {}
    for term in terms:
        options = dict(term.options)
        if term.is_own or options.get("weights") == _RANDOM:
            continue
        for files in known[term.name].files:
            where = options.get(files.option, files.default)
            if where is None:
                continue
            try:
                found[f"{term.name}.{files.option}={where}"] = _identity(files, str(where), options)
            except ValueError as error:
                raise ValueError(f"{files.option} of {term.name} cannot be found: {error}") from error
    return found


def _identity(files: Files, where: str, options: Mapping[str, Value]) -> str:
    revision = options.get(files.revision) if files.revision is not None else None
    source = (where, None if revision is None else str(revision))
    if not files.with_others:
        return file_identity(find_file(where, *files.names, revision=source[1]))
    path = Source(*source).find(*files.names)
    return f"{Source(*source).identity()} {file_identity(path)}"


def _options(what: str, name: str, text: str) -> tuple[tuple[str, Value], ...]:
    options: dict[str, Value] = {}
    for part in text.split(",") if text.strip() else ():
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (option.isidentifier() and equals and value):
            raise ValueError(f"{what} {name!r} must have options as name=value, got {part.strip()!r}")
        if option in options:
            raise ValueError(f"{what} {name!r} has the option {option!r} twice")
        options[option] = _value(value)
    return tuple(options.items())


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) else text


def _check(what: str, term: Term, known: Mapping[str, Known]) -> None:
    if term.is_own:
        return
    if term.name not in known:
        raise ValueError(f"{what} {term.name!r} is unknown{nearest(term.name, known)}, or a module:name of your own")
    taken = known[term.name].options
    for option in known[term.name].required:
        if option not in dict(term.options):
            raise ValueError(f"{what} {term.name!r} needs the option {option}, as in {term.name}({option}=...)")
    for option, value in term.options:
        if option not in taken:
            raise ValueError(f"{what} {term.name!r} has no option {option!r}{nearest(option, taken)}")
        if option == "dtype" and value not in ITEMSIZES:
            raise ValueError(f"dtype of {what} {term.name!r} must be one of {', '.join(ITEMSIZES)}, got {value}")
