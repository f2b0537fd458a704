"""The processes of a run: started as the options say, and agreed on what they train."""

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.tensor import DTensor

from expctr.data.cache import sha256_of
from expctr.distributed import all_gather_objects, is_of_lost_process, world_size
from expctr.errors import UserError, first_line
from expctr.modules.staged import StagedModule
from expctr.training.fsdp import ShardedStrategy


class SlurmTasks(SLURMEnvironment):
    """The tasks of a SLURM job as ranks. `check_world` compares them with the options, in the words of these."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)  # a signal saves and ends the fit, or saves and goes on

    @staticmethod
    def _validate_srun_variables() -> None:
        """Allow `--ntasks` alone: a command on one device may be a step of any job."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Compare the nodes only, if they are known: a step of fewer tasks has the job's own `--ntasks-per-node`."""
        if "SLURM_NNODES" not in os.environ:
            super().validate_settings(num_devices, num_nodes)
        elif int(os.environ["SLURM_NNODES"]) != num_nodes:
            raise ValueError


_INTERACTIVE = str(2**32 - 6)
"""The step of a shell that salloc opens on a node."""


def with_slurm(plugins: Sequence[Any]) -> list[Any]:
    """The trainer's plugins, with SLURM's tasks where this process is one.

    torchrun in a job has its own ranks, and the shell of an allocation is no task: its processes are of one machine.
    """
    chosen = [SlurmTasks() if isinstance(plugin, SLURMEnvironment) else plugin for plugin in plugins]
    given = any(isinstance(plugin, ClusterEnvironment) for plugin in chosen)
    if given or SLURMEnvironment.detect():
        _check_slurm()
    if not given and not TorchElasticEnvironment.detect() and SLURMEnvironment.detect():
        task = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"} <= os.environ.keys()
        task = task and os.environ.get("SLURM_STEP_ID") != _INTERACTIVE
        chosen.append(SlurmTasks() if task else LightningEnvironment())
    return chosen


def _check_slurm() -> None:
    for name in ("JOB_ID", "NTASKS", "NNODES", "PROCID", "LOCALID", "NODEID"):
        if not (value := os.environ.get(f"SLURM_{name}", "0")).isdecimal():
            raise UserError(f"SLURM_{name} is {value!r}, and no number. Fix: unset it where no job of SLURM runs")


def check_world(trainer: L.Trainer) -> None:
    """Refuse a number of processes that is not that of the options, and warn where the others may never come.

    Raises:
        UserError: naming the options, and those of the launcher.
    """
    strategy, devices, nodes = trainer.strategy, trainer.num_devices, trainer.num_nodes
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    port = os.environ.get("MASTER_PORT", "0")
    if environment is not None and not (port.isdecimal() and int(port) < 2**16):
        raise UserError(f"MASTER_PORT is {port!r}. Fix: set it to the number of a free port")
    wanted, found = devices * nodes, trainer.world_size
    try:
        if environment is not None:
            environment.validate_settings(devices, nodes)
        fits = wanted == found and (environment is None or environment.local_rank() < devices)
    except ValueError:
        fits = False
    options = f"trainer.devices x trainer.num_nodes is {devices} x {nodes}"
    if not fits and isinstance(environment, SLURMEnvironment):
        on = os.environ.get("SLURM_NNODES")
        raise UserError(
            f"{options}, but SLURM started {found} task{'s' * (found > 1)}{f' on {on} node(s)' if on else ''}. Fix: "
            f"#SBATCH --nodes={nodes} --ntasks-per-node={devices}, and srun before the command; or set the two options "
            "to what SLURM started"
        )
    if not fits:
        raise UserError(
            f"{options}, but {found} process{'es' * (found > 1)} were started. Fix: torchrun --nnodes {nodes} "
            f"--nproc-per-node {devices}, or set the two options to what was started"
        )
    if isinstance(strategy, ShardedStrategy) and strategy._data_parallel_size not in ("auto", found):
        raise UserError(
            f"trainer.strategy.init_args.data_parallel_size is {strategy._data_parallel_size}, and {options}. Fix: "
            "--trainer.strategy.init_args.data_parallel_size auto, or other numbers of devices and nodes"
        )
    if isinstance(environment, SLURMEnvironment) and found > 1 and "SLURM_STEP_ID" not in os.environ:
        print(
            f"SLURM says {found} tasks, but this process was not started by srun, and waits for the others. Fix: put "
            "srun before the command",
            file=sys.stderr,
        )


_OWN = re.compile(r"config|trainer\.(enable_|logger|callbacks|profiler|log_every).*|progress\..*|.*(path|dir)")
"""Options in which ranks may differ: where they find things on their node, and what they show."""
_RANK_0 = "trainer.max_time"
"""Rank 0's value counts, if all ranks have one; a script may compute it for each."""


def check_options_agree(options: Mapping[str, object]) -> None:
    """Refuse ranks with other options than rank 0, as of a seed that a script gives by task; called by all of them.

    Raises:
        UserError: on all ranks, naming the first option that differs.
    """
    shared = {name: value for name, value in options.items() if not _OWN.fullmatch(name)}
    shown = {name: "set" if name == _RANK_0 and value else repr(value) for name, value in shared.items()}
    first, *others = all_gather_objects(shown)
    for rank, its in enumerate(others, 1):
        for name in sorted(first.keys() | its.keys(), key=lambda name: (name.count("."), name)):
            if its.get(name) != first.get(name):
                raise UserError(
                    f"{name} is {its.get(name, 'not set')} on rank {rank} and {first.get(name, 'not set')} on rank 0. "
                    "Fix: start all ranks with the same options"
                )


def check_ranks_agree(trainer: L.Trainer) -> None:
    """Refuse ranks that would begin elsewhere than rank 0, or with other samples; called by all of them.

    Raises:
        UserError: on all ranks, naming the first that differs.
    """
    if trainer.world_size == 1 or trainer.datamodule is None:  # type: ignore[attr-defined]
        return
    start = _named(Path(str(trainer.ckpt_path))) if trainer.ckpt_path else "no checkpoint"
    data = trainer.datamodule.content_digest()  # type: ignore[attr-defined]
    first, *others = all_gather_objects((start, data))
    for rank, (its_start, its_data) in enumerate(others, 1):
        if its_start != first[0]:
            raise UserError(
                f"rank {rank} starts from {its_start}, rank 0 from {first[0]}. Fix: give all nodes one run folder "
                "(trainer.default_root_dir), on a file system that they share"
            )
        if its_data != first[1]:
            raise UserError(
                f"rank {rank} has other samples than rank 0. Fix: give all ranks the same files (data.path)"
            )


def check_weights_agree(module: L.LightningModule) -> None:
    """Refuse ranks with other weights than rank 0, as of another base of the same name; called by all of them.

    The first numbers of each weight are compared, also the encoder's, but for sharded ones, of which each rank has
    others.

    Raises:
        UserError: on all ranks, naming the first that differs.
    """
    encoder = module.models.encoder if isinstance(module, StagedModule) else None
    named = chain(module.named_parameters(), encoder.parts[0] if encoder else ())
    weights = {name: p.detach() for name, p in named if not isinstance(p, DTensor)}
    sums = {name: float(p.flatten()[:1000].double().sum()) for name, p in weights.items()} if world_size() > 1 else {}
    first, *others = all_gather_objects(sums)
    for rank, its in enumerate(others, 1):
        if differing := [name for name in first if its.get(name) != first[name]]:
            raise UserError(
                f"rank {rank} has other weights than rank 0, such as {differing[0]}. Fix: give all ranks the same base "
                "(llm.path) and encoder"
            )


def _named(checkpoint: Path) -> str:
    return f"{checkpoint.name} (sha256 {digest_of_checkpoint(checkpoint)[:12]})"


def digest_of_checkpoint(checkpoint: Path) -> str:
    """A digest of a checkpoint's file, or of the files in its folder."""
    files = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
    digest = hashlib.sha256()
    for path in files:
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def network_fault(error: BaseException) -> UserError | None:
    """What a user can do about processes that do not meet; None for other errors."""
    said = first_line(error)
    if isinstance(error, DistStoreError) and "clients" in said:
        return UserError(
            f"not all processes have started: {said}. Fix: see why the others have not, and start all at once"
        )
    if not isinstance(error, DistNetworkError):
        return None
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        port = os.environ.get("MASTER_PORT", "")
        return UserError(
            f"the port {port} by which the processes meet is in use. Fix: set MASTER_PORT to a free port, another one "
            "for each srun step of a job"
        )
    if "trying to connect" in said or "resolve" in said:
        return UserError(
            f"the first process cannot be reached: {said}. Fix: see whether it has started, and set MASTER_ADDR to its "
            "machine and MASTER_PORT to a free port there, for all processes"
        )
    return None


def lost_process(error: RuntimeError) -> UserError | None:
    """The error that another process of the command has ended; None for other errors."""
    if not is_of_lost_process(error):
        return None
    return UserError("another process of this command has ended or hangs. Fix: its own output says why")
