"""What is planned for a GPU has the sizes of what is made, is made to fit by as little as it takes, or is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from experiments.config import Experiment, with_prompts
from experiments.dry_run import workload_of
from experiments.memory_phases import CALLS, RESERVE, TEXT_ENCODER, TINY, VAE, Phase, sizes_of
from experiments.memory_plan import LADDER, Plan, parse_size, plan
from experiments.presets import preset
from experiments.run import main
from policies import BestOfN, BestOfNPerChunk, Greedy, StreamT1
from searchkit.codecs import tiny
from searchkit.codecs.wan import WanDecoder
from searchkit.metrics import JUDGES
from searchkit.placement import Placement
from searchkit.rewards.registry import REWARDS
from searchkit.rewards.terms import ITEMSIZES, Known
from searchkit.video import write_video

FRAME = 287_539_200  # bytes of a latent frame's keys and values in bfloat16
FULL_CACHE = VAE.cache * 60 * 104 * 2


def _make_experiment(name: str = "longlive-stream-t1", *, decode: str = "full", **settings) -> Experiment:
    experiment = with_prompts(replace(preset(name), **settings))
    if decode == "tiny":
        experiment = replace(experiment, published=replace(experiment.published, decode="tiny", tiny_vae="x"))
    return experiment


def _phases(experiment: Experiment, placement: Placement = Placement()) -> dict[str, Phase]:
    workload = workload_of(experiment)
    assert workload is not None
    return {phase.name: phase for phase in sizes_of(experiment, workload).phases(placement)}


def _parts(experiment: Experiment, phase: str, placement: Placement = Placement()) -> dict[str, float]:
    return dict(_phases(experiment, placement)[phase].parts)


def _taken(found: Plan) -> Placement:
    assert all(phase.nbytes <= found.room for phase in found.phases)
    return found.placement


def test_vae_and_its_cache_have_the_planned_sizes():
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(VAE.parameters, rel=1e-3)
    counts = []
    for base_dim in (4, 8):  # all but a constant is proportional to it
        with torch.no_grad():
            _, [cache] = WanDecoder(AutoencoderKLWan(base_dim=base_dim)).decode(torch.randn(1, 2, 16, 4, 4), [None])
        counts.append(sum(entry.numel() for entry in cache if isinstance(entry, torch.Tensor)) / 16)
    assert counts[0] + (96 - 4) / 4 * (counts[1] - counts[0]) == VAE.cache


def test_tiny_vae_and_its_cache_have_the_planned_sizes():
    layers = tiny.make_layers()
    assert sum(parameter.numel() for parameter in layers.parameters()) == pytest.approx(TINY.parameters, rel=1e-3)
    assert tiny.TinyDecoder(layers).cache_bytes(6, 10) == TINY.cache * 60 * 4


@pytest.mark.parametrize("known", [*REWARDS.values(), *JUDGES.values()], ids=[*REWARDS, *JUDGES])
def test_every_card_says_how_large_weights_are(known: Known):
    *_, size, unit, _, dtype = known.card.split()
    assert float(size) > 0 and unit == "GB"
    assert known.weight_bytes(None) == known.weight_bytes(dtype) == float(size) * 1e9
    assert known.weight_bytes("float32") == float(size) * 1e9 * 4 / ITEMSIZES[dtype]


def test_greedy_holds_one_stream_and_best_of_n_more():
    one = _make_experiment("longlive", policies=(Greedy(),))
    many = _make_experiment("longlive", policies=(Greedy(), BestOfN(num_candidates=3)))
    # Sink, two chunks of the window and the one that leaves; a prefix without that.
    assert _parts(one, "denoising")["keys and values"] == 12 * FRAME
    assert _parts(many, "denoising")["keys and values"] == 3 * 12 * FRAME
    assert _parts(one, "denoising")["prefixes"] == _parts(many, "denoising")["prefixes"] == 9 * FRAME
    caches = [_parts(experiment, "decoding")["the decoder's caches"] for experiment in (one, many)]
    assert caches[1] == 3 * caches[0] == 6 * FULL_CACHE


def test_greedy_phases_add_up_to_what_is_computed_by_hand():
    experiment = _make_experiment("longlive", decode="tiny", policies=(Greedy(),))
    found, chunk = _phases(experiment), 12 * 3 * 480 * 832 * 4  # bytes of a chunk's pixel frames
    weights = 2 * (1_418_996_800 + VAE.parameters + TINY.parameters)
    workload = workload_of(experiment)
    assert workload is not None and workload.num_parameters == 1_418_996_800
    text = 2 * 30 * 512 * 1536 * 2
    held = weights + 19.9e9 + text + RESERVE + 12 * FRAME + 2 * TINY.cache * 6240 * 2 + (7 + 1) * chunk
    attended, own, width = 12 * 1560, 3 * 1560, 1536
    one_pass = 2 * (2 * attended * width + own * (8960 + 3 * width))
    assert found["text"].nbytes == TEXT_ENCODER + RESERVE
    assert found["denoising"].nbytes == pytest.approx(held + 9 * FRAME + one_pass)
    assert found["decoding"].nbytes == pytest.approx(held + 9 * FRAME + TINY.call * 6240 * 2)
    assert found["scoring"].nbytes == pytest.approx(held + 9 * FRAME + 2 * 7 * chunk + CALLS["videoreward"])


def test_every_rung_takes_something_off_the_gpu():
    experiment = _make_experiment(policies=(StreamT1(), BestOfNPerChunk(num_candidates=16)))
    judged = replace(experiment, published=replace(experiment.published, judges=("videoscore2", "clipscore")))
    # Small enough that prefixes of several parents are held at once.
    small = replace(_make_experiment(), published=replace(judged.published, height=64, width=96))
    for change, _ in LADDER:
        whose = small if "takes_turns" in change else judged
        before, after = _phases(whose), _phases(whose, replace(Placement(), **change))
        assert any(after[name].nbytes < phase.nbytes for name, phase in before.items()), change


def test_what_waits_is_not_there():
    experiment = _make_experiment()
    scoring = _parts(experiment, "scoring", Placement(rewards_wait=True, caches_wait=True, blocks_wait=True))
    assert scoring["hpsv3, one of 2 in turn"] == 15.5e9
    assert (
        not {"the reward hpsv3", "the reward videoreward", "the decoder's caches", "keys and values"} & scoring.keys()
    )
    assert "the network" not in _parts(experiment, "scoring", Placement(network_leaves=True))
    assert "the network" in _parts(experiment, "decoding", Placement(network_leaves=True))
    assert "the text encoder" not in _parts(experiment, "text", Placement(encodes_on_cpu=True))


def test_parents_in_turn_hold_no_prefix_while_they_are_scored():
    assert "prefixes" not in _parts(_make_experiment(), "scoring")  # at 832x480 two prefixes exceed the model's budget
    assert _parts(_make_experiment("longlive"), "scoring")["prefixes"] == 9 * FRAME


def test_cold_candidates_keep_no_caches():
    assert "the decoder's caches" not in _parts(_make_experiment("longlive-stream-t1-released"), "denoising")


def test_videos_beyond_the_window_are_decoded_once_more_for_the_final_pick():
    assert "final pick" not in _phases(_make_experiment())
    assert "final pick" in _phases(_make_experiment(num_chunks=11))


def test_rewards_elsewhere_and_of_another_dtype_count_as_such():
    experiment = _make_experiment("longlive")

    def denoising(image: str, video: str, device: str | None = None) -> dict[str, float]:
        rewards = replace(experiment.published.rewards, image=image, video=video)
        published = replace(experiment.published, rewards=rewards, device=device)
        return _parts(replace(experiment, published=published), "denoising")

    kept = denoising("clipscore(dtype=float32) + hpsv3(device=cpu)", "clipscore(dtype=float32)")
    assert kept["the reward clipscore"] == 1.7e9 and "the reward hpsv3" not in kept
    assert "the reward hpsv3" not in denoising("hpsv3(device=cuda:1)", "videoreward")
    assert denoising("hpsv3(device=cuda)", "videoreward", device="cuda:0")["the reward hpsv3"] == 15.5e9


def test_80_gb_take_no_step():
    for decode in ("full", "tiny"):
        assert _taken(plan(_make_experiment(decode=decode), "80GB")) == Placement()


def test_stream_t1_by_hpsv3_and_videoreward_fits_24_gb_with_the_tiny_decoder():
    found = plan(_make_experiment(decode="tiny"), "24GB")
    placement = _taken(found)
    assert placement.rewards_wait and placement.blocks_wait and not placement.network_leaves
    assert {step.phase.name for step in found.steps} <= {phase.name for phase in found.phases}


def test_stream_t1_fits_48_gb_with_the_full_decoder():
    placement = _taken(plan(_make_experiment(), "48GB"))
    assert placement.rewards_wait and not placement.blocks_wait


@pytest.mark.parametrize("budget", ["24GB", "32GB", "40GB", "48GB"])
@pytest.mark.parametrize("decode", ["full", "tiny"])
def test_no_step_is_needless(decode: str, budget: str):
    experiment = _make_experiment(decode=decode)
    found = plan(experiment, budget)
    _taken(found)
    for step in found.steps:
        placement = replace(found.placement, **{name: getattr(Placement(), name) for name in step.change})
        assert any(phase.nbytes > found.room for phase in _phases(experiment, placement).values()), step.words


def test_text_encoder_that_does_not_fit_runs_on_the_cpu():
    experiment = _make_experiment("longlive", decode="tiny")
    cheap = replace(
        experiment.published, rewards=replace(experiment.published.rewards, image="clipscore", video="clipscore")
    )
    assert _taken(plan(replace(experiment, published=cheap), "12GB")).encodes_on_cpu


def test_deterministic_candidates_are_counted_one_at_a_time():
    experiment = _make_experiment(deterministic=True)
    assert _phases(experiment) == _phases(_make_experiment(), Placement(max_batch=1))


def test_placement_tells_no_experiment_from_another():
    experiment = _make_experiment()
    placed = replace(experiment, placement=plan(experiment, "24GB").placement)
    assert placed != experiment and placed.describe() == experiment.describe()
    assert placed.settings() == experiment.settings()


def test_plan_names_phases_what_is_there_and_what_was_decided():
    lines = list(plan(_make_experiment("longlive-rehearsal"), "24GB").lines)
    assert lines[0] == "Memory of the GPU, 24.0 GB, by phases:"
    names = ["denoising", "decoding", "scoring", "final video", "judging"]
    assert [line[2:14].strip() for line in lines[1:6]] == names
    assert all("GB left: " in line for line in lines[1:6])
    assert any("rewards wait in CPU memory" in line and "would take" in line for line in lines[6:])
    assert list(plan(_make_experiment("longlive-rehearsal"), "80GB").lines)[-1] == "Everything stays on the GPU."


def test_what_cannot_fit_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--preset", "longlive-stream-t1", "--memory-budget", "16GB"]) == 2
    said = capsys.readouterr().err
    assert "memory_budget 16GB" in said and "scoring" in said and "15.5 GB, is for hpsv3" in said
    assert "--decode tiny" in said and "--rewards.device" in said
    assert not list(tmp_path.iterdir())
    assert main(["--memory-budget", "24GB"]) == 2
    assert "published models" in capsys.readouterr().err
    assert main(["--preset", "longlive", "--device", "cpu", "--memory-budget", "24GB"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_refusal_advises_only_what_is_not_done_already():
    experiment = _make_experiment(decode="tiny")
    small = replace(experiment, published=replace(experiment.published, fp8=True))
    with pytest.raises(ValueError, match=r"hpsv3.*\. --rewards\.device cpu .*, and fewer candidates") as refused:
        plan(small, "8GB")
    assert "--decode tiny" not in str(refused.value) and "--fp8" not in str(refused.value)
    elsewhere = replace(small.published, rewards=replace(small.published.rewards, device="cpu"))
    with pytest.raises(ValueError, match=r"\. Fewer candidates or a smaller video"):
        plan(replace(small, published=elsewhere), "3GB")


def test_given_frames_are_counted_as_they_are_encoded_and_decoded(tmp_path: Path):
    frames = np.zeros((9, 24, 40, 3), dtype=np.uint8)
    write_video(tmp_path / "given.mp4", frames, 16)
    experiment = _make_experiment("longlive", decode="tiny", policies=(Greedy(),))
    given = replace(experiment.published, given=str(tmp_path / "given.mp4"))
    own = replace(given, rewards=replace(given.rewards, device="cpu"))  # with rewards there, decoding takes more
    parts = _parts(replace(experiment, published=own), "given")
    assert "given" not in _phases(experiment)
    assert parts["a call of the encoder"] == pytest.approx(245_000 * 60 * 104 * 2)
    assert parts["the given frames"] == 12 * 3 * 480 * 832 * 2  # 3 latent frames of at most 4 pixel frames each
    decoded = _parts(replace(experiment, published=given), "given")
    assert decoded["the reward hpsv3"] == 15.5e9 and decoded["the given frames"] == 3 * 12 * 3 * 480 * 832 * 4
    assert decoded["keys and values"] == 3 * FRAME


def test_dry_run_prints_the_plan_and_loads_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--preset", "longlive-stream-t1", "--memory-budget", "48GB", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Memory of the GPU, 48.0 GB" in said and "To make room, rewards wait" in said and "trials" in said
    assert not list(tmp_path.iterdir())


def test_dry_run_without_a_budget_says_what_everything_on_the_gpu_takes(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--preset", "longlive", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "--memory-budget says which" in said and "the reward hpsv3 15.50" in said and " left" not in said
    assert "Everything stays on the GPU." in said
    assert main(["--preset", "longlive", "--device", "cpu", "--dry-run"]) == 0
    assert "Memory of the GPU" not in capsys.readouterr().out


def test_float8_weights_are_counted_at_half():
    whole = _make_experiment()
    small = replace(whole, published=replace(whole.published, fp8=True))
    linear = 30 * (8 * 1536**2 + 2 * 1536 * 8960)
    scales = 30 * (9 * 1536 + 8960) * 4
    saved = _parts(whole, "denoising")["the network"] - _parts(small, "denoising")["the network"]
    assert saved == linear - scales


def test_sizes_are_read_with_their_units():
    assert parse_size("24GB") == 24e9 and parse_size("22.5 GiB") == 22.5 * 2**30
    for wrong in ("24", "0GB", "GB", "-1GB", "24 MB"):
        with pytest.raises(ValueError, match="memory_budget must be a size"):
            parse_size(wrong)
