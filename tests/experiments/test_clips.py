"""Pictures of candidates: one row a candidate in the order of the tables, whichever way a search made them."""

import io
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from experiments.clips import Cell, Sheet, cell_of, write_clips
from experiments.run import main
from searchkit.types import Action

PROMPT = "a fast red circle moving left on a sand background"
LINE = ["--prompts", PROMPT, "--num-chunks", "2", "--out", "x", "--wandb", "disabled"]


def _jpeg(greys: list[int], columns: int = 2, cell: int = 16) -> bytes:
    rows = [np.full((cell, columns * cell, 3), grey, np.uint8) for grey in greys]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "cell"), [((64, 64), (64, 64)), ((480, 832), (96, 166)), ((96, 40), (96, 40)), ((720, 1280), (96, 171))]
)
def test_cells_are_small_and_keep_their_shape(size, cell):
    assert cell_of(*size) == cell


def test_sheets_of_one_chunk_are_joined_in_the_order_of_records(tmp_path):
    one, two, three, four = [((Action(seed),)) for seed in range(4)]
    sheets = [Sheet((two, four), _jpeg([50, 200])), Sheet((one, three), _jpeg([0, 100]))]
    write_clips(tmp_path / "clips", sheets, [one, two, three, four], size=Cell(16, 16), fps=16)
    picture = np.asarray(Image.open(tmp_path / "clips/00.jpg"))
    assert picture.shape == (64, 32, 3)
    np.testing.assert_allclose(picture.reshape(4, -1).mean(1), [0, 50, 100, 200], atol=3)
    stored = json.loads((tmp_path / "clips/clips.json").read_text())
    assert stored == {"height": 16, "width": 16, "fps": 8.0}


def test_search_without_pictures_leaves_no_folder(tmp_path):
    write_clips(tmp_path / "clips", [], [(Action(0),)], size=Cell(16, 16), fps=16)
    assert not (tmp_path / "clips").exists()


def test_search_whose_first_candidates_have_no_pictures_leaves_no_folder(tmp_path):
    """As where a search goes on with clips that an earlier command began without."""
    one, two = [((Action(seed),)) for seed in range(2)]
    write_clips(tmp_path / "clips", [Sheet((two,), _jpeg([50]))], [one, two], size=Cell(16, 16), fps=16)
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("policy", ["beam-search", "preview-pruning"])
def test_command_keeps_a_row_a_finished_candidate(policy, small_world):
    assert main([*LINE, "--policies", policy]) == 0
    query = "select chunk, count(*) from 'x/candidates.parquet' where pruned_after is null group by all order by chunk"
    [folder] = Path("x/trials").glob("[0-9a-f]*")
    columns = [5, 6]  # every second one of 9 and 12 pixel frames
    for chunk, count in duckdb.sql(query).fetchall():
        with Image.open(folder / f"clips/{chunk:02}.jpg") as picture:
            assert picture.size == (64 * columns[chunk], 64 * count)


@pytest.mark.parametrize("option", ["--no-clips", "--decoding=cold"])
def test_command_keeps_none_where_there_are_none_to_keep(option, small_world):
    assert main([*LINE, "--policies", "greedy", option]) == 0
    [folder] = Path("x/trials").glob("[0-9a-f]*")
    assert not (folder / "clips").exists() and (folder / "video.mp4").exists()
