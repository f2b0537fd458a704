"""`expctr`, and `python -m expctr`."""

import logging
import os
import warnings
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; `args` in place of `sys.argv`, for tests."""
    # threads that wait by spinning make small tensors many times slower where another process wants the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet()
    from expctr.cli import run

    run(None if args is None else list(args))


def quiet() -> None:
    """Drop what libraries say about things that are so on purpose, before they are imported."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional package for 4 bits on CPU
    for message in (
        "does not have many workers",  # batches are slices of tensors in memory
        r"module\(s\) in eval mode",  # the language model is never in train mode: dropout would break PPO's ratio
        "`is_gradient_checkpointing` is deprecated",
        "isinstance.treespec, LeafSpec.",
        "`torch.jit.script",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


if __name__ == "__main__":
    main()
