"""Where the parts of a search are between their uses: on the device, or in the CPU's memory. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


def is_same(device: str, other: str) -> bool:
    """Returns whether two names are one device's: cuda is cuda:0, as nobody here chooses another one by default."""
    return device.removesuffix(":0") == other.removesuffix(":0")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What makes room on a device, in the order of what it costs; the defaults keep everything there.

    Results are the same within rounding: `takes_turns` and `max_batch` change how candidates are grouped,
    `encodes_on_cpu` and `blocks_wait`, for averages, where something is computed. The others change no bit.

    Attributes:
        encodes_on_cpu: prompts are encoded on the CPU, as the text encoder does not fit even alone.
        takes_turns: parents take turns, so that the prefix of one is held at a time.
        judges_wait: judges are in CPU memory, and each is on the device while it judges.
        max_batch: most candidates in one call of the network, the decoder or a reward.
        rewards_wait: rewards are in CPU memory, and one at a time is on the device while a level is scored.
        caches_wait: so are the decoder's caches, but those of the candidates being decoded.
        blocks_wait: so are the keys and values of the memory; prefixes are assembled on the device.
        network_leaves: the network is in CPU memory while rewards score.
    """

    encodes_on_cpu: bool = False
    takes_turns: bool = False
    judges_wait: bool = False
    max_batch: int = 16
    rewards_wait: bool = False
    caches_wait: bool = False
    blocks_wait: bool = False
    network_leaves: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
