"""Batches of a video model where memory runs out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from policies import StreamT1
from searchkit.model import VideoModel
from searchkit.stream import Stream
from searchkit.types import SearchOutput

MakeModel = Callable[..., VideoModel]


class Cramped:
    """Something with some calls that take at most so many rows, and are otherwise what they were."""

    def __init__(self, inside: Any, *, calls: tuple[str, ...], room: int) -> None:
        self.inside, self.calls, self.room = inside, calls, room
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inside, name)
        if name not in self.calls:
            return found

        def limited(rows: Any, *args: Any, **keywords: Any) -> Any:
            self.sizes.append(len(rows))
            if len(rows) > self.room:
                raise torch.OutOfMemoryError(f"no room for {len(rows)} rows")
            return found(rows, *args, **keywords)

        return limited


def _cramped(model: VideoModel, *, network: int = 99, decoder: int = 99) -> VideoModel:
    engine: Any = Cramped(model.engine, calls=("flow", "clean"), room=network)
    return replace(model, engine=engine, decoder=Cramped(model.decoder, calls=("decode",), room=decoder))


def _search(model: VideoModel, scorer: Any) -> SearchOutput[Any]:
    stream = Stream(model=model, scorer=scorer, prompt="a prompt", horizon=6)
    return StreamT1(beam_width=3, children=3)(stream, seed=0)


@pytest.mark.parametrize(("network", "decoder"), [(2, 99), (99, 2), (1, 1)])
def test_search_out_of_memory_goes_on_as_with_smaller_batches(make_model: MakeModel, scorer, network, decoder):
    # 9 candidates: 9 do not fit, nor do 4, then 2 do or only 1.
    expected = _search(make_model(max_batch=min(network, decoder)), scorer)
    output = _search(_cramped(make_model(), network=network, decoder=decoder), scorer)
    tolerance = {"atol": 1e-5, "rtol": 0.0}
    assert output.best.actions == expected.best.actions
    torch.testing.assert_close(output.best.latents, expected.best.latents, **tolerance)
    torch.testing.assert_close(output.best.video, expected.best.video, **tolerance)


def test_search_out_of_memory_is_bit_for_bit_that_with_the_smaller_limit(make_model: MakeModel, scorer):
    expected = _search(make_model(max_batch=2), scorer)
    output = _search(_cramped(make_model(), network=2, decoder=2), scorer)
    assert output.best.actions == expected.best.actions
    torch.testing.assert_close(output.best.latents, expected.best.latents, atol=0.0, rtol=0.0)


def test_calls_that_fail_are_not_counted(make_model: MakeModel, scorer):
    expected = _search(make_model(max_batch=2), scorer).cost
    spent = _search(_cramped(make_model(), network=2), scorer).cost
    assert (spent.passes, spent.denoise_calls, spent.clean_calls) == pytest.approx(
        (expected.passes, expected.denoise_calls, expected.clean_calls)
    )


def test_each_size_that_does_not_fit_is_tried_once_and_told_once(make_model: MakeModel, scorer, caplog):
    model = _cramped(make_model(), network=2)
    with caplog.at_level(logging.WARNING):
        _search(model, scorer)
    engine: Any = model.engine
    assert [size for size in engine.sizes if size > 2] == [9, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory in a batch of 9 for the network: going on with at most 4",
        "out of memory in a batch of 4 for the network: going on with at most 2",
    ]


def test_networks_limit_is_not_the_decoders(make_model: MakeModel, scorer):
    model = _cramped(make_model(), network=1)
    _search(model, scorer)
    decoder: Any = model.decoder
    assert max(decoder.sizes) == 9


def test_one_row_that_does_not_fit_is_an_error(make_model: MakeModel, scorer):
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1 rows"):
        _search(_cramped(make_model(), network=0), scorer)


def test_state_can_be_expanded_after_it_did_not_fit(make_model: MakeModel, scorer):
    model = _cramped(make_model(), network=0)
    stream = Stream(model=model, scorer=scorer, prompt="a prompt", horizon=3)
    with pytest.raises(torch.OutOfMemoryError):
        StreamT1()(stream, seed=0)
    engine: Any = model.engine
    engine.room = 99
    assert StreamT1()(stream, seed=0).best.chunk == 3
