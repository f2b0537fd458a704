"""Seeds that are a function of what they are for, so that no generator's state has to be saved."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*numbers: int) -> int:
    """A 63-bit seed for (seed, epoch, batch, ...), the same on any machine and in any process."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def reseed(*numbers: int) -> None:
    """Make what follows a function of (seed, epoch, batch, ...).

    Where there is only a CPU, its generator alone is seeded: `torch.manual_seed` queues a call with a formatted stack
    for each kind of device that might be used later, a millisecond a batch under a trainer's stack.
    """
    seed = seed_of(*numbers)
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Draw weights on the CPU whatever the default device, and take no draw from the run's own generator."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
