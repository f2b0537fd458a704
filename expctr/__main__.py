"""`expctr`, and `python -m expctr`."""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence

OVERVIEW = """\
usage: expctr COMMAND [--config FILE ...] [--OPTION VALUE ...]

commands:
  fit        train all stages; --ckpt_path last goes on after a stop
  validate   the validation split's metrics
  test       the result table: console, table.json, table.md
  predict    one row a sample: explanation and scores (parquet)
  explain    one user and one target: the sentence, the scores, and what moved them
  prepare    read the raw files, make the samples, print what became of the rows
  plan       before a run: memory of a device by stage, tokens, FLOPs, hours
  report     RUN [RUN ...] [--out FILE]: what runs came to, as one HTML file
  export     the adapter for PEFT and the CTR models, for use without expctr

expctr COMMAND --help lists the options of a command."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; `args` in place of `sys.argv`, for tests."""
    given = sys.argv[1:] if args is None else list(args)
    if given in (["--help"], ["-h"]):
        print(OVERVIEW)  # it needs none of the seconds that importing torch and Lightning takes
        return
    if given[:1] == ["report"]:
        from expctr.report.render import main as report

        report(given[1:])
        return
    # threads that wait by spinning make small tensors many times slower where another process wants the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet()
    gc.disable()  # what thousands of modules make stays: looking for garbage in it is a fifth of the imports' time
    from expctr.cli.app import run

    gc.freeze()
    gc.enable()
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
