"""What Ray itself takes of a machine while its workers sleep: `python -m experiments.benchmark.standing`.

Where every core has a worker, trials on Ray have that much less time than those of processes, whatever the engine does.
"""

from __future__ import annotations

import time

import psutil
import tyro

from experiments.config import Execution
from experiments.engines.cluster import connected

SETTLE_SECONDS = 10.0  # after workers have started, for what the cluster still has to do


class Sleeper:
    """A worker in a call that does nothing."""

    def sleep(self, seconds: float) -> None:
        """Does nothing for so long."""
        time.sleep(seconds)


def standing_cost(workers: int, seconds: float) -> float:
    """Returns the CPU seconds a second of a local cluster, the driver included, whose workers sleep."""
    with connected(Execution(engine="ray", ray_address="local", workers=workers)) as ray:
        kind = ray.remote(num_cpus=1)(Sleeper)
        sleepers = [kind.remote() for _ in range(workers)]
        ray.get([sleeper.sleep.remote(0.0) for sleeper in sleepers])  # they have started
        calls = [sleeper.sleep.remote(SETTLE_SECONDS + seconds + 1) for sleeper in sleepers]
        ray.wait(calls, timeout=SETTLE_SECONDS)
        before, began = _cpu_seconds(), time.monotonic()
        ready, _ = ray.wait(calls, timeout=seconds)
        if ready:
            ray.get(ready)  # raises what became of it
            raise RuntimeError("a worker woke too soon")
        return (_cpu_seconds() - before) / (time.monotonic() - began)


def _cpu_seconds() -> float:
    """Returns those of this process and of all that it has started."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def main(workers: int = 2, seconds: float = 60.0) -> None:
    """Prints what Ray takes while its workers sleep.

    Args:
        workers: of the cluster, one CPU each.
        seconds: how long to look.
    """
    cost = standing_cost(workers, seconds)
    share = f"{cost / workers:.2%} of {workers} cores"
    print(f"Ray with {workers} sleeping workers: {1000 * cost:.1f} ms of CPU a second, {share}")


if __name__ == "__main__":
    tyro.cli(main)
