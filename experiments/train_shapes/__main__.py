"""Trains every weight that the embedded default ships: `python -m experiments.train_shapes [STAGE]`.

The stages are codec, generator and rewards, in this order; without one all of them run. Each writes its file and the
checksums to `envs/shapes/weights/`. `measure` prints the figures of the model card. An interrupted generator goes on
where it stopped. Needs torch 2.9 or newer, for its Muon.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from safetensors.torch import save_file

from envs.shapes.codec import Codec
from envs.shapes.model import WEIGHTS, load_codec
from experiments.train_shapes import codec as codec_training
from experiments.train_shapes import generator as generator_training
from experiments.train_shapes import measure as measuring
from experiments.train_shapes import rewards as reward_training
from experiments.train_shapes.data import encoded_clips
from experiments.train_shapes.log import log

NUM_CLIPS = {"start": 14_000, "middle": 18_000}  # rendered for each of the generator's two kinds of batch


def main(
    stage: Annotated[Literal["all", "codec", "generator", "rewards", "measure"], tyro.conf.Positional] = "all",
    *,
    steps: int = generator_training.Recipe.steps,
    num_pairs: int = 64,
    cache: Path = Path(".cache/shapes"),
) -> None:
    """Trains the embedded default.

    Args:
        stage: what to train, or `measure` to print the figures of the model card.
        steps: of the generator.
        num_pairs: unseen prompts with seeds of their own that `measure` generates.
        cache: folder for rendered clips and checkpoints.
    """
    torch.manual_seed(0)
    if stage in ("all", "codec"):
        train_codec()
    if stage in ("all", "generator"):
        train_generator(steps=steps, cache=cache)
    if stage in ("all", "rewards"):
        train_rewards()
    if stage in ("all", "measure"):
        measuring.print_card(num_pairs=num_pairs)


def train_codec() -> None:
    """Trains and ships the codec."""
    codec = Codec()
    codec_training.fit_components(codec)
    codec_training.train_refinement(codec)
    log(f"codec: {codec_training.measure(codec):.2f} dB on held-out clips")
    ship("codec", codec)


def train_generator(*, steps: int, cache: Path) -> None:
    """Trains and ships the generator, on latents of the shipped codec."""
    codec = load_codec()
    clips = {
        scheme: encoded_clips(scheme, count, seed=0, codec=codec, cache=cache) for scheme, count in NUM_CLIPS.items()
    }
    recipe = generator_training.Recipe(steps=steps)
    ship("generator", generator_training.train(clips, recipe, cache / "generator.pt"))


def train_rewards() -> None:
    """Trains and ships both rewards, on clips half of which pass through the shipped codec."""
    codec = load_codec()
    image_reward = reward_training.train_image_reward(codec)
    ship("image_reward", image_reward)
    ship("video_reward", reward_training.train_video_reward(codec, image_reward=image_reward))


def ship(name: str, module: torch.nn.Module) -> None:
    """Writes a model's weights in half precision, and every shipped file's SHA-256."""
    tensors = {key: tensor.half().contiguous() for key, tensor in module.state_dict().items()}
    save_file(tensors, WEIGHTS / f"{name}.safetensors")
    write_checksums()


def write_checksums() -> None:
    """Writes the SHA-256 of every shipped file to SHA256SUMS, in the form of `sha256sum`."""
    rows = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(WEIGHTS.glob("*.safetensors"))
    ]
    (WEIGHTS / "SHA256SUMS").write_text("".join(rows))


if __name__ == "__main__":
    tyro.cli(main)
