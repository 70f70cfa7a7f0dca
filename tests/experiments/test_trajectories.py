"""`experiments.trajectories`: what a search went through, in rows that a learner can read."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from envs.stream import StreamEnv
from experiments.presets import shapes_quick
from experiments.run import main as run
from experiments.trajectories import export, main
from experiments.worlds.shapes import make_stream
from searchkit.types import Action, Route

PROMPT = "a fast red circle moving left on a sand background"


@pytest.fixture
def rows(small_world):
    line = ["--policies", "stream-t1-append-only", "preview-pruning", "--prompts", PROMPT, "--num-chunks", "6"]
    assert run([*line, "--out", "out", "--wandb", "disabled"]) == 0
    return pq.read_table(export(small_world / "out")).to_pylist()


def test_rows_are_the_steps_of_the_environment(rows):
    stream = make_stream(replace(shapes_quick(), num_chunks=6), PROMPT)
    env = StreamEnv(stream.model, stream.scorer, [PROMPT], horizon=6)
    chosen = [row for row in rows if row["chosen"] and row["policy"] == "stream-t1-append-only"]
    env.reset(options={"prompt": PROMPT})
    for row in sorted(chosen, key=lambda row: row["chunk"]):
        state = env.state
        assert row["shorts"] == pytest.approx([scores.short for scores in state.scores], abs=1e-4)
        assert row["sinks"] == [block.start_frame for block in state.memory_after.sinks]
        assert row["averaged"] == [block.is_average for block in state.memory_after.sinks]
        assert row["window"] == [block.start_frame for block in state.memory_after.window]
        assert row["leaving"] == state.leaving
        action = Action(row["candidate_seed"], Route[row["route"].upper()], row["correlation"])
        _, reward, _, _, _ = env.apply(action)
        assert row["reward"] == pytest.approx(reward, abs=1e-4)


def test_candidates_given_up_are_left_out(rows):
    assert sum(row["policy"] == "preview-pruning" for row in rows) == 6 * 4


def test_folder_without_a_run_exits_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^trajectories: folder must hold a finished run[^\n]*$"):
        main(tmp_path)
