"""The published models that run on the causal engine, as data: what their files hold and how they want to be run.

Settings are those of the models' own inference code. No torch here, so that configurations import at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from searchkit.backbones.sampler import Sampler
from searchkit.memory import MemoryConfig
from searchkit.types import Route

FPS = 16  # pixel frames a second of Wan2.1
LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8  # on either side

# The VAE, the text encoder and the tokenizer that all models share, and the commit that was published with diffusers'
# names (as https://github.com/sgl-project/sglang/pull/16948 logs it).
WAN_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_REVISION = "0fad780a534b6463e45facd96134c9f345acfa5b"


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Sizes of a Wan text-to-video network; the defaults are Wan2.1-T2V-1.3B's.

    Attributes:
        freq_dim: channels of the waves that stand for a timestep.
        text_dim: channels of the text encoder's output.
    """

    num_layers: int = 30
    num_heads: int = 12
    head_dim: int = 128
    ffn_dim: int = 8960
    freq_dim: int = 256
    text_dim: int = 4096

    @property
    def arguments(self) -> dict[str, Any]:
        """What diffusers' `WanTransformer3DModel` is made with."""
        return {
            "patch_size": (1, 2, 2),
            "num_attention_heads": self.num_heads,
            "attention_head_dim": self.head_dim,
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "ffn_dim": self.ffn_dim,
            "num_layers": self.num_layers,
            "cross_attn_norm": True,
        }


WAN_1_3B = NetworkSize()
WAN_14B = NetworkSize(num_layers=40, num_heads=40, ffn_dim=13824)
REDUCED = NetworkSize(num_layers=2, num_heads=2, head_dim=24, ffn_dim=96, freq_dim=32, text_dim=24)  # for rehearsals

FOUR_PASSES = Sampler(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=5.0, kind="renoise")


class Checkpoint(NamedTuple):
    """The tensors of a network in a published file.

    path: of the file in its repository.
    key: under which the file holds the tensors; None where it holds nothing else.
    """

    path: str
    key: str | None


class Lora(NamedTuple):
    """A low-rank update of all linear layers of a network's blocks: `alpha / rank * B @ A` is added to each weight."""

    checkpoint: Checkpoint
    rank: int
    alpha: float


class Licence(NamedTuple):
    """Under what weights may be used."""

    name: str
    is_commercial: bool


APACHE = Licence("Apache-2.0", is_commercial=True)
NON_COMMERCIAL = Licence("CC BY-NC-SA 4.0", is_commercial=False)


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published causal model.

    Attributes:
        repository: hub id of the repository with the files.
        paper: arXiv number.
        first_passes: denoising passes of the first chunk, spread as the sampler's own are; None for as many as later.
        memory: the sizes that the model was trained with.
        route: where the model's own inference code sends the chunk that leaves the window.
    """

    name: str
    repository: str
    checkpoint: Checkpoint
    licence: Licence
    paper: str
    lora: Lora | None = None
    size: NetworkSize = WAN_1_3B
    sampler: Sampler = FOUR_PASSES
    first_passes: int | None = None
    memory: MemoryConfig
    route: Route = Route.DISCARD

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All files: the network's, and its LoRA's if it has one."""
        return (self.checkpoint,) if self.lora is None else (self.checkpoint, self.lora.checkpoint)


# All frames of the 5 s that these were trained for, and nothing kept of what leaves: their code attends to 32760
# tokens, 21 latent frames, where `local_attn_size` is not set.
_WHOLE_CLIP = MemoryConfig(chunk_frames=3, window_frames=21, sink_frames=0, max_sink_frames=0)

# configs/longlive_inference.yaml: num_frame_per_block 3, local_attn_size 12, sink_size 3, rank 256, alpha 256. LongLive
# itself appends no sinks; 15 frames are Stream-T1's limit.
LONGLIVE = PublishedModel(
    name="longlive",
    repository="Efficient-Large-Model/LongLive-1.3B",
    checkpoint=Checkpoint("models/longlive_base.pt", "generator"),
    lora=Lora(Checkpoint("models/lora.pt", "generator_lora"), rank=256, alpha=256.0),
    memory=MemoryConfig(chunk_frames=3, window_frames=12, sink_frames=3, max_sink_frames=15),
    licence=NON_COMMERCIAL,
    paper="2509.22622",
)

# configs/self_forcing_dmd.yaml: num_frame_per_block 3, no local_attn_size, run with --use_ema.
SELF_FORCING = PublishedModel(
    name="self-forcing",
    repository="gdhe17/Self-Forcing",
    checkpoint=Checkpoint("checkpoints/self_forcing_dmd.pt", "generator_ema"),
    memory=_WHOLE_CLIP,
    licence=APACHE,
    paper="2506.08009",
)

# configs/causal_forcing_dmd_chunkwise.yaml: as Self-Forcing, run without --use_ema.
CAUSAL_FORCING = PublishedModel(
    name="causal-forcing",
    repository="zhuhz22/Causal-Forcing",
    checkpoint=Checkpoint("chunkwise/causal_forcing.pt", "generator"),
    memory=_WHOLE_CLIP,
    licence=APACHE,
    paper="2602.02214",
)

# configs/causal_forcing_dmd_framewise.yaml: num_frame_per_block 1, run with --use_ema.
CAUSAL_FORCING_FRAMEWISE = replace(
    CAUSAL_FORCING,
    name="causal-forcing-framewise",
    checkpoint=Checkpoint("framewise/causal_forcing.pt", "generator_ema"),
    memory=replace(_WHOLE_CLIP, chunk_frames=1),
)

# configs/causal_forcing_dmd_framewise_2step.yaml: denoising_step_list 1000, 500, but 1000, 750, 500, 250 in
# denoising_step_list_first_chunk. That is the first chunk which is generated, also after frames that were given.
CAUSAL_FORCING_2STEP = replace(
    CAUSAL_FORCING_FRAMEWISE,
    name="causal-forcing-2step",
    checkpoint=Checkpoint("causal-forcing++/framewise-2step.pt", "generator_ema"),
    sampler=replace(FOUR_PASSES, timesteps=(1000.0, 500.0)),
    first_passes=4,
    paper="2605.15141",
)

# configs/causal_forcing_dmd_framewise_1step.yaml: denoising_step_list 1000, the first chunk as above.
CAUSAL_FORCING_1STEP = replace(
    CAUSAL_FORCING_2STEP,
    name="causal-forcing-1step",
    checkpoint=Checkpoint("causal-forcing++/framewise-1step.pt", "generator_ema"),
    sampler=replace(FOUR_PASSES, timesteps=(1000.0,)),
)

# configs/reward_forcing.yaml: num_frame_per_block 3, local_attn_size 9, sink_size 3; compression_alpha 0.999 in its
# causal_model.py, which numbers the attended frames from 0. (Its code averages the newest past chunk into the sink,
# not the one that leaves; the paper and we average the one that leaves.)
REWARD_FORCING = PublishedModel(
    name="reward-forcing",
    repository="JaydenLu666/Reward-Forcing-T2V-1.3B",
    checkpoint=Checkpoint("rewardforcing.pt", None),
    memory=MemoryConfig(
        chunk_frames=3, window_frames=9, sink_frames=3, max_sink_frames=3, ema_decay=0.999, positions="window"
    ),
    route=Route.EMA_SINK,
    licence=APACHE,
    paper="2512.04678",
)

MODELS: Mapping[str, PublishedModel] = {
    model.name: model
    for model in (
        LONGLIVE,
        SELF_FORCING,
        CAUSAL_FORCING,
        CAUSAL_FORCING_FRAMEWISE,
        CAUSAL_FORCING_2STEP,
        CAUSAL_FORCING_1STEP,
        REWARD_FORCING,
    )
}
