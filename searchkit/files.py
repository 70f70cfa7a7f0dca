"""Files that are either whole or not there, whatever stops the program that writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Hands out a path beside `path` to write to, which takes the place of `path` at the end of the block.

    An error in the block leaves `path` as it was, and nothing beside it. A kill may leave what lies beside it: its name
    starts with a dot, and the same process number is not soon used again.
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # writers go by the suffix
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
