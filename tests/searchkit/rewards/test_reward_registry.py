"""Rewards by name: what an expression stands for, what is refused, and how ensembles add up."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from searchkit.rewards import RewardScorer, View
from searchkit.rewards.clip import PickScore
from searchkit.rewards.clip_model import ClipSize, make_clip, stand_in_tokenizer
from searchkit.rewards.registry import (
    IMAGE_REWARDS,
    REWARDS,
    ImageEnsemble,
    MeanOverFrames,
    Rewards,
    combine_images,
    combine_videos,
    load_reward,
    load_scorer,
)
from searchkit.rewards.terms import Term, parse

ROOT = Path(__file__).parents[3]
SIZE = ClipSize(
    image_size=28,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    text_width=24,
    text_layers=1,
    text_heads=2,
    embed_dim=16,
    vocabulary=60,
    context=12,
)
OWN = """
from dataclasses import dataclass

def bright(*, frames, prompts):
    return frames.mean((2, 3, 4))

@dataclass
class Still:
    scale: float = 1.0
    offset: int = 0

    def __call__(self, *, windows, prompts):
        assert len(prompts) == len(windows)
        return self.offset - self.scale * (windows[:, 1:] - windows[:, :-1]).abs().mean((1, 2, 3, 4))

def neither(images):
    return images

def flat(*, frames, prompts):
    return frames.mean((1, 2, 3, 4))

def counted(*, frames, prompts):
    return frames.gt(0.5).sum((2, 3, 4))

def listed(*, frames, prompts):
    return frames.mean((2, 3, 4)).tolist()

def undefined(*, frames, prompts):
    scores = frames.mean((2, 3, 4))
    scores[prompts.index("two dogs"), 1] = float("nan")
    return scores

def unbounded(*, windows, prompts):
    return windows.mean((1, 2, 3, 4)).log() / 0

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


def _make_view(prompt: str = "a cat") -> View:
    window = torch.rand(8, 3, 30, 40, generator=torch.Generator().manual_seed(len(prompt)))
    return View(prompt, (), (window[:4], window[4:]), window[4:])


# Expressions


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("pickscore", [(1.0, "pickscore", {})]),
        ("0.7*pickscore+0.3*aesthetic", [(0.7, "pickscore", {}), (0.3, "aesthetic", {})]),
        (" 2e-1 * hpsv2 + -1*clipscore ", [(0.2, "hpsv2", {}), (-1.0, "clipscore", {})]),
        (
            "1e+2*aesthetic(weights=/data/sac+logos+ava1-l14-linearMSE.pth, stride=4)+pickscore(dtype=bfloat16)",
            [
                (100.0, "aesthetic", {"weights": "/data/sac+logos+ava1-l14-linearMSE.pth", "stride": 4}),
                (1.0, "pickscore", {"dtype": "bfloat16"}),
            ],
        ),
        (
            "0.5*my.module:MyReward(scale=0.5,deep=true,name=a=b)",
            [(0.5, "my.module:MyReward", {"scale": 0.5, "deep": True, "name": "a=b"})],
        ),
        (
            "videoreward(aspect=motion, normalised=false)",
            [(1.0, "videoreward", {"aspect": "motion", "normalised": False})],
        ),
    ],
)
def test_expressions_are_weighted_names_with_options(expression, expected):
    terms = parse("reward", expression, REWARDS)
    assert [(term.weight, term.name, dict(term.options)) for term in terms] == expected


@pytest.mark.parametrize(
    "expression", ["", "  ", "pickscore +", "+pickscore", "0.7*", "pickscore)", "a b", "pickscore(", "a*b"]
)
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError, match=r"reward (must be a name, or a sum such as|'.*' is unknown)"):
        parse("reward", expression, REWARDS)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("pikscore", "reward 'pikscore' is unknown: the nearest is 'pickscore', of hpsv3, pickscore"),
        ("0.5*hpsv3+0.5*hps", "reward 'hps' is unknown: the nearest is 'hpsv"),
        ("pickscore(strid=2)", "reward 'pickscore' has no option 'strid': the nearest is 'stride'"),
        ("pickscore(stride)", "reward 'pickscore' must have options as name=value, got 'stride'"),
        ("pickscore(stride=1,stride=2)", "has the option 'stride' twice"),
        (
            "pickscore(dtype=float8)",
            "dtype of reward 'pickscore' must be one of float32, float16, bfloat16, got float8",
        ),
    ],
)
def test_unknown_names_and_options_are_named(expression, message):
    with pytest.raises(ValueError) as refusal:
        parse("reward", expression, REWARDS)
    assert message in str(refusal.value)


def test_rewards_are_checked_when_they_are_chosen():
    assert Rewards().image == "hpsv3"
    Rewards(image="0.5*pickscore+0.5*own:reward", video="clipscore")
    with pytest.raises(ValueError, match="image reward 'videoreward' is unknown"):
        Rewards(image="videoreward")
    with pytest.raises(ValueError, match="video reward 'videoscore' is unknown: the nearest is 'videoscore2'"):
        Rewards(video="videoscore")


def test_every_option_of_the_table_is_taken():
    """The table says what `load` and the class take: loading with an option that is not there would fail late."""
    import inspect

    from searchkit.rewards.clip_model import ClipEncoder
    from searchkit.rewards.terms import find_target

    for known in REWARDS.values():
        made = find_target("reward", known.target)
        taken = {*inspect.signature(made.load).parameters, *inspect.signature(made).parameters}
        if "clip" in inspect.signature(made).parameters:
            taken |= set(inspect.signature(ClipEncoder).parameters)
        assert set(known.options) <= taken, known.target
        assert {"weights", "revision", "device", "dtype"} <= set(known.options)


def test_names_need_no_torch():
    code = "import sys, searchkit.rewards.registry as rewards, searchkit.metrics as metrics; rewards.Rewards()"
    code += "; metrics.check_judges(['videoscore2'])"
    code += "; print(*[name for name in ('torch', 'transformers', 'diffusers', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# The user's own


@pytest.mark.usefixtures("own")
def test_functions_and_classes_of_the_users_score():
    choice = Rewards(image="own_rewards:bright", video="own_rewards:Still(scale=2, offset=1)", device="cpu")
    scorer = load_scorer(choice, fps=16)
    views = [_make_view(), _make_view("two dogs")]
    scores = scorer.score(views)
    for view, score in zip(views, scores, strict=True):
        window = torch.cat(view.window)
        assert score.short == pytest.approx(float(view.newest.mean()))
        assert score.long == pytest.approx(1 - 2 * float((window[1:] - window[:-1]).abs().mean()))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("own_rewards:neither", "'own_rewards:neither' is no reward: it must be called with frames=, prompts="),
        ("own_rewards:number", "'own_rewards:number' is no reward"),
        ("own_rewards:Still", "image reward 'own_rewards:Still' scores videos: give it as the video reward"),
        ("own_rewards:Still(size=1)", "cannot be made with its options: .*unexpected keyword argument 'size'"),
        ("own_rewards:bright(stride=2)", "is a function, which takes no options: got 'stride'"),
        ("own_rewards:missing", "reward 'own_rewards:missing' does not import: AttributeError"),
        ("no_such_module:reward", "reward 'no_such_module:reward' does not import: ModuleNotFoundError"),
    ],
)
def test_what_is_no_reward_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        load_scorer(Rewards(image=image, video="own_rewards:Still", device="cpu"), fps=16)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("image", "video", "message"),
    [
        ("flat", "Still", r"'own_rewards:flat' must return floating point \[2, 4\], .*, got torch.float32 \[2\]"),
        ("counted", "Still", r"'own_rewards:counted' must return floating point .* got torch.int64 \[2, 4\]"),
        ("listed", "Still", r"'own_rewards:listed' must return floating point .* got list"),
        ("undefined", "Still", r"'own_rewards:undefined' returned \[0\.\d+, nan, .*\] for 'two dogs'"),
        ("bright", "unbounded", r"'own_rewards:unbounded' returned -inf for 'a cat'"),
        ("bright", "2*own_rewards:flat + own_rewards:Still", r"'own_rewards:flat' must return floating point \[2, 8\]"),
    ],
)
def test_wrong_scores_are_told_of_with_the_rewards_name(image, video, message):
    chosen = video if ":" in video else f"own_rewards:{video}"
    scorer = load_scorer(Rewards(image=f"own_rewards:{image}", video=chosen, device="cpu"), fps=16)
    with pytest.raises(ValueError, match=message):
        scorer.score([_make_view(), _make_view("two dogs")])


def test_a_single_frame_is_shown_to_the_video_reward_as_two():
    frame = torch.rand(1, 3, 8, 8)
    scorer = RewardScorer(image=_bright, video=_still)
    [score] = scorer.score([View("a cat", (), (frame,), frame)])
    assert score == (pytest.approx(float(frame.mean())), 0.0)


@pytest.mark.usefixtures("own")
def test_another_frame_rate_than_the_videos_is_refused():
    with pytest.raises(ValueError, match="fps of 'videoreward' must be 16, that of the videos, or left out, got 8"):
        load_scorer(Rewards(image="own_rewards:bright", video="videoreward(fps=8)", device="cpu"), fps=16)


# Ensembles


def _bright(*, frames: Tensor, prompts: Sequence[str]) -> Tensor:
    return frames.mean((2, 3, 4))


def _long(*, frames: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.tensor([[float(len(prompt))] for prompt in prompts]).expand(frames.shape[:2])


def _still(*, windows: Tensor, prompts: Sequence[str]) -> Tensor:
    return -(windows[:, 1:] - windows[:, :-1]).abs().mean((1, 2, 3, 4))


REWARD_OF = {"bright": _bright, "long": _long, "still": _still}


def _load(term: Term):
    return REWARD_OF[term.name]


def _term(weight: float, name: str) -> Term:
    return Term(weight, name, ())


def test_an_ensemble_is_the_weighted_sum():
    frames, prompts = torch.rand(2, 3, 3, 8, 8), ["a cat", "two dogs"]
    ensemble = combine_images([_term(0.7, "bright"), _term(0.3, "long")], _load)
    expected = 0.7 * frames.mean((2, 3, 4)) + 0.3 * torch.tensor([[5.0], [8.0]])
    torch.testing.assert_close(ensemble(frames=frames, prompts=prompts), expected)


def test_a_single_reward_is_itself_and_a_weighted_one_is_not():
    assert combine_images([_term(1.0, "bright")], _load) is _bright
    assert combine_videos([_term(1.0, "still")], _load) is _still
    half = combine_images([_term(0.5, "bright")], _load)
    assert isinstance(half, ImageEnsemble)
    frames = torch.rand(1, 2, 3, 8, 8)
    torch.testing.assert_close(half(frames=frames, prompts=["a"]), 0.5 * frames.mean((2, 3, 4)))


def test_image_rewards_of_a_video_are_averaged_over_its_frames():
    windows = torch.rand(2, 5, 3, 8, 8)
    mean = combine_videos([_term(1.0, "bright")], _load)
    assert isinstance(mean, MeanOverFrames)
    torch.testing.assert_close(mean(windows=windows, prompts=["a", "b"]), windows.mean((1, 2, 3, 4)))
    both = combine_videos([_term(2.0, "bright"), _term(1.0, "still")], _load)
    expected = 2 * windows.mean((1, 2, 3, 4)) + _still(windows=windows, prompts=["a", "b"])
    torch.testing.assert_close(both(windows=windows, prompts=["a", "b"]), expected)


# Built-in ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("pickscore")
    make_clip(SIZE, initialise=True).save_pretrained(path)
    stand_in_tokenizer(SIZE).save_pretrained(path)
    return str(path)


def test_a_named_reward_is_loaded_with_its_options(folder):
    (term,) = parse(
        "reward", f"pickscore(weights={folder}, tokenizer={folder}, stride=2, dtype=float32)", IMAGE_REWARDS
    )
    reward = load_reward(term, defaults={"device": "cpu", "dtype": "bfloat16"}, fps=16)
    assert isinstance(reward, PickScore)
    assert reward.stride == 2
    assert reward.clip.clip.dtype == torch.float32
    (term,) = parse("reward", f"pickscore(weights={folder}, tokenizer={folder})", IMAGE_REWARDS)
    reward = load_reward(term, defaults={"device": "cpu", "dtype": "bfloat16"}, fps=16)
    assert reward.clip.clip.dtype == torch.bfloat16


def test_a_reward_that_is_named_twice_is_loaded_once(folder):
    name = f"pickscore(weights={folder}, tokenizer={folder})"
    scorer = load_scorer(Rewards(image=name, video=f"0.5*{name}", device="cpu", dtype="float32"), fps=16)
    assert scorer.video.members[0][1].image is scorer.image
    (scores,) = scorer.score([_make_view()])
    expected = scorer.image(frames=torch.cat(_make_view().window)[None], prompts=["a cat"])
    assert scores.short == pytest.approx(float(expected[:, 4:].mean()), rel=1e-4)
    assert scores.long == pytest.approx(0.5 * float(expected.mean()), rel=1e-4)


def test_weights_that_are_not_there_are_named(tmp_path):
    choice = Rewards(image=f"pickscore(weights={tmp_path})", video="own:reward", device="cpu")
    with pytest.raises(ValueError, match=r"must hold config\.json"):
        load_scorer(choice, fps=16)
