"""Entry point of `expctr` and of `python -m expctr`."""

import gc
import locale
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from io import TextIOWrapper

from expctr import __version__

COMMANDS = {
    "fit": "train all stages; fit RUN resumes an interrupted run",
    "validate": "print the metrics of the validation split",
    "test": "write the result table: console, table.json, table.md",
    "predict": "write the explanation and the scores of each row (parquet)",
    "explain": "explain one choice; without --config by the shipped, untrained model",
    "prepare": "read the raw files, draw the samples, and print the counts",
    "plan": "forecast memory per device and stage, tokens, FLOPs and hours",
    "report": "RUN [RUN ...] [--out FILE]: write an HTML report on finished runs",
    "serve": "RUN [--port 8000]: answer over HTTP, with a page to ask; needs pip install 'expctr[serve]'",
    "export": "write the adapter for PEFT and the CTR models, for use without expctr",
    "configs": "[NAME] [--out FILE]: list the shipped configs, or copy one out",
}

_LIST = "\n".join(f"  {command:10} {description}" for command, description in COMMANDS.items())
OVERVIEW = f"""\
usage: expctr COMMAND [RUN] [--config NAME_OR_FILE ...] [--OPTION VALUE ...]

commands:
{_LIST}

RUN is the folder of a run: its config is used, with options on top; fit goes on with it.
expctr COMMAND --help lists the options of a command; expctr --version prints the version.
A first answer, without training: expctr explain --liked "Heat|Fargo" --disliked "Casper" --target "Seven\""""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, with `args` in place of `sys.argv` in tests."""
    if args is None:
        if __name__ != "__main__":  # the installed command, unlike `python -m`, imports nothing from the current folder
            os.environ["PYTHONSAFEPATH"] = "1"  # nor may the Python processes that it starts
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # they ask a fit to save; what cannot save goes on
            signal.signal(number, signal.SIG_IGN)
        _use_utf8()
    given = [_expand_home(arg) for arg in (sys.argv[1:] if args is None else args)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a file or a console may not have all characters
    try:
        os.getcwd()
    except FileNotFoundError:
        print("error: the current folder has been deleted. Fix: go to another one", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        _dispatch(given)
    except KeyboardInterrupt:  # most commands say more, once they are imported
        print("stopped", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # of a link called src in the current folder: transformers looks
            raise
        print(f"error: the current folder has a link to itself: {error}. Fix: go to another one", file=sys.stderr)
        raise SystemExit(2) from error


def _dispatch(given: list[str]) -> None:
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    # these commands answer at once: they import neither torch nor Lightning
    if command in ("--help", "-h"):
        print(OVERVIEW)
    elif command == "--version":
        print(f"expctr {__version__}")
    elif command == "report":
        from expctr.report.render import main as report

        report(rest)
    elif command == "serve":
        _serve(rest)
    elif command == "configs":
        from expctr.cli.configs import main as configs

        configs(rest)
    elif not command.startswith("-") and command not in COMMANDS:
        nearest = get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: there is no command {command!r}; {hint}", file=sys.stderr)
        raise SystemExit(2)
    else:
        _run(given)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode if the locale has another encoding.

    Libraries read and write configs by the locale: titles and prompts would change, or not be read at all.
    """
    if not sys.flags.utf8_mode and locale.getpreferredencoding(False).lower() != "utf-8":
        if sys.stdout:
            os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)  # the console keeps its own
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _expand_home(arg: str) -> str:
    """`~` in a path: a shell replaces it at the beginning of a word, and not in `--config=~/run.yaml`."""
    option, equals, value = arg.partition("=") if arg.startswith("-") else ("", "", arg)
    return f"{option}{equals}{os.path.expanduser(value) if value.startswith('~/') else value}"


def _serve(args: list[str]) -> None:
    """Run `expctr serve`, whose packages are an extra."""
    try:
        from expctr.serving.server import main as serve
    except ModuleNotFoundError as error:
        print(f"error: serve needs {error.name}. Fix: pip install 'expctr[serve]'", file=sys.stderr)
        raise SystemExit(2) from error
    serve(args)


def _run(given: list[str]) -> None:
    """Run a command that needs torch."""
    # threads that wait by spinning make small tensors many times slower where another process wants the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    silence_libraries()
    gc.disable()  # imports make many objects that are never freed: looking through them takes a fifth of the time
    if given[0] == "explain":
        from expctr.cli.explain_untrained import main as explain
        from expctr.cli.explain_untrained import needs_no_config

        if needs_no_config(given[1:]):
            explain(given[1:])
            gc.enable()
            return
    try:
        from expctr.cli.app import run
    except FileNotFoundError as error:  # of tempfile, which libraries ask when they are imported
        print(f"error: {error.strerror}. Fix: make room in one of them, or set TMPDIR to another", file=sys.stderr)
        raise SystemExit(2) from error
    gc.freeze()
    gc.enable()
    run(given)


def silence_libraries() -> None:
    """Drop warnings of libraries about what is so on purpose, before these are imported."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional package for 4 bits on CPU
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # `plan` says what is too large
    os.environ.setdefault("TQDM_DELAY", "10")  # a model that loads fast needs no bar
    unwanted = re.compile("litlogger|`Trainer.fit` stopped: `max_epochs=")  # the end of a fit has our own words
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda line: not unwanted.search(line.getMessage())
    )
    for message in (
        "does not have many workers",  # batches are slices of tensors in memory
        r"module\(s\) in eval mode",  # the language model is never in train mode: dropout would break PPO's ratio
        "`is_gradient_checkpointing` is deprecated",
        "isinstance.treespec, LeafSpec.",
        "`torch.jit.script",
        "predict returned None",  # results are written by a callback
        "Total length of `ResumableLoader` across ranks is zero",  # a predictor is loaded by predicting no rows
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


if __name__ == "__main__":
    main()
