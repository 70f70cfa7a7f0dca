"""Which package may import which, and what imports without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"searchkit", "policies", "envs", "experiments"}
ALLOWED = {
    "searchkit": {"searchkit"},
    "policies": {"policies", "searchkit"},
    "envs": {"envs", "searchkit"},
    "experiments": PACKAGES,
}
HEAVY = ("torch", "diffusers", "transformers", "wandb")


def _imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, even late or for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_package_imports_only_what_it_may(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {(path, name) for path in files for name in _imports(path)}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, name in sorted(found)
        if name.split(".")[0] in PACKAGES - ALLOWED[package]
    ]
    assert not wrong


def test_nothing_imports_the_tests():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert not any(name.split(".")[0] == "tests" for name in _imports(path)), path


@pytest.mark.parametrize(
    "module",
    [
        *("searchkit.types", "searchkit.backbones.presets", "policies", "envs", "envs.shapes"),
        *("experiments.config", "experiments.presets", "experiments.worlds.shapes"),
        *("experiments.worlds.wan", "experiments.worlds.options"),
    ],
)
def test_module_imports_without_torch(module: str):
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_environments_are_registered_with_plain_specs():
    import gymnasium

    import envs  # noqa: F401

    spec = gymnasium.spec("searchkit/ShapesStream-v0")
    assert spec.entry_point == "envs.shapes:make_env"
    assert spec.vector_entry_point == "envs.shapes:make_vector_env"
    assert spec.kwargs == {}


def test_default_prompts_are_held_out_and_stay_the_same():
    from envs.shapes import default_prompts
    from envs.shapes.world import Caption, is_held_out

    prompts = default_prompts()
    assert prompts == default_prompts()
    assert len(set(prompts)) == 8
    assert all(is_held_out(Caption.parse(prompt)) for prompt in prompts)


def test_only_worlds_know_what_a_world_is_made_of():
    """What runs, stores, sums up and reports experiments works for any world."""
    generic = ("trials", "results", "tables", "summary", "sweeps", "pictures", "config", "failures", "run")
    files = [ROOT / f"experiments/{name}.py" for name in (*generic, "trajectories")]
    packages = [
        file for name in ("engines", "report", "tracking") for file in (ROOT / "experiments" / name).rglob("*.py")
    ]
    for path in (*files, *packages):
        names = set(_imports(path)) - {"experiments.worlds.options"}
        assert not any(name.startswith(("envs", "experiments.worlds.")) for name in names), path


def test_policy_never_sees_a_metric_that_evaluates_it():
    """Only experiments measure: nothing that a policy is handed, or is made of, imports the oracles."""
    for package in ("searchkit", "policies", "envs"):
        for path in (ROOT / package).rglob("*.py"):
            assert "envs.shapes.oracles" not in _imports(path), path


def test_oracles_share_no_code_with_the_rewards():
    shared = set(_imports(ROOT / "envs/shapes/oracles.py")) & set(_imports(ROOT / "envs/shapes/rewards.py"))
    assert {name for name in shared if name.split(".")[0] in PACKAGES} == {"envs.shapes.world"}
