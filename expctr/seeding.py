"""Seeds derived from what they are used for, so that no generator's state has to be saved."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from (seed, epoch, batch, ...), the same on any machine and in any process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def reseed(*numbers: int) -> None:
    """Seed torch's generators by (seed, epoch, batch, ...).

    Without an accelerator, only the CPU's generator is seeded: `torch.manual_seed` also queues a call, with a formatted
    stack, for each kind of device that might be used later, which takes 1 ms per batch under a trainer.
    """
    seed = seed_of(*numbers)
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Draw initial weights on the CPU, whatever the default device, without changing the global generator."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
