"""How a published model is loaded, decoded, scored and judged: options of the command line. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from searchkit.backbones.speedups import Speedups
from searchkit.metrics import JUDGES, check_judges
from searchkit.rewards.registry import REWARDS, Rewards
from searchkit.rewards.terms import Known, Term, parse

RANDOM = "random"
SCORING: Mapping[str, Known] = {**JUDGES, **REWARDS}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Options of the published models; the model shapes has none of them.

    Attributes:
        weights: of the network: a folder that `python -m experiments.convert` wrote, by default weights/MODEL, or a hub
            id with such files, or "random" for a network and a VAE of its size that need no files.
        revision: commit of the hub id.
        wan: folder or hub id with Wan2.1's VAE, text encoder and tokenizer; None for where they were published.
        tiny_vae: taew2_1.pth, or a folder or hub id with it, for --decode tiny.
        dtype: of the network and the VAEs.
        device: where they run; None for cuda where there is one.
        decode: what candidates are scored by; with "tiny" a small decoder makes the frames that the search sees, and
            the full VAE those of the video that it chose.
        height: of the video in pixels.
        width: of the video in pixels.
        given: an image or a video file from which every video goes on. It begins the video, and nothing scores it. It
            is scaled and cut to the video's size and seen at 16 frames a second; an image is for models that go frame
            by frame, such as causal-forcing-framewise.
        reduced: make random weights of a size for tests, not of the model's.
        attention: the network's attention backend, by diffusers' name for it, such as flash or _native_cudnn; None for
            torch's own choice.
        compile: compile the network's repeated blocks, once for all of them.
        fp8: hold the weights of the network's blocks as float8, by torchao: half the bytes, and slower.
        rewards: what the search goes by.
        judges: what measures the finished videos and took no part in the search: subject-consistency,
            background-consistency, aesthetic-quality, motion, videoscore2, or a reward that the search does not go by;
            options come in brackets.
    """

    weights: str | None = None
    revision: str | None = None
    wan: str | None = None
    tiny_vae: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device: str | None = None
    decode: Literal["full", "tiny"] = "full"
    height: int = 480
    width: int = 832
    given: str | None = None
    reduced: bool = False
    attention: str | None = None
    compile: bool = False
    fp8: bool = False
    rewards: Rewards = field(default_factory=Rewards)
    judges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reduced and not self.is_random:
            raise ValueError(f"reduced is for --weights {RANDOM}, whose size it changes, got weights {self.weights}")
        if self.decode == "tiny" and self.tiny_vae is None and not self.is_random:
            raise ValueError("decode tiny needs --tiny-vae, the file taew2_1.pth or a folder or hub id with it")
        if self.decode != "tiny" and self.tiny_vae is not None:
            raise ValueError(f"tiny_vae is for --decode tiny, got {self.tiny_vae} for --decode {self.decode}")
        if self.is_random and (files := self.wan or self.tiny_vae or self.revision):
            raise ValueError(f"weights {RANDOM} need no files: wan, tiny_vae and revision do not apply, got {files}")
        assert self.speedups  # whose names are known
        check_judges(self.judges, self.rewards)

    @property
    def is_random(self) -> bool:
        return self.weights == RANDOM

    @property
    def speedups(self) -> Speedups:
        return Speedups(attention=self.attention, compile=self.compile, fp8=self.fp8)

    @property
    def terms(self) -> tuple[Term, ...]:
        """All that scores: the rewards', then the judges'."""
        texts = (self.rewards.image, self.rewards.video, *self.judges)
        return tuple(term for text in texts for term in parse("reward", text, SCORING))
