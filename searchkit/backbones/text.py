"""Prompts as Wan's networks read them: umT5-xxl's embeddings of a cleaned text, kept on disk.

The encoder takes 11 GB in bfloat16 and is needed for a moment: it is loaded when a prompt is met for the first time
ever, and can be freed before anything is generated.

Letters: M tokens of a prompt, D channels of the embeddings.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.backbones.sources import WAN, Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import UMT5EncoderModel

TEXT_LENGTH = 512  # tokens, with padding; all of them are attended


def default_cache() -> Path:
    """Returns the folder where embeddings are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "searchkit" / "prompts"


def clean(prompt: str) -> str:
    """Returns a prompt as Wan's tokenizer cleans it.

    Broken encodings, curly quotes and wide characters are repaired, HTML entities resolved, and white space is made
    single blanks (Wan2.1, wan/modules/tokenizers.py, which needs ftfy; diffusers does without where it is missing, and
    then reads many a prompt differently).
    """
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class TextEncoder:
    """Encodes prompts, each of them once: `encoder(prompt)` is its `[512, D]` embedding, zero after its last token.

    Args:
        source: has the subfolders `text_encoder` and `tokenizer`.
        device: where the encoder runs; embeddings are on the CPU.
        dtype: of the encoder and the embeddings.
        cache: folder of embeddings, by their content: the encoder's identity, its dtype and the cleaned prompt.
    """

    def __init__(
        self,
        source: Source = WAN,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        cache: Path | None = None,
    ) -> None:
        self.source = source
        self.device = torch.device(device)
        self.dtype = dtype
        self.cache = default_cache() if cache is None else cache
        self._loaded: tuple[Tokenizer, UMT5EncoderModel] | None = None
        self._identity: str | None = None

    def __call__(self, prompt: str) -> Tensor:
        """Returns the prompt's `[512, D]` embedding.

        Raises:
            ValueError: the encoder is needed and not to be had, or the cached file is damaged.
        """
        text = clean(prompt)
        path = self._path(text)
        if not path.exists():
            _write(path, self._encode(text), text)
        embedding = _read(path)
        return F.pad(embedding, (0, 0, 0, TEXT_LENGTH - len(embedding)))

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encodes prompts that were never met and frees the encoder; does nothing where there are none.

        Errors are those of a call.

        Args:
            prompts: the texts that the network gets; of a prompt that changes in mid-stream, each one by itself.
        """
        for prompt in prompts:
            if not self._path(clean(prompt)).exists():
                self(prompt)
        self.free()

    def free(self) -> None:
        """Lets go of the encoder; the next prompt that was never met loads it again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def is_loaded(self) -> bool:
        """Whether the encoder takes memory now."""
        return self._loaded is not None

    @property
    def identity(self) -> str:
        """A name of what makes the embeddings, another one for another encoder, tokenizer or dtype."""
        if self._identity is None:
            parts = [self.source.identity(name) for name in ("text_encoder", "tokenizer")]
            self._identity = " ".join([*parts, str(self.dtype)])
        return self._identity

    def _path(self, text: str) -> Path:
        key = json.dumps([self.identity, TEXT_LENGTH, text])
        return self.cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        """Returns a cleaned text's `[M, D]` embedding, without padding.

        Wan encodes the padding, too, and masks it, which gives the same and costs more.
        """
        if self._loaded is None:
            self._loaded = _load_tokenizer(self.source), _load_model(self.source, self.device, self.dtype)
        tokenizer, model = self._loaded
        ids = torch.tensor([tokenizer.encode(text).ids], device=self.device)
        embedding: Tensor = model(ids).last_hidden_state[0]
        return embedding.to("cpu", self.dtype)


def _load_model(source: Source, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    from transformers import UMT5EncoderModel

    source.find("text_encoder/config.json")
    arguments = {**source.arguments("text_encoder"), "dtype": dtype, "use_safetensors": True}
    loaded: Any = UMT5EncoderModel.from_pretrained(**arguments, output_loading_info=True)
    model, info = loaded
    # The files hold one table of embeddings, and their configuration says that it is not shared: some versions of
    # transformers 5 then leave the encoder's own empty (their pull request 43880).
    model.encoder.set_input_embeddings(model.shared)
    missing = sorted(set(info["missing_keys"]) - {"encoder.embed_tokens.weight"})
    if missing:
        raise ValueError(f"text encoder {source.where!r} lacks weights: {', '.join(missing)}")
    encoder: UMT5EncoderModel = model.to(device).eval().requires_grad_(False)
    return encoder


def _load_tokenizer(source: Source) -> Tokenizer:
    """Returns the tokenizer, which adds the token of the end and truncates.

    It is the one of the file, as it is: transformers 5 makes a T5 tokenizer of its own from the file's vocabulary, in
    which unknown characters are token 2, whatever the file says of bytes and of that token.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source.find("tokenizer/tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TEXT_LENGTH)
    return tokenizer


def _write(path: Path, embedding: Tensor, text: str) -> None:
    """Writes beside the path and renames, so that an interrupted or a second process leaves nothing half written."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}")
    save_file({"embedding": embedding.contiguous()}, beside, metadata={"text": text})
    beside.replace(path)


def _read(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)["embedding"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"cached prompt {path} is damaged, delete it: {error}") from error
