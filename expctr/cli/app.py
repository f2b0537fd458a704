"""The command line: `expctr COMMAND --config FILE [--config OVERLAY] [--option value]`."""

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import lightning as L
import yaml  # type: ignore[import-untyped]
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.markup import escape

from expctr.ctr.zoo import ZOO
from expctr.data.datamodules import RatingsDataModule
from expctr.data.query import make_query
from expctr.errors import UserError
from expctr.evaluation.alarms import Alarms
from expctr.evaluation.explain import ExplanationPrinter
from expctr.evaluation.results import ResultWriter
from expctr.modules.baselines import explained, icl, tallrec  # noqa: F401  a config names their classes
from expctr.modules.expctr import ExpCTRModule
from expctr.training.checkpoint import RunCheckpoint, checkpoint_folder, checkpoints, fault
from expctr.training.export import export
from expctr.training.lock import hold
from expctr.training.progress import StageProgressBar
from expctr.training.scheduler import StageScheduler
from expctr.training.signals import Stopped
from expctr.training.strategy import ShardedStrategy
from expctr.untrusted import printable

_FREE = {f"data.init_args.{name}" for name in ("path", "cache_dir", "eval_batch_size", "people", "paper_dataset")}
"""Options of the data that may change after a run: the vocabularies tell whether the data did."""


class Trainer(L.Trainer):
    """Lightning's trainer, with `prepare`, `plan`, `export` and `explain`."""

    def prepare(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Read the raw files, make the samples, and print what became of the rows."""
        datamodule.prepare_data()

    def plan(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule,
        devices: int = 1,
        memory: str = "80GB",
        prompt_tokens: int | None = None,
        processor: bool = False,
        samples: int | None = None,
        tflops: float = 312.0,
        utilisation: float = 0.3,
        json: bool = False,
    ) -> None:
        """Print a run's memory, steps, tokens and hours, from the base's config alone; nothing is read or trained.

        Args:
            model: the config's.
            datamodule: the config's; its options alone are looked at.
            devices: how many share the run.
            memory: of each, such as 80GB or 24GiB.
            prompt_tokens: of the longest prompt; null for the cap, prompts.prompt_tokens.
            processor: of a run on processors, in place of GPUs.
            samples: of all splits; null for data.samples.max_samples.
            tflops: of each device at best, in 10^12 operations a second; 312 is an A100's or A800's in bfloat16.
            utilisation: the share of it that the whole run reaches.
            json: print one line of JSON, memory in bytes.
        """
        if not isinstance(model, ExpCTRModule):
            raise UserError(f"model: plan is about ExpCTRModule, not {type(model).__name__}")
        from expctr.planning.output import PlanOptions, print_plan  # it imports peft, which --help can do without

        asked = PlanOptions(devices, memory, prompt_tokens, processor, samples, tflops, utilisation, json)
        (stages,) = [c for c in vars(self)["callbacks"] if isinstance(c, StageScheduler)]
        print_plan(model.explainer, datamodule, stages.plan, asked)

    def export(
        self,
        model: L.LightningModule,
        datamodule: RatingsDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        merged: bool = False,
    ) -> None:
        """Write what a run trained in files that need no expctr: the adapter for PEFT, the rest as safetensors.

        Args:
            model: the run's module.
            datamodule: the run's data.
            ckpt_path: the checkpoint; `last`, and none: the run's newest.
            out: the folder; none: `export` in the run's own.
            merged: also write the language model with the adapter in its weights, in float32.
        """
        export(self, model, datamodule, ckpt_path, Path(out or Path(self.default_root_dir) / "export"), merged)

    def explain(
        self,
        model: L.LightningModule,
        datamodule: RatingsDataModule,
        target: str = "",
        user: str | None = None,
        liked: list[str] | str | None = None,
        disliked: list[str] | str | None = None,
        json: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        """Explain one choice: the sentence, the scores, and which title of the history moved them most.

        Args:
            model: of an ExpCTR run.
            datamodule: of the run.
            target: what is asked about: a title or an item's id (id:7, where a title reads like an id).
            user: who is asked about: an id as in the ratings file.
            liked: or somebody else, by titles that they like, oldest first: a JSON list, or separated by |.
            disliked: titles that they dislike, likewise.
            json: print one line of JSON, whose keys expctr.evaluation.explain.answer describes.
            ckpt_path: a checkpoint; default the run's newest.
        """
        datamodule.setup()
        question = make_query(datamodule, user, liked, disliked, target)
        datamodule.query_rows = question.rows
        others = [callback for callback in vars(self)["callbacks"] if not isinstance(callback, ResultWriter)]
        self.callbacks = [*others, ExplanationPrinter(question, json)]
        self.predict(model, None, datamodule, return_predictions=False, ckpt_path=ckpt_path, weights_only=True)


class SaveRunConfig(SaveConfigCallback):
    """Writes the config into the run folder; a later test, or going on, leaves the run's own as it is."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save, if this is the run's start."""
        if stage == "fit" and not checkpoints(checkpoint_folder(trainer)):
            super().setup(trainer, pl_module, stage)


class Parser(LightningArgumentParser):
    """Names what is wrong with a config, without a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report it as every other error is."""
        unknown = re.search(r"Expected a dot import path string: (\w+)", message)
        if unknown and "backbone" in message:
            raise UserError(f"backbone: no CTR model is called {unknown[1]!r}; there are {', '.join(ZOO)}") from ex
        raise UserError(_brief(message)) from ex


class ExpCTRCLI(LightningCLI):
    """LightningCLI with the stage plan, checkpoints of the run folder, and one folder a run."""

    def __init__(self, command: str | None, **kwargs: Any) -> None:
        self._command = command if command in self.subcommands() else None
        super().__init__(**kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and those of `Trainer`."""
        ours = {command: {"model", "datamodule"} for command in ("prepare", "plan", "export", "explain")}
        return {**LightningCLI.subcommands(), **ours}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """With options only where it is the one that was asked for: reading the signatures of all takes seconds."""
        if self._command in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self._subcommand_method_arguments[subcommand] = []
        return self.init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """A group of options for each callback, and defaults that the stages need."""
        parser.add_lightning_class_args(StageScheduler, "stages")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ResultWriter, "results")
        parser.add_lightning_class_args(Alarms, "alarms")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.set_defaults(
            {
                "trainer.reload_dataloaders_every_n_epochs": 1,
                "trainer.use_distributed_sampler": False,
                "trainer.num_sanity_val_steps": 0,
                "trainer.log_every_n_steps": 1,
                "trainer.devices": 1,
                "trainer.enable_model_summary": False,
                "trainer.inference_mode": False,  # sharded weights first gathered in it cannot be trained on a GPU
                "trainer.max_epochs": -1,  # the plan of stages sets it
            }
        )

    def before_instantiate_classes(self) -> None:
        """Find the run's newest checkpoint where one is asked for, and refuse to write over a run."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if "weights_only" in config:
            config.weights_only = True  # a checkpoint may come from anywhere
        if self.subcommand == "explain":
            if not issubclass(resolve_name(config.model.class_path), ExpCTRModule):  # before a fit is asked for
                raise UserError(
                    f"{config.model.class_path.split('.')[-1]} writes no sentence that could be explained: explain "
                    "needs a config whose model is ExpCTRModule; the scores of this one are written by expctr predict"
                )
            config.trainer.logger = config.trainer.enable_progress_bar = False  # it prints an answer and nothing else
        folder = Path(config.trainer.default_root_dir or ".") / "checkpoints"
        found = checkpoints(folder)
        if self.subcommand == "fit":
            if config.ckpt_path == "last":
                if not found:
                    print(f"no checkpoint in {folder} yet: starting at the beginning", file=sys.stderr)
                config.ckpt_path = str(found[-1]) if found else None
            elif config.ckpt_path is None and found:
                raise UserError(
                    f"{folder.parent} holds a run, saved last at {found[-1].stem}: go on with it by --ckpt_path last, "
                    "or give another folder by --trainer.default_root_dir"
                )
        elif self.subcommand not in ("validate", "test", "predict", "export", "explain"):
            return
        elif config.ckpt_path in (None, "last"):
            if not found:
                raise UserError(f"there is no checkpoint in {folder}: run expctr fit with the same config first")
            config.ckpt_path = str(found[-1])
        if config.ckpt_path and not Path(config.ckpt_path).exists():
            raise UserError(f"ckpt_path: there is no {config.ckpt_path}; --ckpt_path last takes the run's newest")
        if config.ckpt_path and (wrong := fault(Path(config.ckpt_path))):
            good = next((path for path in reversed(found) if not fault(path)), None)
            mend = (
                f"the newest good one of this run is {good}: --ckpt_path {good}" if good else "this run has no good one"
            )
            raise UserError(f"ckpt_path: {config.ckpt_path} cannot be used: {wrong}; {mend}")
        if config.ckpt_path and Path(config.ckpt_path).resolve().parent == folder.resolve():
            self._check_same(config, folder.parent / "config.yaml")

    def _check_same(self, config: Namespace, path: Path) -> None:
        """Refuse other options of model and data than those that a run was made with."""
        if not path.exists():
            return
        now = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_unset=False, skip_validation=True))
        made = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = [
            change
            for part in ("seed_everything", "model", "data")
            for change in _changes(now.get(part), made.get(part), part)
        ]
        if changes:
            raise UserError(
                "; ".join(changes[:3])
                + f"{'; ...' if changes[3:] else ''}: give the run's value, or another --trainer.default_root_dir"
            )

    def before_fit(self) -> None:
        """Keep other fits out of the run's folder."""
        if self.trainer.is_global_zero:
            self._lock = hold(Path(self.trainer.default_root_dir))

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; what these refuse is a matter of the config."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:  # jsonargparse wraps it, a class at a time
                cause = cause.__cause__
            raise UserError(str(cause)) from error
        path = self._get(self.config_init, "ckpt_path")
        if path and Path(path).is_dir() != isinstance(self.trainer.strategy, ShardedStrategy):
            way = (
                "with --config configs/fsdp.yaml, on any number of devices"
                if Path(path).is_dir()
                else "without sharding"
            )
            raise UserError(f"{path} is of a run {way}: give this command the strategy that made it")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer that logs into the run folder."""
        config = self._get(self.config_init, "trainer")
        if config.get("enable_progress_bar") is False:
            self.trainer_defaults = {}  # nothing but the bar
        if config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(config.get("default_root_dir") or ".", name="", version="")
        return super().instantiate_trainer(**kwargs)


def run(args: Sequence[str] | None = None) -> None:
    """Run the command line; `args` in place of `sys.argv`, for tests."""
    given = sys.argv[1:] if args is None else args
    # options document themselves, which is read from the source: of no use but to who asks for it, and slow
    shown = any(arg == "-h" or "help" in arg or "print_config" in arg for arg in given)
    set_parsing_settings(docstring_parse_attribute_docstrings=shown)
    try:
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
            args=args if args is None else list(args),
        )
    except UserError as error:
        said = "; ".join([str(error), *getattr(error, "__notes__", [])])
        Console(stderr=True).print(f"[bold red]error:[/] {escape(printable(said))}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error
    except (KeyboardInterrupt, SystemExit) as stop:
        if not isinstance(stop.__context__ or stop, KeyboardInterrupt):  # Lightning turns the one into the other
            raise
        cause = stop.__context__ or stop
        print("; ".join(["stopped", *getattr(cause, "__notes__", [])]), file=sys.stderr)
        number = cause.number if isinstance(cause, Stopped) else signal.SIGINT
        raise SystemExit(128 + number) from None


def _changes(now: Any, made: Any, name: str) -> Iterator[str]:
    """What differs between a config and the run's; an option that only one of them has is of another version."""
    if isinstance(now, dict) and isinstance(made, dict):
        for key in now:
            if key in made and f"{name}.{key}" not in _FREE:
                yield from _changes(now[key], made[key], f"{name}.{key}")
    elif now != made:
        yield f"{name} is {now} and the run was made with {made}"


def _brief(message: str) -> str:
    """An error of jsonargparse on one line, without the types it tried and the values it was given."""
    noise = ("Does not validate against", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip() for line in message.splitlines() if not line.strip().startswith(noise)]
    text = " ".join(line.removeprefix("- ") for line in lines)
    given = re.search(r"Given value: NestedArg\(key='.*', val=(.*)\)$", message)
    if given and "Got value" not in text and "accept" not in text:
        text += f". Got value: {given[1]}"
    text = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:", text)
    return re.sub(r'Parser key "([^"]+)":', r"\1:", text)
