"""Sweeps: the files that W&B's sweeps take, run by its agent or by --sweep."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from experiments.run import main
from experiments.sweeps import Part, commands
from policies import BestOfN, Greedy
from tests.experiments.wandb_runs import runs
from tests.experiments.wandb_server import KEY, Server

ROOT = Path(__file__).parents[2]
READY = sorted((ROOT / "sweeps").glob("*.yaml"))
PROMPT = "a fast red circle moving left on a sand background"
COMMAND = ["${env}", "${interpreter}", "-m", "experiments.run", "${args}"]
SHORT = ["--prompts", PROMPT, "--num-chunks", "2"]
# W&B's agent looks every 5 s whether a run has ended.
AGENT = "import sys; from wandb.wandb_agent import Agent, run_agent; Agent.POLL_INTERVAL = 0.2; run_agent(sys.argv[1])"


def _write(parameters: Mapping[str, Any], *, command: Any = COMMAND, **others: Any) -> str:
    """Writes a sweep's file into the working folder and returns its name."""
    swept = {"program": "experiments/run.py", "command": command, "method": "grid", "parameters": parameters} | others
    Path("swept.yaml").write_text(yaml.safe_dump({key: value for key, value in swept.items() if value is not None}))
    return "swept.yaml"


def _values(*values: Any) -> dict[str, Any]:
    return {"values": list(values)}


def _agents_line(command: Sequence[str], point: Mapping[str, Any]) -> list[str]:
    """Returns what W&B's agent gives to our module at a point."""
    made = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    line = [word for part in command for word in (made[part[2:-1]] if part.startswith("${args") else [part])]
    return line[line.index("experiments.run") + 1 :]


def _trials(parts: Sequence[Part]) -> set[Any]:
    """Returns all trials, with what determines their results besides."""
    experiments = [part.command.experiment for part in parts]
    return {(json.dumps(one.settings()), trial) for one in experiments for trial in one.trials}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_ready_files():
    assert {path.stem for path in READY} >= {"stream-t1", "fusion-cap", "memory-routes", "budget"}


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_file_makes_what_an_agent_would(file):
    """Every point is a command line, and --sweep makes exactly the trials of these."""
    swept = yaml.safe_load(file.read_text())
    parameters = swept["parameters"]
    points = itertools.product(*(one["values"] for one in parameters.values()))
    lines = [_agents_line(swept["command"], dict(zip(parameters, point, strict=True))) for point in points]
    assert _trials(commands(["--sweep", str(file)])) == set().union(*(_trials(commands(line)) for line in lines))


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_file_is_one_for_wandb(file):
    """What W&B's schema of sweeps wants of a grid; its package would bring an older numpy."""
    swept = yaml.safe_load(file.read_text())
    assert swept.keys() == {"program", "project", "command", "method", "metric", "parameters"}
    assert swept["method"] == "grid" and swept["metric"] == {"name": "truth", "goal": "maximize"}
    assert all(set(one) == {"values"} and len(set(one["values"])) > 1 for one in swept["parameters"].values())
    assert swept["command"][:4] == COMMAND[:4] and (ROOT / swept["program"]).is_file()
    assert "tuning" in " ".join(swept["command"])  # never of prompts that are reported


def test_points_of_policies_are_one_experiment(folder):
    file = _write({"policy": _values("best-of-n", "greedy"), "seeds": {"value": 3}})
    (part,) = commands(["--sweep", file, *SHORT])
    assert part.name == "" and part.out.parent == Path("runs") and part.out.name.startswith("swept-")
    experiment = part.command.experiment
    assert experiment.policies == (BestOfN(), Greedy()) and experiment.seeds == (3,) and experiment.prompts == (PROMPT,)


def test_points_that_differ_in_more_are_folders_of_their_own(folder):
    file = _write({"policy": _values("best-of-n", "greedy"), "num-chunks": _values(2, 3), "seeds": _values(0)})
    parts = commands(["--sweep", file, "--prompts", PROMPT, "--out", "x"])
    assert [(part.name, part.out) for part in parts] == [
        ("num-chunks=2", Path("x/num-chunks=2")),
        ("num-chunks=3", Path("x/num-chunks=3")),
    ]
    assert [part.command.experiment.num_chunks for part in parts] == [2, 3]
    assert all(part.command.experiment.policies == (BestOfN(), Greedy()) for part in parts)


def test_sweep_is_in_the_same_place_until_it_says_something_else(folder):
    def out(*chunks: int) -> Path:
        return commands(["--sweep", _write({"num-chunks": _values(*chunks)})])[0].out.parent

    assert out(2, 3) == out(2, 3) != out(2, 4)


def test_flags_are_given_as_an_agent_gives_them(folder):
    command = [*COMMAND[:-1], "${args_no_boolean_flags}"]
    file = _write({"deterministic": _values(True, False)}, command=command)
    parts = commands(["--sweep", file, *SHORT])
    assert [part.command.experiment.deterministic for part in parts] == [True, False]
    assert _agents_line(command, {"deterministic": True}) == ["--deterministic"]
    assert _agents_line(command, {"deterministic": False}) == []


def test_values_of_any_kind_are_words_of_a_command_line(folder):
    file = _write(
        {"max-passes": _values(None, 1e3), "policy.noise-correlation": {"value": -0.5}, "num_chunks": _values(2)}
    )
    parts = commands(["--sweep", file, "--policy", "stream-t1", "--prompts", PROMPT])
    assert [part.command.experiment.max_passes for part in parts] == [None, 1000.0]
    assert {policy.noise_correlation for part in parts for policy in part.command.experiment.policies} == {-0.5}
    assert {part.command.experiment.num_chunks for part in parts} == {2}


def test_sweep_without_command_takes_all_options_from_the_command_line(folder):
    (part,) = commands(["--sweep", _write({"policy": _values("greedy")}, command=None), *SHORT])
    assert part.command.experiment.policies == (Greedy(),) and part.command.experiment.num_chunks == 2


GRID = {"num-chunks": {"values": [2, 3]}}
MODULE = COMMAND[:-1]


@pytest.mark.parametrize(
    ("parameters", "others", "sentence"),
    [
        ({}, {}, "sweep 'swept.yaml' has no parameters"),
        ([1], {}, "sweep 'swept.yaml' has no parameters"),
        (GRID, {"method": "bayes"}, "sweep 'swept.yaml' must be of method grid, got bayes: others need a server"),
        (GRID, {"method": None}, "sweep 'swept.yaml' must be of method grid, got None: others need a server"),
        (GRID, {"early_terminate": {}}, "sweep 'swept.yaml' has early_terminate, which needs a server"),
        ({"seeds": 3}, {}, "parameter 'seeds' of a grid must have a list of values, got 3"),
        ({"seeds": {"values": []}}, {}, "parameter 'seeds' of a grid must have a list of values, got {'values': []}"),
        (
            {"seeds": {"min": 1, "max": 2}},
            {},
            "parameter 'seeds' of a grid must have a list of values, got {'max': 2, 'min': 1}",
        ),
        ({"seeds": {"values": [[1, 2]]}}, {}, "parameter 'seeds' must have plain values, got [[1, 2]]"),
        (
            {"deterministic": {"values": [True, False]}},
            {},
            "parameter 'deterministic' is a flag, which takes ${args_no_boolean_flags} in the sweep's command",
        ),
        (
            GRID,
            {"command": ["python", "train.py", "${args}"]},
            "command of sweep 'swept.yaml' must run experiments.run, got python train.py ${args}",
        ),
        (GRID, {"command": "python"}, "command of sweep 'swept.yaml' must run experiments.run, got python"),
        *(
            (
                GRID,
                {"command": [*MODULE, *given]},
                "command of sweep 'swept.yaml' must have ${args} after experiments.run, and no other macro, got "
                + (" ".join(given) or "none"),
            )
            for given in ([], ["${args_json}"], ["--out=${envvar:HOME}", "${args}"])
        ),
        ({"num-chunk": {"values": [2]}}, {}, "Unrecognized options: --num-chunk=2 (perhaps --num-chunks)"),
        ({"num-chunks": {"values": [2, 0]}}, {}, "num_chunks must be at least 1 chunk, got 0"),
        ({"out": {"values": ["a", "b"]}}, {}, "a sweep is over options of results, got one over out"),
        ({"sweep": {"values": ["a"]}}, {}, "--sweep is in sweep swept.yaml already: give it in one of the two"),
    ],
)
def test_sweep_that_cannot_be_run_is_refused_in_a_sentence(parameters, others, sentence, folder, capsys):
    assert main(["--sweep", _write(parameters, **others), "--prompts", PROMPT]) == 2
    assert capsys.readouterr().err == f"run: {sentence}\n"
    assert [path.name for path in folder.iterdir()] == ["swept.yaml"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--sweep"], "--sweep takes the file of a sweep"),
        (["--sweep", "none.yaml"], "sweep 'none.yaml' cannot be read: No such file or directory"),
        (["--sweep", "."], "sweep '.' cannot be read: Is a directory"),
        (["--sweep", "list.yaml"], "sweep 'list.yaml' has no parameters"),
        (["--sweep", "binary.yaml"], "sweep 'binary.yaml' is no YAML: 'utf-8' codec can't decode byte 0xff"),
        (["--sweep", "open.yaml"], "sweep 'open.yaml' is no YAML: while parsing a flow node"),
    ],
)
def test_file_that_is_no_sweep_is_refused_in_a_sentence(argv, sentence, folder, capsys):
    Path("list.yaml").write_text("- 1")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("open.yaml").write_text("method: [")
    assert main(argv) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"run: {sentence}") and complaint.count("\n") == 1


@pytest.mark.parametrize("words", [["--num-chunks", "4"], ["--num_chunks=4"], ["--no-deterministic"], ["--seeds", "1"]])
def test_option_is_given_in_one_place(words, folder):
    command = [*MODULE, "--deterministic", "--seeds=0", "${args}"]
    with pytest.raises(ValueError, match=r"is in sweep swept\.yaml already: give it in one of the two"):
        commands(["--sweep", _write(GRID, command=command), *words])


def test_help_tells_of_sweeps(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--sweep" in text and "runs every point of it here, without a server" in text


def test_dry_run_tells_of_every_experiment_and_writes_nothing(folder, capsys):
    assert main(["--sweep", _write(GRID), "--policies", "greedy", "--prompts", PROMPT, "--out", "x", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "x/num-chunks=2" in text and "x/num-chunks=3" in text
    assert [path.name for path in folder.iterdir()] == ["swept.yaml"]


def test_sweep_of_several_experiments_ends_with_a_table_of_all(small_world, capsys):
    line = ["--sweep", _write({"num-chunks": _values(1, 2)}), "--policies", "greedy", "--prompts", PROMPT, "--out", "x"]
    assert main(line) == 0
    table = capsys.readouterr().out.rpartition("The 1 trial of each policy")[2]
    assert "num-chunks=1:" in table and "num-chunks=2:" in table and "Highest truth" in table
    tables = [pq.read_table(f"x/num-chunks={num}/results.parquet").to_pylist() for num in (1, 2)]
    assert [(row["policy"], row["num_chunks"]) for (row,) in tables] == [("greedy", 1), ("greedy", 2)]

    assert main(line) == 0
    assert capsys.readouterr().out.count("1 of 1 trials are done already") == 2


def test_sweep_refuses_a_folder_of_another_experiment(small_world, capsys):
    assert main(["--policies", "greedy", *SHORT, "--out", "x"]) == 0
    before = sorted(Path("x").rglob("*"))
    capsys.readouterr()
    assert main(["--sweep", _write(GRID), "--policies", "greedy", "--prompts", PROMPT, "--out", "x"]) == 2
    complaint = "run: output folder x holds an experiment, and this sweep is 2: choose another --out\n"
    assert capsys.readouterr().err == complaint
    assert sorted(Path("x").rglob("*")) == before


def test_runs_of_a_sweeps_parts_are_in_groups_of_their_own(small_world):
    line = ["--sweep", _write({"num-chunks": _values(1, 2)}), "--policies", "greedy", "--prompts", PROMPT, "--out", "x"]
    assert main([*line, "--wandb", "offline"]) == 0
    groups = {runs(Path("x") / name)["greedy"].group for name in ("num-chunks=1", "num-chunks=2")}
    assert groups == {"x/num-chunks=1", "x/num-chunks=2"}


def test_agents_run_is_the_one_that_it_planned(small_world, monkeypatch):
    """Also where the trials are done already: the agent's server waits for what it asked for."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")
    wandb.teardown()
    line = ["--policy", "greedy", *SHORT, "--out", "x", "--wandb", "offline"]
    for run_id in ("first", "second", "second"):
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        assert main(line) == 0
        run = runs(Path("x"))["greedy"]
        assert run.id == run_id and run.summary["trials"] == 1
        assert run.rows("trial/index") == [0] and run.rows("chunk/index") == [0, 1]


def test_agents_run_has_its_id_alone(small_world, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")
    monkeypatch.setenv("WANDB_RUN_ID", "planned")
    wandb.teardown()  # as in a process of the agent's, which knows these from its beginning
    line = ["--policies", "greedy", "best-of-n", *SHORT, "--out", "x", "--wandb", "offline"]
    assert main(line) == 0
    logged = runs(Path("x"))
    assert logged.keys() == {"greedy", "best-of-n"} and "planned" not in {run.id for run in logged.values()}
    assert main(["--policy", "greedy", *SHORT, "--out", "y", "--wandb", "offline"]) == 0
    run = runs(Path("y"))["greedy"]
    assert run.id == "planned" and run.sweep == "swept"
    wandb.teardown()


def test_agent_makes_the_trial_of_a_point(folder, monkeypatch):
    """W&B's own `wandb sweep` and agent, against a small server."""
    command = [*MODULE, "--policy", "best-of-n", "--num-chunks", "1", "--prompts", PROMPT, "${args}"]
    file = _write({"policy.num-candidates": _values(2)}, command=command)
    for name in ("WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        said = subprocess.run(["wandb", "sweep", file], capture_output=True, text=True, timeout=60, check=True).stderr
        (sweep,) = re.findall(r"wandb agent (\S+)", said)
        done = subprocess.run([sys.executable, "-c", AGENT, sweep], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        ((name, swept),) = server.sweeps.items()
        assert sorted(server.runs) == swept.run_ids and len(swept.run_ids) == 1, done.stderr
        assert [len([row for row in run.rows if "trial/index" in row]) for run in server.runs.values()] == [1]
        assert {run.sweep for run in server.runs.values()} == {name}
        assert all('"truth":' in run.summary for run in server.runs.values())
    made = {path.name for path in folder.glob("runs/*/trials/*")}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["--sweep", file, "--out", "x"]) == 0
    assert {path.name for path in folder.glob("x/trials/*")} == made and len(made) == 1
