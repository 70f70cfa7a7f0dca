"""Names of files by what they hold."""

import os
from pathlib import Path

from searchkit.checkpoint import file_identity


def test_identity_is_of_what_a_file_holds(tmp_path):
    names = set()
    for name, content in {"a": b"one", "b": b"two", "c": b"", "d": b"one "}.items():
        (tmp_path / name).write_bytes(content)
        names.add(file_identity(tmp_path / name))
    assert len(names) == 4
    (tmp_path / "e").write_bytes(b"one")
    os.utime(tmp_path / "e", (0, 0))
    assert file_identity(tmp_path / "e") == file_identity(tmp_path / "a")


def test_identity_of_a_large_file_notices_other_tensors_of_the_same_size(tmp_path):
    def write(name: str, byte: bytes) -> Path:
        (tmp_path / name).write_bytes(b"header" * 1000 + byte * 3_000_000)
        return tmp_path / name

    first, second, third = (file_identity(write(name, byte)) for name, byte in (("a", b"x"), ("b", b"y"), ("c", b"x")))
    assert first == third != second
