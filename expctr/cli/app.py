"""The command-line application: `expctr COMMAND [RUN] [--config NAME_OR_FILE] [--config OVERLAY] [--option value]`."""

import errno
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning as L
import yaml  # type: ignore[import-untyped]
from jsonargparse import SUPPRESS, Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError

from expctr.cli.arguments import with_packaged_configs, with_run_options
from expctr.cli.commands import Trainer
from expctr.cli.help import print_class_help
from expctr.cli.parser import Parser, explain_error
from expctr.cli.streams import spared
from expctr.data.ratings_module import RatingsDataModule
from expctr.errors import UserError, exit_with_error, print_error, root_cause
from expctr.evaluation.alarms import Alarms
from expctr.evaluation.result_writer import ResultWriter, not_writable
from expctr.modules.checks import usable_accelerator
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.run_folder import checkpoints, holds_run, position, read_config
from expctr.training.checkpoint import RunCheckpoint, checkpoint_folder
from expctr.training.fsdp import ShardedStrategy
from expctr.training.lock import claim, hold
from expctr.training.loggers import leave_out_csv, rename_metrics
from expctr.training.progress import ProgressLog, StageProgressBar
from expctr.training.ranks import check_options_agree, check_world, lost_process, network_fault, with_slurm
from expctr.training.scheduler import StageScheduler, check_trainer
from expctr.training.selection import (
    check_logger_options,
    check_same_options,
    check_sharding,
    check_unused,
    hold_results,
    listed_at,
    run_of,
    select_checkpoint,
    source_of,
)
from expctr.training.signals import OurSignals, Stopped, stopping
from expctr.untrusted import printable
from expctr.whole_files import replacing

CALLBACKS = {
    "stages": StageScheduler,
    "checkpoint": RunCheckpoint,
    "results": ResultWriter,
    "alarms": Alarms,
    "progress": ProgressLog,
}
"""Callbacks of every run, by the name of their options."""
_OF_FILES = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EPIPE", "EROFS", "EACCES", "EBADF")}
"""Errors that a file or a log may have, and a connection does not."""
_WITH_FILES = ("fit", "test", "predict", "export")
"""Commands whose results are files; those of the others are what they print."""
_WITH_PATHS = {"trainer", "model", "data", "ckpt_path", "pairs", "out"}


class SaveRunConfig(SaveConfigCallback):
    """Writes the config into the run folder when a run starts. Later commands leave it unchanged.

    First it compares the options of all ranks.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        check_options_agree(dict(self.config.items()))
        first = stage == "fit" and not checkpoints(checkpoint_folder(trainer))
        if first and trainer.is_global_zero and not vars(trainer)["fast_dev_run"]:
            folder = Path(trainer.default_root_dir)  # a logger may have another one
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / self.config_filename) as part:
                self.parser.save(self.config, part, skip_unset=False, overwrite=True, multifile=False)


class ExpCTRCLI(LightningCLI):
    """LightningCLI with the plan of stages, the run's own checkpoints, and one folder per run."""

    def __init__(self, command: str | None, **kwargs: Any) -> None:
        self._command = command if command in self.subcommands() else None
        self._source: Path | None = None  # whose results are written
        super().__init__(**kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands and those of `Trainer`."""
        ours = {command: {"model", "datamodule"} for command in ("prepare", "plan", "export", "explain")}
        return {**LightningCLI.subcommands(), **ours}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Add options to the given command only: reading the signatures for all commands takes seconds."""
        if self._command not in (None, subcommand):
            self._subcommand_method_arguments[subcommand] = []
            return self.init_parser(**kwargs)
        usage = f"expctr {subcommand} [RUN] [--config NAME_OR_FILE ...] [--OPTION VALUE ...]"
        parser = super()._prepare_subcommand_parser(klass, subcommand, usage=usage, **kwargs)
        for name in {"ckpt_path", "weights_only"} - {action.dest for action in parser._actions}:
            parser.add_argument(f"--{name}", help=SUPPRESS)  # a run's config.yaml has them for any command
        groups = parser.groups or {}
        groups["trainer"].title = "Options of Lightning's trainer"
        for name in ("model", "data"):
            groups[name].title = f"--{name}.help lists the classes, --{name}.help CLASS the options of a class"
        # the longest group comes last
        parser._action_groups = sorted(parser._action_groups, key=lambda group: group is groups["trainer"])
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse. Lightning's own method warns about arguments that are not those of `sys.argv`."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        command = self.config.get("subcommand")
        seed = (self.config[command] if command else self.config).get("seed_everything")
        if seed is not None and not 0 <= int(seed) < 2**32:
            raise UserError(f"seed_everything is {seed}. Fix: give a number from 0 to {2**32 - 1}")

    def _parse_ckpt_path(self) -> None:
        """Do not let a checkpoint set options: it may come from anywhere, and options can turn on a base's own code."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add a group of options for each callback, and the defaults that the stages need."""
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        defaults = {
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "devices": 1,
            "enable_model_summary": False,
            "inference_mode": False,  # sharded weights first gathered in it cannot be trained on a GPU
            "max_epochs": -1,  # the plan of stages sets it
        }
        parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
        rewards = {"lc": "expctr.LCAlignment", "ic": "expctr.ICAlignment"}  # explicit, so that rewards+ adds to them
        parser.set_defaults({f"stages.{stage}.rewards": [{"class_path": path}] for stage, path in rewards.items()})

    def before_instantiate_classes(self) -> None:
        """Choose the checkpoint, and refuse to overwrite a run."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        _expand_home(config)
        if "weights_only" in config:
            config.weights_only = True  # a checkpoint may come from anywhere
        if self.subcommand == "explain":
            if not issubclass(resolve_name(config.model.class_path), StagedModule):
                raise UserError(
                    f"{config.model.class_path.split('.')[-1]} writes no sentence that could be explained. Fix: give a "
                    "run of ExpCTRModule or PPOExplainerModule; expctr predict writes the scores of this one"
                )
            config.trainer.enable_progress_bar = False  # only the answer is printed
        if self.subcommand in ("validate", "predict", "export", "explain"):
            config.trainer.logger = False  # they log no curves, and the run's folder may be read-only
        if self.subcommand in ("prepare", "plan"):  # they compute nothing on a device: a login node may have none
            if self.subcommand == "plan" and config.processor is None:
                config.processor = config.trainer.accelerator == "cpu"  # not what a login node has
            for name, value in {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}.items():
                config.trainer[name] = value
        if self.subcommand in ("prepare", "plan", None):
            return
        root = config.trainer.default_root_dir or "."
        if "://" in str(root) or "::" in str(root):  # Lightning's file system reads both as addresses
            raise UserError(f"trainer.default_root_dir: {root} is not on this machine. Fix: name a folder here")
        run = Path(root)
        self._place = run.stat() if run.exists() else None
        # a link in the path may lead elsewhere when the results are written; of a fit, RunCheckpoint sees to it
        if self.subcommand != "fit" and (place := Path(os.path.realpath(run))) != run.absolute():
            run = place
            config.trainer.default_root_dir = str(run)
        self._found = [path.name for path in checkpoints(run / "checkpoints")]
        path = select_checkpoint(self.subcommand, config.ckpt_path, run)
        if path is None and config.ckpt_path == "last":
            where = printable(str(run / "checkpoints"))
            print(f"no checkpoint in {where} yet: starting from the beginning", file=sys.stderr)
        if path and self.subcommand != "fit":
            path = listed_at(path)  # nor may one in the checkpoint's path
        config.ckpt_path, asked = path and str(path), config.ckpt_path
        made = run_of(path, run) if path else run
        if config.trainer.logger is not False:
            check_logger_options(run)
        if self.subcommand == "fit" and not self._found and not config.trainer.fast_dev_run:
            if _takes_config(config, run) and (asked != "last" or not holds_run(run)):  # `fit RUN` asks for it
                raise UserError(
                    f"{run / 'config.yaml'} would be replaced by the run's own config.yaml. Fix: choose another folder "
                    "with --trainer.default_root_dir"
                )
            check_unused(run)
        # a fit may go on from another run's checkpoint with other options; a score of such weights would be wrong
        if path and (self.subcommand != "fit" or made == run.resolve()) and (made / "config.yaml").exists():
            now = self._parser(self.subcommand).dump(config, skip_unset=False, skip_validation=True)
            check_same_options(yaml.safe_load(now), read_config(made))
        if path and self.subcommand in ("test", "predict") and not config.get("pairs"):
            self._source = source_of(path, run)
            check_unused(run, self._source)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; without its log, if need be, where its results are files."""
        with ExitStack() as stack:
            if self._source and self.trainer.is_global_zero:
                folder = Path(self.trainer.default_root_dir)
                try:
                    stack.enter_context(hold_results(folder, self._source))
                except OSError as error:
                    raise not_writable(folder, error) from error
            if subcommand == "test":
                leave_out_csv(self.trainer)
            if subcommand in _WITH_FILES:
                stack.enter_context(spared("stdout"))
            super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("fit", "validate", "test"):
            self.trainer.ckpt_path = kwargs.pop("ckpt_path", None)  # now, as the ranks compare it before it is restored
            # None means none: under SLURM, Lightning would take a file hpc_ckpt_1.ckpt that lies in the folder
            self.trainer._checkpoint_connector._user_managed = True
        return kwargs

    def fit(self, **kwargs: Any) -> None:
        """Train, with the run's folder locked against another fit."""
        if isinstance(self.model, StagedModule):
            check_trainer(self.trainer)
        with ExitStack() as stack:
            if self.trainer.is_global_zero and not vars(self.trainer)["fast_dev_run"]:  # a trial writes nothing
                lock = stack.enter_context(hold(root := Path(self.trainer.default_root_dir)))
                for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, RunCheckpoint):
                        callback.lock = lock
                if self._place and not os.path.samestat(self._place, root.stat()):
                    raise UserError(
                        f"{root} is no longer the folder that this command began with: a link changed, or that was "
                        f"moved. Fix: start again with the run's own folder"
                    )
                if [path.name for path in checkpoints(checkpoint_folder(self.trainer))] != self._found:
                    raise UserError(
                        f"{self.trainer.default_root_dir} was trained in by another process while this one loaded. "
                        "Fix: resume it with --ckpt_path last"
                    )
                if (folder := checkpoint_folder(self.trainer)).is_symlink():  # which a copy of the run has, too
                    stack.enter_context(hold(folder.resolve()))
                claim(folder)
                claim(root / "explanations")
                rename_metrics(self.trainer)
            self.trainer.fit(**kwargs)
        if self.trainer.is_global_zero and not vars(self.trainer)["fast_dev_run"]:
            print(printable(self._end_of_fit()))

    def _end_of_fit(self) -> str:
        """Whether the plan is trained to its end, and the next command."""
        run = self.trainer.default_root_dir
        made = checkpoints(checkpoint_folder(self.trainer))
        epochs, batches = (made and position(made[-1])) or (0, 0)
        planned: float = 0
        if isinstance(self.model, StagedModule):
            planned = len(self.model.plan)
        elif isinstance(self.model, ScoringModule) and not self.model.best.stopped:
            planned = math.inf if self.trainer.max_epochs in (None, -1) else self.trainer.max_epochs or 0
        if made and (epochs < planned or batches):
            limits = self._get(self.config_init, "trainer")
            named = [f"trainer.{name}" for name in ("max_time", "max_steps") if limits.get(name) not in (None, -1)]
            more = f", with a higher {' or '.join(named)}" if named else ""
            return f"the plan is not finished. Next: expctr fit {run}{more}"
        waited = self.model.best.waited if isinstance(self.model, ScoringModule) else 0
        best = f", with its best weights, of {waited} validations before the end" if waited else ""
        return f"trained; the run is in {run}{best}. Next: expctr test {run}"

    def instantiate_classes(self) -> None:
        """Make model, data and trainer. An error that they raise is an error of the config."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            found = root_cause(error)
            if "cannot represent an object" in str(found):  # of yaml: Lightning's Timer has such a default
                raise UserError(
                    f"config.yaml cannot hold an option of a callback or logger: {found}. Fix: give that option as "
                    "text, as --trainer.callbacks.interval=step; for a limit of time, trainer.max_time"
                ) from error
            raise found from error
        except (ImportError, RuntimeError, TypeError) as error:
            if "argument after ** must be a mapping, not NoneType" in str(error):  # of jsonargparse
                raise UserError(
                    "a section of the config is null, as stages.lc in stages: {lc: null}. Fix: give its options, or "
                    "leave it out"
                ) from error
            if not _is_of_lightning(error):
                raise
            raise root_cause(error) from error
        check_world(self.trainer)
        if path := self._get(self.config_init, "ckpt_path"):
            check_sharding(Path(path), isinstance(self.trainer.strategy, ShardedStrategy))

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("enable_checkpointing") is False or config.get("barebones"):
            raise UserError(
                "trainer.enable_checkpointing must be true, and trainer.barebones false: expctr test reads a run's "
                "checkpoint. Fix: for fewer checkpoints, set checkpoint.every_n_batches to 0 and checkpoint.keep to 1"
            )
        if config.get("enable_progress_bar") is False:
            self.trainer_defaults = {}  # they hold the progress bar only
        kwargs["accelerator"] = usable_accelerator(config.get("accelerator"))
        given = config.get("plugins") or []
        kwargs["plugins"] = with_slurm(given if isinstance(given, list) else [given]) or None
        if config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(config.get("default_root_dir") or ".", name="", version="")
        trainer = super().instantiate_trainer(**kwargs)
        trainer._signal_connector = OurSignals(trainer)
        if trainer.world_size == 1:  # also as the second task of a job, each of which trains a run of its own
            rank_zero_only.rank = 0  # type: ignore[attr-defined]
        return trainer


def _takes_config(config: Namespace, run: Path) -> bool:
    """Whether the command takes the config in the run's folder, which the resolved one would replace."""
    own = run / "config.yaml"
    return own.exists() and any(own.samefile(str(path)) for path in config.config or ())


def _expand_home(config: Namespace) -> None:
    """Replace `~` in the options that may hold a path: only a shell does that, and only where a word begins with it."""
    for name, value in config.items():
        if isinstance(value, str) and value.startswith("~/") and name.split(".")[0] in _WITH_PATHS:
            config[name] = str(Path(os.path.expanduser(value)))


def _is_of_lightning(error: BaseException) -> bool:
    """Whether Lightning raised an error, as of an accelerator or a logger whose package is not installed."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lightning.")


def _drop_writer_error(failed: threading.ExceptHookArgs) -> None:
    """Drop the error of TensorBoard's thread on a full disk: its flush raises it again where it is caught."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _with_notes(error: UserError, cause: Exception) -> UserError:
    """An error in the place of its cause."""
    for note in getattr(cause, "__notes__", ()):
        error.add_note(note)
    return error


@spared("stderr")
@stopping()
def run(args: Sequence[str] | None = None) -> None:
    """Run the command line: exit with code 2 after an error of the user's, 128 + N after the signal N."""
    threading.excepthook = _drop_writer_error
    given = list(sys.argv[1:] if args is None else args)
    # documenting options means reading their source, which is slow: only where their documentation is shown
    documented = any(arg == "-h" or "help" in arg or "print_config" in arg for arg in given)
    set_parsing_settings(docstring_parse_attribute_docstrings=documented)
    try:
        if print_class_help(given):
            return
        ExpCTRCLI(
            command=next(iter(given), None),
            model_class=L.LightningModule,
            datamodule_class=RatingsDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=Trainer,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [StageProgressBar()]},
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_class=Parser,
            args=with_packaged_configs(with_run_options(given)),
        )
    except UserError as error:
        error.args = (explain_error(str(error)),)
        exit_with_error(error)
    except MisconfigurationException as error:
        exit_with_error(root_cause(error))
    except SafetensorError as error:  # of writing; that of reading is caught where the file is known
        exit_with_error(UserError(f"weights: {error}. Fix: choose a place that is writable and has room"))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and ".ckpt" in (path := str(error.filename or error)):
            exit_with_error(UserError(f"{path}: the run's fit has replaced it meanwhile. Fix: start again"))
        if error.filename is None and error.errno is None:
            raise
        if error.filename is None and error.errno not in _OF_FILES:
            exit_with_error(UserError(f"{error.strerror}. Fix: see whether the network and the hub can be reached"))
        where = os.fsdecode(error.filename) if error.filename else "a file, or the log (standard output)"
        found = UserError(f"{where}: {error.strerror}. Fix: choose a place that is writable and has room")
        exit_with_error(_with_notes(found, error))
    except RuntimeError as error:
        if fault := network_fault(error):
            exit_with_error(fault)
        if (lost := lost_process(error)) is None:
            raise
        print_error(_with_notes(lost, error))
        raise SystemExit(1) from error
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns a KeyboardInterrupt into a SystemExit; one of ours may come while any error is handled
        cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__context__
        if not isinstance(cause, KeyboardInterrupt):
            raise
        print(printable("; ".join(["stopped", *getattr(cause, "__notes__", [])])), file=sys.stderr)
        number = cause.number if isinstance(cause, Stopped) else signal.SIGINT
        raise SystemExit(128 + number) from None
