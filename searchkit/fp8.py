"""Weights of linear layers as 8-bit floats, by torchao: half the bytes of bfloat16, computed with as before."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def check_installed() -> None:
    """Checks that torchao is there.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ValueError("fp8 needs the package torchao, which is not installed: pip install 'searchkit[fp8]'")


def quantise(module: nn.Module) -> None:
    """Makes the weights of all linear layers of a module float8 (e4m3), each row with a scale of its own.

    Every call makes a layer's weight whole again for a moment, so that results are the rounded weights' alone.

    Raises:
        ValueError: torchao is not installed.
    """
    check_installed()
    with warnings.catch_warnings():  # torchao warns of its own use of torch
        warnings.simplefilter("ignore")
        from torchao.quantization import Float8WeightOnlyConfig, quantize_

    quantize_(module, Float8WeightOnlyConfig())


def num_bytes(module: nn.Module) -> int:
    """Returns the bytes of a module's weights, those of float8 as they are held."""
    return sum(tensor.nbytes for parameter in module.parameters() for tensor in _held(parameter))


def _held(parameter: Tensor) -> list[Tensor]:
    """Returns the tensors that a quantised parameter is made of, or itself."""
    if not hasattr(parameter, "__tensor_flatten__"):
        return [parameter]
    return [getattr(parameter, name) for name in parameter.__tensor_flatten__()[0]]
