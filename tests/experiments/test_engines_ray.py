"""Ray: a real cluster of this machine makes what one process makes, whatever happens to its workers.

Starting a cluster takes seconds, so that the tests share one.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from experiments.benchmark import engines
from experiments.config import Execution
from experiments.engines import cluster as cluster_engine
from experiments.engines.actors import WorkerActor
from experiments.engines.channel import connected_to
from experiments.engines.cluster import connected, room_of
from experiments.engines.worker import Surroundings
from experiments.interrupts import PROMISE
from experiments.run import main

ray = pytest.importorskip("ray")

PROMPT = "a fast red circle moving left on a sand background"
RAY = ["--engine", "ray", "--workers", "2"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster with room for three workers; commands find it in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(Execution(engine="ray", workers=3)):
            yield


def _line(own_module: str, fault: str, *, num_chunks: int = 3) -> list[str]:
    line = ["--prompts", PROMPT, "--num-chunks", str(num_chunks), "--policy", f"{own_module}:Own"]
    return [*line, "--policy.fault", fault, "--policy.at", "1"]


def _rows(out: str, columns: str, table: str) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"select {columns} from '{out}/{table}.parquet'").fetchall()


def _assert_made_alike(out: str) -> None:
    """Checks a folder's results against those of one process in the folder "one"."""
    for columns, table in (
        ("trial, policy, prompt, seed, passes, video", "results"),
        ("trial, chunk, candidate_seed, kept, chosen, lineage", "candidates"),
    ):
        one, many = _rows("one", columns, table), _rows(out, columns, table)
        assert one == many and one
    for columns, table in (("reward, truth, motion", "results"), ("short, long, fused", "candidates")):
        one, many = _rows("one", columns, table), _rows(out, columns, table)
        np.testing.assert_allclose(np.array(one), np.array(many), rtol=1e-5, atol=1e-5)


def _attempts() -> Counter[int]:
    return Counter(map(int, Path("attempts.txt").read_text().split()))


def test_cluster_makes_what_one_process_makes_though_a_worker_is_killed(own_module, capsys):
    line = [*_line(own_module, "death-once"), "--seeds", "0", "1", "2", "3", "4"]
    assert main([*line, "--out", "many", *RAY]) == 0
    assert _attempts() == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1}  # the killed one is made again, and nothing else
    printed = capsys.readouterr()
    assert "seed 1" in printed.out and "will be tried again: the worker died" in printed.out
    assert "raylet" not in printed.out + printed.err
    assert not list(Path("many/trials").glob("*.failed.json"))
    assert main([*line, "--out", "one", "--engine", "in-process"]) == 0  # its first death is over
    _assert_made_alike("many")


def test_rewards_of_their_own_score_the_same_and_what_fails_is_recorded(own_module, capsys):
    line = [*_line(own_module, "own"), "--seeds", "0", "1", "--retries", "1"]
    assert main([*line, "--out", "apart", "--engine", "ray", "--workers", "1", "--reward-placement", "own"]) == 1
    printed = capsys.readouterr()
    (record,) = Path("apart/trials").glob("*.failed.json")
    assert printed.err.strip().endswith(f"failed 2 times: OwnError: a fault of my own (see {record})")
    assert f"{own_module}.py" in printed.out  # its traceback
    assert main([*line, "--out", "one", "--engine", "in-process"]) == 1
    _assert_made_alike("apart")


def test_interrupted_cluster_ends_after_its_chunk(own_module, capsys):
    Path("engine.pid").write_text(str(os.getpid()))
    line = [*_line(own_module, "interrupt", num_chunks=20), "--seeds", *map(str, range(9)), "--out", "x"]
    assert main([*line, "--engine", "ray", "--workers", "1"]) == 130
    printed = capsys.readouterr()
    assert PROMISE in printed.out and "the same command goes on" in printed.err
    assert len(list(Path("x/trials").glob("*/trial.json"))) == 1 and _attempts() == {0: 1, 1: 1}


def test_worker_behind_a_wall_is_replaced(own_module, capsys, monkeypatch):
    def blocked(host: str, port: int, key: bytes) -> Any:
        asked.append(port)
        if len(asked) == 1:
            raise TimeoutError("timed out")
        return connected_to(host, port, key)

    asked: list[int] = []
    monkeypatch.setattr(cluster_engine, "connected_to", blocked)
    assert main([*_line(own_module, "own"), "--seeds", "0", "--out", "x", "--engine", "ray", "--workers", "1"]) == 0
    assert len(asked) == 2 and _attempts() == {0: 1}


def test_workers_behind_a_wall_are_named(own_module, capsys, monkeypatch):
    def blocked(host: str, port: int, key: bytes) -> Any:
        raise TimeoutError("timed out")

    monkeypatch.setattr(cluster_engine, "connected_to", blocked)
    assert main([*_line(own_module, "own"), "--seeds", "0", "--out", "x", "--engine", "ray"]) == 2
    assert re.search(
        r"3 workers .*, the last one cannot be reached at [\d.]+:\d+ \(timed out\)", capsys.readouterr().err
    )


@pytest.fixture
def worker() -> Iterator[Any]:
    """A worker that is not on a node of the experiment's."""
    nowhere = Surroundings("/not/there", (), threads=1)
    actor = ray.remote(WorkerActor).remote(nowhere, b"", None, b"key")
    yield actor
    ray.kill(actor)


def test_worker_that_does_not_see_the_experiment_says_so(worker):
    address, call = worker.address.remote(), worker.work.remote()
    with connected_to(*ray.get(address), b"key") as connection, pytest.raises(EOFError):
        connection.recv_bytes()
    assert "does not see the experiment on" in ray.get(call)


def test_worker_takes_no_word_of_anybody_else(worker):
    address, call = worker.address.remote(), worker.work.remote()
    with pytest.raises(AuthenticationError):
        connected_to(*ray.get(address), b"another")
    with pytest.raises(ray.exceptions.RayTaskError, match="digest"):
        ray.get(call)


@pytest.mark.parametrize(
    ("resources", "options", "wants_gpu", "taken", "num"),
    [
        ({"CPU": 8.0}, {}, False, {"num_cpus": 1.0}, 8),
        ({"CPU": 8.0}, {"threads": 3}, False, {"num_cpus": 3.0}, 2),
        ({"CPU": 8.0, "GPU": 4.0}, {}, False, {"num_cpus": 1.0}, 8),
        ({"CPU": 8.0, "GPU": 4.0}, {}, True, {"num_cpus": 0.0, "num_gpus": 1.0}, 4),
        ({"CPU": 8.0}, {}, True, {"num_cpus": 1.0}, 8),
        ({"CPU": 8.0, "GPU": 4.0}, {"reward_placement": "own", "reward_workers": 3}, True, None, 1),
    ],
)
def test_workers_fit_the_cluster(resources, options, wants_gpu, taken, num):
    room = room_of(resources, Execution(engine="ray", **options), wants_gpu=wants_gpu)
    assert room.num == num and taken in (None, room.taken)


def _wait_for_free_cpus(num: float) -> None:
    deadline = time.monotonic() + 30.0
    while ray.available_resources().get("CPU", 0.0) != num:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_are_also_timed_beside_a_cluster_that_sleeps(monkeypatch):
    seconds = {("processes", 1): 8.0, ("processes", 2): 4.0, ("ray", 1): 9.0, ("ray", 2): 5.0}

    def pace(way, num_seeds):
        _wait_for_free_cpus(1.0 if way.beside_ray else 3.0)
        trial = 4.5 if way.beside_ray else seconds[way.engine, way.workers]
        return engines.Pace(trial, whole=2 * trial)

    monkeypatch.setattr(engines, "_pace", pace)
    figures = {figure.name: figure.value for figure in engines.throughput(2)}
    assert figures["ray / processes: a trial with 2 workers, models loaded"] == 5.0 / 4.0
    assert figures["processes beside a sleeping cluster / processes: the same"] == 4.5 / 4.0
    assert figures["ray / processes beside a sleeping cluster: the same"] == 5.0 / 4.5


def test_cluster_without_room_is_refused():
    execution = Execution(engine="ray", reward_placement="own")
    with pytest.raises(ValueError, match=r"has room for 1 workers \(GPUs\), but at least 2 are needed, 1 of them for"):
        room_of({"CPU": 64.0, "GPU": 1.0}, execution, wants_gpu=True)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "ray_address 127.0.0.1:1 cannot be joined: "),
        ("ray://head:1", "ray_address must be HOST:PORT of a cluster's head, got ray://head:1"),
        ("head", "ray_address must be HOST:PORT of a cluster's head, got head"),
    ],
)
def test_cluster_that_is_not_there_is_one_sentence(address, words, own_module, capsys):
    assert main([*_line(own_module, "none"), "--out", "x", "--engine", "ray", "--ray-address", address]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"run: {words}")
