"""Selection of the checkpoint that a command uses, and whether it fits the command's config and strategy."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from expctr.errors import UserError
from expctr.run_folder import are_same, checkpoints, holds_run, is_owned, note_owner
from expctr.training.checkpoint import fault
from expctr.training.lock import FolderHeldError, claim, hold

MAY_CHANGE = {
    *(f"data.init_args.{name}" for name in ("path", "cache_dir", "eval_batch_size", "people", "paper_dataset")),
    "data.init_args.samples.split",
    *(f"model.{part}init_args.evaluation.samples" for part in ("", "init_args.explainer.")),
}
"""Options that may differ from the run's: what training does not read, and those of the data whose vocabularies and
digests show whether the data are the same."""

_OF_TESTS = ("table.json", "explanations/test.parquet")
_RESULTS = (
    *_OF_TESTS,
    *("table.md", "scores.parquet", "predictions.parquet", "data.json", "samples.parquet"),
    *("explanations/latest.parquet", "explanations/examples.parquet"),
)
"""What `test` and `predict` write into the folder of a run, or another one."""


def select_checkpoint(command: str, ckpt_path: str | None, run: Path) -> Path | None:
    """The checkpoint that a command loads; `None` where `fit` starts from the beginning.

    Args:
        command: `fit`, or a command that reads a trained run.
        ckpt_path: the option: a path, or `last` or `None` for the run's newest.
        run: the run's folder.

    Raises:
        UserError: the run would be overwritten or mixed with another, or the checkpoint is missing or damaged.
    """
    folder = run / "checkpoints"
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} is a link to {folder.readlink()}, which is not there. Fix: mount its disk")
    found, newest = checkpoints(folder), ckpt_path in (None, "last")
    if command == "fit" and found and ckpt_path is None:
        raise UserError(
            f"{run} holds a run, last saved as {found[-1].stem}. Fix: resume it with --ckpt_path last, or choose "
            "another folder with --trainer.default_root_dir"
        )
    if newest and not found:
        if command == "fit":
            return None
        raise UserError(f"there is no checkpoint in {folder}. Fix: run expctr fit with the same config first")
    path = found[-1] if newest else Path(os.path.expanduser(str(ckpt_path)))
    if not path.exists():
        raise UserError(f"ckpt_path: there is no {path}. Fix: --ckpt_path last selects the run's newest checkpoint")
    own, harm = (folder, "which would be lost") if command == "fit" else (run, "whose results would be mixed with its")
    if found and not {own.resolve(), folder.resolve()} & {*listed_at(path).parents}:
        raise UserError(
            f"ckpt_path: {path} is of another run, and {run} holds a run of its own, {harm}. Fix: choose another "
            "folder with --trainer.default_root_dir"
        )
    if reason := fault(path):
        good = next((other for other in reversed(found) if not fault(other)), None)
        fix = f"use the run's newest intact one, --ckpt_path {good}" if good else "train again: no other one is intact"
        raise UserError(f"ckpt_path: {path} cannot be used: {reason}. Fix: {fix}")
    return path


def check_logger_options(run: Path) -> None:
    """Refuse an `hparams.yaml` that Lightning would wait for, or write elsewhere: a pipe, or a link to nothing."""
    options = run / "hparams.yaml"
    if os.path.lexists(options) and not options.is_file():
        raise UserError(f"{options} is no plain file. Fix: remove it")


def check_unused(run: Path, made: Path | None = None) -> None:
    """Refuse to replace files that the run did not write, and to begin it beside another one's results.

    Args:
        run: the folder that it writes to.
        made: whose results are written, see `source_of`; none for a `fit` that starts from the beginning.

    Raises:
        UserError: naming one of the files.
    """
    begins = made is None
    is_own = holds_run(run) if made is None else is_owned(run, made)
    others = () if is_own else (*_RESULTS, *(("config.yaml", "explanations") if begins else ()))
    for name in (*others, *(_OF_TESTS if begins else ())):
        if (run / name).exists():
            raise UserError(
                f"{run / name} is there, and is not of this run. Fix: choose another folder with "
                "--trainer.default_root_dir, or move it away"
            )


@contextmanager
def hold_results(folder: Path, source: Path) -> Iterator[None]:
    """Note whose results a folder holds. If it is not that run's own, hold it meanwhile against other runs.

    Args:
        folder: where they are written.
        source: the run, or a checkpoint in none; see `source_of`.

    Raises:
        UserError: another process holds it, or it has other results, which may have come while this one loaded.
    """
    with ExitStack() as stack:
        if not are_same(folder, source):
            try:
                stack.enter_context(hold(folder, "written to"))
            except FolderHeldError:
                if not is_owned(folder, source):  # two commands may write results of one run
                    raise
        check_unused(folder, source)
        claim(folder / "explanations")
        if not is_owned(folder, source):
            note_owner(folder, source)
        yield


def listed_at(checkpoint: Path) -> Path:
    """Where a checkpoint is listed. It may itself be a link, and so may the folders above it, to another disk."""
    return checkpoint.parent.resolve() / checkpoint.name


def run_of(checkpoint: Path, run: Path) -> Path:
    """The run that a checkpoint is of, this or another one; its folder of checkpoints may be a link.

    A checkpoint may have been copied to another place in its run's folder.
    """
    path = listed_at(checkpoint)
    if (run / "checkpoints").resolve() in path.parents:
        return run.resolve()
    return next(filter(holds_run, path.parents), path.parent.parent)


def source_of(checkpoint: Path, run: Path) -> Path:
    """Whose results those of a checkpoint are: its run's, or its own where it lies in no run."""
    made, place = run_of(checkpoint, run), listed_at(checkpoint)
    return made if holds_run(made) or (made / "checkpoints").resolve() in place.parents else place


def check_same_options(now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """Refuse a command's options of model, data and rewards that differ from those in the run's config.

    Raises:
        UserError: naming up to three of them.
    """
    parts = ("seed_everything", "model", "data")
    changes = [change for part in parts for change in _changes(now.get(part), then.get(part), part)]
    for stage in ("lc", "ic"):
        options, made = (config.get("stages", {}).get(stage, {}) for config in (now, then))
        changes += _changes({"rewards": options.get("rewards")}, made, f"stages.{stage}")
    if changes:
        listed = "; ".join(changes[:3]) + ("; ..." if changes[3:] else "")
        raise UserError(f"{listed}. Fix: give the run's value, or choose another --trainer.default_root_dir")


def check_sharding(checkpoint: Path, sharded: bool) -> None:
    """Raises UserError for a sharded run's checkpoint (a folder) without sharding, or another (a file) with it."""
    if checkpoint.is_dir() != sharded:
        fix = "leave --config fsdp out, or give --config ddp in its place" if sharded else "add --config fsdp"
        made = "without sharding" if sharded else "with sharding"
        raise UserError(f"{checkpoint} was saved by a run {made}. Fix: {fix}")


def _changes(now: Any, then: Any, name: str) -> Iterator[str]:
    """The options that differ. One that only one of the two has belongs to another version of expctr."""
    if isinstance(now, dict) and isinstance(then, dict) and not name.endswith(".template_kwargs"):  # free names
        for key in now:
            if key == "class_path" and key in then:  # a class may have moved to another module
                same = now[key].rpartition(".")[2] == str(then[key]).rpartition(".")[2]
                yield from () if same else _changes(now[key], then[key], f"{name}.{key}")
            elif key in then and f"{name}.{key}" not in MAY_CHANGE:
                yield from _changes(now[key], then[key], f"{name}.{key}")
    elif now != then:
        yield f"{name} is {now} and the run was made with {then}"
