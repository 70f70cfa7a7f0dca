"""Engines: the same results whoever makes a trial, and a clear end whatever goes wrong in a process.

Processes load the models by themselves. They get the small weights from the module of a user's own policy, which they
import before.
"""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from experiments import engines, progress
from experiments.config import Execution
from experiments.engines import choose_engine, in_process
from experiments.run import main
from tests.experiments.conftest import SMALL

PROMPT = "a fast red circle moving left on a sand background"
SHORT = ["--prompts", PROMPT, "--num-chunks", "2"]
OWN_MODULE = '''
import os
from dataclasses import dataclass
from pathlib import Path

from envs.shapes import model
from policies import BestOfN
from searchkit.search import staged
from searchkit.types import Action, Request

model.NETWORK = {network}
model.WEIGHTS = Path({weights!r})


@dataclass(frozen=True, kw_only=True)
class Own(BestOfN):
    """Best-of-N that may go wrong.

    Attributes:
        fault: how.
    """

    fault: str = "none"

    def __call__(self, problem, *, seed):
        match self.fault:
            case "own":
                raise OwnError(self, "a fault of my own")
            case "ours":
                stages = staged(problem)
                stages.advance(stages.start([Request(problem.root, Action(seed))]), passes=99)
            case "death":
                os._exit(3)
        return super().__call__(problem, seed=seed)


class OwnError(ValueError):
    """An error that cannot travel between processes."""

    def __init__(self, policy, text):
        super().__init__(text)
'''


@pytest.fixture
def own_module(small_world: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes a module of a user's own into the working folder and returns its name."""
    name = "own_engine_policy"
    (small_world / f"{name}.py").write_text(OWN_MODULE.format(network=SMALL, weights=str(small_weights)))
    monkeypatch.syspath_prepend(small_world)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_processes_make_what_one_process_makes(own_module):
    line = ["--prompts", PROMPT, "--policies", "greedy", "stream-t1", f"{own_module}:Own"]
    line += ["--num-chunks", "6", "--measure-candidates"]
    assert main([*line, "--out", "one", "--engine", "in-process"]) == 0
    assert main([*line, "--out", "many", "--engine", "processes", "--workers", "2"]) == 0

    def tables(columns: str, name: str) -> list[list[tuple[Any, ...]]]:
        return [duckdb.sql(f"select {columns} from '{out}/{name}.parquet'").fetchall() for out in ("one", "many")]

    for columns, name in (
        ("trial, policy, prompt, seed, num_chunks, passes, video", "results"),
        ("trial, chunk, candidate_seed, route, correlation, kept, chosen, lineage, passes", "candidates"),
        ("trial, segment, start_second", "segments"),
    ):
        one, many = tables(columns, name)
        assert one == many and one
    for columns, name in (
        ("reward, truth, motion", "results"),
        ("short, long, fused, truth, coalesce(diversity, -1)", "candidates"),
    ):
        one, many = (np.array(rows) for rows in tables(columns, name))
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-5)


def test_interrupted_processes_end_and_what_is_stored_is_kept(own_module, capsys, monkeypatch):
    line = [*SHORT, "--seeds", *map(str, range(9)), "--policy", f"{own_module}:Own", "--out", "x"]

    def interrupted(self: progress.Lines, outcome: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Lines, "finish", interrupted)
        assert main([*line, "--engine", "processes", "--workers", "1"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not multiprocessing.active_children()
    stored = list(Path("x/trials").glob("*"))
    assert 1 <= len(stored) < 9
    assert main([*line, "--engine", "in-process"]) == 0
    assert " of 9 trials are done already" in capsys.readouterr().out


def test_fault_of_a_users_own_in_a_process_comes_with_its_traceback(own_module):
    line = [*SHORT, "--policy", f"{own_module}:Own", "--policy.fault", "own", "--out", "x"]
    with pytest.raises(RuntimeError) as fault:
        main([*line, "--engine", "processes"])
    told = str(fault.value)
    assert "OwnError: a fault of my own" in told and f"{own_module}.py" in told
    assert f"while making {own_module}:Own (fault=own), seed 0, {PROMPT!r}" in told


def test_process_that_dies_is_one_sentence(own_module, capsys):
    line = [*SHORT, "--policy", f"{own_module}:Own", "--policy.fault", "death", "--out", "x"]
    assert main([*line, "--engine", "processes"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("run: a worker process died with 1 of 1 trials to go")
    assert "kept in x, and the same command goes on" in sentence


def test_fault_that_a_policy_provokes_names_its_trial(own_module, capsys):
    line = [*SHORT, "--policy", f"{own_module}:Own", "--policy.fault", "ours", "--out", "x"]
    assert main([*line, "--engine", "in-process"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    name = f"{own_module}:Own (fault=ours), seed 0, {PROMPT!r}"
    assert sentence == f"run: {name}: passes must be from 0 to 4, those left, got 99"


@pytest.mark.parametrize(
    ("execution", "num_trials", "cores", "workers"),
    [
        (Execution(), 8, 2, None),  # few trials are made before processes have started
        (Execution(), 9, 2, 2),
        (Execution(), 1536, 16, 16),
        (Execution(), 9, 16, 9),  # no process without a trial
        (Execution(), 1536, 1, None),
        (Execution(threads=2), 1536, 16, 8),  # the threads are divided
        (Execution(threads=2), 1536, 2, None),
        (Execution(workers=3), 1536, 2, 3),
        (Execution(engine="in-process"), 1536, 16, None),
        (Execution(engine="processes"), 2, 16, 2),
        (Execution(engine="processes"), 0, 16, 1),
    ],
)
def test_engine_fits_the_trials_and_the_machine(execution, num_trials, cores, workers, monkeypatch):
    monkeypatch.setattr(engines, "num_cores", lambda: cores)
    engine = choose_engine(execution, num_trials=num_trials)
    if workers is None:
        assert engine is in_process
    else:
        assert engine.keywords == {"workers": workers, "threads": execution.threads}
