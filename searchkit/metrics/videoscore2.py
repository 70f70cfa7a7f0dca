"""VideoScore2: a model that thinks about a video before it scores it (He et al. 2025, arXiv 2509.22799).

Letters: F pixel frames, H and W their size, L tokens of a chat, V entries of the vocabulary.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from searchkit.backbones.sources import Source
from searchkit.rewards.clip_model import load_strictly
from searchkit.rewards.qwen2_vl_chat import Chat, load_tokenizer
from searchkit.rewards.qwen2_vl_pixels import (
    FACTOR,
    MAX_SAMPLED,
    MERGED,
    MIN_SAMPLED,
    SAMPLE_FPS,
    TEMPORAL_PATCH,
    check_fps,
    check_frames,
    quantise,
    resize_video,
    resized_size,
    to_patches,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "TIGER-Lab/VideoScore2"
VISION_TOKEN: Final = "<|video_pad|>"
DIMENSIONS = {
    "visual": "visual quality",
    "text": "text-to-video alignment",
    "physics": "physical/common-sense consistency",
}
TEMPERATURE = 0.7
MIN_PIXELS, MAX_PIXELS = 128 * FACTOR**2, 768 * FACTOR**2  # of a frame
TOTAL_PIXELS = int(128000 * FACTOR**2 * 0.9)  # of all frames, two of which count as one

# What its published script asks (vs2_inference.py of TIGER-AI-Lab/VideoScore2), to the byte: indents, blanks at the
# ends of lines and en dashes belong to it.
QUESTION = (
    "\n"
    "    You are an expert for evaluating AI-generated videos from three dimensions:\n"
    "    (1) visual quality – clarity, smoothness, artifacts;\n"
    "    (2) text-to-video alignment – fidelity to the prompt;\n"
    "    (3) physical/common-sense consistency – naturalness and physics plausibility.\n"
    "\n"
    "    Video prompt: {text_prompt}\n"
    "\n"
    "    Please output in this format:\n"
    "    visual quality: <v_score>; \n"
    "    text-to-video alignment: <t_score>, \n"
    "    physical/common-sense consistency: <p_score>\n"
    "    "
)


class Answer(NamedTuple):
    """What the model wrote.

    tokens: their ids.
    logits: `[1, V]` that each of them was drawn from.
    """

    tokens: list[int]
    logits: Sequence[Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoScore2:
    """A `Judge`: `videoscore2_visual`, `videoscore2_text` and `videoscore2_physics`, each from 0 to 5.

    The published soft score: the likeliest of the digits 1 to 5 times its share of their probability, where the model
    wrote the score. Sampled at temperature 0.7, always with the same seed; slow, as it writes some hundred words.
    Card: `Qwen2_5_VLForConditionalGeneration`, 8.3 B parameters, 16.6 GB in bf16, Apache-2.0.

    Attributes:
        seed: of the sampling, the same for every video; torch's own generators stay as they are.
        max_tokens: after which the model is stopped.

    Raises:
        ValueError: `max_tokens` is below 1.
    """

    model: Any
    chat: Chat
    seed: int = 0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @classmethod
    def load(
        cls,
        weights: str = WEIGHTS,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        **options: Any,
    ) -> Self:
        """Returns the judge with its published weights.

        Args:
            weights: folder or hub id, with the tokenizer.
            revision: of a hub id.
            attention: what transformers calls `attn_implementation`.
            options: `seed` and `max_tokens`.

        Raises:
            ValueError: the weights are not there, or tensors are missing or others; they are named.
        """
        from transformers import Qwen2_5_VLForConditionalGeneration

        source = Source(weights, revision)
        tokenizer = load_tokenizer(source, ())
        model = load_strictly(Qwen2_5_VLForConditionalGeneration, source, dtype=dtype, attn_implementation=attention)
        model = model.to(device).eval().requires_grad_(False)
        model.model.get_rope_index = partial(positions, model.config)
        chat = Chat(tokenizer=tokenizer, template=QUESTION, vision_token=VISION_TOKEN, reward_tokens=())
        return cls(model=model, chat=chat, **options)

    def __call__(self, *, video: Tensor, prompt: str, fps: float) -> dict[str, float]:
        """Returns the scores of a video `[F, 3, H, W]` in [0, 1]; nan where the model wrote none.

        Raises:
            ValueError: a video of another layout or range, or of fewer than 2 frames.
        """
        scores = read_scores(self.chat.tokenizer, *self.answer(video=video, prompt=prompt, fps=fps))
        return {f"videoscore2_{name}": score for name, score in scores.items()}

    @torch.no_grad()
    def answer(self, *, video: Tensor, prompt: str, fps: float) -> Answer:
        """Returns what the model writes of a video. Arguments and errors as of a call."""
        check_frames("video", video[None], [prompt])
        check_fps(fps)
        seen = quantise(video[sampled_frames(len(video), fps)])
        height, width = resized_size(*video.shape[2:], min_pixels=MIN_PIXELS, max_pixels=max_pixels(len(seen)))
        patches, grid = to_patches(resize_video(seen, height=height, width=width)[None])
        ids = self.chat.encode([prompt], num_vision_tokens=len(patches) // MERGED)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": 2 * (ids == self.chat.vision_id).int(),  # 2 is a video's
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
        }
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            output = self.model.generate(
                **{name: tensor.to(device) for name, tensor in inputs.items()},
                second_per_grid_ts=[TEMPORAL_PATCH / SAMPLE_FPS],
                max_new_tokens=self.max_tokens,
                do_sample=True,
                temperature=TEMPERATURE,
                output_scores=True,
                return_dict_in_generate=True,
            )
        return Answer(output.sequences[0, ids.shape[1] :].tolist(), output.scores)


def sampled_frames(num_frames: int, fps: float) -> list[int]:
    """Returns the frames of a video at `fps` frames a second that are looked at: about 2 a second, an even number.

    As qwen-vl-utils 0.0.10 and later has it, which VideoScore2's script uses; earlier versions, and the rewards that
    were made with them, round to the next pair where this one rounds down.

    Raises:
        ValueError: there are fewer than 2.
    """
    if num_frames < TEMPORAL_PATCH:
        raise ValueError(f"video must have at least {TEMPORAL_PATCH} frames, got {num_frames}")
    wanted = min(max(num_frames / fps * SAMPLE_FPS, MIN_SAMPLED), MAX_SAMPLED, num_frames)
    num_sampled = math.floor(wanted / TEMPORAL_PATCH) * TEMPORAL_PATCH
    return torch.linspace(0, num_frames - 1, num_sampled).round().long().tolist()


def max_pixels(num_frames: int) -> int:
    """Returns the most pixels of a frame, where so many are looked at."""
    return max(min(MAX_PIXELS, TOTAL_PIXELS * TEMPORAL_PATCH // num_frames), int(MIN_PIXELS * 1.05))


def positions(
    config: Any,
    input_ids: Tensor,
    *,
    mm_token_type_ids: Tensor,
    video_grid_thw: Tensor,
    second_per_grid_ts: Sequence[float],
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Returns rotary positions `[3, 1, L]` of a chat with one video, and how far the next one is ahead of L, `[1, 1]`.

    Text goes on after the largest position of the video, as in the transformers 4.53 that VideoScore2 was published
    with; 5.23 goes on after its height and width, which a video of more than 10 s or so exceeds in time.
    """
    (is_video,) = mm_token_type_ids == 2
    start, num = int(is_video.int().argmax()), int(is_video.sum())
    merge = config.vision_config.spatial_merge_size
    num_times, height, width = (
        int(size) for size in video_grid_thw[0] // torch.tensor([1, merge, merge]).to(video_grid_thw)
    )
    step = config.vision_config.tokens_per_second * second_per_grid_ts[0]
    axes = ((torch.arange(num_times) * step).long(), torch.arange(height), torch.arange(width))
    seen = start + torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])
    after = torch.arange(input_ids.shape[1] - start - num) + seen.max() + 1
    rows = [torch.arange(start).expand(3, -1), seen, after.expand(3, -1)]
    placed = torch.cat(rows, dim=1)[:, None].to(input_ids.device)
    ahead = (placed.max() + 1 - input_ids.shape[1]).reshape(1, 1)
    return placed, ahead


def read_scores(tokenizer: PreTrainedTokenizerBase, tokens: list[int], logits: Sequence[Tensor]) -> dict[str, float]:
    """Returns the soft score of each dimension from an `Answer`; nan where it has none.

    The model may name a dimension while it thinks, or repeat how it was explained before its colon, and so the score
    is the first digit after the colon of the dimension's last line.
    """
    text = str(tokenizer.decode(tokens))
    digits = [tokenizer.encode(str(digit), add_special_tokens=False)[-1] for digit in range(1, 6)]

    def length(last: int) -> int:
        return len(str(tokenizer.decode(tokens[: last + 1])))

    scores = {}
    for name, words in DIMENSIONS.items():
        lines = list(re.finditer(rf"{re.escape(words)}[^\n:]*:\s*[1-5]", text, re.IGNORECASE))
        if not lines:
            scores[name] = math.nan
            continue
        token = bisect.bisect_left(range(len(tokens)), lines[-1].end(), key=length)
        shares = logits[token][0].float()[digits].softmax(0)
        best = int(shares.argmax())
        scores[name] = (best + 1) * float(shares[best])
    return scores
