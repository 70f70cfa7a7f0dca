"""Replays recorded runs of HPSv3's and VideoReward's own code, which had tiny random weights."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.verify.recording import Pair, Recording, load

if TYPE_CHECKING:
    from torch import Tensor

    from searchkit.rewards.qwen2_vl import Inputs, RewardNetwork
    from searchkit.rewards.qwen2_vl_chat import Chat

END_TO_END = 1e-4  # largest difference of scores, from uint8 frames and prompts
HIDDEN = 1e-4  # of hidden states
MISTAKE = 0.1  # least that a known mistake changes


def replay_reward(recording: Recording) -> Iterator[Pair]:
    """Yields what the network makes of recorded token ids and patches, beside what this code makes of them."""
    import torch

    from searchkit.rewards.qwen2_vl import Inputs
    from searchkit.rewards.qwen2_vl_pixels import to_patches

    tensors = recording.tensors
    names = ("pixel_values_videos", "video_grid_thw") if _is_video(recording) else ("pixel_values", "image_grid_thw")
    inputs = Inputs(tensors["inputs.input_ids"], *(tensors[f"inputs.{name}"] for name in names))
    cut = [to_patches(pictures[None]) for pictures in _pictures(recording)]
    yield Pair("grids", inputs.grids.tolist(), torch.cat([grids for _, grids in cut]).tolist())
    yield Pair("patches", inputs.patches, torch.cat([patches for patches, _ in cut]), is_exact=True)
    network = _load_network(recording)
    seen = network.see(inputs)
    yield Pair("vision embeddings", tensors["expected.vision_embeds"], seen)
    valid = tensors["inputs.attention_mask"].bool()
    hidden = network.read(inputs.ids, seen)
    yield Pair("hidden states", tensors["expected.last_hidden_state"][valid], hidden[valid], tolerance=HIDDEN)
    logits = network(inputs).flatten(1)
    yield Pair("logits", tensors["expected.logits"], logits)
    if _is_video(recording):
        yield from _video_scores(recording, logits)
    yield from _mistakes(recording, logits)


def replay_end_to_end(path: Path, recording: Recording) -> Iterator[Pair]:
    """Yields what a reward makes of recorded uint8 frames and prompts, loaded from files as they are published.

    Its weights are those of the recording without `_e2e` in its name, which lies beside it, as the tokenizer does.
    """
    main = path.with_name(path.name.removesuffix("_e2e"))
    with tempfile.TemporaryDirectory() as folder:
        publish(load(main), path.with_name(f"tiny_processor_{main.name}"), Path(folder))
        yield from (_replay_videos if _is_video(recording) else _replay_images)(recording, folder)


def publish(recording: Recording, tokenizer: Path, folder: Path) -> None:
    """Writes recorded weights, sizes and a tokenizer to a folder, as those of a reward and its base are published."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**recording.facts["config_flat"], "model_type": "qwen2_vl"}))
    weights = recording.under("weights.")
    if _is_video(recording):
        (folder / "checkpoint-11352").mkdir()
        torch.save(weights, folder / "checkpoint-11352" / "model.pth")
    else:
        save_file(weights, folder / "HPSv3.safetensors")


def replay_preprocessing(facts: Mapping[str, Any]) -> Iterator[Pair]:
    """Yields the sizes, frames and tokens that are made of pictures of many sizes, lengths and frame rates."""
    from searchkit.rewards import hpsv3, videoreward
    from searchkit.rewards.qwen2_vl_pixels import sampled_frames

    for example in facts["hpsv3_image"]["examples"]:
        size, grid, num_tokens = _sizes(2, example["input_width_x_height"][::-1], (hpsv3.PIXELS, hpsv3.PIXELS))
        yield Pair("image sizes", example["resized_width_x_height"], size[::-1])
        yield Pair("image grids", example["image_grid_thw"], grid)
        yield Pair("image tokens", example["image_pad_tokens"], num_tokens)
    for example in facts["videoreward_video"]["examples"]:
        try:
            frames = sampled_frames(example["frames"], example["fps"])
        except ValueError:
            frames = []
        yield Pair("refused videos", "error" in example, not frames)
        if "error" not in example:
            limits = (videoreward.MIN_PIXELS, videoreward.MAX_PIXELS)
            size, grid, num_tokens = _sizes(len(frames), example["height_x_width"], limits)
            yield Pair("sampled frames", example["frame_indices"], frames)
            yield Pair("video sizes", example["resized_height_x_width"], size)
            yield Pair("video grids", example["video_grid_thw"], grid)
            yield Pair("video tokens", example["video_pad_tokens"], num_tokens)


def _sizes(num_frames: int, size: Sequence[int], limits: tuple[int, int]) -> tuple[list[int], list[int], int]:
    """Returns the resized height and width of pictures, their grid of patches and their number of tokens."""
    from searchkit.rewards.qwen2_vl_pixels import MERGED, patch_grid, resized_size

    height, width = size
    size = resized_size(height, width, min_pixels=limits[0], max_pixels=limits[1])
    grid = patch_grid(num_frames, *size)
    return [*size], [*grid], math.prod(grid) // MERGED


def _load_network(recording: Recording) -> RewardNetwork:
    import torch

    from searchkit.rewards import hpsv3, videoreward
    from searchkit.rewards.qwen2_vl import load_weights, make_network

    module = videoreward if _is_video(recording) else hpsv3
    sizes, ids = recording.facts["config_flat"], recording.facts["token_ids"]
    network = make_network(
        sizes,
        module.make_head(sizes["hidden_size"]),
        vision_id=ids[module.VISION_TOKEN],
        reward_ids=tuple(ids[token] for token in module.REWARD_TOKENS),
        device="cpu",
        dtype=torch.float32,
    )
    load_weights(network, videoreward.merge_lora(recording.under("weights.")))  # HPSv3's have no LoRA
    return network


def _replay_images(recording: Recording, folder: str) -> Iterator[Pair]:
    import torch

    from searchkit.rewards.hpsv3 import PIXELS, HPSv3
    from searchkit.rewards.pixels import resize_by_pillow
    from searchkit.rewards.qwen2_vl_pixels import quantise, resized_size

    facts = recording.facts
    reward = HPSv3.load(folder, base=folder, dtype=torch.float32)
    read, logits = [], []
    for index, (prompt, pictures) in enumerate(zip(facts["prompts"], _pictures(recording), strict=True)):
        frames = pictures / 255
        height, width = resized_size(*frames.shape[-2:], min_pixels=PIXELS, max_pixels=PIXELS)
        resized = resize_by_pillow(quantise(frames), height, width)[0].permute(1, 2, 0)
        digest = hashlib.sha256(resized.numpy().tobytes()).hexdigest()
        recorded = facts["resized_image_sha256_hwc_uint8"][index]
        yield Pair("resized images", recorded, {"shape": list(resized.shape), "sha256": digest})
        read.append(reward.prepare(frames, [prompt]))
        yield from _texts(recording, index, reward.chat, read[-1])
        logits.append(reward.judge(frames=frames[None], prompts=[prompt])[0, 0])
    yield from _cut(recording, "image_grid_thw", read)
    yield Pair("logits", recording.tensors["expected.logits"], torch.stack(logits), tolerance=END_TO_END)
    yield from _mistakes(recording, torch.stack(logits))


def _replay_videos(recording: Recording, folder: str) -> Iterator[Pair]:
    import torch

    from searchkit.rewards.qwen2_vl_pixels import sampled_frames
    from searchkit.rewards.videoreward import VideoReward

    facts = recording.facts
    read, logits = [], []
    for index, (prompt, pictures) in enumerate(zip(facts["prompts"], _pictures(recording), strict=True)):
        windows, fps = pictures[None] / 255, facts["videos_T_fps_H_W"][index][1]
        reward = VideoReward.load(folder, base=folder, fps=fps, dtype=torch.float32)
        yield Pair("sampled frames", facts["frame_indices"][index], sampled_frames(len(pictures), fps))
        read.append(reward.prepare(windows, [prompt]))
        yield from _texts(recording, index, reward.chat, read[-1])
        logits.append(reward.judge(windows=windows, prompts=[prompt])[0])
    yield from _cut(recording, "video_grid_thw", read)
    yield from _video_scores(recording, torch.stack(logits), tolerance=END_TO_END)
    yield from _mistakes(recording, torch.stack(logits))


def _texts(recording: Recording, index: int, chat: Chat, inputs: Inputs) -> Iterator[Pair]:
    """Yields the chat and the token ids of one prompt."""
    facts, tensors = recording.facts, recording.tensors
    rendered = hashlib.sha256(chat.render(facts["prompts"][index]).encode()).hexdigest()
    yield Pair("sha256 of chats", facts["rendered_chat_text_sha256_utf8"][index], rendered)
    ids = inputs.ids[0].tolist()
    valid = tensors["inputs.attention_mask"][index].bool()
    yield Pair("token ids", tensors["inputs.input_ids"][index][valid].tolist(), ids)
    places = [place for place, token in enumerate(ids) if token in chat.reward_ids]
    yield Pair(
        "places of reward tokens", tensors["expected.reward_token_positions"][index].reshape(-1).tolist(), places
    )


def _cut(recording: Recording, name: str, read: list[Inputs]) -> Iterator[Pair]:
    """Yields the grids and some of the patches of all pictures."""
    import torch

    tensors = recording.tensors
    yield Pair("grids", tensors[f"inputs.{name}"].tolist(), torch.cat([inputs.grids for inputs in read]).tolist())
    patches = torch.cat([inputs.patches for inputs in read])[tensors["expected.pixel_values_rows_index"]]
    yield Pair("patches", tensors["expected.pixel_values_rows"], patches, is_exact=True)


def _video_scores(recording: Recording, outputs: Tensor, *, tolerance: float | None = None) -> Iterator[Pair]:
    """Yields VideoReward's aspects and their sum, as the head gives them and normalised."""
    import torch

    from searchkit.rewards.videoreward import Aspects, normalise

    for name, scores in (("raw", outputs), ("normalised", normalise(outputs))):
        aspects = Aspects(*scores.unbind(1))
        replayed = torch.stack([*aspects, aspects.overall], dim=1)
        yield Pair(f"{name} scores", recording.tensors[f"expected.{name}_scores"], replayed, tolerance=tolerance)


def _mistakes(recording: Recording, logits: Tensor) -> Iterator[Pair]:
    """Yields that logits are not what a known mistake gives."""
    for name, wrong in recording.under("wrong.logits_").items():
        is_far = bool((wrong - logits).abs().max() > MISTAKE)
        yield Pair(f"far from {name.replace('_', ' ')}", True, is_far)


def _is_video(recording: Recording) -> bool:
    return any(name.startswith("inputs.video_0") for name in recording.tensors)


def _pictures(recording: Recording) -> Iterator[Tensor]:
    """Yields the recorded uint8 images and videos as `[F, 3, H, W]`."""
    for name, picture in sorted(recording.tensors.items()):
        if name.endswith("_uint8_hwc"):
            yield picture.permute(2, 0, 1)[None]
        elif name.endswith("_uint8_thwc"):
            yield picture.permute(0, 3, 1, 2)
        elif name.endswith("_uint8_tchw"):
            yield picture
