"""Random draws as hashes of the seed and the ids: independent of the order of rows, and of a library's generator."""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Draws = NDArray[np.uint64]


def id_codes(ids: pl.Series) -> Ints:
    """The integer codes of a categorical column."""
    return ids.to_physical().to_numpy().astype(np.int64)


def draws_of_ids(ids: pl.Series, seed: int) -> Draws:
    """A draw per row of a categorical column. Not by polars, whose hashes change from version to version."""
    unique, codes = ids.unique(), id_codes(ids)
    digests = (hashlib.blake2b(f"{seed}/{i}".encode(), digest_size=8).digest() for i in unique.cast(pl.String))
    table = np.zeros(1 + codes.max(initial=0), dtype=np.uint64)
    table[id_codes(unique)] = np.frombuffer(b"".join(digests), dtype="<u8")
    return np.asarray(table[codes])


def mix(x: Draws) -> Draws:
    """The finalizer of splitmix64: a bijection in which every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def redraw(draw: Draws, number: int) -> Draws:
    """Another draw for the same rows, independent of the first."""
    return mix(draw + np.uint64(number))
