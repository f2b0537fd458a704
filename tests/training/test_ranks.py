"""Processes that are not those of the options are refused, and so are ranks that would train different things."""

import shutil
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from conftest import make_llm
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from running import World, expctr, replicated, sharded
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError, TCPStore

from expctr.errors import UserError
from expctr.run_folder import checkpoints
from expctr.training import ranks
from expctr.training.ddp import ReplicatedStrategy
from expctr.training.fsdp import ShardedStrategy
from expctr.training.ranks import SlurmTasks, check_world, lost_process, network_fault, with_slurm

STEP = {"STEP_ID": "0", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_ID": "7", "JOB_NAME": "train"}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process a task of a SLURM job; None removes a variable."""

    def begin(**variables: str | None) -> None:
        for name, value in (STEP | variables).items():
            if value is None:
                monkeypatch.delenv(f"SLURM_{name}", raising=False)
            else:
                monkeypatch.setenv(f"SLURM_{name}", value)

    return begin


def trainer(devices: int = 1, nodes: int = 1, **options: Any) -> L.Trainer:
    if devices * nodes > 1:
        options.setdefault("strategy", ReplicatedStrategy())
    options |= {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    return L.Trainer(devices=devices, num_nodes=nodes, plugins=with_slurm([]) or None, **options)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "said"),
    [
        (
            {"NTASKS": "1"},
            4,
            1,
            "num_nodes is 4 x 1, but SLURM started 1 task. Fix: #SBATCH --nodes=1 --ntasks-per",
        ),
        ({"NTASKS": "2", "NTASKS_PER_NODE": "2"}, 1, 2, "is 1 x 2, but SLURM started 2 tasks. Fix: #SBATCH --nodes=2"),
        ({"NTASKS": "4", "NNODES": "2"}, 2, 1, "is 2 x 1, but SLURM started 4 tasks on 2 node(s). Fix: "),
        ({"NTASKS": "4", "NNODES": "2"}, 4, 1, "is 4 x 1, but SLURM started 4 tasks on 2 node(s). Fix: "),
    ],
)
def test_tasks_that_are_not_the_devices_are_refused(
    variables: dict[str, str], devices: int, nodes: int, said: str, job: Any
) -> None:
    job(**variables)
    with pytest.raises(UserError) as refused:
        check_world(trainer(devices, nodes))
    assert said in str(refused.value)
    assert "srun before the command" in str(refused.value)


def test_a_node_with_more_tasks_than_devices_is_refused(job: Any) -> None:
    """As SLURM may place four tasks on two nodes, three on the first."""
    job(NTASKS="4", NNODES="2", LOCALID="2", PROCID="2")
    with pytest.raises(UserError, match=r"is 2 x 2, but SLURM started 4 tasks on 2 node\(s\)\. Fix: "):
        check_world(trainer(2, 2))


@pytest.mark.parametrize("name", ["JOB_ID", "NTASKS", "PROCID"])
def test_a_variable_of_slurm_that_is_no_number_is_named(name: str, job: Any) -> None:
    job(**{"NTASKS": "1", name: ""})
    with pytest.raises(UserError, match=rf"SLURM_{name} is '', and no number\. Fix: "):
        with_slurm([])


@pytest.mark.parametrize("per_node", [{"NTASKS_PER_NODE": "8"}, {}])
def test_one_device_is_enough_in_a_job_of_many_tasks(per_node: dict[str, str], job: Any) -> None:
    job(NTASKS="8", NNODES="2", STEP_ID=None, **per_node)
    made = trainer()
    check_world(made)
    assert isinstance(made.strategy, SingleDeviceStrategy)


def test_a_step_of_fewer_tasks_has_the_variables_of_its_job(job: Any) -> None:
    """As `srun -N1 -n1` and `srun -N1 -n4` in a job of eight tasks."""
    job(NTASKS="1", NTASKS_PER_NODE="8", NNODES="1")
    check_world(trainer(1, strategy=ReplicatedStrategy()))
    job(NTASKS="4", NTASKS_PER_NODE="8", NNODES="1")
    check_world(trainer(4))


def test_a_task_that_srun_did_not_start_says_that_it_waits(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    warning = "SLURM says 3 tasks, but this process was not started by srun"
    for step, said in (("0", False), (None, True)):
        job(NTASKS="3", NTASKS_PER_NODE="3", STEP_ID=step)
        check_world(trainer(3))
        assert (warning in capsys.readouterr().err) == said


def test_torchrun_in_a_job_has_its_own_ranks(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job(NTASKS="1", NTASKS_PER_NODE="1")
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    check_world(trainer(2))
    with pytest.raises(UserError, match=r"is 3 x 1, but 2 processes were started\. Fix: torchrun --nnodes 1 --"):
        check_world(trainer(3))


def test_a_given_slurm_is_not_requeued(job: Any) -> None:
    job(NTASKS="1")
    (plugin,) = with_slurm([SLURMEnvironment()])
    assert isinstance(plugin, SlurmTasks)
    assert not plugin.auto_requeue


def test_shards_are_as_many_as_devices() -> None:
    with pytest.raises(UserError, match=r"data_parallel_size is 3, and .* is 2 x 1. Fix: .*data_parallel_size auto"):
        check_world(trainer(2, strategy=ShardedStrategy(data_parallel_size=3)))
    check_world(trainer(2, strategy=ShardedStrategy()))


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(DistNetworkError) as error:
            TCPStore("127.0.0.1", port, is_master=True)
    assert f"the port {port} by which the processes meet is in use. Fix: set MASTER_PORT" in str(
        network_fault(error.value)
    )
    assert network_fault(RuntimeError("cannot resolve a name of another kind")) is None


def test_processes_that_do_not_start_in_time_are_named() -> None:
    with pytest.raises(DistStoreError) as error:
        TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=timedelta(seconds=1))
    assert "not all processes have started: " in str(network_fault(error.value))


def test_a_process_that_does_not_answer_counts_as_lost() -> None:
    words = "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"
    assert lost_process(RuntimeError(words)) is not None


def test_a_port_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "70000")
    with pytest.raises(UserError, match=r"MASTER_PORT is '70000'\. Fix: "):
        check_world(trainer(2))
    monkeypatch.setenv("MASTER_PORT", "auto")
    check_world(trainer())
    with pytest.raises(UserError, match=r"MASTER_PORT is 'auto'\. Fix: set it to the number of a free port"):
        check_world(trainer(2))


def test_only_a_process_that_is_lost_counts_as_one() -> None:
    for words in ("DistNetworkError: Connection reset by peer", "ncclRemoteError: remote process exited or there was"):
        assert "another process of this command has ended or hangs" in str(lost_process(DistBackendError(words)))
    assert lost_process(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


@pytest.mark.parametrize("way", [replicated, pytest.param(sharded, marks=pytest.mark.slow)])
def test_ranks_that_begin_at_different_places_are_refused(way: Any, world: World, tmp_path: Path) -> None:
    """Nodes without a shared folder: only the first finds its checkpoint."""
    plan = ["--stages.rounds=0", "--stages.lc.epochs=1", *way(2)]
    run = world.once(f"begun-{way.__name__}", ["fit", *world.options(f"begun-{way.__name__}"), *plan], ranks=2)
    newest = checkpoints(run / "checkpoints")[-1].name
    elsewhere = [f"--trainer.default_root_dir={tmp_path / 'local'}"]
    outcome = expctr("fit", *world.options(run), *plan, "--ckpt_path=last", ranks=2, others=elsewhere)
    assert outcome.code == 2, outcome.output
    said = f"error: rank 1 starts from no checkpoint, rank 0 from {newest} ("
    assert outcome.output.count(said) == 2
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("command", ["validate", "test"])
def test_ranks_that_would_score_with_different_checkpoints_are_refused(command: str, world: World) -> None:
    run = world.tested("one")
    (other,) = checkpoints(run / "checkpoints")[:1]
    outcome = expctr(command, *world.options(run), *replicated(2), ranks=2, others=[f"--ckpt_path={other}"])
    assert outcome.code == 2, outcome.output
    assert outcome.output.count(f"error: rank 1 starts from {other.name} (") == 2


def test_ranks_with_another_strategy_are_refused(world: World) -> None:
    """They would wait for each other until torch gives up."""
    line = ["fit", *world.options("of two strategies"), "--stages.rounds=0"]
    outcome = expctr(*line, *replicated(2), ranks=2, others=sharded(2))
    assert outcome.code == 2, outcome.output
    said = "error: trainer.strategy is ShardedStrategy on rank 1 and ReplicatedStrategy on rank 0. Fix: "
    assert outcome.output.count(said) == 2


def test_ranks_with_another_base_are_refused(world: World, tmp_path: Path) -> None:
    other = f"--model.init_args.explainer.llm.path={make_llm(tmp_path / 'llm', seed=9)}"
    line = ["fit", *world.options("of two bases"), "--stages.rounds=0", *replicated(2)]
    line.append("--trainer.max_time=00:01:00:00")
    outcome = expctr(*line, ranks=2, others=[other, "--trainer.max_time=00:02:00:00", "--progress.every_seconds=5"])
    assert outcome.code == 2, outcome.output
    assert outcome.output.count("error: rank 1 has other weights than rank 0, such as explainer.model.") == 2


def test_checkpoints_of_one_name_are_told_apart_by_their_contents(tmp_path: Path) -> None:
    for place, content in (("a", b"0"), ("b", b"0"), ("c", b"1")):
        (tmp_path / place / "last.ckpt").mkdir(parents=True)
        (tmp_path / place / "last.ckpt" / "meta.pt").write_bytes(b"same")
        (tmp_path / place / "last.ckpt" / "shard").write_bytes(content)
    same, again, other = (ranks._named(tmp_path / place / "last.ckpt") for place in "abc")
    assert same == again != other
    assert other.startswith("last.ckpt (sha256 ")


def test_the_shell_of_an_allocation_is_no_task(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job(NTASKS="2", JOB_NAME="mine")
    for name in ("PROCID", "NODEID", "LOCALID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    (plugin,) = with_slurm([])
    assert type(plugin) is LightningEnvironment
    job(NTASKS="2", STEP_ID="4294967290")  # with use_interactive_step
    (plugin,) = with_slurm([])
    assert type(plugin) is LightningEnvironment


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("--seed_everything=4", "seed_everything is 4 on rank 1 and 1 on rank 0. Fix: start all ranks with the same"),
        ("--stages.lc.epochs=3", "stages.lc.epochs is 3 on rank 1 and 1 on rank 0"),
        ("--data.init_args.path={}", "rank 1 has other samples than rank 0. Fix: give all ranks the same files"),
    ],
)
def test_ranks_with_other_options_or_samples_are_refused(other: str, said: str, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "movielens", tmp_path / "less")
    films = tmp_path / "less" / "u.item"
    films.write_text(films.read_text(encoding="latin-1").replace("Film", "Wilm"), encoding="latin-1")
    line = ["fit", *world.options("disagreeing"), "--stages.rounds=0", *replicated(2)]
    outcome = expctr(*line, ranks=2, others=[other.format(tmp_path / "less"), "--trainer.enable_progress_bar=false"])
    assert outcome.code == 2, outcome.output
    assert outcome.output.count(f"error: {said}") == 2
