"""The README's code does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def _policy() -> str:
    (block,) = [block for block in BLOCKS if "class Patient" in block]
    return block


def test_the_policy_example_is_short() -> None:
    assert len(_policy().strip().splitlines()) <= 25


def test_the_policy_example_runs_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "my_policy.py").write_text(_policy())
    command = [sys.executable, "-m", "experiments.run", "--policy", "my_policy:Patient", "--policy.limit", "0.5"]
    options = ["--num-chunks", "2", "--seeds", "0", "--wandb", "disabled", "--out", str(tmp_path / "out")]
    prompts = ["--prompts", "a fast red circle moving left on a sand background"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, *options, *prompts], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.parquet").exists()


@pytest.mark.parametrize("block", [block for block in BLOCKS if "class Patient" not in block])
def test_the_other_examples_run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})
