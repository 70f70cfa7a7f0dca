"""What waits in CPU memory comes to a device, computes the same, and is back in its place whatever happens.

No second device is needed: the device "meta" has tensors without contents, and shows where modules and caches are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.offload import ScorerWithin, Seat, WaitingCaches, leaving, modules_of, visiting
from searchkit.rewards import RewardScorer, View
from searchkit.rewards.registry import Rewards, combine_images, combine_videos, load_scorer
from searchkit.rewards.terms import Term


class _Tied(nn.Module):
    """Two layers of one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(3), persistent=False)


def _devices(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


def test_visitors_weights_are_on_the_device_and_then_its_own_again():
    module = _Tied()
    before = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    with visiting([module], "meta"):
        assert _devices(module) == {"meta"}
        assert module.first.weight is module.second.weight
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert [id(tensor) for tensor in (*module.parameters(), *module.buffers())] == before
    assert _devices(module) == {"cpu"}


def test_visitor_is_back_after_a_failed_call_and_a_failed_move():
    module = _Tied()
    with pytest.raises(RuntimeError, match="call"), visiting([module], "meta"):
        raise RuntimeError("call")
    assert _devices(module) == {"cpu"}

    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fits, self.does_not = nn.Linear(2, 2), nn.Linear(2, 2)
            self.does_not.weight = _Unmovable(torch.ones(2, 2))

    full = Full()
    with pytest.raises(torch.OutOfMemoryError), visiting([full], "meta"):
        raise AssertionError("nobody comes here")
    assert _devices(full) == {"cpu"}


class _Unmovable(nn.Parameter):
    """A weight for which no device has room."""

    def detach(self) -> Tensor:
        raise torch.OutOfMemoryError("no room")


class _Travelling(nn.Linear):
    """Notes where it was sent."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.journeys: list[str] = []

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.journeys.append(str(args[0]))
        return self


def test_what_leaves_is_back_on_its_device_whatever_happens():
    network = _Travelling()
    with pytest.raises(ValueError, match="reward"), leaving(network):
        assert network.journeys == ["cpu"]
        raise ValueError("reward")
    assert network.journeys == ["cpu", "cpu"]  # its own device is the CPU, too


@dataclass(frozen=True, eq=False)
class _Image:
    """An image reward that notes where it and others are when it is called."""

    network: nn.Module
    seen: list[tuple[set[str], ...]]
    others: tuple[nn.Module, ...] = ()
    fails: bool = False

    def __call__(self, *, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen.append(tuple(_devices(module) for module in (self.network, *self.others)))
        if self.fails:
            raise torch.OutOfMemoryError("out of memory")
        return frames.mean((2, 3, 4))


def _view(brightness: float = 0.5, num_frames: int = 2) -> View:
    frames = torch.full((num_frames, 3, 4, 4), brightness)
    return View("a prompt", (), (frames, frames), frames)


def test_one_seat_holds_one_reward_at_a_time_and_is_empty_in_the_end():
    seat, seen = Seat("meta"), []
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    image, video = (
        seat.for_calls_of(_Image(network, seen, (other,))) for network, other in ((first, second), (second, first))
    )
    scorer = ScorerWithin(
        scorer=RewardScorer(
            image=combine_images([Term(1.0, "image", ())], lambda term: image),
            video=combine_videos([Term(1.0, "video", ())], lambda term: video),
            max_batch=1,
        ),
        room=(seat.until_empty,),
    )
    alone = RewardScorer(image=_Image(first, []), video=lambda *, windows, prompts: windows.mean((1, 2, 3, 4)))
    views = [_view(0.25), _view(0.75)]
    assert scorer.score(views) == alone.score(views)
    assert scorer.score_whole(views) == alone.score_whole(views)
    assert seen == [({"meta"}, {"cpu"})] * 6
    assert _devices(first) == _devices(second) == {"cpu"}


def test_seat_is_taken_once_a_level(monkeypatch: pytest.MonkeyPatch):
    seat, seen, visits = Seat("meta"), [], []
    reward = _Image(_Tied(), seen)
    image = seat.for_calls_of(reward)
    enter = seat._visit.enter_context
    monkeypatch.setattr(seat._visit, "enter_context", lambda visit: visits.append(1) or enter(visit))
    with seat.until_empty():
        for _ in range(3):
            image(frames=_view().newest[None], prompts=["a"])
    assert len(seen) == 3 and len(visits) == 1


def test_seat_is_empty_after_a_reward_that_fails():
    seat, reward = Seat("meta"), _Image(nn.Linear(2, 2), [], fails=True)
    scorer = ScorerWithin(
        scorer=RewardScorer(
            image=seat.for_calls_of(reward), video=lambda *, windows, prompts: windows.mean((1, 2, 3, 4))
        ),
        room=(seat.until_empty,),
    )
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score([_view()])
    assert _devices(reward.network) == {"cpu"}


@pytest.mark.parametrize("name", ["clipscore", "aesthetic", "pickscore", "hpsv2"])
def test_networks_of_known_rewards_are_found(name: str):
    from searchkit.rewards import aesthetic, clip
    from searchkit.rewards.clip_model import ClipSize

    small = ClipSize(
        image_size=28, vision_width=32, vision_layers=1, vision_heads=2, text_width=32, text_layers=1, text_heads=2,
        embed_dim=16,
    )  # fmt: skip
    made = {
        "aesthetic": lambda: aesthetic.Aesthetic.random(size=small),
        "clipscore": lambda: clip.CLIPScore.random(size=small),
        "pickscore": lambda: clip.PickScore.random(size=small),
        "hpsv2": lambda: clip.HPSv2.random(size=small),
    }[name]()
    modules = modules_of(made)
    assert modules[0] is made.clip.clip and len(modules) == (2 if name == "aesthetic" else 1)
    frames = torch.rand(1, 2, 3, 32, 48)
    waiting = Seat("cpu").for_calls_of(made)
    assert torch.equal(waiting(frames=frames, prompts=["a cat"]), made(frames=frames, prompts=["a cat"]))


def test_rewards_on_another_device_take_no_seat(monkeypatch: pytest.MonkeyPatch):
    from searchkit.rewards import terms

    devices = []
    monkeypatch.setattr(terms, "load_known", lambda known, options: devices.append(options["device"]) or _image)
    rewards = Rewards(image="clipscore + clipscore(device=cuda:1)", video="clipscore(device=cpu)", device="cuda")
    scorer = load_scorer(rewards, fps=16, seat=Seat("cuda:0"))
    assert devices == ["cpu", "cuda:1", "cpu"]
    assert isinstance(scorer, RewardScorer)


def _image(*, frames: Tensor, prompts: list[str]) -> Tensor:
    return frames.mean((2, 3, 4))


class _Decoder:
    """Notes where caches are that it is given, and makes others."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def decode(self, latents: Tensor, caches: Sequence[Any]) -> tuple[Tensor, list[Any]]:
        self.seen += [cache if cache is None else (cache[0].device.type, *cache[1:]) for cache in caches]
        return latents, [(torch.ones(2) * len(self.seen), "Rep", None) for _ in caches]


def test_caches_wait_on_the_cpu_and_come_when_they_are_needed():
    inner = _Decoder()
    decoder = WaitingCaches(decoder=inner, device="meta")
    frames, caches = decoder.decode(torch.zeros(2, 1), [None, None])
    assert inner.seen == [None, None] and frames.shape == (2, 1)
    assert [cache[0].device.type for cache in caches] == ["cpu", "cpu"]
    assert torch.equal(caches[0][0], torch.full((2,), 2.0)) and caches[0][1:] == ("Rep", None)
    decoder.decode(torch.zeros(1, 1), caches[:1])
    assert inner.seen[2:] == [("meta", "Rep", None)]
