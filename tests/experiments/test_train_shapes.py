"""What the generator is trained on is what streaming computes."""

import numpy as np
import torch

from envs.shapes.codec import CHANNELS
from envs.shapes.model import untrained_network
from envs.shapes.world import Caption, Scene, render
from experiments.train_shapes.data import chunk_frames
from experiments.train_shapes.generator import MIDDLE, START, GroupedForward, context_of
from searchkit.backbones.wan import CausalWan
from searchkit.memory import Block, Memory, MemoryConfig, make_room, push
from searchkit.types import Route


def test_teacher_forcing_equals_streaming() -> None:
    """The last noisy group of a clip's start sees what the fifth chunk of a stream sees, sink and window alike."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 9, 3, CHANNELS, 8, 8, generator=generator)
    text = torch.randn(1, 16, 32, generator=generator)
    timesteps = torch.tensor([[0.0] * 4 + [625.0] * 5])
    network = untrained_network(0)
    chunks = torch.tensor([START.shows])
    trained = GroupedForward(network)
    with torch.no_grad():
        expected = trained(latents, timesteps, text, context_of(START, chunks, network, extra_share=0.0))[:, 4:]

        engine, config, memory = CausalWan(untrained_network(0), latent_size=(8, 8)), MemoryConfig(), Memory()
        prompt = engine.encode_text(text[0])
        for chunk in range(5):
            memory = make_room(memory, Route.DISCARD, config)
            place = {"start_frame": 3 * chunk, "prefixes": engine.assemble(memory), "text": prompt}
            flow = engine.flow(latents[:, 4 + chunk], 625.0, **place)
            # Training rotates in bfloat16.
            torch.testing.assert_close(flow, expected[:, chunk], rtol=0, atol=5e-3)
            if chunk < 4:
                block = Block(3 * chunk, 3)
                block.fill(*engine.clean(latents[:, chunk], **place)[0])
                memory = push(memory, block, config)


def test_every_group_attends_to_itself_last() -> None:
    for layout in (START, MIDDLE):
        assert [row[-1] for row in layout.attends] == list(range(len(layout.shows)))
        assert len(layout.attends) == len(layout.shows)


def test_chunks_cover_the_clip_s_frames_once() -> None:
    frames = np.concatenate([chunk_frames(chunk) for chunk in range(7)])
    assert frames[3:].tolist() == list(range(81))
    assert frames[:3].tolist() == [0, 0, 0]


def test_any_stretch_of_a_scene_renders_without_what_came_before() -> None:
    caption = Caption(speed="fast", colour="red", shape="circle", motion="circling", background="sand")
    scene = Scene.sample(caption, np.random.default_rng(0))
    np.testing.assert_array_equal(render(scene, range(477))[200:210], render(scene, range(200, 210)))
