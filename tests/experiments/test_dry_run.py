"""What a dry run says, and that it does nothing else."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.arguments import parse
from experiments.config import with_prompts
from experiments.dry_run import Expected, expected
from experiments.presets import preset
from experiments.presets_wan import WAN_PRESETS
from experiments.registry import policy_label
from experiments.run import main

PROMPT = "a fast red circle moving left on a sand background"


def _said(argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*argv.split(), "--dry-run"]) == 0
    return capsys.readouterr().out


def _refusal(argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv.split()) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["shapes-quick", "stream-t1-released", *WAN_PRESETS])
def test_preset_runs_dry(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = _said(f"--preset {name}", capsys)
    assert f"{len(with_prompts(preset(name)).trials)} trials" in said
    assert not list(tmp_path.iterdir())  # nothing was written, either


def test_dry_run_loads_no_model_and_no_torch(tmp_path):
    code = (
        "import sys; from experiments.run import main; main(['--preset', 'longlive-stream-t1', '--dry-run'])\n"
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'wandb'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_is_shown_as_it_was_resolved(capsys):
    said = _said("--model longlive --policy stream-t1 --policy.children 5 --seeds 1 2 --height 320", capsys)
    rows = dict(line.split(maxsplit=1) for line in said.splitlines() if len(line.split()) == 2)
    assert rows["policy"] == "stream-t1" and rows["children"] == "5" and rows["routing.window"] == "10"
    assert rows["height"] == "320" and rows["max-passes"] == "none" and rows["memory.window-frames"] == "12"
    experiment = parse(["--model", "longlive"]).experiment
    assert {name for name in experiment.settings() if f"\n{name} " not in said} == set()


def test_passes_are_those_of_a_run(small_world):
    argv = ["--policies", "greedy", "beam-search", "stream-t1", "--prompts", PROMPT, "--num-chunks", "3", "--out", "x"]
    assert main(argv) == 0
    experiment = parse(argv).experiment
    told = [expected(experiment, policy, PROMPT) for policy in experiment.policies]
    rows = [json.loads(path.read_text())["result"] for path in Path("x/trials").glob("*/trial.json")]
    spent = {row["label"]: (row["cost"]["denoise_passes"], row["cost"]["clean_passes"]) for row in rows}
    assert {policy_label(policy): one for policy, one in zip(experiment.policies, _passes(told), strict=True)} == {
        label: pytest.approx(cost) for label, cost in spent.items()
    }


def _passes(told: list[Expected]) -> list[tuple[int, int]]:
    return [(one.denoising.total(), one.clean.total()) for one in told]


def test_first_chunk_and_route_are_the_models():
    experiment = preset("causal-forcing-2step")
    found = expected(experiment, experiment.policies[0], "a prompt")
    assert (found.denoising.total(), found.clean.total()) == (4 + 20 * 2, 20)


def test_budget_ends_a_search_as_it_does_in_a_run():
    experiment = replace(preset("longlive-stream-t1"), max_passes=40.0)
    found = expected(experiment, experiment.policies[0], "a prompt")
    # 16 passes of the first chunk, 18 of the next; the third one starts below 40.
    assert found.denoising.total() + found.clean.total() == 16 + 18 + 18


def test_stream_that_only_seconds_end_is_counted_for_30_seconds(capsys):
    said = _said("--policies greedy --num-chunks none --max-seconds 9 --memory.positions window", capsys)
    assert "40 chunks of it are counted" in said and " 160 " in said


def test_seconds_are_told_for_a_gpu(capsys):
    said = _said("--preset longlive-stream-t1 --gpu h100 --utilisation 0.5", capsys)
    assert "seconds of" in said and "h100 at 50% of its peak" in said
    assert "seconds of" not in _said("--preset longlive-stream-t1", capsys)


def test_licences_of_what_is_loaded_are_told(capsys):
    said = _said("--preset longlive", capsys)
    assert "CC BY-NC-SA 4.0, not for commercial use" in said and "Weights of hpsv3: Apache-2.0, 15.5 GB" in said
    assert "Weights of videoreward: Apache-2.0, 4.4 GB" in said and "tiny VAE" not in said
    assert "Weights of the tiny VAE (madebyollin/taehv): MIT" in _said(
        "--preset longlive --decode tiny --tiny-vae x", capsys
    )
    random = _said("--preset longlive-rehearsal", capsys)
    assert "CC BY-NC-SA" not in random and "Weights of hpsv3" not in random


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--gpu h100", ("gpu is for --dry-run",)),
        ("--gpu h100 --dry-run", ("gpu is for published models", "shapes")),
        ("--preset longlive --dtype float32 --gpu h100 --dry-run", ("bfloat16", "float32")),
        ("--preset longlive --gpu tpu --dry-run", ("tpu",)),
        ("--utilisation 0", ("utilisation must be above 0",)),
        ("--policy preview-pruning --policy.preview-passes 9 --dry-run", ("preview_passes of preview", "at most 4")),
    ],
)
def test_what_cannot_be_told_is_refused(argv, words, capsys):
    said = _refusal(argv, capsys)
    assert all(word in said for word in words), said
