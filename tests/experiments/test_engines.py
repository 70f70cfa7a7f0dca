"""Engines: the same results whoever makes a trial, and a clear end whatever goes wrong with it."""

import json
import multiprocessing
import os
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from experiments import engines
from experiments.config import Execution
from experiments.engines import choose_engine, in_process, in_processes
from experiments.interrupts import PROMISE
from experiments.run import main

PROMPT = "a fast red circle moving left on a sand background"
SHORT = ["--prompts", PROMPT, "--num-chunks", "2", "--out", "x"]


def _seeds(num: int) -> list[str]:
    return ["--seeds", *map(str, range(num))]


def _faulty(own_module: str, fault: str, *, at: int | None = None) -> list[str]:
    line = [*SHORT, "--policy", f"{own_module}:Own", "--policy.fault", fault]
    return line if at is None else [*line, "--policy.at", str(at)]


def _attempts() -> Counter[int]:
    return Counter(map(int, Path("attempts.txt").read_text().split()))


def _stored() -> list[Path]:
    return list(Path("x/trials").glob("*/trial.json"))


def _seeds_done() -> list[int]:
    return [seed for (seed,) in duckdb.sql("select seed from 'x/results.parquet' order by seed").fetchall()]


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


def test_process_that_is_killed_is_replaced_and_its_trial_made_again(own_module, capsys):
    line = [*_faulty(own_module, "death-once", at=1), *_seeds(5)]
    assert main([*line, "--engine", "processes", "--workers", "2"]) == 0
    assert _attempts() == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1}
    assert _seeds_done() == [0, 1, 2, 3, 4] and not list(Path("x/trials").glob("*.failed.json"))
    printed = capsys.readouterr().out
    assert "seed 1" in printed and "will be tried again: the worker was ended by SIGKILL" in printed


@pytest.mark.parametrize(
    ("fault", "chunks"), [("SIGINT", ["0", "1"]), ("SIGTERM", ["0", "1"]), ("SIGINT-twice", ["0"])]
)
def test_interrupted_trial_ends_after_its_chunk_and_at_once_the_second_time(fault, chunks, own_module, capsys):
    line = [*_faulty(own_module, fault, at=1), *_seeds(3), "--num-chunks", "4", "--engine", "in-process"]
    assert main(line) == 130
    printed = capsys.readouterr()
    assert printed.err == "interrupted: finished trials are kept in x, and the same command goes on\n"
    assert fault == "SIGINT-twice" or PROMISE in printed.out
    assert Path("chunks.txt").read_text().split() == chunks
    assert len(_stored()) == 1 and _attempts() == {0: 1, 1: 1}
    assert Path("x/results.parquet").exists() == (fault != "SIGINT-twice")


def test_interrupted_processes_end_after_their_chunk(own_module, capsys):
    Path("engine.pid").write_text(str(os.getpid()))
    line = [*_faulty(own_module, "interrupt", at=2), *_seeds(9), "--num-chunks", "6"]
    assert main([*line, "--engine", "processes", "--workers", "1"]) == 130
    printed = capsys.readouterr()
    assert PROMISE in printed.out and "the same command goes on" in printed.err
    assert not multiprocessing.active_children()
    assert len(_stored()) == 2 and _attempts() == {0: 1, 1: 1, 2: 1}


def test_fault_of_a_users_own_in_a_process_comes_with_its_traceback(own_module):
    line = [*_faulty(own_module, "own"), "--retries", "0"]
    with pytest.raises(RuntimeError) as fault:
        main([*line, "--engine", "processes"])
    told = str(fault.value)
    assert "OwnError: a fault of my own" in told and f"{own_module}.py" in told
    assert f"while making {own_module}:Own (fault=own), seed 0, {PROMPT!r}" in told


def test_process_that_dies_is_one_sentence(own_module, capsys):
    line = [*_faulty(own_module, "death"), "--retries", "0"]
    assert main([*line, "--engine", "processes"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    name = f"{own_module}:Own (fault=death), seed 0, {PROMPT!r}"
    assert sentence == f"run: {name}: the worker ended with exit code 3, perhaps saying why above"


def test_fault_that_a_policy_provokes_names_its_trial(own_module, capsys):
    assert main([*_faulty(own_module, "ours"), "--engine", "in-process"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    name = f"{own_module}:Own (fault=ours), seed 0, {PROMPT!r}"
    assert sentence == f"run: {name}: passes must be from 0 to 4, those left, got 99"
    assert _attempts() == {0: 1}  # it would meet the same again


def test_gpu_that_is_too_small_says_which_options_help(own_module, capsys):
    assert main([*_faulty(own_module, "memory"), "--retries", "0", "--engine", "in-process"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "seed 0" in sentence and "--memory-budget plans what may wait" in sentence


def test_wrong_input_of_all_trials_is_not_met_by_all_of_them(own_module, capsys):
    assert main([*_faulty(own_module, "ours"), *_seeds(30), "--engine", "in-process"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "passes must be from 0 to 4" in sentence and _attempts() == {0: 1, 1: 1, 2: 1}


def test_trial_that_fails_is_recorded_and_the_others_are_made(own_module, capsys):
    line = [*_faulty(own_module, "own", at=1), *_seeds(4), "--engine", "in-process"]
    assert main(line) == 1
    assert _attempts() == {0: 1, 1: 3, 2: 1, 3: 1} and _seeds_done() == [0, 2, 3]
    (record,) = Path("x/trials").glob("*.failed.json")
    stored = json.loads(record.read_text())
    assert (stored["seed"], stored["attempts"], stored["error"]) == (1, 3, "OwnError: a fault of my own")
    assert any(f"{own_module}.py" in line for line in stored["traceback"])
    printed = capsys.readouterr()
    (sentence,) = printed.err.splitlines()
    assert "seed 1" in sentence and sentence.endswith(f"failed 3 times: OwnError: a fault of my own (see {record})")
    assert "Traceback" in printed.out


def test_record_of_a_failure_goes_when_the_trial_is_made_after_all(own_module, capsys):
    line = [*_faulty(own_module, "own-once", at=1), *_seeds(2), "--engine", "in-process", "--retries", "0"]
    assert main(line) == 1
    assert list(Path("x/trials").glob("*.failed.json"))
    assert main(line) == 0
    assert not list(Path("x/trials").glob("*.failed.json")) and _seeds_done() == [0, 1]
    assert "1 of 2 trials are done already" in capsys.readouterr().out


def test_fault_that_passes_costs_an_attempt(own_module):
    assert main([*_faulty(own_module, "own-once", at=0), *_seeds(2), "--engine", "in-process"]) == 0
    assert _attempts() == {0: 2, 1: 1}


@pytest.mark.parametrize(("engine", "level"), [("in-process", "info"), ("processes", "info"), ("in-process", "error")])
def test_log_level_says_how_much_workers_tell(engine, level, own_module, capsys):
    line = [*_faulty(own_module, "own-once"), "--engine", engine, "--log-level", level]
    assert main(line) == 0
    told = capsys.readouterr().err
    for words in ("INFO experiments.engines.making: making", "INFO experiments.engines.work:", "a fault that passes"):
        assert (words in told) == (level == "info")


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
        assert engine.func is in_process
    else:
        assert engine.func is in_processes
        assert (engine.keywords["workers"], engine.keywords["threads"]) == (workers, execution.threads)
