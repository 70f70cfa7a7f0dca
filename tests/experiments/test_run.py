"""The command line: what it makes, what it skips, and what it says of bad input."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from envs.shapes import model
from envs.shapes.rewards import VideoReward
from envs.shapes.world import Caption, is_held_out
from experiments.ablations import ABLATIONS
from experiments.arguments import parse
from experiments.budget import at_budget
from experiments.config import Experiment, with_prompts
from experiments.presets import PRESETS, preset, shapes_quick
from experiments.prompts import unseen_prompts
from experiments.registry import POLICIES, policy_label
from experiments.run import main
from experiments.worlds import SHAPES
from experiments.worlds.shapes import make_stream
from policies import BeamSearch, BestOfN, BestOfNPerChunk, FrontLoading, Greedy, StreamT1
from searchkit.memory import MemoryConfig
from searchkit.schedule import cues
from searchkit.types import Decoding
from tests.experiments.conftest import forget_models, write_checksums

PROMPT = "a fast red circle moving left on a sand background"
SHORT = ["--prompts", PROMPT, "--num-chunks", "2", "--out", "x"]

OWN_POLICY = '''
from dataclasses import dataclass
from searchkit.fusion import Fusion
from searchkit.pruning import keep_best
from searchkit.search import search

@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two candidates a chunk.

    Attributes:
        num_tries: candidates a chunk.
    """

    num_tries: int = 2

    def __call__(self, problem, *, seed):
        if self.num_tries > 9:
            raise ValueError("a fault of my own")
        return search(
            problem,
            propose=lambda state, rank: problem.actions(state, num=self.num_tries, seed=seed),
            select=keep_best(1, Fusion()),
        )

class Rest:
    pass
'''


def _refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line that a bad command line prints on stderr."""
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("run: "), lines
    return lines[0]


def test_no_arguments_mean_the_quick_preset():
    command = parse([])
    assert command.preset == "shapes-quick" and command.experiment == PRESETS["shapes-quick"]()
    assert command.experiment.policies == (Greedy(), BestOfN(), BestOfNPerChunk(), BeamSearch(), StreamT1())


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name]().model == SHAPES])
def test_presets_use_prompts_that_training_never_showed(name):
    experiment = with_prompts(PRESETS[name]())
    texts = [cue.text for prompt in experiment.prompts for cue in cues(prompt, experiment.num_chunks)]
    assert texts and all(is_held_out(Caption.parse(text)) for text in texts)


@pytest.mark.parametrize("name", POLICIES)
def test_policys_name_is_a_preset_of_this_policy_alone(name):
    experiment = preset(name)
    assert [policy_label(policy) for policy in experiment.policies] == [name]
    assert dataclasses.replace(experiment, policies=PRESETS["shapes-quick"]().policies) == PRESETS["shapes-quick"]()


def test_preset_of_the_release_differs_from_the_papers_by_data():
    paper, released = PRESETS["stream-t1"](), PRESETS["stream-t1-released"]()
    (policy,) = released.policies
    assert paper.policies == (StreamT1(),) and paper.decoding == "streamed"
    assert released == dataclasses.replace(paper, decoding="cold", policies=(policy,))
    assert policy_label(policy) == "stream-t1 (routing.window=None, seeds=counted)"


def test_preset_of_ablations_compares_all_of_them_on_the_same_prompts():
    experiment = PRESETS["ablations"]()
    assert [policy_label(policy) for policy in experiment.policies] == ["greedy", "stream-t1", *ABLATIONS]
    assert experiment.prompts == PRESETS["shapes-quick"]().prompts


def test_study_compares_searches_and_ablations_on_unseen_prompts():
    experiment = with_prompts(PRESETS["shapes-study"]())
    assert [policy_label(policy) for policy in experiment.policies] == [
        *("greedy", "best-of-n", "best-of-n-per-chunk", "beam-search", "stream-t1"),
        *("stream-t1-without-propagation", "stream-t1-without-pruning", "stream-t1-without-memory"),
    ]
    assert len(experiment.trials) == 64 * 3 * 8 and experiment.num_chunks == 7
    for policy in experiment.policies[1:]:
        assert at_budget(policy, 4) == policy


def test_scaling_runs_every_search_at_every_budget_once():
    experiment = with_prompts(PRESETS["shapes-scaling"]())
    searches = (BestOfN(), BestOfNPerChunk(), BeamSearch(), StreamT1(), FrontLoading())
    scaled = {at_budget(policy, num) for policy in searches for num in (2, 4, 8, 16)}
    assert set(experiment.policies) == {Greedy(), at_budget(StreamT1(), 1), at_budget(FrontLoading(), 1), *scaled}
    assert len({policy_label(policy) for policy in experiment.policies}) == 23
    assert len(experiment.trials) == 24 * 2 * 23


def test_searches_that_scaling_leaves_out_are_greedy(small_world):
    def _video(policy):
        return policy(model.make_stream(PROMPT, horizon=6), seed=3).best

    greedy = _video(Greedy())
    for policy in (BestOfN(), BestOfNPerChunk(), BeamSearch()):
        assert _video(at_budget(policy, 1)).actions == greedy.actions
    assert _video(at_budget(StreamT1(), 1)).actions != greedy.actions


def test_long_study_is_on_the_first_prompts_of_the_study():
    long = with_prompts(PRESETS["shapes-study-long"]())
    assert long.prompts == with_prompts(PRESETS["shapes-study"]()).prompts[:16]
    assert long.num_chunks == 40 and len(long.trials) == 16 * 6


def test_studies_of_candidates_measure_all_of_them():
    measured = {name for name in PRESETS if PRESETS[name]().measure_candidates}
    assert measured == {"shapes-study", "shapes-return"}


@pytest.mark.parametrize("name", ["shapes-tuning", "shapes-tuning-memory"])
def test_settings_are_tuned_on_prompts_that_are_never_reported(name):
    tuning = with_prompts(PRESETS[name]())
    words = {cue.text for prompt in tuning.prompts for cue in cues(prompt, tuning.num_chunks)}
    assert words <= set(unseen_prompts(60, tuning=True)) and words.isdisjoint(unseen_prompts(120))


def test_our_search_is_compared_at_stream_t1s_passes_and_at_half_of_them():
    _, _, full, ours, half, *_ = PRESETS["shapes-front-loading"]().policies
    assert (full, ours) == (StreamT1(), at_budget(FrontLoading(), 4))
    assert at_budget(half, 2).num_candidates >= half.num_candidates


def test_unseen_prompts_take_the_place_of_those_of_a_preset():
    three = with_prompts(parse(["--num-prompts", "3"]).experiment)
    assert three.prompts == unseen_prompts(3) and three.policies == shapes_quick().policies
    tuning = with_prompts(parse(["--num_prompts=3", "--prompts-from", "tuning"]).experiment)
    assert tuning.prompts == unseen_prompts(3, tuning=True)
    study = parse(["--preset", "shapes-study", "--prompts", PROMPT]).experiment
    assert study.prompts == (PROMPT,) and study.num_prompts is None


def test_same_prompts_are_the_same_experiment_however_they_were_named():
    by_number = with_prompts(parse(["--num-prompts", "2"]).experiment)
    assert by_number == with_prompts(parse(["--prompts", *unseen_prompts(2)]).experiment)
    assert by_number.describe()["prompts"] == list(unseen_prompts(2))


def test_options_of_a_variant_start_from_its_own():
    line = "--policy stream-t1-without-memory --policy.beam-width 3"
    (policy,) = parse(line.split()).experiment.policies
    assert policy == dataclasses.replace(POLICIES["stream-t1-without-memory"](), beam_width=3)
    assert policy_label(policy) == "stream-t1-without-memory (beam-width=3)"


def test_every_decoding_reaches_the_stream(small_world):
    for decoding in get_args(Decoding):
        experiment = parse(["--decoding", decoding]).experiment
        assert make_stream(experiment, PROMPT).decoding == decoding


def test_options_of_one_policy_are_typed():
    line = f"--policy stream-t1 --policy.beam-width 3 --policy.noise-correlation 0.2 --policy.fusion.short-cap 0.3 \
        --policy.routing.window 4 --num-chunks 40 --seeds 0 1 2 --out runs/x --prompts '{PROMPT}'"
    import shlex

    command = parse(shlex.split(line))
    (policy,) = command.experiment.policies
    assert isinstance(policy, StreamT1)
    assert (policy.beam_width, policy.noise_correlation, policy.fusion.short_cap) == (3, 0.2, 0.3)
    assert policy.routing.window == 4 and policy.children == StreamT1().children
    assert command.experiment.num_chunks == 40 and command.experiment.seeds == (0, 1, 2)
    assert command.experiment.prompts == (PROMPT,) and command.execution.out == Path("runs/x")


def test_several_policies_run_at_their_defaults():
    assert parse(["--policies", "greedy", "beam-search"]).experiment.policies == (Greedy(), BeamSearch())


def test_preset_gives_the_defaults_of_everything_else():
    long = parse(["--preset", "shapes-long", "--seeds", "5"]).experiment
    assert long == dataclasses.replace(PRESETS["shapes-long"](), seeds=(5,))
    assert long.num_chunks == 40


def test_help_names_every_option_quickly_and_without_torch():
    began = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "experiments.run", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 15  # 0.5 s on an idle machine; here it may share two cores
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "tyro" in imported and not imported & {"torch", "numpy", "diffusers", "wandb", "pyarrow", "av"}
    options = {f"--{name.replace('_', '-')}" for name in ("num_chunks", "seeds", "prompts", "max_passes", "wandb")}
    options |= {"--policy.noise-correlation", "--policy.beam-width", "--policy.fusion.short-cap", "--memory.ema-decay"}
    assert all(option in run.stdout for option in options)
    assert all(f"\n  {name} " in run.stdout for name in (*PRESETS, *POLICIES))
    panels = [line for line in run.stdout.splitlines() if line.startswith("--policy ")]
    assert panels == [
        *(f"--policy {name}" for name in ("best-of-n", "best-of-n-per-chunk", "beam-search", "preview-pruning")),
        "--policy front-loading",
        "--policy stream-t1, and its variants",
    ]


def test_help_of_a_variant_shows_its_own_options(capsys):
    with pytest.raises(SystemExit):
        parse(["--policy", "stream-t1-short-only", "--help"])
    printed = capsys.readouterr().out
    assert "(default: 1.0)" in printed.partition("--policy.fusion.short-cap")[2][:200]
    assert "averaged into the sink" in " ".join(printed.split())  # the lists of names are there, too


def test_command_compares_policies_and_prints_where_everything_is(small_world, capsys):
    assert main([*SHORT, "--policies", "greedy", "beam-search", "--seeds", "0", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"writing to {small_world / 'x'}")
    assert "beam-search, seed 1" in printed and "left" in printed
    for word in ("search reward", "truth", "sharpness", "passes", "times greedy", "1.00x", "seconds", "key/value MB"):
        assert word in printed
    assert "Highest truth:" in printed and "x/results.parquet" in printed
    comparison = next((small_world / "x/videos").glob("01-*/seed1-comparison.png"))
    assert comparison.with_suffix(".mp4").exists()
    assert {file.name for file in comparison.parent.glob("seed0-*.mp4")} == {
        "seed0-greedy.mp4", "seed0-beam-search.mp4", "seed0-comparison.mp4"
    }  # fmt: skip


def test_same_command_again_makes_nothing_anew(small_world, capsys):
    line = [*SHORT, "--policies", "greedy"]
    assert main(line) == 0
    before = {file: file.stat().st_mtime_ns for file in (small_world / "x/trials").rglob("*")}
    capsys.readouterr()
    assert main(line) == 0
    assert {file: file.stat().st_mtime_ns for file in (small_world / "x/trials").rglob("*")} == before
    assert "1 of 1 trials are done already" in capsys.readouterr().out


def test_prompts_come_from_a_file_too(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(f"# two prompts\n\n{PROMPT}\n  A slow BLUE square circling on a snow background.\n")
    experiment = with_prompts(parse(["--prompts", str(file)]).experiment)
    assert experiment.prompts == (PROMPT, "a slow blue square circling on a snow background")


def test_policy_of_the_users_own_has_typed_options(small_world, capsys, monkeypatch):
    (small_world / "mine.py").write_text(OWN_POLICY)
    monkeypatch.syspath_prepend(small_world)
    assert main([*SHORT, "--policy", "mine:Pair", "--policy.num-tries", "3"]) == 0
    assert "mine:Pair (num-tries=3)" in capsys.readouterr().out
    assert "no policy" in _refusal([*SHORT, "--policy", "mine:Rest"], capsys)
    assert "AttributeError" in _refusal([*SHORT, "--policy", "mine:Nothing"], capsys)
    with pytest.raises(ValueError, match="a fault of my own") as fault:  # with its traceback
        main([*SHORT[:-1], "y", "--policy", "mine:Pair", "--policy.num-tries", "10"])
    assert fault.value.__notes__ == [f"while making mine:Pair (num-tries=10), seed 0, {PROMPT!r}"]


def test_budget_ends_a_search_early(small_world):
    assert main([*SHORT, "--policy", "greedy", "--max-passes", "1"]) == 0
    (trial,) = (small_world / "x/trials").glob("*/trial.json")
    assert len(json.loads(trial.read_text())["result"]["curve"]) == 1


def test_stream_without_end_stops_when_its_passes_are_spent(small_world, capsys):
    line = ["--prompts", PROMPT, "--policies", "greedy", "stream-t1", "--out", "x", "--max-passes", "42"]
    assert main([*line, "--num-chunks", "none", "--memory.positions", "window"]) == 0
    lengths = [len(json.loads(file.read_text())["result"]["curve"]) for file in Path("x/trials").glob("*/trial.json")]
    assert sorted(lengths) == [3, 9]  # 4 passes a candidate, and clean ones between
    assert "[2/2] stream-t1, seed 0" in capsys.readouterr().out


def test_positions_of_the_window_have_no_longest_stream():
    prompts, policies = (PROMPT,), (Greedy(),)
    with pytest.raises(ValueError, match=r"num_chunks must make .*--memory\.positions window"):
        Experiment(prompts=prompts, policies=policies, num_chunks=342)
    window = MemoryConfig(positions="window")
    assert Experiment(prompts=prompts, policies=policies, num_chunks=342, memory=window).num_chunks == 342


def test_three_lines_of_python_search_a_prompt(small_world):
    output = StreamT1()(model.make_stream(PROMPT, horizon=2), seed=0)
    assert output.best.video.shape == (21, 3, 64, 64) and output.cost.passes > 0
    assert len(output.records) == 8


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--policy streem-t1", ("streem-t1", "nearest is 'stream-t1'")),
        ("--policies greedy beam", ("'beam'", "nearest is 'beam-search'")),
        ("--preset shapes-quik", ("nearest is 'shapes-quick'",)),
        ("--policy stream-t1 --policy.beam-width 0", ("beam_width must be at least 1, got 0",)),
        ("--policy stream-t1 --policy.noise-correlation 2", ("noise_correlation must be from -1 to 1",)),
        ("--policy stream-t1 --policy.fusion.short-cap 7", ("short_cap must be from 0 to 1",)),
        ("--policy stream-t1 --policy.beam-widht 2", ("--policy.beam-widht", "perhaps --policy.beam-width")),
        ("--policy.beam-width 2", ("--policy.beam-width", "--policy NAME")),
        ("--policy greedy --policies greedy", ("--policy", "--policies")),
        ("--policies", ("policies must not be empty",)),
        ("--num-chunks 0", ("num_chunks must be at least 1",)),
        ("--num-chunks 4000", ("num_chunks must make at most 1024",)),
        ("--num-chunks many", ("--num-chunks",)),
        ("--num-chunks none", ("num_chunks none", "max_passes or max_seconds")),
        ("--num-chunks none --max-passes 9", ("num_chunks none", "--memory.positions window", "got stream")),
        ("--decoding warm", ("--decoding", "warm")),
        ("--long-window 0", ("long_window must be at least 1",)),
        ("--budget 0x", ("--budget", "'0x'", "such as 4x")),
        ("--budget", ("--budget", "such as 4x")),
        ("--policy stream-t1-without-memroy", ("nearest is 'stream-t1-without-memory'",)),
        ("--preset ablation", ("nearest is 'ablations'",)),
        ("--seeds", ("seeds must not be empty",)),
        ("--seeds -1", ("seeds must be from 0",)),
        ("--max-passes 0", ("max_passes must be above 0",)),
        ("--threads 0", ("threads must be at least 1",)),
        ("--memory.window-frames 3", ("window_frames must hold",)),
        ("--wandb sometimes", ("--wandb", "sometimes")),
        ("--policy nowhere:Nothing", ("nowhere:Nothing", "No module named 'nowhere'")),
        ("--policy json:dumps", ("json:dumps", "no policy")),
        ("--prompts missing.txt", ("missing.txt", "No such file")),
        ("--prompts", ("prompts must not be empty",)),
        ("--num-prompts 4 --prompts x", ("--prompts", "--num-prompts", "one of the two")),
        ("--num-prompts 0", ("num_prompts must be from 1 to 120", "got 0")),
        ("--num-prompts 121", ("num_prompts must be from 1 to 120", "all report prompts", "got 121")),
        ("--num-prompts 61 --prompts-from tuning", ("num_prompts must be from 1 to 60", "all tuning prompts")),
        ("--num-prompts none", ("prompts must not be empty",)),
        ("--prompts-from tuning", ("prompts_from tuning", "give num_prompts")),
        ("--measure-candidates --decoding cold", ("measure_candidates", "decoding streamed")),
        ("--workers 0", ("workers must be at least 1, got 0",)),
        ("--workers 2 --engine in-process", ("workers", "--engine in-process")),
    ],
)
def test_bad_option_exits_with_one_sentence(line, words, capsys):
    refusal = _refusal(line.split(), capsys)
    assert all(word in refusal for word in words), refusal


def test_every_unknown_word_of_a_prompt_is_named(capsys):
    refusal = _refusal(["--prompts", PROMPT, "a fast pink circel moving left on a sand background"], capsys)
    assert "'pink'" in refusal and "'circel' (nearest: 'circle')" in refusal


def test_prompts_file_without_prompts_is_refused(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("\n# nothing\n")
    assert "holds no prompt" in _refusal(["--prompts", str(file)], capsys)


@pytest.mark.parametrize("out", ["/proc/x", "a-file/x"])
def test_unwritable_folder_is_refused(out, small_world, capsys):
    (small_world / "a-file").touch()
    assert "cannot be written" in _refusal([*SHORT[:-1], out], capsys)


def test_damaged_weights_are_refused(small_world, small_weights, tmp_path, capsys, monkeypatch):
    import shutil

    folder = tmp_path / "weights"
    shutil.copytree(small_weights, folder)
    file = folder / "codec.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(model, "WEIGHTS", folder)
    refusal = _refusal([*SHORT, "--policy", "greedy"], capsys)
    assert "codec.safetensors" in refusal and "damaged" in refusal


def test_reward_that_is_no_number_is_refused_with_its_candidate(small_world, small_weights, capsys, monkeypatch):
    import shutil

    from safetensors.torch import save_file

    folder = small_world / "weights"
    shutil.copytree(small_weights, folder)
    reward = VideoReward()
    reward.scale.fill_(float("nan"))
    save_file(reward.state_dict(), folder / "video_reward.safetensors")
    write_checksums(folder)
    monkeypatch.setattr(model, "WEIGHTS", folder)
    forget_models()
    refusal = _refusal([*SHORT, "--policy", "greedy"], capsys)
    assert f"greedy, seed 0, {PROMPT!r}: the long reward returned nan for chunk 0, candidate seed" in refusal


def test_interrupted_command_goes_on_where_it_stopped(small_world, capsys, stop_after_one):
    line = [*SHORT, "--policies", "greedy", "best-of-n"]
    go_on = stop_after_one()
    assert main(line) == 130
    assert "the same command goes on" in capsys.readouterr().err
    go_on()
    assert main(line) == 0
    assert "1 of 2 trials are done already" in capsys.readouterr().out


def test_experiment_refuses_what_cannot_be_searched():
    with pytest.raises(ValueError, match="prompts must not be empty"):
        Experiment(policies=(Greedy(),))
    with pytest.raises(ValueError, match="num_prompts takes the place of prompts"):
        Experiment(policies=(Greedy(),), prompts=(PROMPT,), num_prompts=3)


@pytest.mark.parametrize(
    ("line", "window"),
    [
        ("--preset stream-t1", 10),
        ("--preset stream-t1 --long-window 5", 5),
        ("--policy stream-t1-without-pruning --long-window 5", 5),
        ("--policy stream-t1 --long-window 5 --policy.routing.window 3", 3),
        ("--preset stream-t1-released --long-window 5", None),
    ],
)
def test_gate_looks_back_as_far_as_the_long_score_unless_told_otherwise(line, window):
    [policy] = parse(line.split()).experiment.policies
    assert policy.routing.window == window
