"""The causal engine against the stock network, and its batches against single rows."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from searchkit.backbones.wan import CausalWan, Prefix
from searchkit.memory import Block, Memory, MemoryConfig, make_room, push
from searchkit.types import Route

HEIGHT, WIDTH = 4, 6
TOKENS = 6  # of a latent frame
FRAMES = 3  # of a chunk
CONFIG = MemoryConfig(window_frames=60)


def _make_network(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_dim=12, freq_dim=16, ffn_dim=48, num_layers=2,
    )  # fmt: skip
    for parameter in network.parameters():
        if parameter.ndim == 1:  # norms are one when new, which would hide a swap of them
            torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


def _make_engine(dtype: torch.dtype = torch.float32) -> CausalWan:
    return CausalWan(_make_network().to(dtype), latent_size=(HEIGHT, WIDTH))


def _noise(seed: int, *, batch: int = 1) -> Tensor:
    return torch.randn(batch, FRAMES, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def _embeds(seed: int) -> Tensor:
    return torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))


def _make_memory(engine: CausalWan, latents: Tensor, *, config: MemoryConfig = CONFIG, prompt: int = 0) -> Memory:
    """The memory after clean chunks `[chunks, T, C, h, w]`, each encoded against the ones before it."""
    text = engine.encode_text(_embeds(prompt))
    memory = Memory()
    for chunk, one in enumerate(latents):
        memory = make_room(memory, Route.APPEND_SINK, config)
        block = Block(chunk * FRAMES, FRAMES)
        [cleaned] = engine.clean(one[None], start_frame=block.start_frame, prefixes=engine.assemble(memory), text=text)
        block.fill(*cleaned)
        memory = push(memory, block, config)
    return memory


class _BlockCausal(WanAttnProcessor):
    """The stock self-attention under a mask: a token sees its own chunk and earlier ones."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb):
        chunk = torch.arange(hidden_states.shape[1]) // (FRAMES * TOKENS)
        mask = chunk[:, None] >= chunk[None, :]
        return super().__call__(attn, hidden_states, None, mask, rotary_emb)


def _block_causal_flow(network: WanTransformer3DModel, latents: Tensor, timestep: float, embeds: Tensor) -> Tensor:
    """The stock network's output for the last of `latents` `[chunks, T, C, h, w]`; the others are clean."""
    for block in network.blocks:
        block.attn1.set_processor(_BlockCausal())
    chunks = len(latents)
    timesteps = torch.zeros(1, chunks, FRAMES * TOKENS)
    timesteps[:, -1] = timestep
    video = latents.flatten(0, 1).transpose(0, 1)[None]
    with torch.no_grad():
        [output] = network(video, timesteps.flatten(1), embeds[None], return_dict=False)
    return output[0].transpose(0, 1)[-FRAMES:]


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_cached_generation_equals_the_block_causal_full_forward(chunks: int):
    latents = _noise(1, batch=chunks)
    expected = _block_causal_flow(_make_network(), latents, 833.3, _embeds(0))
    engine = _make_engine()
    flow = engine.flow(
        latents[-1:],
        833.3,
        start_frame=(chunks - 1) * FRAMES,
        prefixes=engine.assemble(_make_memory(engine, latents[:-1])),
        text=engine.encode_text(_embeds(0)),
    )
    torch.testing.assert_close(flow[0], expected, atol=1e-5, rtol=0.0)


def test_batched_candidates_equal_sequential_candidates():
    engine = _make_engine()
    text = engine.encode_text(_embeds(0))
    prefix = engine.assemble(_make_memory(engine, _noise(1, batch=2)))
    x = _noise(2, batch=4)
    together = engine.flow(x, 937.5, start_frame=6, prefixes=prefix, text=text)
    apart = [engine.flow(row[None], 937.5, start_frame=6, prefixes=prefix, text=text)[0] for row in x]
    torch.testing.assert_close(together, torch.stack(apart), atol=1e-5, rtol=0.0)


def test_rows_of_different_parents_prompts_and_positions_equal_rows_alone():
    engine = _make_engine()
    sliding = MemoryConfig(window_frames=9, max_sink_frames=3)  # equal prefixes from chunk 2 on
    lengths = (2, 3, 3)
    prefixes = [
        engine.assemble(make_room(_make_memory(engine, _noise(seed, batch=n), config=sliding), Route.DISCARD, sliding))
        for seed, n in enumerate(lengths)
    ]
    texts = [engine.encode_text(_embeds(seed)) for seed in (0, 0, 1)]
    starts = [n * FRAMES for n in lengths]
    x, timesteps = _noise(5, batch=3), torch.tensor([937.5, 625.0, 937.5])
    together = engine.flow(x, timesteps, start_frame=starts, prefixes=prefixes, text=texts)
    cleaned = engine.clean(x, start_frame=starts, prefixes=prefixes, text=texts)
    for row in range(3):
        call = {"start_frame": starts[row], "prefixes": prefixes[row], "text": texts[row]}
        one = x[row : row + 1]
        torch.testing.assert_close(
            together[row], engine.flow(one, float(timesteps[row]), **call)[0], atol=1e-5, rtol=0.0
        )
        torch.testing.assert_close(tuple(cleaned[row]), tuple(engine.clean(one, **call)[0]), atol=1e-5, rtol=0.0)


def test_shared_prefix_equals_one_prefix_a_row():
    engine = _make_engine()
    text = engine.encode_text(_embeds(0))
    prefix = engine.assemble(_make_memory(engine, _noise(1, batch=1)))
    twin = Prefix(prefix.keys.clone(), prefix.values.clone())
    x = _noise(2, batch=2)
    shared = engine.flow(x, 500.0, start_frame=3, prefixes=[prefix, prefix], text=text)
    stacked = engine.flow(x, 500.0, start_frame=3, prefixes=[prefix, twin], text=text)
    torch.testing.assert_close(shared, stacked, atol=1e-5, rtol=0.0)


def test_calls_change_neither_the_network_nor_each_other():
    engine = _make_engine()
    text = engine.encode_text(_embeds(0))
    prefixes = [engine.assemble(_make_memory(engine, _noise(seed, batch=seed))) for seed in range(4)]
    states = [copy.copy(vars(module)) for module in engine.network.modules()]

    def flow(chunk: int) -> Tensor:
        x = _noise(9)
        return engine.flow(x, 750.0, start_frame=chunk * FRAMES, prefixes=prefixes[chunk], text=text)

    alone = [flow(chunk) for chunk in range(4)]
    with ThreadPoolExecutor(4) as threads:
        overlapping = list(threads.map(flow, [0, 1, 2, 3] * 4))
    assert all(b.equal(alone[i % 4]) for i, b in enumerate(overlapping))
    assert all(state == vars(module) for state, module in zip(states, engine.network.modules(), strict=True))


def test_prefix_casts_averaged_sinks_to_the_networks_dtype():
    engine = _make_engine(torch.bfloat16)
    config = MemoryConfig(window_frames=6, max_sink_frames=3)  # no room to append: every chunk is averaged
    memory = _make_memory(engine, _noise(1, batch=4), config=config)
    assert memory.sinks[0].keys.dtype == torch.float32
    assert engine.assemble(memory).keys.dtype == torch.bfloat16


def test_bfloat16_stays_near_float32():
    x, latents = _noise(2, batch=2), _noise(1, batch=2)
    flows = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = _make_engine(dtype)
        prefix = engine.assemble(_make_memory(engine, latents))
        text = engine.encode_text(_embeds(0))
        flows.append(engine.flow(x, 937.5, start_frame=6, prefixes=prefix, text=text))
    assert flows[1].dtype == x.dtype
    assert (flows[0] - flows[1]).abs().max() < 0.1 * flows[0].abs().max()


def test_kept_rows_hold_their_own_bytes_only():
    engine = _make_engine()
    prefix, text = engine.assemble(Memory()), engine.encode_text(_embeds(0))
    rows = engine.clean(_noise(0, batch=3), start_frame=0, prefixes=prefix, text=text)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for row in rows for tensor in row)


def test_prefix_counts_its_tokens_and_bytes():
    engine = _make_engine()
    memory = _make_memory(engine, _noise(1, batch=2))
    prefix = engine.assemble(memory)
    assert prefix.num_tokens == 2 * FRAMES * engine.tokens_per_frame
    assert prefix.nbytes == sum(block.nbytes for block in memory.blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_bytes_of_a_prefix_are_known_before_it_is_assembled(dtype: torch.dtype, chunks: int):
    engine = _make_engine(dtype)
    prefix = engine.assemble(_make_memory(engine, _noise(1, batch=chunks)))
    assert engine.prefix_bytes(chunks * FRAMES) == prefix.nbytes


def test_blocks_sit_where_they_were_unless_told_otherwise():
    engine = _make_engine()
    memory = _make_memory(engine, _noise(1, batch=3))
    prefix = engine.assemble(memory)
    assert engine.assemble(memory, starts=[0, 3, 6]).keys.equal(prefix.keys)
    moved = engine.assemble(memory, starts=[0, 3, 9])
    assert moved.values.equal(prefix.values)
    same = [a.equal(b) for a, b in zip(*(one.keys.chunk(3, dim=1) for one in (moved, prefix)), strict=True)]
    assert same == [True, True, False]


def test_only_distances_between_positions_matter():
    engine = _make_engine()
    memory = _make_memory(engine, _noise(1, batch=2))
    text, x = engine.encode_text(_embeds(0)), _noise(2)
    flows = [
        engine.flow(x, 750.0, start_frame=6 + offset, prefixes=engine.assemble(memory, starts=starts), text=text)
        for offset, starts in ((0, [0, 3]), (900, [900, 903]), (0, [1, 3]))
    ]
    torch.testing.assert_close(flows[0], flows[1], atol=1e-5, rtol=0.0)
    assert (flows[0] - flows[2]).abs().max() > 1e-4


def test_positions_end_where_the_rotary_table_does():
    engine = _make_engine()
    assert engine.num_positions == engine.network.config.rope_max_seq_len == 1024
    memory = _make_memory(engine, _noise(1, batch=1))
    engine.assemble(memory, starts=[1021])
    with pytest.raises(ValueError, match=r"start_frame must be from 0 to 1021 .*got 1022"):
        engine.assemble(memory, starts=[1022])


def test_blocks_compile_into_one_graph():
    engine = _make_engine()
    prefix = engine.assemble(_make_memory(engine, _noise(1, batch=1)))
    call = {"start_frame": 3, "prefixes": prefix, "text": engine.encode_text(_embeds(0))}
    x = _noise(2, batch=2)
    expected, kept = engine.flow(x, 750.0, **call), engine.clean(x, **call)
    engine.network.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(engine.flow(x, 750.0, **call), expected)
    torch.testing.assert_close([*map(tuple, engine.clean(x, **call))], [*map(tuple, kept)])


def test_chunk_beyond_the_rotary_table_is_refused():
    engine = _make_engine()
    call = {"prefixes": engine.assemble(Memory()), "text": engine.encode_text(_embeds(0))}
    engine.flow(_noise(0), 500.0, start_frame=1021, **call)
    with pytest.raises(ValueError, match=r"start_frame must be from 0 to 1021 .*got 1022"):
        engine.flow(_noise(0), 500.0, start_frame=1022, **call)


def test_rows_that_do_not_fit_one_batch_are_refused():
    engine = _make_engine()
    text, empty = engine.encode_text(_embeds(0)), engine.assemble(Memory())
    longer = engine.assemble(_make_memory(engine, _noise(0)))
    x = _noise(0, batch=2)
    with pytest.raises(ValueError, match=r"prefixes .*same number of tokens, got \[0, 18\]"):
        engine.flow(x, 500.0, start_frame=0, prefixes=[empty, longer], text=text)
    with pytest.raises(ValueError, match="text must have one item for each of 2 rows, got 1"):
        engine.flow(x, 500.0, start_frame=0, prefixes=empty, text=[text])
    with pytest.raises(ValueError, match=r"latent_size must be \(4, 6\)"):
        engine.flow(x[..., :4], 500.0, start_frame=0, prefixes=empty, text=text)


def test_latent_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"latent_size must be a multiple .*got \(4, 5\)"):
        CausalWan(_make_network(), latent_size=(4, 5))
