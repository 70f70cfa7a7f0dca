"""The report's page: what it holds, that nothing of a run becomes markup, and what it does in a browser."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.benchmark.report_page import ARGUMENTS, BROWSERS, browser_path, copy_trials
from experiments.report import page as report_page
from experiments.report.__main__ import main
from experiments.report.data import load
from experiments.report.html.media import MAX_HEIGHT, read_clips, read_video
from experiments.report.html.tree import Tree, grow
from experiments.report.html.trials import rows_of
from experiments.report.preferences import read as read_preferences
from searchkit.memory import MemoryConfig
from searchkit.video import read_video as read_frames
from searchkit.video import write_video

EVIL = "<script>document.title = 'pwned'</script> \"a\" 'b' </textarea> {{ 7 * 7 }} & a circle"
EVIL_JUDGE = "<img src=x onerror=\"document.title='pwned'\">"
CELL = 16  # pixels
FRAMES = 4  # of a chunk
SMALL_WINDOW = MemoryConfig(chunk_frames=3, window_frames=9, sink_frames=3, max_sink_frames=6)


@pytest.fixture(autouse=True)
def _coarse_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "RESOLUTION", 40)


def _candidate(lineage: Sequence[int], **others: Any) -> dict[str, Any]:
    """A row of candidates.parquet; what is not said is of a finished candidate that lost."""
    value = float(lineage[-1])
    scores = {"short": value / 10, "long": value / 20, "fused": value / 15}
    fate = {"kept": False, "chosen": False, "pruned_after": None}
    cost = {"passes": 4.5, "seconds": 0.25}
    made = {"candidate_seed": lineage[-1], "route": "discard", "lineage": list(lineage), "chunk": len(lineage) - 1}
    return {**made, **scores, **fate, **cost, "truth": None, "diversity": None, **others}


# Two beams of two children each; the chosen video is 2, 5, 7, 9, 11.
SEARCH = (
    _candidate([1], kept=True),
    _candidate([2], kept=True, chosen=True),
    _candidate([1, 3]),
    _candidate([1, 4], kept=True),
    _candidate([2, 5], kept=True, chosen=True),
    _candidate([2, 6]),
    _candidate([2, 5, 7], kept=True, chosen=True),
    _candidate([1, 4, 8], pruned_after=2),
    _candidate([2, 5, 7, 9], kept=True, chosen=True, route="append_sink"),
    _candidate([2, 5, 7, 10], route="append_sink"),
    _candidate([2, 5, 7, 9, 11], kept=True, chosen=True, route="append_sink"),
    _candidate([2, 5, 7, 9, 12], route="ema_sink"),
)


def _frames(red: int, num: int = FRAMES) -> np.ndarray:
    """Pixel frames whose green tells them apart."""
    frames = np.zeros((num, CELL, CELL, 3), np.uint8)
    frames[..., 0] = red
    frames[..., 1] = (np.arange(num) * 60 % 256)[:, None, None]
    return frames


def _write_clips(folder: Path, search: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for chunk in sorted({row["chunk"] for row in search}):
        finished = [row for row in search if row["chunk"] == chunk and row["pruned_after"] is None]
        strips = [np.concatenate(list(_frames(20 * row["candidate_seed"])), axis=1) for row in finished]
        Image.fromarray(np.concatenate(strips)).save(folder / f"{chunk:02}.jpg", quality=95)
    (folder / "clips.json").write_text(json.dumps({"height": CELL, "width": CELL, "fps": 16}))


def _make_run(
    folder: Path, *, prompts: Sequence[str] = ("a circle", "a square"), judge: str = "clip", clips: bool = True
) -> Path:
    """A run of greedy, best-of-n and beam-search; the two searched the same, and their videos differ."""
    trials, candidates = [], []
    for prompt in prompts:
        for place, policy in enumerate(("greedy", "best-of-n", "beam-search")):
            names = {"trial": f"trial{len(trials)}", "policy": policy, "prompt": prompt, "seed": 0}
            video = f"trials/{names['trial']}/video.mp4"
            scored = {"reward": 0.1 * place, judge: 0.2 * place, "passes": 20.0 + place, "seconds": 1.0}
            trials.append({**names, **scored, "num_chunks": 5, "options": "{}", "video": video})
            write_video(folder / video, _frames(60 + 60 * place, num=8 + len(trials)), 8)
            search = SEARCH if place else [row for row in SEARCH if row["chosen"]]
            candidates += [{**names, **row} for row in search]
            if clips:
                _write_clips(folder / "trials" / names["trial"] / "clips", search)
    memory = {"memory.chunk-frames": 3, "memory.window-frames": 9, "memory.max-sink-frames": 6}
    settings = {"num-chunks": 5, "memory.sink-frames": 3, **memory}
    (folder / "experiment.json").write_text(json.dumps({"format": 4, "experiment": settings}))
    results = pd.DataFrame(trials)
    results.to_parquet(folder / "results.parquet")
    pd.DataFrame(candidates).to_parquet(folder / "candidates.parquet")
    segments = results[["trial", "policy", "prompt", "seed", judge]].assign(segment=0, start_second=0.0)
    segments.to_parquet(folder / "segments.parquet")
    return folder


def _write_page(folder: Path) -> Path:
    assert main(folder, html=True) == 0
    return folder / "report" / "report.html"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page; tests leave it as it is."""
    folder = _make_run(tmp_path_factory.mktemp("plain") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "RESOLUTION", 40)
        _write_page(folder)
    return folder


class _Markup(HTMLParser):
    """The tags and the shown text of a page, and its blocks of data by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.blocks: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = (dict(attrs).get("id") or "program") if tag == "script" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self._inside:
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data
        elif self._inside != "style":
            self.words.append(data)


def _edges(tree: Tree) -> set[tuple[str, str]]:
    return {(tree.nodes[node.parent].seed, node.seed) for node in tree.nodes if node.parent is not None}


def test_edges_of_a_tree_lead_from_parents_to_children():
    tree = grow(SEARCH, SMALL_WINDOW)
    assert _edges(tree) == {
        *(("1", "3"), ("1", "4"), ("2", "5"), ("2", "6"), ("5", "7"), ("4", "8")),
        *(("7", "9"), ("7", "10"), ("9", "11"), ("9", "12")),
    }
    assert [node.seed for node in tree.nodes if node.chosen] == ["2", "5", "7", "9", "11"]
    assert tree.num_unclear == 0 and tree.is_searched


def test_routes_are_of_the_chunks_that_left_and_say_what_they_did():
    """The window holds one chunk besides the sink and the newest: the second sink is the last that has room."""
    found = {node.seed: (node.leaving, node.route) for node in grow(SEARCH, SMALL_WINDOW).nodes}
    assert all(found[seed] == (None, None) for seed in "12345678")
    assert found["9"] == found["10"] == (1, "append_sink")
    assert found["11"] == found["12"] == (2, "ema_sink")  # the sinks are full, so that appending averages


def test_averaging_without_a_sink_discards():
    config = MemoryConfig(chunk_frames=3, window_frames=6, sink_frames=0, max_sink_frames=0)
    tree = grow([_candidate([1]), _candidate([1, 2]), _candidate([1, 2, 3], route="ema_sink")], config)
    assert (tree.nodes[2].leaving, tree.nodes[2].route) == (0, "discard")


def test_levels_cost_what_all_their_candidates_cost():
    levels = grow(SEARCH, SMALL_WINDOW).levels
    assert [(level.passes, level.seconds) for level in levels] == [(9, 0.5), (18, 1), (9, 0.5), (9, 0.5), (9, 0.5)]


def test_rows_of_clips_count_finished_candidates_only():
    pruned_first = [_candidate([1], pruned_after=2), _candidate([2]), _candidate([3])]
    assert [node.row for node in grow(pruned_first, SMALL_WINDOW).nodes] == [None, 0, 1]


def test_parents_of_the_same_seeds_are_told_apart_as_far_as_they_can_be():
    """The released Stream-T1 repeats seeds, and another route under the same seeds is another candidate."""
    rows = [
        _candidate([1]),
        _candidate([1], kept=True),
        _candidate([1], kept=True, chosen=True),
        _candidate([1, 1]),
        _candidate([1, 2], chosen=True),
    ]
    tree = grow(rows, SMALL_WINDOW)
    assert [node.parent for node in tree.nodes] == [None, None, None, 1, 2]
    assert tree.num_unclear == 2


def _markup_of(folder: Path) -> _Markup:
    return _Markup((folder / "report" / "report.html").read_text())


def test_page_holds_every_trial_and_what_it_scored(plain):
    markup = _markup_of(plain)
    data = json.loads(markup.blocks["data"])
    assert [one["trial"] for one in data["trials"].values()] == [f"trial{index}" for index in range(6)]
    shown = [attributes["data-trial"] for _, attributes in markup.tags if "data-trial" in attributes]
    assert shown == [str(index) for index in range(6)]
    for index in range(6):
        stored = (plain / f"trials/trial{index}/video.mp4").read_bytes()
        assert base64.b64decode(markup.blocks[f"video-{index}"]) == stored
    searched = [attributes["data-tree"] for _, attributes in markup.tags if "data-tree" in attributes]
    assert searched == ["1", "2", "4", "5"]  # greedy had no choice
    assert {f"search-{index}" for index in searched} == {name for name in markup.blocks if name.startswith("search-")}
    shown_scores = [words for words in markup.words if words in ("20", "21", "22", "0.200", "0.400")]
    assert len(shown_scores) >= 12


def test_page_asks_nothing_of_the_network(plain):
    markup = _markup_of(plain)
    (policy,) = [tag["content"] for _, tag in markup.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy
    for tag, attributes in markup.tags:
        for name in ("src", "href", "poster", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert set(re.findall(r"https?://[^\s\"']+", markup.blocks["program"])) == {"http://www.w3.org/2000/svg"}


def test_what_a_run_says_is_text_and_never_markup(tmp_path, capsys):
    folder = _make_run(tmp_path / "run", prompts=(EVIL, "a square"), judge=EVIL_JUDGE)
    text = _write_page(folder).read_text()
    markup = _Markup(text)
    words = " ".join(markup.words)
    assert EVIL in words and EVIL_JUDGE in words
    assert json.loads(markup.blocks["data"])["trials"]["0"]["prompt"] == EVIL
    assert "<script>document" not in text and "<img src=x" not in text
    programs = [tag for tag, attributes in markup.tags if tag == "script" and "type" not in attributes]
    assert len(programs) == 1
    assert not any(name.startswith("on") for _, attributes in markup.tags for name in attributes)


def test_links_of_the_page_lead_into_it(plain):
    markup = _markup_of(plain)
    names = {attributes.get("id") for _, attributes in markup.tags}
    links = [attributes["href"] for tag, attributes in markup.tags if tag == "a"]
    assert all(link is not None and link[1:] in names for link in links)
    assert any(link is not None and link.startswith("#trial-") for link in links)  # of the worst failures


def test_page_is_the_same_to_the_byte_when_made_again_and_its_size_is_told(plain, capsys):
    first = (plain / "report" / "report.html").read_bytes()
    again = _write_page(plain)
    assert again.read_bytes() == first
    assert f"{again} ({len(first) / 1e6:.1f} MB)" in capsys.readouterr().out


def test_trees_without_clips_say_why(tmp_path):
    rows = rows_of(load(_make_run(tmp_path / "run", clips=False)))
    trial = rows[0].trials[1]
    assert trial.clips is None and "stored no clips" in trial.note


@pytest.mark.parametrize("damage", ["one candidate fewer", "no picture", "no size", "missing"])
def test_damaged_clips_are_left_out(tmp_path, damage):
    folder = tmp_path / "trial"
    _write_clips(folder / "clips", SEARCH)
    num_finished = grow(SEARCH, SMALL_WINDOW).num_finished
    assert sorted(read_clips(folder, num_finished).sheets) == [0, 1, 2, 3, 4]
    match damage:
        case "one candidate fewer":
            num_finished = {**num_finished, 1: 3}
        case "no picture":
            (folder / "clips/01.jpg").write_bytes(b"nothing")
        case "no size":
            (folder / "clips/clips.json").write_text("{}")
        case "missing":
            (folder / "clips/01.jpg").unlink()
    with pytest.raises(ValueError, match="clips of trial trial are damaged"):
        read_clips(folder, num_finished)


def test_clips_stop_where_their_room_ends(tmp_path):
    run = load(_make_run(tmp_path / "run"))
    everything = [trial for row in rows_of(run) for trial in row.trials if trial.tree]
    assert all(trial.clips for trial in everything)
    first = everything[0].clips
    assert first is not None
    some = [trial for row in rows_of(run, clips_bytes=first.num_bytes) for trial in row.trials if trial.tree]
    assert [trial.clips is not None for trial in some] == [True, False, False, False]
    assert "left out" in some[1].note


def test_large_videos_are_made_smaller_once_and_the_page_says_so(tmp_path, capsys):
    folder = _make_run(tmp_path / "run")
    large = folder / "trials/trial0/video.mp4"
    write_video(large, np.full((6, 2 * MAX_HEIGHT, 3 * MAX_HEIGHT, 3), 128, np.uint8), 8)
    page = _write_page(folder)
    (kept,) = (folder / "report/smaller").iterdir()
    frames = read_frames(kept)
    assert frames.shape == (6, MAX_HEIGHT, 1.5 * MAX_HEIGHT, 3)
    assert abs(int(frames.mean()) - 128) < 4
    markup = _Markup(page.read_text())
    assert base64.b64decode(markup.blocks["video-0"]) == kept.read_bytes()
    assert "1 of 6 videos are higher than" in " ".join(markup.words)
    made = kept.stat().st_mtime_ns
    assert read_video(large, kept=kept).is_smaller and kept.stat().st_mtime_ns == made
    write_video(large, np.zeros((3, 2 * MAX_HEIGHT, 3 * MAX_HEIGHT, 3), np.uint8), 8)
    read_video(large, kept=kept)
    assert len(read_frames(kept)) == 3


def test_missing_videos_and_old_tables_leave_the_rest(tmp_path, capsys):
    folder = _make_run(tmp_path / "run")
    (folder / "trials/trial0/video.mp4").unlink()
    table = pd.read_parquet(folder / "candidates.parquet")
    table.drop(columns=["lineage"]).to_parquet(folder / "candidates.parquet")
    markup = _Markup(_write_page(folder).read_text())
    words = " ".join(markup.words)
    assert "1 of 6 videos cannot be read" in words and "has no column lineage" in words
    assert "video-1" in markup.blocks and not any(name.startswith("search-") for name in markup.blocks)


def _preferences(folder: Path, *answers: tuple[int, int, str], viewer: str = "ann") -> Path:
    """A file of answers about pairs of trials, as the page's blind comparison offers it."""
    stored = load(folder).trials.to_dict("records")
    sides = [[{"trial": stored[i]["trial"], "policy": stored[i]["policy"]} for i in one[:2]] for one in answers]
    rows = [
        {"prompt": stored[one[0]]["prompt"], "seed": 0, "left": left, "right": right, "preference": one[2]}
        for one, (left, right) in zip(answers, sides, strict=True)
    ]
    path = folder.parent / f"{viewer}.json"
    path.write_text(json.dumps({"format": 1, "run": "run", "viewer": viewer, "order": 0, "preferences": rows}))
    return path


def test_preferences_become_win_rates(tmp_path, capsys):
    folder = _make_run(tmp_path / "run")
    ann = _preferences(folder, (0, 2, "right"), (5, 3, "left"), (0, 1, "tie"))
    bob = _preferences(folder, (2, 0, "right"), (4, 3, "left"), viewer="bob")
    assert main(folder, preferences=(ann, bob)) == 0
    table = pd.read_csv(folder / "report/tables/preferences.csv").set_index(["policy", "other"])
    beam = table.loc[("greedy", "beam-search")]
    assert [beam[name] for name in ("wins", "ties", "losses", "viewers")] == [1, 0, 2, 2]
    assert beam["preferred"] == 0.25  # prompts count alike: half of two answers on one, none of one on the other
    assert [table.loc[("greedy", "best-of-n")][name] for name in ("wins", "ties", "losses")] == [0, 1, 1]
    assert "5 answers by 2 viewers" in capsys.readouterr().out


def test_wrong_preferences_are_refused_in_one_sentence(tmp_path, capsys):
    folder = _make_run(tmp_path / "run")
    path = _preferences(folder, (0, 2, "right"))
    good = path.read_text()
    for wrong in (
        good.replace("trial2", "other"),
        good.replace('"right"}', '"both"}'),
        "[]",
        good.replace(": 1", ": 9"),
    ):
        path.write_text(wrong)
        assert main(folder, preferences=(path,)) == 2
        assert capsys.readouterr().err.startswith(f"report: file {path} holds ")


def test_copied_trials_are_a_run(tmp_path, capsys):
    copy_trials(_make_run(tmp_path / "run"), tmp_path / "copies", 10)
    run = load(tmp_path / "copies")
    assert len(run.trials) == 10 and run.trials["trial"].is_unique
    assert sum(trial.clips is not None for row in rows_of(run) for trial in row.trials) == 6  # those that searched


# In a browser.


class Opened:
    """A page in Chromium, and what went wrong in it."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.complaints: list[str] = []
        self.requests: list[str] = []
        tab.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: self.requests.append(request.url))

    def show(self, page: Path, view: str) -> None:
        self.tab.goto(f"{page.resolve().as_uri()}#{view}")

    @property
    def outward(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser_path()
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(15_000)
    yield Opened(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with markup in a prompt and in a judge's name, away from its run: it needs no other file."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "RESOLUTION", 40)
        page = _write_page(_make_run(folder / "run", prompts=(EVIL, "a square"), judge=EVIL_JUDGE))
    alone = folder / "alone" / "report.html"
    alone.parent.mkdir()
    shutil.move(page, alone)
    shutil.rmtree(folder / "run")
    return alone


PIXELS = """canvas => {
    const at = canvas.getContext("2d").getImageData(0, 0, 1, 1).data;
    return [at[0], at[1]];
}"""


def test_browser_shows_all_views_without_errors_or_requests(opened, written):
    for view, text in (("summary", "Search reward"), ("videos", EVIL), ("blind", "Which one is better?")):
        opened.show(written, view)
        opened.tab.locator(f"#{view}").get_by_text(text).first.wait_for()
        assert opened.tab.locator(".view:visible").count() == 1
    assert opened.complaints == [] and opened.outward == []
    assert opened.tab.title() == "Report of run"


def test_browser_plays_the_videos_of_a_row_together(opened, written):
    opened.show(written, "videos")
    row = opened.tab.locator(".row").first
    times = "row => [...row.querySelectorAll('video')].map(video => video.currentTime)"
    ready = "() => [...document.querySelector('.row').querySelectorAll('video')].every(one => one.readyState >= 2)"
    opened.tab.wait_for_function(ready)
    row.locator(".scrub").evaluate("one => { one.value = 500; one.dispatchEvent(new Event('input')); }")
    scrubbed = row.evaluate(times)
    assert len(scrubbed) == 3 and min(scrubbed) > 0.4 and max(scrubbed) - min(scrubbed) < 1e-3
    row.locator(".play").click()
    opened.tab.wait_for_function(f"before => ({times})(document.querySelector('.row'))[0] !== before", arg=scrubbed[0])
    row.get_by_role("button", name="Pause").click()
    stopped = row.evaluate(times)
    assert max(stopped) - min(stopped) < 0.2
    assert opened.complaints == []


def test_browser_draws_the_tree_that_was_searched(opened, written):
    opened.show(written, "videos")
    tree = opened.tab.locator(".tree:visible")
    tree.locator(".node").first.wait_for()
    edges = tree.locator(".edge[data-to]").evaluate_all(
        "all => all.map(one => [Number(one.dataset.from), Number(one.dataset.to)])"
    )
    nodes = grow(SEARCH, SMALL_WINDOW).nodes
    assert {tuple(edge) for edge in edges} == {(n.parent, i) for i, n in enumerate(nodes) if n.parent is not None}
    assert tree.locator(".node.chosen").count() == 5 and tree.locator(".node.pruned").count() == 1
    assert tree.locator(".left").all_inner_texts() == ["+ appended", "≈ averaged"]
    assert tree.locator(".level").first.inner_text() == "9 passes · 0.50 s"
    lefts = [tree.locator(f"[data-node='{index}']").bounding_box()["x"] for index in (1, 4, 6, 8, 10)]
    assert lefts == sorted(set(lefts))  # chunks go from left to right
    tree.locator("[data-node='8']").hover()
    numbers = opened.tab.locator("#numbers")
    assert all(text in numbers.inner_text() for text in ("0.900", "0.450", "0.600", "appended as a sink", "4.5 passes"))


def test_browser_plays_a_candidate_at_a_click(opened, written):
    """The clips of its chunks follow each other: red says whose they are, green which frame."""
    opened.show(written, "videos")
    tree = opened.tab.locator(".tree:visible")
    tree.locator("[data-node='6']").click()
    canvas = tree.locator("canvas")
    seen = opened.tab.evaluate(
        f"""async () => {{
            const canvas = document.querySelector(".tree:not([hidden]) canvas"), seen = [];
            for (const end = performance.now() + 1500; performance.now() < end;) {{
                seen.push(({PIXELS})(canvas));
                await new Promise(requestAnimationFrame);
            }}
            return seen;
        }}"""
    )
    reds = {round(red / 20) for red, _ in seen}
    assert reds >= {2, 5, 7}, reds
    assert len({round(green / 60) for _, green in seen}) == FRAMES
    tree.get_by_label("this chunk only").check()
    tree.locator("[data-node='2']").click()
    opened.tab.wait_for_function(f"canvas => Math.round(({PIXELS})(canvas)[0] / 20) === 3", arg=canvas.element_handle())
    tree.locator("[data-node='7']").click()
    assert "never finished" in tree.locator(".player").inner_text()
    assert opened.complaints == []


def test_browser_walks_a_tree_by_keys(opened, written):
    opened.show(written, "videos")
    opened.tab.locator(".tree:visible [data-node='1']").focus()
    focused = "() => Number(document.activeElement.dataset.node)"
    walked = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        opened.tab.keyboard.press(key)
        walked.append(opened.tab.evaluate(focused))
    assert walked == [5, 5, 1, 0]  # the best child of 1 had none of its own
    assert opened.tab.locator("#numbers").is_visible()


def test_browser_without_clips_shows_cards_and_says_why(opened, tmp_path, capsys):
    opened.show(_write_page(_make_run(tmp_path / "run", clips=False)), "videos")
    tree = opened.tab.locator(".tree:visible")
    assert tree.locator(".node").count() == len(SEARCH)
    assert "stored no clips" in tree.inner_text()
    tree.locator("[data-node='6']").click()
    assert opened.complaints == []


def _answer(opened: Opened, folder: Path, act: Callable[[Any], None], num: int) -> dict[str, Any]:
    """Answers so many pairs of the blind comparison, and returns the file that it offers."""
    opened.show(folder / "report" / "report.html", "blind")
    opened.tab.get_by_label("Your name").fill("ann")
    opened.tab.locator("#viewer").blur()
    for done in range(num):
        opened.tab.get_by_text(f"{done} of 6 pairs answered").wait_for()
        act(opened.tab)
    opened.tab.get_by_text(f"{num} of 6 pairs answered").wait_for()
    with opened.tab.expect_download() as download:
        opened.tab.get_by_role("button", name="Download preferences").click()
    found: dict[str, Any] = json.loads(Path(download.value.path()).read_text())
    return found


def test_browser_hides_names_and_offers_preferences_as_a_file(opened, plain, tmp_path):
    stored = _answer(opened, plain, lambda tab: tab.locator("[data-answer=left]").click(), num=6)
    assert (stored["viewer"], stored["run"], stored["order"]) == ("ann", "run", 0)
    assert [one["preference"] for one in stored["preferences"]] == ["left"] * 6
    sides = {frozenset((one["left"]["trial"], one["right"]["trial"])) for one in stored["preferences"]}
    assert len(sides) == 6  # each pair of two policies once, on both prompts
    visible = opened.tab.locator("#blind").inner_text()
    assert not any(name in visible for name in ("greedy", "beam-search", "best-of-n"))
    opened.tab.get_by_role("button", name="Show win rates").click()
    assert "greedy" in opened.tab.locator("#rates").inner_text()
    assert opened.complaints == [] and opened.outward == []
    path = tmp_path / "ann.json"
    path.write_text(json.dumps(stored))
    assert len(read_preferences([path], load(plain))) == 2 * 6  # the report reads what the page wrote


def test_browser_takes_preferences_by_keys_and_takes_them_back(opened, plain):
    def act(tab: Any) -> None:
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("Backspace")
        tab.keyboard.press("ArrowDown")

    stored = _answer(opened, plain, act, num=2)
    assert [one["preference"] for one in stored["preferences"]] == ["tie", "tie"]


def test_browser_shuffles_pairs_by_a_seed(opened, plain):
    opened.show(plain / "report" / "report.html", "blind")

    def order(seed: int) -> list[list[str]]:
        return opened.tab.evaluate(f"allPairs({seed})")

    assert order(0) == order(0) and len({str(order(seed)) for seed in range(6)}) > 3
    assert all(sorted(sorted(pair) for pair in order(seed)) == sorted(sorted(p) for p in order(0)) for seed in (1, 2))


def test_browser_shows_dark_and_light_by_preference_and_by_choice(chromium, written):
    colour = "() => getComputedStyle(document.body).backgroundColor"
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme)
        tab = context.new_page()
        tab.goto(written.resolve().as_uri())
        before = tab.evaluate(colour)
        tab.locator("#theme").click()
        after = tab.evaluate(colour)
        dark, light = (before, after) if scheme == "dark" else (after, before)
        assert (dark, light) == ("rgb(19, 20, 23)", "rgb(250, 249, 246)")
        context.close()
