"""The sentence encoder: from explanations to vectors, by a frozen model with a cache (Eq. 11)."""

import hashlib
import os
import pickle
import sqlite3
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from expctr.errors import UserError, check_range
from expctr.llm.identity import settings_of, tokenizer_state
from expctr.llm.loading import LEAST_LENGTH, check_max_length, load_config, locate
from expctr.untrusted import ControlTokens, printable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


_UNLOADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError, ImportError),
    *(SafetensorError, pickle.UnpicklingError),
)


@dataclass(frozen=True)
class EncoderOptions:
    """The sentence encoder that turns an explanation into its vector z."""

    path: str = "BAAI/bge-small-en-v1.5"
    """Hub id, folder with config.json, tokenizer and safetensors weights, or `nano`, the shipped model."""
    revision: str = "main"
    """Branch, tag or commit of the hub id."""
    trust_remote_code: bool = False
    """Run Python code that comes with the encoder."""
    max_tokens: int = 256
    """Longer texts are cut to this many tokens."""
    batch_size: int = 64
    """Number of texts encoded at once."""
    cache_dir: Path | None = None
    """Folder that keeps vectors between runs, one file per encoder. null keeps none."""
    memory: int = 50_000
    """Number of vectors kept in memory; the oldest are dropped first."""
    centre: bool = False
    """Subtract the mean vector of the training explanations from every z. Explanations are similar sentences, so their
    vectors are nearly equal, and the mean carries no information. After centring, z = 0 means the average explanation
    and not a vector far away from all of them."""

    def __post_init__(self) -> None:
        check_range("encoder", self, max_tokens=(1, inf), batch_size=(1, inf), memory=(0, inf))


class SentenceEncoder:
    """A frozen encoder with mean pooling over the last hidden layer, whatever pooling it ships with (Eq. 11).

    The vectors are not normalised. A text without content has z = 0, which Eq. 13 calls "no explanation".

    A text's vector depends on that text alone, bit for bit. Its padded length follows from its own length, and there is
    always some padding, so the kernels are the same in every batch. A resumed run therefore gets the same vectors with
    or without the cache.

    This is not an `nn.Module`, so that checkpoints of a module that holds it do not contain its weights. The model is
    loaded at the first use. Several processes may share a cache folder.
    """

    _STEP = 16  # padded lengths are multiples of this many tokens

    def __init__(self, options: EncoderOptions) -> None:
        self.options = options
        self.mean = torch.zeros(())
        """Subtracted from every explanation's vector, `[dim]`; a scalar 0 where vectors are not centred."""
        self._memory: dict[bytes, Tensor] = {}
        self._cached = options.cache_dir is not None

    def check_cache(self) -> None:
        """Refuse, before anything is trained, a cache that cannot be used.

        Raises:
            UserError: naming the file.
        """
        if self._cached:
            try:
                with self._database() as database:
                    query = "SELECT type FROM sqlite_master WHERE name = 'vectors' COLLATE NOCASE"
                    (kind,) = database.execute(query).fetchone()
                    if kind != "table":  # a view may compute without end
                        raise sqlite3.DatabaseError(f"vectors is a {kind}")
                    database.execute("SELECT z FROM vectors LIMIT 1").fetchone()
            except (sqlite3.Error, OSError) as error:
                raise UserError(
                    f"encoder.cache_dir: {self._cache_file} cannot be used: {error}. Fix: delete that file, or choose "
                    "another folder"
                ) from error

    @property
    def dim(self) -> int:
        dim = self._model.get_embedding_dimension()
        assert dim is not None  # the pooling layer states it
        return dim

    @property
    def parts(self) -> tuple[Iterable[tuple[str, Tensor]], "PreTrainedConfig", "PreTrainedTokenizerBase"]:
        """The model's weights by name, its config and its tokenizer."""
        config = cast("PreTrainedConfig", self._model[0].auto_model.config)  # type: ignore[union-attr]
        return self._model.named_parameters(), config, self._tokenizer

    def centre(self, texts: Sequence[str], device: torch.device | str = "cpu") -> None:
        """Set `mean` to the mean vector of the texts that are not blank; without any, it stays as it is."""
        if written := [text for text in texts if text.strip()]:
            self.mean = self.encode(written, device).double().mean(0).float()

    def vectors(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """The vectors z of explanations (Eq. 11), minus `mean`: float32 `[len(texts), dim]`, on `device`.

        A blank text has z = 0, centred or not.
        """
        vectors = self.encode(texts, device)
        written = torch.tensor([bool(text.strip()) for text in texts], device=vectors.device)
        return vectors - written[:, None] * self.mean.to(vectors)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Encode texts, or read their vectors from the cache: float32 `[len(texts), dim]`, on `device`."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if text.strip()}
        found = {key: self._memory[key] for key in wanted if key in self._memory}
        found |= self._read([key for key in wanted if key not in found])
        if fresh := {key: text for key, text in wanted.items() if key not in found}:
            vectors = self._encode(list(fresh.values()), device)
            made = dict(zip(fresh, vectors.cpu(), strict=True))
            self._write(made)
            found |= made
        self._memory |= found
        while len(self._memory) > self.options.memory:
            del self._memory[next(iter(self._memory))]
        empty = torch.zeros(self.dim)
        return torch.stack([found.get(key, empty) for key in keys]).to(device) if keys else empty.new_zeros(0, self.dim)

    @torch.no_grad()
    def token_vectors(self, texts: Sequence[str], device: torch.device | str = "cpu") -> list[Tensor]:
        """The last hidden layer at each token of a text, without the tokens that the tokenizer adds.

        float32 `[tokens, dim]` per text, on the CPU; long texts are truncated as in `encode`.
        """
        added = set(self._tokenizer.all_special_ids)
        vectors = [torch.zeros(0, self.dim)] * len(texts)
        for rows, tokens, out in self._batches(texts, device):
            for line, row in enumerate(rows):
                kept = [i for i, token in enumerate(tokens[line]) if token not in added]
                vectors[row] = out["token_embeddings"][line, kept].float().cpu()
        return vectors

    def _encode(self, texts: list[str], device: torch.device | str) -> Tensor:
        vectors = torch.zeros(len(texts), self.dim, device=device)
        for rows, _, out in self._batches(texts, device):
            vectors[rows] = out["sentence_embedding"].float()
        return vectors

    def _batches(
        self, texts: Sequence[str], device: torch.device | str
    ) -> Iterator[tuple[list[int], list[list[int]], dict[str, Tensor]]]:
        """Per batch of one padded length: its rows, their tokens, the model's output; no rows without content."""
        if not texts:
            return
        model = self._model.to(device)
        most, limit = self._tokenizer.model_max_length, self._longest
        texts = [self._control.remove(text) for text in texts]
        tokens: list[list[int]] = self._tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        buckets: dict[int, list[int]] = defaultdict(list)
        for row, ids in enumerate(tokens):
            if ids and texts[row]:  # a text of nothing but control tokens has no content either
                padded = (len(ids) // self._STEP + 1) * self._STEP
                buckets[int(min(padded, most))].append(row)

        for length, rows in sorted(buckets.items(), reverse=True):  # longest first, to run out of memory at once
            for start in range(0, len(rows), self.options.batch_size):
                chosen = rows[start : start + self.options.batch_size]
                lines = [tokens[row] for row in chosen]
                padded_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in lines])
                mask = (torch.arange(length) < torch.tensor([[len(ids)] for ids in lines])).long()
                yield chosen, lines, model({"input_ids": padded_ids.to(device), "attention_mask": mask.to(device)})

    @property
    def _cache_file(self) -> Path:
        assert self.options.cache_dir is not None
        return Path(os.path.expanduser(self.options.cache_dir)) / f"{self.key}.sqlite"

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, which is safe with several processes, and when one is killed."""
        self._cache_file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._cache_file, timeout=60)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, z BLOB) WITHOUT ROWID")
            yield database

    def _read(self, keys: list[bytes]) -> dict[bytes, Tensor]:
        if not self._cached or not keys:
            return {}
        try:
            with self._database() as database:
                query = "SELECT z FROM vectors WHERE text = ?"
                rows = ((key, database.execute(query, (key,)).fetchone()) for key in keys)
                return {key: self._vector(row[0]) for key, row in rows if row}
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            self._give_up_cache(error)
            return {}

    def _vector(self, stored: bytes) -> Tensor:
        """A vector from the cache; TypeError or ValueError if it is none of this encoder's."""
        found = np.frombuffer(stored, "<f4").reshape(self.dim)
        if not np.isfinite(found).all():
            raise ValueError("a vector is NaN or infinite")
        return torch.from_numpy(found.copy())

    def _write(self, vectors: dict[bytes, Tensor]) -> None:
        if not self._cached:
            return
        rows = [(key, vector.numpy().astype("<f4").tobytes()) for key, vector in vectors.items()]
        try:
            with self._database() as database:
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up_cache(error)

    def _give_up_cache(self, error: Exception) -> None:
        """Go on without the cache: a run is worth more than the seconds that it saves."""
        self._cached = False
        reason = printable(f"{self._cache_file} is no longer used: {error}")
        warnings.warn(f"encoder.cache_dir: {reason}", stacklevel=2)

    @property
    def _longest(self) -> int:
        """Tokens of a text that are read; one less than the model can read, since every batch has padding."""
        return int(min(self.options.max_tokens, self._tokenizer.model_max_length - 1))

    @cached_property
    def key(self) -> str:
        """Hash of what a vector depends on: weights, config, vocabulary, longest text; not paths and names."""
        digest = hashlib.sha256(f"mean-pooled, {self._longest} tokens".encode())
        _, config, tokenizer = self.parts
        digest.update(repr(sorted(settings_of(config).items())).encode())
        digest.update(tokenizer_state(tokenizer))
        for name, weight in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:32]

    @cached_property
    def _model(self) -> "SentenceTransformer":
        # imported here since it takes seconds, which `--help` does not need
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        options = self.options
        source = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
        path = locate(options.path, "encoder.path")
        try:
            load_config(path, "encoder.path", **source)
            transformer = Transformer(
                path,
                model_kwargs={**source, "use_safetensors": True, "dtype": torch.float32},
                config_kwargs=source,
                processor_kwargs=source,
            )
            check_max_length(transformer.tokenizer, f"encoder.path: {options.path}")
            if (most := transformer.max_seq_length) is not None and most < LEAST_LENGTH:
                raise UserError(
                    f"encoder.path: {options.path} reads {most} tokens of a text. Fix: correct max_position_embeddings "
                    "in config.json, or max_seq_length in sentence_bert_config.json"
                )
        except UserError:
            raise
        except _UNLOADABLE as error:
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = "its weights are pickled" if pickled else " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(
                f"encoder.path: {options.path} cannot be loaded: {reason}. Fix: give a hub id that can be reached, a "
                "folder with config.json, tokenizer and safetensors weights, or nano"
            ) from error
        pooling = Pooling(transformer.get_embedding_dimension(), "mean")
        return SentenceTransformer(modules=[transformer, pooling], device="cpu").eval().requires_grad_(False)

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self._tokenizer)

    @property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        tokenizer: PreTrainedTokenizerBase = self._model.tokenizer
        return tokenizer
