"""What is planned to stay on a GPU has the sizes of what is made, and what cannot fit is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from experiments.config import Experiment
from experiments.dry_run import workload_of
from experiments.memory_plan import (
    BYTES,
    TINY_CACHE,
    TINY_PARAMETERS,
    VAE_CACHE,
    VAE_PARAMETERS,
    check_budget,
    parse_size,
    parts,
)
from experiments.presets import preset
from experiments.run import main
from policies import BestOfN, Greedy
from searchkit.codecs import tiny
from searchkit.codecs.wan import WanDecoder
from searchkit.metrics import JUDGES
from searchkit.rewards.registry import REWARDS
from searchkit.rewards.terms import Known


def _parts(experiment: Experiment) -> dict[str, float]:
    workload = workload_of(experiment)
    assert workload is not None
    return dict(parts(experiment, workload))


def test_vae_and_its_cache_have_the_planned_sizes():
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(VAE_PARAMETERS, rel=1e-3)
    counts = []
    for base_dim in (4, 8):  # all but a constant is proportional to it
        with torch.no_grad():
            _, [cache] = WanDecoder(AutoencoderKLWan(base_dim=base_dim)).decode(torch.randn(1, 2, 16, 4, 4), [None])
        counts.append(sum(entry.numel() for entry in cache if isinstance(entry, torch.Tensor)) / 16)
    assert counts[0] + (96 - 4) / 4 * (counts[1] - counts[0]) == VAE_CACHE


def test_tiny_vae_and_its_cache_have_the_planned_sizes():
    layers = tiny.make_layers()
    assert sum(parameter.numel() for parameter in layers.parameters()) == pytest.approx(TINY_PARAMETERS, rel=1e-3)
    assert tiny.TinyDecoder(layers).cache_bytes(6, 10) == TINY_CACHE * 60 * 4


@pytest.mark.parametrize("known", [*REWARDS.values(), *JUDGES.values()], ids=[*REWARDS, *JUDGES])
def test_every_card_says_how_large_weights_are(known: Known):
    *_, size, unit, _, dtype = known.card.split()
    assert float(size) > 0 and unit == "GB" and dtype in BYTES


def test_greedy_holds_one_stream_and_best_of_n_more():
    one = _parts(replace(preset("longlive"), policies=(Greedy(),)))
    many = _parts(replace(preset("longlive"), policies=(Greedy(), BestOfN(num_candidates=3))))
    frame = 287_539_200  # bytes of keys and values in bfloat16
    # Sink, two chunks of the window and the one that leaves, and a prefix without that.
    assert one["the key/value memory"] == (12 + 9) * frame
    assert many["the key/value memory"] == (3 * 12 + 9) * frame
    assert many["the decoder's caches"] == 3 * one["the decoder's caches"] == pytest.approx(6 * 1.76 * 2**30, rel=1e-3)


def test_cold_candidates_keep_neither_caches_nor_frames():
    kept = _parts(preset("longlive-stream-t1-released"))
    assert "the decoder's caches" not in kept and "the decoded frames" not in kept


def test_rewards_elsewhere_and_of_another_dtype_count_as_such():
    experiment = preset("longlive")
    rewards = experiment.published.rewards
    changed = replace(rewards, image="clipscore(dtype=float32) + hpsv3(device=cpu)", video="clipscore(dtype=float32)")
    kept = _parts(replace(experiment, published=replace(experiment.published, rewards=changed)))
    assert kept["the reward clipscore"] == 1.7e9 and "the reward hpsv3" not in kept
    assert _parts(experiment)["the reward hpsv3"] == 15.5e9


def test_plan_names_what_stays_and_what_is_left():
    lines = check_budget(preset("longlive-rehearsal"), "48GB")
    assert [line for line in lines if "the network" in line] == ["    2.84 GB  the network"]
    total = sum(float(line.split()[0]) for line in lines[1:])
    assert total == pytest.approx(48.0, abs=0.1)
    assert "text encoder" in check_budget(preset("longlive"), "48GB")[-1]


def test_what_cannot_fit_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--preset", "longlive-stream-t1", "--memory-budget", "24GB"]) == 2
    said = capsys.readouterr().err
    assert "memory_budget 24GB" in said and "15.5 GB, are for the reward hpsv3" in said
    assert not list(tmp_path.iterdir())
    assert main(["--memory-budget", "24GB"]) == 2
    assert "published models" in capsys.readouterr().err
    assert main(["--preset", "longlive", "--device", "cpu", "--memory-budget", "24GB"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_sizes_are_read_with_their_units():
    assert parse_size("24GB") == 24e9 and parse_size("22.5 GiB") == 22.5 * 2**30
    for wrong in ("24", "0GB", "GB", "-1GB", "24 MB"):
        with pytest.raises(ValueError, match="memory_budget must be a size"):
            parse_size(wrong)
