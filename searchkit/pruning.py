"""Reward pruning (Stream-T1, arXiv 2605.04461): which candidates of a chunk go on, and which are not even finished."""

from __future__ import annotations

import random
from collections.abc import Sequence

from searchkit.fusion import Fusion
from searchkit.noise import derive_seed
from searchkit.search import Expand, Expansion, Level, Pruned, Select, Selection, check_finite, staged
from searchkit.types import Request, S, SearchProblem


def keep_best(width: int, fusion: Fusion) -> Select[S]:
    """Returns the selection of the `width` candidates with the highest fused score, the earlier of equals."""

    def select(level: Level[S]) -> Selection:
        fused = _fused(level, fusion)
        return Selection(_best_first(fused)[:width], fused)

    return select


def keep_all(fusion: Fusion) -> Select[S]:
    """Returns the selection of every candidate, best first by fused score."""
    return keep_best(2**62, fusion)


def keep_better_half(fusion: Fusion) -> Select[S]:
    """Returns the selection of the better half of the candidates, the larger half of an odd number."""

    def select(level: Level[S]) -> Selection:
        best: Select[S] = keep_best(_half(len(level.children)), fusion)
        return best(level)

    return select


def keep_random(width: int, fusion: Fusion, *, seed: int) -> Select[S]:
    """Returns the selection of `width` candidates drawn at random: what pruning by reward is to be compared with."""

    def select(level: Level[S]) -> Selection:
        indices = range(len(level.children))
        drawn = random.Random(derive_seed(seed, (), level.chunk)).sample(indices, min(width, len(indices)))
        return Selection(drawn, _fused(level, fusion))

    return select


def finish_better_half(problem: SearchProblem[S], *, passes: int, fusion: Fusion) -> Expand[S]:
    """Returns the expansion that gives up the worse half of a level after some denoising passes, by previews.

    Of an odd number the larger half is finished.

    Args:
        passes: before the preview, which no chunk may have fewer of.

    Raises:
        ValueError: the problem cannot be opened up.
    """
    opened = staged(problem)

    def expand(requests: Sequence[Request[S]]) -> Expansion[S]:
        chunk, drafts = requests[0].state.chunk, opened.start(requests)
        try:
            drafts = opened.advance(drafts, passes=passes)
        except ValueError as error:
            raise ValueError(f"preview_passes must be at most those of chunk {chunk}, got {passes}: {error}") from error
        previews = opened.preview(drafts)
        for preview in previews:
            check_finite(preview.scores, chunk=chunk, action=preview.draft.request.action)
        fused = fusion([preview.scores for preview in previews], chunk=chunk, horizon=problem.horizon)
        finished = sorted(_best_first(fused)[: _half(len(fused))])
        pruned = [
            Pruned(preview.draft, preview.scores, value)
            for index, (preview, value) in enumerate(zip(previews, fused, strict=True))
            if index not in finished
        ]
        return Expansion(opened.finish(opened.advance([previews[index].draft for index in finished])), pruned)

    return expand


def _half(count: int) -> int:
    return (count + 1) // 2


def _best_first(values: Sequence[float]) -> list[int]:
    """Returns the indices by falling value, the earlier of equals first."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def _fused(level: Level[S], fusion: Fusion) -> list[float]:
    return fusion([child.scores for child in level.children], chunk=level.chunk, horizon=level.horizon)
