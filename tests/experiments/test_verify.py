"""`experiments.verify`: recorded runs replay, and what does not agree is refused."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from experiments.verify.__main__ import main, verify
from searchkit.pruning import keep_best
from searchkit.search import Selection

GOLDEN = Path(__file__).parents[1] / "golden"


def _copy(run: str, folder: Path) -> Path:
    for file in GOLDEN.glob(f"{run}.*"):
        shutil.copy(file, folder)
    return folder / Path(run).name


@pytest.mark.parametrize(("run", "chunks"), [("stream_plain", 6), ("stream_routed", 9)])
def test_released_runs_replay_within_the_tolerance(run, chunks):
    checks = {check.quantity: check for check in verify(GOLDEN / run, tolerance=2e-5)}
    assert all(check.passed for check in checks.values()), checks
    exact = {name for name, check in checks.items() if check.tolerance == 0.0}
    assert exact == {"noise", "re-noise draws", f"layout after each of {chunks} chunks"}
    assert {f"latents of chunk {n}" for n in range(chunks)} <= checks.keys()
    assert {"first flow", "final cache keys", "final cache values"} <= checks.keys()


@pytest.mark.parametrize("run", ["beam_search", "beam_search_append", "beam_search_transition"])
def test_released_beam_searches_replay_within_the_tolerance(run):
    checks = {check.quantity: check for check in verify(GOLDEN / run, tolerance=2e-5)}
    assert all(check.passed for check in checks.values()), checks
    exact = {name for name, check in checks.items() if check.tolerance == 0.0}
    assert exact == {
        "number of candidates",
        "number of chunks",
        "number of final scores",
        "seed of every candidate",
        "noise of every candidate",
        "gates",
        "sink frames",
        "appended sinks",
        "kept beams, best first",
        "final pick",
    }
    assert {"short score", "long score", "fused score", "final latents", "final score"} <= checks.keys() - exact


@pytest.mark.parametrize(
    ("setting", "value", "quantities"),
    [
        ("long_threshold", 0.2, {"gates", "appended sinks"}),
        ("short_weight_cap", 0.1, {"fused score"}),
        ("noise_correlation", 0.0, {"noise of every candidate"}),
        ("seed", 42, {"seed of every candidate"}),
        ("long_window_chunks", 2, {"long score"}),
    ],
)
def test_beam_search_under_another_setting_is_found(setting, value, quantities, tmp_path):
    path = _copy("beam_search_transition", tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())
    facts[setting] = value
    path.with_suffix(".json").write_text(json.dumps(facts))
    assert quantities <= {check.quantity for check in verify(path, tolerance=2e-5) if not check.passed}


def test_order_of_the_last_beams_is_checked(monkeypatch):
    def reversed_at_the_end(width, fusion):
        def select(level):
            kept, fused = keep_best(width, fusion)(level)
            return Selection(kept[::-1] if level.chunk == level.horizon - 1 else kept, fused)

        return select

    monkeypatch.setattr("policies.stream_t1.keep_best", reversed_at_the_end)
    failed = {check.quantity for check in verify(GOLDEN / "beam_search") if not check.passed}
    assert {"kept beams, best first", "final pick"} <= failed


def test_recording_with_another_number_of_candidates_is_found(tmp_path):
    path = _copy("beam_search", tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["events"].pop()
    path.with_suffix(".json").write_text(json.dumps(facts))
    assert [check.quantity for check in verify(path) if not check.passed] == ["number of candidates"]


def test_verdict_is_printed_and_agreement_exits_quietly(capsys):
    main(GOLDEN / "stream_plain")
    printed = capsys.readouterr().out
    assert "latents of chunk 5" in printed and "beyond" not in printed


def test_an_average_into_the_wrong_sink_is_found(tmp_path):
    path = _copy("stream_routed", tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["routes"]["2"] = "discard"  # the layout stays the same
    path.with_suffix(".json").write_text(json.dumps(facts))
    failed = [check.quantity for check in verify(path, tolerance=2e-5) if not check.passed]
    assert "latents of chunk 5" in failed and "final cache keys" in failed
    assert "latents of chunk 4" not in failed and "layout after each of 9 chunks" not in failed


def test_disagreement_exits_with_one(tmp_path, capsys):
    path = _copy("stream_plain", tmp_path)
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["noise.3"] += 1e-6
    save_file(tensors, path.with_suffix(".safetensors"))
    with pytest.raises(SystemExit) as exit_status:
        main(path)
    assert exit_status.value.code == 1
    assert "beyond" in capsys.readouterr().out


@pytest.mark.parametrize("facts", [None, {"events": []}])
def test_missing_and_unknown_runs_exit_with_one_sentence(facts, tmp_path):
    path = tmp_path / "run"
    if facts is not None:
        path.with_suffix(".json").write_text(json.dumps(facts))
        save_file({}, path.with_suffix(".safetensors"))
    with pytest.raises(SystemExit, match=r"^verify: path must name a recorded [^\n]*$"):
        main(path)


def test_folder_is_refused_with_what_to_name(tmp_path):
    with pytest.raises(SystemExit, match=r"^verify: path .* is a folder: name a run in it"):
        main(tmp_path)


def test_run_may_be_named_by_one_of_its_files():
    assert verify(GOLDEN / "stream_plain.json") == verify(GOLDEN / "stream_plain")


def test_nan_is_beyond_every_tolerance(tmp_path):
    path = _copy("stream_plain", tmp_path)
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["latents.2"][0] = float("nan")
    save_file(tensors, path.with_suffix(".safetensors"))
    assert [check.quantity for check in verify(path) if not check.passed] == ["latents of chunk 2"]


def test_truncated_run_exits_with_one_sentence(tmp_path):
    path = _copy("stream_plain", tmp_path)
    whole = path.with_suffix(".safetensors").read_bytes()
    path.with_suffix(".safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"^verify: path .* names a damaged run"):
        main(path)


REWARDS = {
    "hpsv3": {"grids", "patches", "vision embeddings", "hidden states", "logits", "far from true mrope"},
    "videoreward": {
        "grids", "patches", "vision embeddings", "hidden states", "logits", "raw scores", "normalised scores",
        "far from true mrope", "far from without lora", "far from lora scaling 1",
    },
    "hpsv3_e2e": {
        "resized images", "sha256 of chats", "token ids", "places of reward tokens", "grids", "patches", "logits",
        "far from true mrope",
    },
    "videoreward_e2e": {
        "sampled frames", "sha256 of chats", "token ids", "places of reward tokens", "grids", "patches", "raw scores",
        "normalised scores", "far from true mrope",
    },
    "preprocessing_examples": {
        "image sizes", "image grids", "image tokens", "refused videos", "sampled frames", "video sizes",
        "video grids", "video tokens",
    },
}  # fmt: skip


@pytest.mark.parametrize("run", REWARDS)
def test_recorded_rewards_replay_within_the_tolerance(run):
    checks = {check.quantity: check for check in verify(GOLDEN / "rewards" / run)}
    assert all(check.passed for check in checks.values()), checks
    assert checks.keys() == REWARDS[run]
    inexact = {name: check.tolerance for name, check in checks.items() if check.tolerance > 0.0}
    if run.endswith("_e2e"):
        assert set(inexact.values()) == {1e-4}
    elif inexact:
        assert inexact.pop("hidden states") == 1e-4
        assert set(inexact.values()) == {2e-5}


@pytest.mark.parametrize(
    ("run", "tensor", "quantities"),
    [
        ("hpsv3", "weights.rm_head.5.bias", ["logits"]),
        ("hpsv3", "weights.visual.merger.mlp.2.bias", ["vision embeddings", "hidden states", "logits"]),
        ("videoreward", "weights.base_model.model.rm_head.weight", ["logits", "raw scores", "normalised scores"]),
        ("hpsv3", "inputs.image_1_uint8_hwc", ["patches"]),
        ("videoreward_e2e", "inputs.input_ids", ["token ids"]),
    ],
)
def test_another_reward_or_input_is_found(run, tensor, quantities, tmp_path):
    shutil.copytree(GOLDEN / "rewards", tmp_path / "rewards")
    path = tmp_path / "rewards" / f"{run}.safetensors"
    tensors = load_file(path)
    tensors[tensor] += tensors[tensor].new_ones(())
    save_file(tensors, path)
    assert [check.quantity for check in verify(path.with_suffix("")) if not check.passed] == quantities


def test_scores_that_a_known_mistake_gives_are_found(tmp_path):
    shutil.copytree(GOLDEN / "rewards", tmp_path / "rewards")
    path = tmp_path / "rewards" / "hpsv3.safetensors"
    tensors = load_file(path)
    tensors["wrong.logits_true_mrope"] = tensors["expected.logits"].clone()
    save_file(tensors, path)
    assert [check.quantity for check in verify(path.with_suffix("")) if not check.passed] == ["far from true mrope"]


def test_reward_without_its_weights_exits_with_one_sentence(tmp_path):
    path = _copy("rewards/hpsv3_e2e", tmp_path)
    with pytest.raises(SystemExit, match=r"^verify: path must name a recorded run[^\n]*hpsv3\.json$"):
        main(path)
