"""Judges by name: which there are, and which a search rules out."""

import inspect
import sys
from pathlib import Path

import pytest
import torch

from searchkit.metrics import JUDGES, RewardJudge, check_judges, load_judges
from searchkit.metrics.vbench import SubjectConsistency
from searchkit.rewards.registry import REWARDS, Rewards
from searchkit.rewards.terms import file_identities, find_target, parse

OWN = """
def bright(*, frames, prompts):
    return frames.mean((2, 3, 4))

def still(*, windows, prompts):
    return -(windows[:, 1:] - windows[:, :-1]).abs().mean((1, 2, 3, 4))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        (["videoscore"], "judge 'videoscore' is unknown: the nearest is 'videoscore2'"),
        (["videoscore2(sed=1)"], "judge 'videoscore2' has no option 'sed': the nearest is 'seed'"),
        (["0.5*videoscore2"], r"judge '0.5\*videoscore2' must be one judge, or a weighted sum of rewards"),
        (["aesthetic-quality"], r"needs the option weights, as in aesthetic-quality\(weights=\.\.\.\)"),
        (["videoscore2+clipscore"], "must be one judge, or a weighted sum of rewards"),
    ],
)
def test_unknown_judges_are_refused_before_anything_is_loaded(judges, message):
    for check in (check_judges, load_judges):
        with pytest.raises(ValueError, match=message):
            check(judges)


def test_a_search_must_not_have_seen_its_judge():
    rewards = Rewards(image="0.7*pickscore+0.3*aesthetic", video="videoreward")
    check_judges(["videoscore2", "clipscore", "0.5*hpsv2+0.5*hpsv3", "subject-consistency"], rewards)
    for judge in ("aesthetic", "videoreward(aspect=motion)", "0.5*hpsv2+0.5*pickscore(stride=2)"):
        with pytest.raises(ValueError, match="is a reward of the search: a judge must be one that it never saw"):
            check_judges([judge], rewards)


def test_every_option_of_the_table_is_taken():
    from searchkit.metrics.vbench import DinoEncoder
    from searchkit.rewards.clip_model import ClipEncoder

    encoders = {*inspect.signature(ClipEncoder).parameters} & {*inspect.signature(DinoEncoder).parameters}
    for name, known in JUDGES.items():
        made = find_target("judge", known.target)
        taken = {*inspect.signature(made.load).parameters, *inspect.signature(made).parameters}
        assert set(known.options) <= taken | (encoders if name != "videoscore2" else set()), name


@pytest.mark.usefixtures("own")
def test_any_reward_judges_whole_videos():
    video = torch.rand(5, 3, 8, 8)
    judges = load_judges(["own_rewards:bright", "2*own_rewards:still + own_rewards:bright"], fps=8)
    assert all(isinstance(judge, RewardJudge) for judge in judges.values())
    measures = [judge(video=video, prompt="a cat", fps=8) for judge in judges.values()]
    bright, still = float(video.mean()), -float((video[1:] - video[:-1]).abs().mean())
    assert measures[0] == {"own_rewards:bright": pytest.approx(bright)}
    assert measures[1] == {"2*own_rewards:still + own_rewards:bright": pytest.approx(2 * still + bright)}


def test_a_named_judge_is_loaded_with_its_options(tmp_path):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    name = f"subject-consistency(weights={tmp_path})"
    (plain,), (judge,) = (load_judges([name], dtype=dtype).values() for dtype in (None, "bfloat16"))
    assert isinstance(judge, SubjectConsistency) and isinstance(plain, SubjectConsistency)
    assert [made.embed.model.dtype for made in (plain, judge)] == [torch.float32, torch.bfloat16]
    measures = judge(video=torch.rand(3, 3, 40, 48), prompt="a cat", fps=16)
    assert 0 <= measures["subject_consistency"] <= 1


def test_weights_that_cannot_be_random_are_refused():
    with pytest.raises(ValueError, match="VideoScore2 cannot be random"):
        load_judges(["videoscore2(weights=random)"])


def test_files_of_the_table_are_those_that_are_loaded():
    for name, known in {**JUDGES, **REWARDS}.items():
        made = find_target("judge", known.target)
        module, parameters = sys.modules[made.__module__], inspect.signature(made.load).parameters
        files = {file.option: file for file in known.files}
        assert set(files) <= set(known.options)
        assert {file.revision for file in known.files} - {None} <= set(known.options)
        default = getattr(made, "WEIGHTS", parameters["weights"].default)
        assert files["weights"].default == (None if default is inspect.Parameter.empty else default), name
        for option in {"base", "clip"} & set(files):
            assert files[option].default == parameters[option].default
        if "tokenizer" in files:
            assert files["tokenizer"].default == made.TOKENIZER
        names = next((getattr(where, attribute) for where, attribute in _file_names(made, module)), None)
        if names is not None:
            assert files["weights"].names == ((names,) if isinstance(names, str) else names), name
        assert files["weights"].with_others == (names is None)


def _file_names(made, module):
    """Yields where a class or its module names the files of its weights."""
    for where, attribute in ((made, "FILES"), (module, "FILES"), (module, "FILE")):
        if hasattr(where, attribute):
            yield where, attribute
    if made.__name__ == "AestheticQuality":
        yield module, "AESTHETIC_FILE"


def test_replaced_weights_have_another_identity(tmp_path):
    clip, head = tmp_path / "clip", tmp_path / "head.pth"
    clip.mkdir()
    (clip / "config.json").write_text("{}")
    (clip / "pytorch_model.bin").write_bytes(b"1")
    head.write_bytes(b"1")
    terms = parse("judge", f"aesthetic-quality(weights={head},clip={clip})", JUDGES)
    before = file_identities(terms, JUDGES)
    assert set(before) == {f"aesthetic-quality.weights={head}", f"aesthetic-quality.clip={clip}"}
    assert file_identities(terms, JUDGES) == before
    for path in (head, clip / "pytorch_model.bin", clip / "config.json"):
        path.write_bytes(b"2")
        after = file_identities(terms, JUDGES)
        assert sum(after[name] != before[name] for name in before) == 1
        before = after


def test_missing_files_are_named_with_who_wants_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for expression, message in {
        f"hpsv3(weights={tmp_path})": r"weights of hpsv3 cannot be found: .* must hold HPSv3\.safetensors",
        f"clipscore(weights={tmp_path})": r"weights of clipscore cannot be found: .* must hold model\.safetensors or",
        f"hpsv3(weights={tmp_path}/config.json,base=none)": "base of hpsv3 cannot be found: .* 'none'",
    }.items():
        with pytest.raises(ValueError, match=message):
            file_identities(parse("reward", expression, REWARDS), REWARDS)


def test_random_weights_and_own_rewards_have_no_files():
    terms = parse("reward", "hpsv3(weights=random) + own:reward(weights=x)", REWARDS)
    assert file_identities(terms, REWARDS) == {}
