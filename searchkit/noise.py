"""Seeds to noise, and noise propagation between chunks (Stream-T1, arXiv 2605.04461).

Letters: T latent frames of a chunk, C channels, h and w latent height and width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def derive_seed(trial_seed: int, lineage: Sequence[int], index: int) -> int:
    """Returns the seed of a chunk's candidate, below 2**63.

    Hashing keeps trials and branches from ever sharing noise. A candidate depends on nothing of the policy, so
    candidate 0 along greedy's lineage is the same for every policy, and comparisons are paired.

    Args:
        lineage: the seeds of the chunks before; its length is the chunk's number.
        index: of the candidate among its siblings.
    """
    text = ",".join(map(str, (trial_seed, len(lineage), *lineage, index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def counted_seed(trial_seed: int, *, chunk: int, rank: int, index: int) -> int:
    """Returns the seed of a candidate as Stream-T1's release counts them.

    Trials and branches may share noise: a seed may come back in another chunk or trial.

    Args:
        rank: of the candidate's parent among the beams.
        index: of the candidate among its siblings.
    """
    return trial_seed + 1000 * chunk + 100 * rank + index


def draw(seed: int, shape: Sequence[int], *, count: int) -> list[Tensor]:
    """Returns `count` standard normal tensors, float32 on the CPU so that every device sees the same numbers.

    The first starts the chunk; the others are for re-noising between passes.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def propagate(previous: Tensor | None, fresh: Tensor, correlation: float) -> Tensor:
    """Returns fresh noise mixed with the last chunk's noise, at unit variance (Stream-T1, noise propagation).

    Args:
        previous: `[T, C, h, w]` noise that started the last chunk, or None for the first chunk.
        fresh: `[T, C, h, w]` standard normal noise, independent of `previous`.
        correlation: from -1 to 1; 0 makes the chunks independent.

    Raises:
        ValueError: the correlation is out of range.
    """
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"noise_correlation must be from -1 to 1, got {correlation}")
    if previous is None or correlation == 0.0:
        return fresh
    return correlation * previous + math.sqrt(1.0 - correlation**2) * fresh
