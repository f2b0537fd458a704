"""The command line as users meet it: what it refuses, and what the commands write."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning as L
import polars as pl
import pytest
import yaml
from faults.callbacks import kill, poison
from running import CONF, ENVIRON, LIMIT, TESTS, World, curves, expctr, last, movielens

from expctr.cli.app import ExpCTRCLI
from expctr.cli.app import run as run_cli
from expctr.errors import UserError
from expctr.predictor import Predictor
from expctr.report.render import render
from expctr.report.run import read_run
from expctr.run_folder import checkpoints, read_config
from expctr.systems import SIMPLE
from expctr.training.lock import hold

CONFIGS = TESTS.parent / "configs"
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line in this process that is refused, and returns its error."""

    def run_refused(*args: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_cli([str(arg) for arg in args])
        printed = capsys.readouterr()
        assert stop.value.code == 2
        assert "usage:" not in printed.out + printed.err
        (line,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
        return line

    return run_refused


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line in this process that ends after printing, and returns what it printed."""

    def run_printing(*args: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_cli([str(arg) for arg in args])
        assert not stop.value.code
        return capsys.readouterr().out

    return run_printing


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    """A finished run, tested."""
    return world.tested("one")


# --- what it refuses, and how

EXPLAINER = "--model.init_args.explainer"
REFUSED: dict[str, tuple[list[str], str]] = {
    "a typo in an option": (["--trainer.acelerator=cpu"], "did you mean trainer.accelerator?"),
    "a typo deep in the model": (
        [f"{EXPLAINER}.ppo.minibatchsize=4"],
        "did you mean model.explainer.ppo.minibatch_size",
    ),
    "a typo in the data": (["--data.init_args.rollout_batchsize=4"], "did you mean data.rollout_batch_size?"),
    "an option without its group": (["--model.kl.beta=1"], "did you mean model.explainer.kl.beta?"),
    "an option without any group": (["--kl.beta=1"], "did you mean model.explainer.kl.beta?"),
    "an option of the trainer that is no number": (["--trainer.max_steps=many"], "trainer.max_steps"),
    "a value that is no choice": (
        ['--stages.lc.rewards=[{"class_path": "LCAlignment", "init_args": {"metric": "mse"}}]'],
        "'mae', 'brier', 'log'",
    ),
    "no such config": (["--config=nowhere.yaml"], "nowhere.yaml"),
    "no such packaged config": (["--config=quickstrt"], "Fix: give one of the nearest, quickstart"),
    "no such class": (["--data=FilmDataModule"], "no class FilmDataModule; known classes: MovieLensDataModule"),
}
REFUSED_LATER: dict[str, tuple[list[str], str]] = {
    "groups of one": ([f"{EXPLAINER}.reward.norm=group"], "reward.norm: group needs rollout.group_size"),
    "k1 in the loss": ([f"{EXPLAINER}.kl.where=loss"], "choose k2 or k3"),
    "two precisions": (
        [f"{EXPLAINER}.llm.quantization=nf4", f"{EXPLAINER}.llm.gguf_file=x.gguf"],
        "llm.quantization and llm.gguf_file exclude each other",
    ),
    "IC without CTR": (["--stages.ctr.epochs=0"], "give ctr.epochs of at least 1"),
    "no plan": (["--stages.lc.epochs=0", "--stages.rounds=0"], "the plan is empty"),
    "fractions": (["--data.init_args.samples.fractions=[0.5,0.1,0.1]"], "sum to 1"),
    "no raw data": (["--data.init_args.path=/nowhere"], "no such folder: /nowhere"),
    "no base": ([f"{EXPLAINER}.llm.path=/nowhere"], "llm.path: there is no folder /nowhere"),
    "an answer of many tokens": ([f"{EXPLAINER}.lc.positive=[Unquestionably]"], "Unquestionably"),
    "no such checkpoint": (["--ckpt_path=/nowhere.ckpt"], "/nowhere.ckpt"),
    "another precision": (["--trainer.precision=bf16-true"], "trainer.precision must be 32-true"),
    "its own number of epochs": (["--trainer.max_epochs=3"], "trainer.max_epochs must be -1"),
    "accumulated gradients": (["--trainer.accumulate_grad_batches=2"], "ppo.minibatch_size"),
    "a clip of gradients": (["--trainer.gradient_clip_val=1.0"], "model.explainer.ppo.grad_clip"),
    "a share of no batches": (["--trainer.limit_train_batches=0.25"], "of the 3 CTR batches of an epoch none"),
    "another strategy": (["--trainer.strategy=ddp"], "add --config ddp"),
    "a seed below 0": (["--seed_everything=-1"], "seed_everything is -1. Fix: give a number from 0"),
    "a file in place of the run": ([f"--trainer.default_root_dir={__file__}"], "test_app.py"),
}


@pytest.mark.parametrize(
    "why",
    [*REFUSED, *(pytest.param(why, marks=pytest.mark.cli) for why in REFUSED_LATER)],  # they build the model
)
def test_it_is_refused_on_one_line(why: str, world: World, refused: Refused) -> None:
    args, message = (REFUSED | REFUSED_LATER)[why]
    line = refused("fit", *world.options("refused"), *args)
    assert message in line
    assert len(line) < 400


def test_a_refusal_of_the_real_command_has_no_traceback(world: World) -> None:
    outcome = expctr("fit", *world.options("refused"), "--trainer.acelerator=cpu")
    assert (outcome.code, outcome.output) == (
        2,
        "error: unknown option trainer.acelerator; did you mean trainer.accelerator?\n",
    )


TYPOS = {
    "model:\n  init_args:\n    explainer:\n      kl: {betta: 0.1}\n": "model.explainer.kl.betta; did you mean "
    "model.explainer.kl.beta?",
    "model:\n  init_args:\n    explaner:\n      kl: {beta: 0.1}\n": "model.explaner.kl.beta; did you mean "
    "model.explainer.kl.beta?",
    "data:\n  init_args:\n    samples: {targets_per_usr: 3}\n": "data.samples.targets_per_usr; did you mean "
    "data.samples.targets_per_user?",
    "stagess:\n  rounds: 3\n": "stagess.rounds; did you mean stages.rounds?",
}


@pytest.mark.parametrize("text", TYPOS)
def test_a_typo_in_a_config_file_is_answered_with_the_nearest_option(
    text: str, world: World, tmp_path: Path, refused: Refused
) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text(text)
    line = refused("fit", *world.options("refused"), f"--config={typo}")
    assert line == f"error: unknown option {TYPOS[text]}"


def test_a_command_without_a_config_asks_for_one(refused: Refused) -> None:
    assert refused("fit").endswith("give --config NAME_OR_FILE; expctr configs lists the packaged configs")


def test_bad_rows_are_named_by_file_row_and_column(world: World, tmp_path: Path, refused: Refused) -> None:
    for file in (world.folder / "movielens").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "u.data").open("a") as file:
        file.write("1\t2\tmany\t3\n")
    line = refused("prepare", *world.options("refused"), f"--data.init_args.path={tmp_path}")
    assert f"{tmp_path / 'u.data'}, row 481, column rating" in line


def test_a_fit_does_not_write_over_a_run(run: Path, world: World, refused: Refused) -> None:
    line = refused("fit", *world.options("one"))
    assert "--ckpt_path last" in line
    assert "--trainer.default_root_dir" in line


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_test_needs_a_run(command: str, world: World, refused: Refused) -> None:
    assert "run expctr fit with the same config first" in refused(command, *world.options("nothing"))


def test_a_resumed_run_keeps_its_stages(run: Path, world: World, refused: Refused) -> None:
    line = refused("fit", *world.options("one"), "--ckpt_path=last", "--stages.lc.epochs=2")
    assert "lc x 1, ctr1 x 3, ic1 x 1" in line
    assert "lc x 2, ctr1 x 3, ic1 x 1" in line


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_run_keeps_its_data(run: Path, world: World, command: str, tmp_path: Path, refused: Refused) -> None:
    for file in movielens(tmp_path / "raw").iterdir():
        lines = file.read_text(encoding="latin-1").splitlines()
        file.write_text("\n".join(lines if file.name == "u.item" else lines[80:]), encoding="latin-1")
    others = f"--data.init_args.path={tmp_path / 'raw'}"
    before = [(run / name).read_bytes() for name in ("data.json", "samples.parquet")]
    line = refused(command, *world.options("one"), "--ckpt_path=last", others)
    assert "differ in values: user (30 in the data, 36 in the checkpoint)" in line
    assert [(run / name).read_bytes() for name in ("data.json", "samples.parquet")] == before


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_run_keeps_its_options(run: Path, world: World, command: str, refused: Refused) -> None:
    before = (run / "config.yaml").read_text()
    others = [f"{EXPLAINER}.ppo.lr=0.0001", "--data.init_args.splits.train=a", "--data.init_args.splits.val=b"]
    others += ["--data.init_args.splits.test=c", "--seed_everything=2", "--data.init_args.eval_batch_size=3"]
    line = refused(command, *world.options("one"), "--ckpt_path=last", *others)
    assert "seed_everything is 2 and the run was made with 1; " in line
    assert "model.init_args.explainer.init_args.ppo.lr is 0.0001 and the run was made with 0.001; " in line
    assert "data.init_args.splits is {'train': 'a'" in line
    assert line.endswith("give the run's value, or choose another --trainer.default_root_dir")
    assert (run / "config.yaml").read_text() == before


# --- what it says of a run that went wrong

SPOILT: dict[str, tuple[int, int, str, str]] = {
    "adapter": (
        0,
        3,
        "lc, epoch 1 of 9, batch 4: the policy's log-probability is NaN or infinite",
        "Lower model.explainer.ppo.lr",
    ),
    "critic": (0, 3, "lc, epoch 1 of 9, batch 4: PPO's return is NaN or infinite", "Lower model.explainer.ppo.lr"),
    "score": (0, 3, "lc, epoch 1 of 9, batch 4: s_u is NaN or infinite", "Load the base in float32"),
    "ctr": (4, 3, "ic1, epoch 5 of 9, batch 4: s_r is NaN or infinite", "Lower the learning rate of the CTR model"),
    "all texts": (0, 3, "lc, epoch 1 of 9, batch 4: all 7 explanations are empty", "chat template"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_run_names_stage_and_rows_and_keeps_its_checkpoint(what: str, run: Path, world: World) -> None:
    epoch, batch, said, mend = SPOILT[what]
    name = f"spoilt-{what.replace(' ', '-')}"
    outcome = expctr("fit", *world.options(name), *poison(epoch, batch, what))
    assert outcome.code == 2, outcome.output
    assert "Traceback" not in outcome.output
    (line,) = (line for line in outcome.output.splitlines() if line.startswith("error:"))
    assert said in line
    assert mend in line
    rows = pl.read_parquet(run / "explanations" / f"{epoch:03d}-{'ic1' if epoch else 'lc'}.parquet")
    here = rows.filter(pl.col("batch") == pl.col("batch").min() + batch)["sample"].to_list()
    if what == "score":
        assert f"in 1 of {len(here)} rows (sample {here[0]} " in line
    elif what != "all texts":
        assert f"in {len(here)} of {len(here)} rows (sample {min(here)} " in line
        assert f"{len(here) - 3} more)" in line
    newest = checkpoints(world.folder / name / "checkpoints")[-1]
    assert newest.name == f"epoch={epoch:04d}-batch=000002.ckpt"
    assert str(newest) in line


@pytest.mark.slow
def test_after_a_spoilt_ctr_step_the_run_goes_on_to_the_same_end(run: Path, world: World) -> None:
    options = world.options("spoilt-ctr-step")
    outcome = expctr("fit", *options, *poison(2, 2, "ctr"))
    assert outcome.code == 2
    assert "error: ctr1, epoch 3 of 9, batch 3: the CTR loss is NaN or infinite in 12 of 12 rows" in outcome.output
    expctr("fit", *options, "--ckpt_path=last").ok()
    assert last(curves(world.folder / "spoilt-ctr-step")) == last(curves(run))


@pytest.mark.slow
def test_other_options_go_on_from_the_good_checkpoint_in_another_folder(world: World) -> None:
    one_stage = "--stages.rounds=0"
    output = expctr("fit", *world.options("spoilt-first"), *poison(0, 3, "critic"), one_stage).output
    (path,) = re.findall(r"--ckpt_path (\S+) and another --trainer.default_root_dir", output)
    changed = [f"{EXPLAINER}.kl.beta=0.2", f"{EXPLAINER}.ppo.lr=1e-4"]
    expctr("fit", *world.options("mended"), f"--ckpt_path={path}", *changed, one_stage).ok()
    found = curves(world.folder / "mended")
    assert set(found["lc/kl"]) == {3, 4, 5}
    for name, value in (("beta", 0.2), ("lr", 1e-4)):  # and not what the checkpoint was made with
        assert [*found[f"lc/{name}"].values()] == [[pytest.approx(value)]] * 3


def test_a_few_empty_texts_are_counted(world: World) -> None:
    expctr("fit", *world.options("some-empty"), *poison(0, 3, "texts"), "--stages.rounds=0").ok()
    empty = curves(world.folder / "some-empty")["lc/empty"]
    assert [empty[step][0] for step in range(1, 6)] == [0, 0, 0, pytest.approx(6 / 7), 0]


def test_equal_rewards_make_no_update_and_are_counted_through_a_resume(run: Path, world: World) -> None:
    """Those of the first batch; killed before the last one."""
    options = [*world.options("equal"), "--stages.rounds=0", "--ckpt_path=last"]
    killed = expctr("fit", *options, *poison(0, 0, "equal"), *kill(0, 4))
    assert killed.code == -9
    assert killed.output.count("lc, epoch 1 of 1, batch 1: all rewards are equal") == 1
    assert "lr_scheduler" not in killed.output
    resumed = expctr("fit", *options).ok()
    assert "1 rollout batches had equal rewards" in resumed.output
    assert f"Next: expctr test {world.folder / 'equal'}" in resumed.output
    found, normal = curves(world.folder / "equal"), curves(run)
    assert last(found)["lc/skipped_updates"] == dict.fromkeys(range(1, 6), 1)
    assert last(normal)["lc/skipped_updates"] == dict.fromkeys(range(1, 6), 0)
    assert set(found["lc/kl"]) == {2, 3, 4, 5}
    assert found["lc/kl"][2] == [pytest.approx(0, abs=1e-5)]  # the policy is still the base
    assert normal["lc/kl"][2] != [pytest.approx(0, abs=1e-5)]


# --- what the commands do


def test_the_programme_itself(world: World) -> None:
    """`expctr`, started as a user does (`test_ranks.py` starts `python -m expctr`)."""
    start = str(Path(sys.executable).parent / "expctr")
    line = [start, "prepare", *world.options("prepared")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert "label entropy" in done.stdout


def test_files_are_utf8_whatever_the_locale(world: World, tmp_path: Path) -> None:
    """Libraries read and write configs in the encoding of the locale."""
    prompt = "Magst du „Ü 🎭“? שלום"
    (tmp_path / "own.yaml").write_text(
        f"model: {{init_args: {{explainer: {{prompts: {{none: {prompt!r}}}}}}}}}", "utf-8"
    )
    options = [*world.options(tmp_path / "run"), f"--config={tmp_path / 'own.yaml'}", "--stages.rounds=0"]
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "expctr", "fit", *options]
    environ = {**os.environ, **ENVIRON, **ascii_locale}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run")["model"]["init_args"]["explainer"]["init_args"]["prompts"]["none"] == prompt


def test_prepare_can_be_strict_about_what_looks_wrong(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["prepare", *world.options("strict")]
    run_cli(line)
    found = capsys.readouterr().out.partition("What looks wrong")[2]
    assert "- every user of the test rows is unknown to training" in found
    with pytest.raises(SystemExit) as stop:
        run_cli([*line, "--strict=true"])
    assert stop.value.code == 1


def test_a_login_node_prepares_and_plans_for_gpus_of_other_nodes(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    several = ["--config=fsdp", "--trainer.accelerator=gpu", "--trainer.devices=8", "--trainer.num_nodes=2"]
    options = [*world.options("elsewhere"), *several]
    run_cli(["prepare", *options])
    run_cli(["plan", *options])
    assert "Hours on a CPU" not in capsys.readouterr().out
    run_cli(["plan", *options, "--trainer.accelerator=cpu"])
    assert "Hours on a CPU" in capsys.readouterr().out


def test_every_command_takes_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`fit`, `test` and `predict` accept all that a run's config holds; the others have no checkpoint to choose."""
    shutil.copytree(run, tmp_path / "moved")
    run_cli(["prepare", str(tmp_path / "moved")])
    run_cli(["plan", "--config", str(run / "config.yaml")])
    run_cli(["export", str(tmp_path / "moved"), "--out", str(tmp_path / "out")])
    run_cli(["explain", str(tmp_path / "moved"), "--user", "1", "--target", "Film 3, The (1953)"])
    run_cli(["validate", "--config", str(run / "config.yaml")])
    assert "Rows" in capsys.readouterr().out
    assert (tmp_path / "out" / "adapter").is_dir()


def test_help_names_every_option_with_its_doc(printed: Callable[..., str]) -> None:
    text = printed("fit", "--help")
    assert "--stages.lc.epochs" in text
    assert "Passes over the training samples" in " ".join(text.split())
    assert text.index("--stages.lc.epochs") < text.index("--ckpt_path") < text.index("--trainer.accelerator")
    assert text.startswith("usage: expctr fit [RUN] [--config")
    assert printed("fit", "-h") == text


def test_an_unknown_ctr_model_is_answered_with_the_known_ones(world: World, refused: Refused) -> None:
    line = refused("fit", *world.options("unknown"), "--model.init_args.ctr.init_args.backbone=DeepFFM")
    known = "FM, DSSM, DeepFM, AutoInt, PNN, xDeepFM, FiGNN, DCN, DCNv2, DIN, DIEN, Caser, GRU4Rec, SASRec, BERT4Rec"
    assert line == f"error: model.ctr.backbone: there is no class DeepFFM; known classes: {known}"


def test_a_model_that_reads_histories_says_so_on_data_without_them(world: World) -> None:
    line = ["--model=CTRModule", "--model.backbone=SASRec", "--data.fields=[user, target]"]
    data = [path for path in world.paths("no-histories") if "model" not in path]
    outcome = expctr("fit", "--data=MovieLensDataModule", *line, *data, "--trainer.accelerator=cpu")
    assert outcome.code == 2
    assert "SASRec reads histories in their order, and the data have none: data.fields must hold" in outcome.output


def test_overlays_change_what_they_name_and_nothing_else(
    world: World, tmp_path: Path, printed: Callable[..., str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model:\n  init_args:\n    explainer:\n      ppo: {clip: 0.3}\n")
    without, merged = (
        printed("fit", *world.options("printed"), *more, "--print_config") for more in ([], [f"--config={overlay}"])
    )
    changed = set(without.splitlines()) ^ set(merged.splitlines())
    assert {line.strip() for line in changed} == {"clip: 0.2", "clip: 0.3"}


@pytest.mark.cli
@pytest.mark.parametrize("name", ["amazon", "bookcrossing", "movielens", "smollm2", "quickstart"])
def test_the_packaged_configs_merge_with_their_overlays(name: str, printed: Callable[..., str]) -> None:
    names = (name, "plus", "qlora", "fsdp")
    own, plus, qlora, _ = (yaml.safe_load((CONFIGS / f"{file}.yaml").read_text()) for file in names)
    merged = yaml.safe_load(printed("fit", *(f"--config={file}" for file in names), "--print_config"))
    assert merged["trainer"]["strategy"]["class_path"] == "expctr.training.fsdp.ShardedStrategy"
    assert merged["trainer"]["default_root_dir"] == own["trainer"]["default_root_dir"]
    (reward,), (changed,) = merged["stages"]["ic"]["rewards"], plus["stages"]["ic"]["rewards"]
    assert reward["class_path"].endswith(changed["class_path"])
    assert reward["init_args"]["delta"] == changed["init_args"]["delta"] == "signed"
    explainer = merged["model"]["init_args"]["explainer"]["init_args"]
    assert explainer["llm"]["path"]
    changes = [config["model"]["init_args"]["explainer"] for config in (own, plus, qlora)]
    for group in ("llm", "rollout", "ppo", "lc"):
        expected = {option: value for change in changes for option, value in change.get(group, {}).items()}
        assert {option: explainer[group][option] for option in expected} == expected
    assert merged["data"]["init_args"]["rollout_batch_size"] == qlora["data"]["init_args"]["rollout_batch_size"]
    assert merged["data"]["init_args"]["path"] == own["data"]["init_args"]["path"]
    assert merged["data"]["init_args"]["balance_rollouts"]
    assert merged["data"]["init_args"]["history_counts"]
    assert own["data"]["init_args"].get("history_counts", False) == (name in ("smollm2", "quickstart"))


def test_the_papers_configs_differ_in_folder_and_data_alone(printed: Callable[..., str]) -> None:
    """movielens.yaml lists the paper's values; the other two leave them to the defaults."""
    movielens, *others = (
        yaml.safe_load(printed("fit", f"--config={name}", "--print_config"))
        for name in ("movielens", "amazon", "bookcrossing")
    )
    for other in others:
        assert {key for key in movielens if movielens[key] != other[key]} == {"data", "trainer"}
        assert {key for key, value in movielens["trainer"].items() if value != other["trainer"][key]} == {
            "default_root_dir"
        }


@pytest.mark.cli
@pytest.mark.parametrize(
    "name", ["quickstart", "smollm2", "movielens", "amazon", "bookcrossing", "icl", "tallrec", "baseline", "table"]
)
def test_the_packaged_configs_make_a_model_and_its_data(name: str, tmp_path: Path, refused: Refused) -> None:
    """They get as far as the files, which are not there."""
    own = ["--model.backbone=DIN"] if name == "baseline" else []
    option = "interactions" if name == "table" else "path"
    line = refused("prepare", f"--config={name}", *own, f"--data.{option}={tmp_path / 'none'}")
    assert str(tmp_path / "none") in line


def test_a_plus_adds_a_reward_to_the_papers(printed: Callable[..., str]) -> None:
    line = ["--config=movielens", "--stages.lc.rewards+=LengthPenalty", "--stages.lc.rewards.limit=3"]
    stages = yaml.safe_load(printed("fit", *line, "--print_config"))["stages"]
    assert [reward["class_path"] for reward in stages["lc"]["rewards"]] == [
        "expctr.LCAlignment",
        "expctr.LengthPenalty",
    ]
    assert stages["lc"]["rewards"][1]["init_args"]["limit"] == 3
    assert [reward["class_path"] for reward in stages["ic"]["rewards"]] == ["expctr.ICAlignment"]


def test_ctrl_c_says_how_to_go_on(world: World) -> None:
    outcome = expctr("fit", *world.options("interrupted"), *kill(0, 2, number=signal.SIGINT))
    assert outcome.code == 130
    resume = f"resume with expctr fit {world.folder / 'interrupted'}"
    assert outcome.output.splitlines()[-1] == f"stopped; saved as epoch=0000-batch=000003; {resume}"
    assert "saving after this batch" in outcome.output
    assert "Traceback" not in outcome.output
    assert "epoch=0000-batch=000003.ckpt" in saved(world, "interrupted")


def test_a_second_ctrl_c_stops_at_once(world: World) -> None:
    twice = [*kill(0, 1, number=signal.SIGINT), *kill(0, 1, number=signal.SIGINT)]
    outcome = expctr("fit", *world.options("interrupted-at-once"), *twice)
    assert outcome.code == 130
    assert outcome.output.splitlines()[-1] == "stopped"
    assert saved(world, "interrupted-at-once") == []


def test_sigterm_in_validation_saves_after_it_and_stops(world: World) -> None:
    options = world.options("terminated")
    outcome = expctr("fit", *options, *kill(0, 1, where="validation", number=signal.SIGTERM))
    assert outcome.code == 128 + signal.SIGTERM
    assert saved(world, "terminated")[-1] == "epoch=0001-batch=000000.ckpt"
    assert "Traceback" not in outcome.output


def test_sigusr1_saves_and_goes_on(run: Path, world: World) -> None:
    one_stage = ["--stages.rounds=0", "--checkpoint.keep=9"]
    expctr("fit", *world.options("saved"), *one_stage, *kill(0, 2, number=signal.SIGUSR1)).ok()
    assert [name[11:23] for name in saved(world, "saved")] == [f"batch={n:06d}" for n in (2, 3, 4, 0)]


@pytest.mark.parametrize(
    "plugins", [[], ["--trainer.plugins+=SLURMEnvironment"], ["--trainer.plugins=SLURMEnvironment"]]
)
def test_a_job_of_slurm_is_not_requeued(plugins: list[str], world: World) -> None:
    """SIGUSR1 means the same there as anywhere; Lightning would requeue the job and leave this to its own handler."""
    run = f"slurm{len(''.join(plugins))}"
    names = {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    (world.folder / run).mkdir()
    (world.folder / run / "hpc_ckpt_3.ckpt").write_bytes(b"another project's")  # which Lightning would load
    line = ["fit", *world.options(run), "--stages.rounds=0", *plugins, *kill(0, 2, number=signal.SIGUSR1)]
    output = expctr(*line, environ={f"SLURM_{name}": value for name, value in names.items()}).ok().output
    assert "requeue" not in output
    assert saved(world, run)[-1] == "epoch=0001-batch=000000.ckpt"


def test_a_task_of_several_that_trains_a_run_of_its_own_writes_its_curves(world: World) -> None:
    """Lightning takes SLURM's task for a rank when it is imported, and only rank 0 logs."""
    names = {"NTASKS": "2", "JOB_ID": "7", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "STEP_ID": "0", "NNODES": "1"}
    environ = {**os.environ, **ENVIRON, **{f"SLURM_{name}": value for name, value in names.items()}}
    line = [
        sys.executable,
        "-m",
        "expctr",
        "fit",
        *world.options("task 1"),
        "--stages.rounds=0",
        "--stages.lc.epochs=1",
    ]
    subprocess.run(line, env=environ, check=True, capture_output=True, timeout=LIMIT)
    assert [*(world.folder / "task 1").glob("events.*")]


def test_a_copied_run_with_a_link_to_the_same_checkpoints_is_not_trained_beside_it(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    (world.folder / "copied").mkdir()
    (world.folder / "copied" / "checkpoints").symlink_to(tmp_path / "scratch")
    with hold(tmp_path / "scratch"):
        outcome = expctr("fit", *world.options("copied"), "--stages.rounds=0")
    assert outcome.code == 2, outcome.output
    assert f"{tmp_path / 'scratch'} is being trained in by process" in outcome.output


def test_a_run_that_took_the_place_of_the_one_that_was_chosen_is_not_trained(tmp_path: Path) -> None:
    """A link that the next job has changed; both runs may have checkpoints of the same names."""
    one, other, latest = tmp_path / "one", tmp_path / "other", tmp_path / "latest"
    one.mkdir()
    other.mkdir()
    latest.symlink_to(other)
    cli = object.__new__(ExpCTRCLI)
    cli.model, cli._place, cli._found = L.LightningModule(), one.stat(), []
    cli.trainer = L.Trainer(accelerator="cpu", default_root_dir=latest, logger=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=r"latest is no longer the folder that this command began with"):
        cli.fit()


def saved(world: World, name: str) -> list[str]:
    return [path.name for path in checkpoints(world.folder / name / "checkpoints")]


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("fit", "# mine"),
        ("fit --ckpt_path=last", "# mine"),
        ("fit", "# lightning.pytorch==2"),
        ("validate", ""),
    ],
)
def test_a_config_of_the_user_s_own_is_not_replaced(command: str, first: str, world: World, tmp_path: Path) -> None:
    """Where the run's folder is that of a project; a command without checkpoint says what it lacks."""
    config = tmp_path / "config.yaml"
    config.write_text(written := f"{first}\n# my notes\n" + (CONF / "tiny.yaml").read_text())
    options = [option for option in world.paths(tmp_path) if "default_root_dir" not in option]
    command, *more = command.split()
    outcome = expctr(command, f"--config={config}", *options, f"--trainer.default_root_dir={tmp_path}", *more)
    assert outcome.code == 2, outcome.output
    said = "would be replaced by the run's own config.yaml" if command == "fit" else "there is no checkpoint in"
    assert said in outcome.output
    assert config.read_text() == written


def test_a_test_into_a_folder_of_its_own_may_be_repeated(run: Path, tmp_path: Path) -> None:
    """As where the job is queued again. Results of another run stay."""
    (tmp_path / "out").mkdir()
    options = [f"--config={run / 'config.yaml'}", f"--ckpt_path={checkpoints(run / 'checkpoints')[-1]}"]
    options += [f"--trainer.default_root_dir={tmp_path / 'out'}", "--results.examples=3"]
    for command, result in (("test", "table.json"), ("predict", "predictions.parquet")):
        expctr(command, *options).ok()
        made = (tmp_path / "out" / result).stat().st_mtime_ns
        expctr(command, *options).ok()
        assert (tmp_path / "out" / result).stat().st_mtime_ns > made
        (tmp_path / "out" / ".run").write_text("/another/run")
        outcome = expctr(command, *options)
        assert outcome.code == 2, outcome.output
        assert "is there, and is not of this run" in outcome.output
        (tmp_path / "out" / ".run").write_text(str(run.resolve()))


def test_a_config_that_another_run_does_not_take_is_not_replaced(world: World, tmp_path: Path) -> None:
    """Also where the run is asked to go on, and has no checkpoint."""
    (tmp_path / "config.yaml").write_text("# mine")
    options = [option for option in world.options("mine") if "default_root_dir" not in option]
    outcome = expctr("fit", *options, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last")
    assert outcome.code == 2, outcome.output
    assert "config.yaml is there, and is not of this run" in outcome.output
    assert (tmp_path / "config.yaml").read_text() == "# mine"


def test_a_finished_run_asked_to_go_on_stays_as_it_is(run: Path, world: World) -> None:
    before, config = curves(run), (run / "config.yaml").read_text()
    expctr("fit", *world.options("one"), "--ckpt_path=last", "--results.examples=3").ok()
    expctr("fit", run / ".." / run.name).ok()
    assert curves(run) == before
    assert (run / "config.yaml").read_text() == config


def test_validate_prints_and_changes_nothing(run: Path, world: World) -> None:
    before = sorted(run.rglob("*"))
    outcome = expctr("validate", *world.options("one")).ok()
    assert all(word in outcome.output for word in ("Validation", "AUC", "LogLoss", "ExpCTR-LLM", "ExpCTR-Aug"))
    assert sorted(run.rglob("*")) == before


def test_test_prints_and_writes_the_table(run: Path, world: World) -> None:
    outcome = expctr("test", *world.options("one")).ok()
    for word in (
        "ICL",
        "DeepFM",
        "ExpCTR-LLM",
        "ExpCTR-Aug",
        "(paper)",
        "before:",
        "after:",
        "Name the target's title",
    ):
        assert word in outcome.output
    table = json.loads((run / "table.json").read_text())
    assert all(table["systems"][name] for name in ("ICL", "DeepFM", "ExpCTR-LLM", "ExpCTR-Aug"))
    assert "ExpCTR-Aug" in (run / "table.md").read_text()
    assert "The plan is not finished" not in outcome.output
    assert pl.read_parquet(run / "explanations" / "examples.parquet").height == 2


def test_a_run_has_all_that_its_report_shows(run: Path) -> None:
    read = read_run(run)
    assert not [note for note in read.notes if "not of the same" in note or "No " in note]
    assert read.data["splits"]["test"]["samples"] == read.test.height == 12
    assert {"reward_lc", "reward_ic"} <= set(read.test.columns)
    titles = dict(pl.read_parquet(run / "samples.parquet").select("sample", "target_title").iter_rows())
    assert len(titles) == 60
    for stage in read.stages.values():
        assert stage["target"].to_list() == [titles[sample] for sample in stage["sample"]]
        assert stage["target"].str.starts_with("Film ").all()
    for name, label, s_u, reward in read.test.select("sample", "label", "s_u", "reward_lc").rows():
        assert reward == pytest.approx(1 - abs(label - s_u), abs=1e-6), name
    page = render([read])
    assert "Unknown" not in page
    assert all(f">{stage}</text>" in page for stage in ("LC", "IC 1", "IC 2"))


def test_test_says_where_an_unfinished_run_stands(world: World) -> None:
    options = world.options("unfinished")
    assert expctr("fit", *options, *kill(2, 2)).code == -9
    outcome = expctr("test", *options, "--data.init_args.paper_dataset=null").ok()
    said = " ".join(outcome.output.split())
    assert "The plan is not finished: this checkpoint was made in ctr1, epoch 3 of 9, after 2 batches" in said
    assert "(paper)" not in said


def test_a_ctr_model_begun_anew_does_not_count_as_trained(world: World) -> None:
    """Stopped in the second CTR stage, whose model starts from scratch."""
    options = world.options("second-ctr")
    assert expctr("fit", *options, *kill(6, 2)).code == -9
    outcome = expctr("test", *options).ok()
    assert "this checkpoint was made in ctr2, epoch 7 of 9" in " ".join(outcome.output.split())
    systems = json.loads((world.folder / "second-ctr" / "table.json").read_text())["systems"]
    assert systems["ExpCTR-LLM"]
    assert not systems["ExpCTR-Aug"]


def test_a_plan_that_begins_with_the_ctr_stage_trains_it_to_its_end(world: World) -> None:
    """Without explanations to read, and whatever is validated before and in between."""
    plan = ["--stages.lc.epochs=0", "--stages.rounds=1", "--stages.ctr.epochs=3", "--stages.ic.epochs=0"]
    for run, checks in (("ctr-first", 0), ("ctr-first-checked", 1)):
        expctr("fit", *world.options(run), *plan, f"--trainer.num_sanity_val_steps={checks}").ok()
    found, checked = (curves(world.folder / run) for run in ("ctr-first", "ctr-first-checked"))
    assert len(found["ctr/loss"]) == len(found["ctr/loss_without_text"]) == 9
    assert checked["ctr/loss"] == found["ctr/loss"]
    expctr("test", *world.options("ctr-first-checked"), *plan).ok()
    assert json.loads((world.folder / "ctr-first-checked" / "table.json").read_text())["systems"]["ExpCTR-Aug"]


def test_what_nothing_can_be_trained_validated_or_tested_on_is_refused(world: World) -> None:
    without = "--data.init_args.samples.fractions"
    outcome = expctr("fit", *world.options("no-train"), f"{without}=[0.0,0.5,0.5]")
    assert outcome.code == 2
    assert "error: there are no training rows. Fix: give data.samples.fractions a first share" in " ".join(
        outcome.output.split()
    )
    outcome = expctr("fit", *world.options("no-val"), f"{without}=[0.8,0.0,0.2]")
    assert outcome.code == 2
    assert "error: there are no validation rows, by which training stops early" in " ".join(outcome.output.split())
    options = [*world.options("no-test"), f"{without}=[0.8,0.2,0.0]", "--stages.rounds=0"]
    expctr("fit", *options).ok()
    outcome = expctr("test", *options)
    assert outcome.code == 2
    assert "error: there are no test rows" in outcome.output


def test_predict_on_the_test_split(run: Path, world: World) -> None:
    expctr("predict", *world.options("one")).ok()
    rows = pl.read_parquet(run / "predictions.parquet")
    tested = pl.read_parquet(run / "explanations" / "test.parquet")
    assert rows.height == 12
    assert rows["sample"].to_list() == tested["sample"].to_list()
    assert rows["explanation"].to_list() == tested["text"].to_list()
    assert rows["s_u"].to_list() == pytest.approx(tested["s_u"].to_list(), abs=1e-6)
    assert rows["s_r"].to_list() == pytest.approx(tested["s_r"].to_list(), abs=1e-6)
    assert rows["target_title"].str.starts_with("Film ").all()


def test_predict_asks_for_a_place_before_it_scores(run: Path, world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    newest, place = checkpoints(run / "checkpoints")[-1], tmp_path / "file" / "run"
    line = ["predict", *world.options(place), f"--ckpt_path={newest}", *kill(0, 0, where="predict")]
    outcome = expctr(*line)
    assert outcome.code == 2, outcome.output
    said = f"error: {place}: Not a directory, so the results cannot be written there. Fix: give another folder"
    assert said in outcome.output


def test_predict_on_people_no_vocabulary_knows(run: Path, world: World, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text(
        'liked_titles,disliked_titles,target_title,user\nHeat|Fargo,Casper,Alien,ann\n,,"Film 2, The",bob\n'
    )
    (tmp_path / "latest").symlink_to(run)  # which may lead elsewhere at the end
    options = [f"--data.init_args.people={people}", f"--trainer.default_root_dir={tmp_path / 'latest'}"]
    output = expctr("predict", *world.options("one"), *options).ok().output.split()
    assert str(run / "predictions.parquet") in "".join(output)
    assert "of no item, or of several: 3 titles of histories and 1 target, such as 'Heat'" in " ".join(output)
    rows = pl.read_parquet(run / "predictions.parquet")
    found = [("ann", "", "Alien"), ("bob", "2", "Film 2, The")]  # a title that is known keeps its id
    assert rows.select("user", "target", "target_title").rows() == found
    assert {"sample", "explanation", "s_u", "s_r"} <= set(rows.columns)
    assert rows.select(pl.col("s_u", "s_r").is_between(0, 1).all()).row(0) == (True, True)


def test_deepfm_alone_trains_stops_early_resumes_and_tests(world: World) -> None:
    options = [
        f"--config={CONFIGS / 'baseline.yaml'}",
        "--model.backbone=DeepFM",
        f"--data.init_args.path={world.folder / 'movielens'}",
        f"--data.init_args.cache_dir={world.folder / 'cache'}",
        "--data.init_args.ctr_batch_size=16",
        "--data.init_args.samples.targets_per_user=5",
        "--model.init_args.options.lr=0.05",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    run = f"--trainer.default_root_dir={world.folder / 'deepfm'}"
    trained = expctr("fit", *options, run).ok().output
    assert "deepfm, with its best weights, of 3 validations before the end. Next: " in trained
    found = curves(world.folder / "deepfm")
    assert 3 < len(found["val/logloss"]) < 200
    best = min(values[-1] for values in found["val/logloss"].values())
    tested = expctr("test", *options, run).ok().output
    assert "test/auc" in tested
    table = json.loads((world.folder / "deepfm" / "table.json").read_text())
    names = [*(system.name for system in SIMPLE), "DeepFM"]
    assert list(table["systems"]) == names
    auc = table["systems"]["DeepFM"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    assert "| DeepFM |" in (world.folder / "deepfm" / "table.md").read_text()
    expctr("predict", *options, run).ok()
    rows = pl.read_parquet(world.folder / "deepfm" / "predictions.parquet")
    assert rows.height == table["rows"]
    assert {"sample", "user", "target", "target_title", "score"} == set(rows.columns)
    scores = pl.read_parquet(world.folder / "deepfm" / "scores.parquet")
    assert scores.columns == ["sample", "user", "label", *names]
    assert scores.select("sample", "user").equals(rows.select("sample", "user"))
    assert table["users"] == scores["user"].n_unique() < table["rows"]
    loaded = Predictor.load(world.folder / "deepfm")  # by its best weights, as the test
    asked = loaded.score(rows.select(pl.col("user", "target").cast(pl.String)).rename({"target": "item"}))
    assert asked["score"].to_list() == pytest.approx(rows["score"].to_list(), abs=1e-6)
    validated = expctr("validate", *options, run).ok().output
    assert f"{best}"[:8] in validated

    again = f"--trainer.default_root_dir={world.folder / 'deepfm-again'}"
    assert expctr("fit", *options, again, *kill(2, 3)).code == -9
    expctr("fit", *options, again, "--ckpt_path=last").ok()
    resumed = curves(world.folder / "deepfm-again")
    assert resumed["val/logloss"] == found["val/logloss"]
