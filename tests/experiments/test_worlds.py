"""Published models in experiments: a reduced network with random weights goes from a command to a report."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

from experiments.arguments import parse
from experiments.budget import at_budget
from experiments.config import Execution, Experiment, with_prompts
from experiments.dry_run import sketch_of
from experiments.engines import choose_engine, in_process
from experiments.presets import PRESETS
from experiments.presets_wan import WAN_PRESETS
from experiments.registry import policy_label
from experiments.report.__main__ import main as report
from experiments.results import Folder
from experiments.run import main
from experiments.trials import Outcome, run_trial
from experiments.worlds import loading, wan, world_of
from experiments.worlds.options import Published
from policies import BestOfNPerChunk, FrontLoading, Greedy, PreviewPruning, StreamT1
from searchkit.backbones.presets import MODELS
from searchkit.offload import ScorerWithin
from searchkit.placement import Placement
from searchkit.rewards import registry
from searchkit.rewards.registry import Rewards
from searchkit.types import Policy, Record, Route
from searchkit.video import read_video, to_pixels, write_video

OWN_MODULE = """
def brightness(*, frames, prompts):
    return frames.mean((2, 3, 4))

def stillness(*, windows, prompts):
    return -(windows[:, 1:] - windows[:, :-1]).abs().mean((1, 2, 3, 4))

def contrast(*, windows, prompts):
    return windows.std((1, 2, 3, 4))
"""
OWN = "own_rewards_of_worlds"
REWARDS = Rewards(image=f"{OWN}:brightness", video=f"{OWN}:stillness", device="cpu", dtype="float32")
SMALL = Published(weights="random", reduced=True, dtype="float32", height=32, width=48, rewards=REWARDS)
LINE = ["--model", "longlive", "--weights", "random", "--reduced", "--height", "32", "--width", "48"]
LINE += ["--rewards.image", REWARDS.image, "--rewards.video", REWARDS.video, "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with rewards of a user's own."""
    (tmp_path / f"{OWN}.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield tmp_path
    sys.modules.pop(OWN, None)
    loading.load.cache_clear()
    loading.scorer_of.cache_clear()
    loading.judges_of.cache_clear()
    loading.found_weights.cache_clear()


def _make_experiment(policy: Policy, *, published: Published = SMALL, **settings) -> Experiment:
    model = MODELS[settings.pop("model", "longlive")]
    settings = {"prompts": ("A cat sits",), "num_chunks": 3, **settings}
    return Experiment(model=model.name, memory=model.memory, published=published, policies=(policy,), **settings)


def _run(experiment: Experiment) -> Outcome:
    (trial,) = experiment.trials
    stream = world_of(experiment).make_stream(experiment, trial.prompt)
    return run_trial(experiment, trial, stream=stream, on_chunk=lambda chunk: None)


def test_command_goes_from_random_weights_to_a_report_without_truth(own_module, capsys):
    line = [*LINE, "--judges", f"{OWN}:contrast", "--policies", "greedy", "stream-t1", "--decode", "tiny"]
    line += ["--prompts", "A cat sits, then @3 a dog runs across the street", "--num-chunks", "4", "--out", "x"]
    assert main([*line, "--measure-candidates"]) == 0
    printed = capsys.readouterr().out
    assert "search reward" in printed and f"Highest {OWN}:contrast: " in printed and "truth" not in printed

    stored = [json.loads(path.read_text()) for path in Path("x/trials").glob("*/trial.json")]
    assert {one["identity"]["policy"] for one in stored} == {"greedy", "stream-t1"}
    for one in stored:
        assert one["identity"]["weights"] == "random" and one["identity"]["rewards.image"] == REWARDS.image
        assert one["result"]["measures"].keys() == {f"{OWN}:contrast"}
        assert [segment["start_second"] for segment in one["result"]["segments"]] == [0.0, 33 / 16]
    rows = duckdb.sql(f"select num_chunks, \"{OWN}:contrast\" > 0, video from 'x/results.parquet'").fetchall()
    assert [row[:2] for row in rows] == [(4, True)] * 2
    assert read_video(Path("x") / rows[0][2]).shape == (45, 32, 48, 3)
    counts = duckdb.sql("select count(*), count(truth), count(diversity) from 'x/candidates.parquet'").fetchall()
    assert counts == [(4 + 16, 0, 16)]

    assert main([*line, "--measure-candidates"]) == 0
    assert "2 of 2 trials are done already" in capsys.readouterr().out
    assert report(Path("x")) == 0
    written = Path("x/report/report.md").read_text()
    assert f"| {OWN}:contrast |" in written and "## Truth" not in written


def test_search_without_judges_is_stored_and_reported(own_module, capsys):
    assert main([*LINE, "--policies", "greedy", "--prompts", "A cat sits", "--num-chunks", "2", "--out", "x"]) == 0
    assert report(Path("x")) == 0
    assert "Search reward is what policies search with; nothing else measured the videos." in capsys.readouterr().out


def test_tiny_decoder_is_what_the_search_sees_and_the_full_one_makes_the_video(own_module):
    experiments = [
        _make_experiment(Greedy(), published=replace(SMALL, decode=decode), measure_candidates=True)
        for decode in ("full", "tiny")
    ]
    full, tiny = (_run(experiment) for experiment in experiments)
    assert tiny.chosen == full.chosen and (tiny.pixels == full.pixels).all()
    assert abs(tiny.result.reward - full.result.reward) > 1e-4
    stream = wan.make_stream(experiments[1], "A cat sits")
    assert not (to_pixels(Greedy()(stream, seed=0).best.video) == tiny.pixels).all()


@pytest.mark.parametrize(("policy", "decode"), [(StreamT1(), "full"), (PreviewPruning(children=3), "tiny")])
def test_what_waits_in_cpu_memory_changes_no_bit(policy, decode, own_module):
    judged = replace(SMALL, decode=decode, judges=(f"{OWN}:contrast",))
    settings = {"published": judged, "num_chunks": 5, "prompts": ("A cat sits, then @4 a dog runs",)}
    plain = _make_experiment(policy, placement=Placement(takes_turns=True), **settings)
    waiting = {field.name: True for field in fields(Placement) if field.type == "bool"}
    placed = replace(plain, placement=Placement(**waiting))
    expected, found = _run(plain), _run(placed)
    assert isinstance(wan.make_stream(placed, "A cat sits").scorer, ScorerWithin)
    assert [_told(record) for record in found.records] == [_told(record) for record in expected.records]
    assert (found.pixels == expected.pixels).all() and found.result.measures == expected.result.measures


def _told(record: Record) -> tuple[object, ...]:
    return record.lineage, record.scores, record.fused, record.kept, record.cost.passes


@pytest.mark.parametrize("placement", [Placement(max_batch=1), Placement(takes_turns=True)])
def test_smaller_batches_give_the_same_within_rounding(placement, own_module):
    plain = _make_experiment(StreamT1(), num_chunks=5)
    expected, found = _run(plain), _run(replace(plain, placement=placement))
    assert [record.lineage for record in found.records] == [record.lineage for record in expected.records]
    for ours, theirs in zip(found.records, expected.records, strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_placement_tells_no_trial_from_another(own_module):
    plain = _make_experiment(Greedy())
    placed = replace(plain, placement=Placement(blocks_wait=True, rewards_wait=True))
    places = [Folder(Path("x"), one, model_checksum="1").place(one.trials[0]) for one in (plain, placed)]
    assert places[0] == places[1]


def test_memory_budget_of_the_command_line_places_what_is_loaded(own_module, monkeypatch, capsys):
    seen = []
    line = ["--preset", "longlive-rehearsal", "--memory-budget", "24GB", "--out", "x"]
    monkeypatch.setattr("experiments.run.run", lambda experiment, **_: seen.append(experiment.placement) or [])
    assert main(line) == 0
    assert seen[0].rewards_wait and "rewards wait in CPU memory" in capsys.readouterr().out


def test_user_reward_decides_what_is_kept(own_module):
    outcome = _run(_make_experiment(BestOfNPerChunk(num_candidates=3)))
    for chunk in range(3):
        level = [record for record in outcome.records if record.chunk == chunk]
        best = max(level, key=lambda record: record.fused)
        assert [record.lineage for record in level if record.kept] == [best.lineage]
    assert outcome.records[0].scores.short == pytest.approx(float(outcome.result.curve[0].short), abs=1.0)
    assert len({record.scores.short for record in outcome.records}) == 9


def test_judge_measures_what_the_full_decoder_made(own_module):
    judged = replace(SMALL, decode="tiny", judges=(f"{OWN}:contrast",))
    outcome = _run(_make_experiment(Greedy(), published=judged))
    expected = float(torch.from_numpy(outcome.pixels).float().div(255).std())
    assert outcome.result.measures == {f"{OWN}:contrast": pytest.approx(expected, abs=1e-5)}


def _write_picture(path: Path, grey: int) -> None:
    from PIL import Image

    Image.new("RGB", (96, 64), (grey, grey, grey)).save(path)


def test_given_picture_begins_the_video_and_nothing_measures_it(own_module):
    _write_picture(Path("given.png"), 200)
    given = replace(SMALL, given="given.png", judges=(f"{OWN}:contrast",))
    outcome = _run(_make_experiment(Greedy(), model="causal-forcing-framewise", published=given, num_chunks=2))
    assert outcome.pixels.shape == (1 + 4 + 4, 32, 48, 3) and len(outcome.result.curve) == 2
    expected = float(torch.from_numpy(outcome.pixels[1:]).float().div(255).std())
    assert outcome.result.measures == {f"{OWN}:contrast": pytest.approx(expected, abs=1e-5)}
    assert [segment.start_second for segment in outcome.result.segments] == [1 / 16]
    plain = _run(_make_experiment(Greedy(), model="causal-forcing-framewise", num_chunks=3))
    assert plain.pixels.shape == outcome.pixels.shape and not (plain.pixels == outcome.pixels).all()


def test_another_given_picture_is_another_trial(own_module):
    experiment = _make_experiment(Greedy(), published=replace(SMALL, given="given.png"))

    def place() -> str:
        loading.found_weights.cache_clear()
        return Folder(Path("x"), experiment, model_checksum="1").place(experiment.trials[0]).name

    places = []
    for grey in (200, 200, 100):
        _write_picture(Path("given.png"), grey)
        places.append(place())
    assert places[0] == places[1] != places[2]


def test_command_goes_on_from_a_video(own_module, capsys):
    write_video("given.mp4", np.full((30, 64, 96, 3), 99, np.uint8), 24)  # 20 frames at 16 a second: 9 are a chunk
    line = [*LINE, "--given", "given.mp4", "--policies", "greedy", "--prompts", "A cat sits", "--num-chunks", "1"]
    assert main([*line, "--dry-run"]) == 0
    assert "given.mp4 makes 1 chunks before the first one" in capsys.readouterr().out
    assert main([*line, "--out", "x"]) == 0
    [video] = Path("x/trials").glob("*/video.mp4")
    assert len(read_video(video)) == 9 + 12


def test_models_own_route_is_taken_unless_a_policy_routes(own_module):
    def routes(policy: Policy, model: str) -> set[Route]:
        outcome = _run(_make_experiment(policy, model=model, num_chunks=5))
        return {action.route for action in outcome.chosen}

    assert routes(Greedy(), "reward-forcing") == {Route.EMA_SINK}
    assert routes(Greedy(), "longlive") == {Route.DISCARD}
    assert Route.DISCARD in routes(StreamT1(), "reward-forcing")


def test_frames_of_a_framewise_model_are_chunks_of_their_own(own_module):
    experiment = _make_experiment(Greedy(), model="causal-forcing-2step", num_chunks=3, measure_candidates=True)
    rewards = replace(REWARDS, video=f"{OWN}:brightness")
    outcome = _run(replace(experiment, published=replace(SMALL, rewards=rewards)))
    assert len(outcome.pixels) == 1 + 4 + 4
    assert [record.cost.denoise_passes for record in outcome.records] == [4.0, 2.0, 2.0]


def test_results_depend_on_the_code_of_ones_own_rewards_and_judges(own_module):
    judged = replace(SMALL, judges=("subject-consistency", f"2*{OWN}:contrast"))
    library, *others = wan.sources(_make_experiment(Greedy(), published=judged))
    assert library.name == "searchkit" and others == [own_module / f"{OWN}.py"]
    known = replace(SMALL, rewards=Rewards())
    assert wan.sources(_make_experiment(Greedy(), published=known)) == (library,)


def test_replaced_weights_of_judges_and_of_the_tiny_decoder_make_other_trials(own_module):
    clip = own_module / "clip"
    clip.mkdir()
    for path in (clip / "config.json", clip / "model.safetensors", own_module / "taew2_1.pth"):
        path.write_bytes(b"{}")
    published = replace(SMALL, weights=str(clip), reduced=False, decode="tiny", tiny_vae=str(own_module))
    experiment = _make_experiment(Greedy(), published=replace(published, judges=(f"clipscore(weights={clip})",)))

    def place() -> str:
        loading.found_weights.cache_clear()
        return Folder(Path("x"), experiment, model_checksum="1").place(experiment.trials[0]).name

    places = [place(), place()]
    for path in (clip / "model.safetensors", own_module / "taew2_1.pth"):
        path.write_bytes(b"[]")
        places.append(place())
    assert places[0] == places[1] and len(set(places)) == 3


def test_missing_judge_is_told_before_anything_is_loaded(own_module, capsys):
    (own_module / "network").mkdir()
    line = [*LINE, "--weights", "network", "--judges", "clipscore(weights=network)", "--prompts", "A cat sits"]
    line.remove("--reduced")
    assert main([*line, "--out", "x"]) == 2
    assert "weights of clipscore cannot be found: weights folder 'network' must hold" in capsys.readouterr().err


def test_rewards_run_on_cuda_where_there_is_one(monkeypatch):
    seen = []
    monkeypatch.setattr(registry, "load_seated", lambda known, options, seat: seen.append(options["device"]) or _image)
    for device, is_there in ((None, True), (None, False), ("cuda:1", True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        registry.load_scorer(Rewards(image="clipscore", video="clipscore", device=device), fps=16)
    assert seen == ["cuda", "cpu", "cuda:1"]


def _image(*, frames: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return frames.mean((2, 3, 4))


@pytest.mark.parametrize("name", WAN_PRESETS)
def test_presets_of_published_models_make_5_s_in_the_memory_they_were_trained_with(name):
    experiment = with_prompts(PRESETS[name]())
    model = MODELS[experiment.model]
    assert experiment.memory == model.memory and len(experiment.prompts) in (1, 3)
    if name != "longlive-rehearsal":
        assert experiment.num_chunks == 21 // model.memory.chunk_frames
        assert experiment.long_window == 30 // model.memory.chunk_frames


def test_presets_of_stream_t1_are_those_of_shapes_on_another_model():
    for name in ("stream-t1", "stream-t1-released"):
        ours, theirs = PRESETS[name](), PRESETS[f"longlive-{name}"]()
        assert (ours.policies, ours.decoding, ours.memory) == (theirs.policies, theirs.decoding, theirs.memory)


def test_rehearsal_needs_no_files():
    published = PRESETS["longlive-rehearsal"]().published
    assert published.is_random
    assert all(
        "weights=random" in text for text in (published.rewards.image, published.rewards.video, *published.judges)
    )


def test_model_alone_starts_from_its_preset():
    command = parse(["--model", "self-forcing", "--seeds", "3"])
    assert command.preset == "self-forcing"
    assert command.experiment == replace(PRESETS["self-forcing"](), seeds=(3,))


def test_model_brings_its_memory_to_another_preset():
    line = ["--preset", "longlive-stream-t1", "--model", "reward-forcing", "--memory.ema-decay", "0.9"]
    experiment = parse(line).experiment
    assert experiment.memory == replace(MODELS["reward-forcing"].memory, ema_decay=0.9)
    assert [policy_label(policy) for policy in experiment.policies] == ["stream-t1"]


def test_budget_is_in_the_models_own_passes_and_chunks():
    line = ["--model", "causal-forcing-2step", "--policy", "front-loading", "--budget", "8x"]
    [policy] = parse(line).experiment.policies
    assert policy == at_budget(FrontLoading(), 8, passes_a_chunk=2, num_chunks=21) != at_budget(FrontLoading(), 8)


def test_shapes_experiments_are_told_apart_as_before():
    names = parse([]).experiment.describe().keys()
    assert not names & {"model", "weights", "rewards.image", "judges"}
    described = parse(["--model", "longlive"]).experiment.describe()
    assert {"model", "weights", "rewards.image", "judges", "decode"} <= described.keys()
    assert not any(name.startswith("published") for name in described)


def test_captions_may_say_then_and_change_at_a_chunk_alone():
    caption = "A man opens the door, then walks out, then @3 a dog barks, then sleeps"
    experiment = with_prompts(parse(["--model", "longlive", "--prompts", caption]).experiment)
    assert experiment.prompts == (caption,)
    assert sketch_of(experiment, caption).switches == (3,)


def test_long_prompts_are_prompts():
    prompt = "A cat sits. " * 100
    assert with_prompts(parse(["--model", "longlive", "--prompts", prompt]).experiment).prompts == (prompt.strip(),)


def test_models_of_real_size_are_not_loaded_several_times():
    engine = choose_engine(Execution(workers=2), num_trials=99, many_at_once=wan.MANY_AT_ONCE)
    assert engine.func is in_process


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model longliv", ("model 'longliv' is unknown", "nearest is 'longlive'")),
        ("--weights random", ("weights is for published models", "random", "shapes")),
        ("--judges clipscore", ("judges is for published models", "clipscore")),
        ("--rewards.image pickscore", ("rewards.image is for published models", "pickscore")),
        ("--model longlive --rewards.image hpsv", ("image reward 'hpsv' is unknown", "nearest is 'hpsv3'")),
        ("--model longlive --judges hpsv3", ("judge 'hpsv3'", "reward of the search")),
        (f"{' '.join(LINE)} --given none.png --out x", ("given must be an image or a video", "none.png")),
        (
            "--model causal-forcing-1step --policy preview-pruning",
            ("preview_passes of preview-pruning must be at most 1", "causal-forcing-1step takes a chunk, got 2"),
        ),
        ("--policy preview-pruning --policy.preview-passes 5", ("must be at most 4", "shapes takes a chunk, got 5")),
        ("--given none.png", ("given is for published models", "none.png")),
        ("--model longlive --num-prompts 3", ("num_prompts", "model shapes", "got 3 for longlive")),
        ("--model longlive --decode tiny", ("decode tiny needs --tiny-vae", "taew2_1.pth")),
        ("--model longlive --decode slow", ("--decode", "slow")),
        ("--model longlive --tiny-vae x", ("tiny_vae is for --decode tiny", "--decode full")),
        ("--model longlive --dtype int8", ("--dtype", "int8")),
        ("--model longlive --reduced", ("reduced is for --weights random",)),
        ("--model longlive --weights random --wan x", ("weights random need no files", "got x")),
        ("--model longlive --weights nowhere --out x", ("weights must be a folder or a hub id", "'nowhere'")),
        ("--model longlive --out x", ("weights of longlive are not in weights/longlive", "experiments.convert")),
        ("--model longlive --weights random --reduced --height 33 --out x", ("height must be a multiple of 16", "33")),
        (f"{' '.join(LINE)} --rewards.image {OWN}:none --out x", (f"{OWN}:none", "does not import")),
    ],
)
def test_bad_option_of_a_model_exits_with_one_sentence(line, words, own_module, capsys):
    assert main(line.split()) == 2
    (refusal,) = capsys.readouterr().err.splitlines()
    assert refusal.startswith("run: ") and "published." not in refusal
    assert all(word in refusal for word in words), refusal


def test_what_speeds_a_network_up_tells_trials_apart_and_reaches_it(own_module):
    line = [*LINE, "--attention", "_native_math", "--prompts", "A cat sits", "--num-chunks", "1"]
    plain, quick = (parse([*LINE, *line[len(LINE) + 2 :]]).experiment, parse(line).experiment)
    assert quick.describe() == {**plain.describe(), "attention": "_native_math"}
    network = world_of(quick).make_stream(quick, "A cat sits").model.engine.network
    kinds = [layer.processor for block in network.blocks for layer in (block.attn1, block.attn2)]
    assert {kind._attention_backend.value for kind in kinds} == {"_native_math"}


def test_unknown_attention_is_refused_with_the_nearest_and_says_so_in_a_sentence(own_module, capsys):
    assert main([*LINE, "--attention", "flsh"]) == 2
    assert "attention 'flsh' is unknown" in capsys.readouterr().err
    assert main([*LINE, "--attention", "sage", "--prompts", "A cat sits", "--num-chunks", "1"]) == 2
    assert "attention 'sage' cannot be had here" in capsys.readouterr().err


def test_shapes_know_nothing_of_speedups(capsys):
    assert main(["--attention", "native", "--dry-run"]) == 2
    assert "attention" in capsys.readouterr().err
