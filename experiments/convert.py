"""Makes one folder of safetensors from a model's published files: `python -m experiments.convert MODEL SOURCE OUT`.

The folder loads with `WanTransformer3DModel.from_pretrained`. The published files are pickles, of which nothing but
tensors is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.registry import nearest
from searchkit.backbones.presets import MODELS, Checkpoint, PublishedModel

if TYPE_CHECKING:  # `--help` must not wait for torch
    from torch import Tensor

DType = Literal["bfloat16", "float32"]
RECORD = "conversion.json"


def convert(
    model: PublishedModel, source: Path, out: Path, *, dtype: DType = "bfloat16", max_shard_size: str = "10GB"
) -> bool:
    """Writes a model's network, with its LoRA merged in; returns whether there was anything to do.

    There is nothing to do where `out` holds what the same files were converted to before. A conversion of other files,
    or to another dtype, is replaced.

    Args:
        source: folder with the published files, under the paths that they have in their repository or side by side.
        out: the folder to write; it appears when it is complete.
        max_shard_size: of a file, beyond which there are several.

    Raises:
        ValueError: a file is missing, or does not fit the model, in which case the keys that are missing, unexpected
            or mis-shaped are named; or `out` holds something else.
    """
    files = {checkpoint: _find(checkpoint, source) for checkpoint in model.checkpoints}
    record = {
        "model": model.name,
        "licence": model.licence.name,
        "dtype": dtype,
        "sources": {checkpoint.path: _sha256(path) for checkpoint, path in files.items()},
    }
    if _is_done(out, record):
        return False
    others = sorted({path.name for path in out.glob("*")} - {RECORD, *_recorded(out).get("files", ())})
    if others or out.is_file():
        raise ValueError(f"out must be a new folder or hold a conversion alone, but {out} holds {', '.join(others)}")
    tensors = network_tensors(model, [_read(path, checkpoint) for checkpoint, path in files.items()], dtype=dtype)
    _write(model, tensors, out, record, max_shard_size=max_shard_size)
    return True


def network_tensors(model: PublishedModel, checkpoints: list[dict[str, Tensor]], *, dtype: DType) -> dict[str, Tensor]:
    """Returns a network's tensors by diffusers' names from those of its checkpoints; merged in float32, then cast.

    Raises:
        ValueError: names the keys that are missing, unexpected or mis-shaped.
    """
    import torch

    from searchkit.backbones.convert import lora_factors, renamed

    wanted = _empty_network(model).state_dict()
    tensors = renamed(wanted, checkpoints[0])
    factors, scale = {}, 0.0
    if model.lora is not None:
        factors = lora_factors(wanted, checkpoints[1], rank=model.lora.rank)
        scale = model.lora.alpha / model.lora.rank
    cast = {}
    for name, tensor in tensors.items():  # one after the other: only one is in memory in float32
        full = factors[name].added_to(tensor, scale=scale) if name in factors else tensor
        cast[name] = full.to(getattr(torch, dtype))
    return cast


def _empty_network(model: PublishedModel) -> Any:
    """Returns diffusers' network of shapes alone."""
    import torch
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return WanTransformer3DModel(**model.size.arguments)


def _find(checkpoint: Checkpoint, source: Path) -> Path:
    places = [source / checkpoint.path, source / Path(checkpoint.path).name]
    for path in places:
        if path.is_file():
            return path
    raise ValueError(f"source must hold {checkpoint.path}, but there is no {places[0]}")


def _read(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Returns the tensors of a published file, mapped into memory, so that none is read before it is used."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # Torch goes on with how to run the code of a file all the same, which nobody should.
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"{blocked[1]}, which is not loaded" if blocked else str(error).partition("\n")[0]
        raise ValueError(f"source file {path} is damaged or holds more than tensors: {reason}") from error
    if checkpoint.key is not None:
        if checkpoint.key not in content:
            raise ValueError(f"source file {path} must hold {checkpoint.key!r}, got {', '.join(sorted(content)[:8])}")
        content = content[checkpoint.key]
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"source file {path} must hold tensors by their names, got others: {', '.join(others[:8])}")
    tensors: dict[str, Tensor] = content
    return tensors


def _write(
    model: PublishedModel, tensors: dict[str, Tensor], out: Path, record: dict[str, Any], *, max_shard_size: str
) -> None:
    """Writes beside `out` and renames, so that nobody meets half a folder."""
    beside, before = (out.with_name(f".{out.name}.{os.getpid()}.{state}") for state in ("new", "old"))
    network = _empty_network(model)
    network.load_state_dict(tensors, assign=True)
    try:
        network.save_pretrained(beside, max_shard_size=max_shard_size)
        written = {path.name: _sha256(path) for path in sorted(beside.iterdir())}
        (beside / RECORD).write_text(json.dumps({**record, "files": written}, indent=1))
        if out.exists():
            out.rename(before)
        beside.rename(out)
    finally:
        if before.exists() and not out.exists():
            before.rename(out)
        for folder in (beside, before):
            shutil.rmtree(folder, ignore_errors=True)


def _is_done(out: Path, record: dict[str, Any]) -> bool:
    recorded = _recorded(out)
    files = recorded.pop("files", {})
    paths = {out / name: digest for name, digest in files.items()}
    return recorded == record and all(path.is_file() and _sha256(path) == digest for path, digest in paths.items())


def _recorded(out: Path) -> dict[str, Any]:
    """Returns what an earlier conversion recorded; nothing where there was none."""
    path = out / RECORD
    recorded: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return recorded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(
    model: Annotated[str, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    dtype: DType = "bfloat16",
    max_shard_size: str = "10GB",
) -> None:
    """Converts a model's published files to one folder of safetensors; says so where that is done already.

    Args:
        model: longlive, self-forcing, causal-forcing, causal-forcing-framewise, causal-forcing-2step,
            causal-forcing-1step or reward-forcing.
        source: folder with the published files (see docs/models.md).
        out: folder to write.
        dtype: of the weights; the models' own code runs in bfloat16.
        max_shard_size: of a file, beyond which there are several.
    """
    try:
        if model not in MODELS:
            raise ValueError(f"model {model!r} is unknown{nearest(model, MODELS)}")
        published = MODELS[model]
        is_new = convert(published, source, out, dtype=dtype, max_shard_size=max_shard_size)
    except (ValueError, OSError) as error:
        sys.exit(f"convert: {error}")
    size = sum(path.stat().st_size for path in out.glob("*.safetensors")) / 1e9
    done = "is written" if is_new else "is there already, made from the same files"
    print(f"{out} {done}: {model}, {dtype}, {size:.2f} GB.")
    terms = "" if published.licence.is_commercial else ", not for commercial use"
    print(f"Licence of the weights: {published.licence.name}{terms}.")


if __name__ == "__main__":
    tyro.cli(main)
