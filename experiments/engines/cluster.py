"""Workers of a Ray cluster make the trials: one for each GPU, or for each share of CPUs where there is none.

All nodes see the experiment's folder by the same path, and store trials in it as processes of one machine do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from experiments.config import Execution, Trial
from experiments.engines import num_cores
from experiments.engines.actors import RewardActor, WorkerActor
from experiments.engines.channel import REACH_SECONDS, STOP, connected_to, hear, tell
from experiments.engines.pool import Died, Word, make_in_pool
from experiments.engines.work import Work
from experiments.engines.worker import THREAD_VARIABLES, Setup, Surroundings
from experiments.failures import Failure
from experiments.worlds import world_of

ADDRESS = "RAY_ADDRESS"
AUTH_MODE = "RAY_AUTH_MODE"
NAMED = ("local", "auto")  # addresses that are no HOST:PORT: a cluster of this machine alone, or the one it is in
LITTLE_STORE = 2**27  # bytes of Ray's object store, where no frames travel through it
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",  # a small /dev/shm is no reason to complain
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # also on Linux, it keeps a cluster off all other networks
    "RAY_worker_niceness": "0",  # Ray's own 15 would let whatever else runs here go first
}
UNREAD = {  # workers' logs, which a process would look for ten times a second
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
}
LOOK_SECONDS = 1.0  # between two looks for workers that died
REWARD_RESTARTS = 3  # of a reward worker that died; a score is asked for again


class Room(NamedTuple):
    """What each worker takes, and how many of them a cluster has room for.

    taken: as options of an actor.
    """

    taken: dict[str, float]
    num: int


def on_ray(work: Work, *, execution: Execution) -> list[Failure]:
    """Makes as many trials at once as a cluster has room for; errors are those of `make_in_pool`.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be joined, or it has no room.
    """
    if not work.trials:
        return []
    with connected(execution) as ray:
        work.interrupts.listen()  # Ray has taken SIGTERM
        room = room_of(ray.cluster_resources(), execution, wants_gpu=_wants_gpu(work))
        num_workers = min(len(work.trials), execution.workers or room.num)
        with contextlib.closing(_Actors(ray, work, execution, room)) as crew:
            return make_in_pool(crew, work, num_workers=num_workers, retries=execution.retries)


def room_of(resources: dict[str, float], execution: Execution, *, wants_gpu: bool) -> Room:
    """Returns the room for workers that a cluster's resources leave, those of the rewards aside.

    Raises:
        ValueError: there is none.
    """
    if wants_gpu and resources.get("GPU", 0.0) >= 1:
        taken, num = {"num_cpus": 0.0, "num_gpus": 1.0}, int(resources["GPU"])
    else:
        taken, num = {"num_cpus": float(execution.threads)}, int(resources.get("CPU", 0.0)) // execution.threads
    num_rewards = execution.reward_workers if execution.reward_placement == "own" else 0
    if num <= num_rewards:
        kind = "GPUs" if "num_gpus" in taken else f"shares of {execution.threads} CPUs"
        raise ValueError(
            f"the Ray cluster has room for {num} workers ({kind}), but at least {num_rewards + 1} are needed, "
            f"{num_rewards} of them for rewards"
        )
    return Room(taken, num - num_rewards)


@contextlib.contextmanager
def connected(execution: Execution) -> Iterator[Any]:
    """Yields Ray, which has joined a cluster or started one of this machine alone, for as long as it is needed.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    address = execution.ray_address or os.environ.get(ADDRESS) or "local"
    if address not in NAMED:
        _check_reached(address)
    is_chatty = execution.log_level == "debug"
    ray = _import_ray(is_local=address == "local", is_chatty=is_chatty)
    if ray.is_initialized():  # by whoever called: it stays theirs
        yield ray
        return
    ray._private.worker._worker_logs_enabled = is_chatty  # nothing else silences what nodes say of workers that die
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address,
            log_to_driver=is_chatty,
            logging_level=logging.DEBUG if is_chatty else logging.ERROR,
            runtime_env={"env_vars": _environment(execution)},
            **(_local_options(execution) if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"ray_address {address} cannot be joined: {reason}{_hint()}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, before)


def _check_reached(address: str) -> None:
    """Raises a ValueError if nobody listens at an address: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdecimal()):
        raise ValueError(f"ray_address must be HOST:PORT of a cluster's head, got {address}: run on one of its nodes")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"ray_address {address} cannot be joined: {error}") from error


def _hint() -> str:
    # Ray asks for a token wherever it finds one as a cluster starts, but shows one only where it is told to.
    return "" if AUTH_MODE in os.environ else f"; a cluster that asks for a token needs {AUTH_MODE}=token here, too"


def _import_ray(*, is_local: bool, is_chatty: bool) -> Any:
    for name, value in (QUIET | (LOCAL if is_local else {}) | ({} if is_chatty else UNREAD)).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ValueError("engine ray needs the package ray: pip install -e '.[ray]'") from error
    return ray


def _environment(execution: Execution) -> dict[str, str]:
    """Returns variables of the workers: what this process imports they import, too."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(execution.threads))
    return threads | QUIET | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _local_options(execution: Execution) -> dict[str, Any]:
    own = execution.reward_placement == "own"
    num_shares = (execution.workers or 0) + (execution.reward_workers if own else 0)
    return {
        "include_dashboard": False,
        "num_cpus": max(num_shares * execution.threads, num_cores()),
        **({} if own else {"object_store_memory": LITTLE_STORE}),
    }


def _wants_gpu(work: Work) -> bool:
    return world_of(work.folder.experiment).wants_gpu(work.folder.experiment)


class _Hand(NamedTuple):
    """An actor, its call that lasts as long as it works, and the way to it.

    address: to come; None once it was tried.
    channel: None before, and when the worker is gone.
    """

    actor: Any
    call: Any
    address: Any
    channel: Connection[bytes, Word] | None = None


class _Actors:
    """A crew of Ray actors, which this process connects to."""

    def __init__(self, ray: Any, work: Work, execution: Execution, room: Room) -> None:
        self._ray = ray
        self._key = secrets.token_bytes()
        surroundings = Surroundings.of_this_process(execution.threads)
        self._start = surroundings, pickle.dumps(Setup(work.folder, execution.log_level))
        self._hands: dict[int, _Hand] = {}
        self._looked = time.monotonic()
        self._kind = ray.remote(WorkerActor).options(max_restarts=0, **room.taken)
        self._rewards: list[Any] = []
        if execution.reward_placement == "own":
            kind = ray.remote(RewardActor).options(
                max_restarts=REWARD_RESTARTS, max_task_retries=REWARD_RESTARTS, **room.taken
            )
            self._rewards = [kind.remote(*self._start) for _ in range(execution.reward_workers)]

    def close(self) -> None:
        """Ends all actors at once."""
        for worker in list(self._hands):
            self._dismiss(worker)
        for actor in self._rewards:
            self._ray.kill(actor)

    def hire(self, worker: int) -> None:
        rewards = self._rewards[worker % len(self._rewards)] if self._rewards else None
        actor = self._kind.remote(*self._start, rewards, self._key)
        address = actor.address.remote()
        self._hands[worker] = _Hand(actor, actor.work.remote(), address)

    def give(self, worker: int, trial: Trial) -> None:
        if (channel := self._hands[worker].channel) is not None:  # else it has just died, which will be heard
            tell(channel, pickle.dumps(trial))

    def hear(self, seconds: float) -> Iterator[tuple[int, Word]]:
        yield from self._connect()
        for worker, word in hear(self._channels(), seconds):
            if word is not None:
                yield worker, word
            else:
                self._hang_up(worker)
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            yield from self._dead()

    def stop(self) -> None:
        for channel in self._channels().values():
            tell(channel, STOP)

    def _channels(self) -> dict[int, Connection[bytes, Word]]:
        return {worker: hand.channel for worker, hand in self._hands.items() if hand.channel is not None}

    def _connect(self) -> Iterator[tuple[int, Died]]:
        """Connects to the workers that have begun to listen; yields what became of those that cannot be reached."""
        expected = {hand.address: worker for worker, hand in self._hands.items() if hand.address is not None}
        for address in self._ready(expected):
            worker = expected[address]
            self._hands[worker] = self._hands[worker]._replace(address=None)
            with contextlib.suppress(self._ray.exceptions.RayError, EOFError):  # it is dead; its call will say why
                host, port = self._ray.get(address)
                try:
                    channel = connected_to(host, port, self._key)
                except (OSError, AuthenticationError) as error:
                    self._dismiss(worker)
                    yield worker, Died(f"cannot be reached at {host}:{port} ({error})")
                else:
                    self._hands[worker] = self._hands[worker]._replace(channel=channel)

    def _dead(self) -> Iterator[tuple[int, Died]]:
        """Yields what became of workers whose call has ended, and all of whose words were heard."""
        calls = {hand.call: worker for worker, hand in self._hands.items()}
        for call in self._ready(calls):
            worker = calls[call]
            channel = self._hands[worker].channel
            if channel is not None and channel.poll():
                continue
            try:
                how = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                logging.getLogger(__name__).info("worker %d: %s", worker, error)
                how = _end_of(error)
            self._dismiss(worker)
            yield worker, Died(how)

    def _ready(self, expected: Mapping[Any, int]) -> list[Any]:
        if not expected:
            return []
        ready: list[Any] = self._ray.wait(list(expected), num_returns=len(expected), timeout=0)[0]
        return ready

    def _hang_up(self, worker: int) -> None:
        hand = self._hands[worker]
        if hand.channel is not None:
            hand.channel.close()
            self._hands[worker] = hand._replace(channel=None)

    def _dismiss(self, worker: int) -> None:
        self._hang_up(worker)
        self._ray.kill(self._hands.pop(worker).actor)


def _end_of(error: Exception) -> str:
    """Returns what became of a worker, in words that follow "the worker"."""
    reason = "as memory ran out" if "memory" in str(error).partition("Some common causes")[0] else "or its node is gone"
    return f"died ({type(error).__name__}), {reason}"
