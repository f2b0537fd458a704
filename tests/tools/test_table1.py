"""Table 1: what is searched, what is compared, how it is marked, and that a second call fills in what is missing."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from running import CONF, ENVIRON, World
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from expctr.data.datamodules import MovieLensDataModule
from expctr.evaluation.table import ResultTable
from expctr.metrics import bootstrap, ctr_metrics, holm
from expctr.systems import METRICS, SIMPLE
from tools import runs, search, table1, table1_results
from tools.table1_results import PUBLISHED, SEARCHED, compare, gather, write

ROWS = 300


def labels() -> Tensor:
    return (torch.rand(ROWS, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def scores(skill: float, seed: int) -> Tensor:
    """Return scores between chance and the label."""
    return skill * labels() + (1 - skill) * torch.rand(ROWS, generator=torch.Generator().manual_seed(seed))


def made(folder: Path, systems: dict[str, Tensor], truth: Tensor | None = None, rows_each: int = 3) -> None:
    """Make a run folder as `expctr test` and the tool leave it; each user has `rows_each` rows."""
    truth = labels() if truth is None else truth
    warm = torch.arange(ROWS) < 200
    slices = {"warm users": warm, "cold users": ~warm}
    ResultTable.from_scores(systems, truth, 0.5, slices=slices, resamples=10).write(folder)
    columns = {name: values.double().numpy() for name, values in systems.items()}
    users = [f"u{i // rows_each}" for i in range(ROWS)]
    frame = pl.DataFrame({"sample": range(ROWS), "user": users, "label": truth.long().numpy(), **columns})
    frame.write_parquet(folder / "scores.parquet")
    (folder / "run.json").write_text(json.dumps({"seconds": 3.0}))


def fitted(folder: Path, *validations: tuple[float, float]) -> None:
    """Write the validations of a fit, each with LogLoss and AUC, as Lightning logs them."""
    with SummaryWriter(str(folder)) as writer:
        for step, (logloss, auc) in enumerate(validations):
            writer.add_scalar("val/logloss", logloss, step)
            writer.add_scalar("val/auc", auc, step)


def world(out: Path, aug: float = 0.5) -> None:
    """Make runs of FM, DIN and ExpCTR; FM is the better one by validation LogLoss, DIN by AUC."""
    for seed in (0, 1):
        made(out / f"FM-{seed}", {"FM": scores(0.1, seed)})
        made(out / f"DIN-{seed}", {"DIN": scores(0.2, 10 + seed)})
        fitted(out / f"FM-{seed}", (0.60, 0.70), (0.61, 0.72))
        fitted(out / f"DIN-{seed}", (0.65, 0.74), (0.62, 0.71))
        ours = {"ExpCTR-LLM": scores(0.15, 20 + seed), "ExpCTR-Aug": scores(aug, 30 + seed)}
        made(out / f"ExpCTR-{seed}", ours)


def test_means_over_seeds_and_intervals_around_them(tmp_path: Path) -> None:
    world(tmp_path)
    rows = gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path)
    assert list(rows) == ["FM", "DIN", "ExpCTR-LLM", "ExpCTR-Aug"]
    single = [ctr_metrics(scores(0.2, 10 + seed), labels(), torch.arange(ROWS) // 3) for seed in (0, 1)]
    for metric in METRICS:
        assert rows["DIN"].mean(metric) == pytest.approx(sum(one[metric] for one in single) / 2)
        low, high = rows["DIN"].interval(metric)
        assert low < (rows["DIN"].mean(metric) if metric != "ece" else high) <= high  # whose intervals lie lower
    assert rows["DIN"].seconds == 3
    assert rows["DIN"].slices.keys() == {"warm users", "cold users"}


@pytest.mark.parametrize(("monitor", "chosen"), [("logloss", "FM"), ("auc", "DIN")])
def test_the_opponent_is_the_best_on_the_validation_rows(tmp_path: Path, monitor: str, chosen: str) -> None:
    world(tmp_path)
    rows = gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, monitor)
    assert rows["DIN"].mean("auc") > rows["FM"].mean("auc")  # on the test rows, which have no say
    compared = compare(rows, monitor)
    assert compared["best_on_validation"] == chosen
    assert list(compared["against"]) == [chosen]
    assert compare({"FM": rows["FM"]}, monitor) == {}


def test_a_counting_baseline_can_be_the_opponent(tmp_path: Path) -> None:
    counted = {system.name: scores(0.3, 9) for system in SIMPLE}
    made(tmp_path / "FM-0", counted | {"FM": scores(0.1, 0)})
    made(tmp_path / "ExpCTR-0", counted | {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.5, 4)})
    fitted(tmp_path / "FM-0", (0.6, 0.7))
    known = {SIMPLE[0].name: {"auc": 0.6, "logloss": 0.65}, SIMPLE[1].name: {"auc": 0.7, "logloss": 0.59}}
    rows = gather(["FM", "ExpCTR"], [0], tmp_path, "logloss", known)
    assert compare(rows, "logloss")["best_on_validation"] == SIMPLE[1].name


@pytest.mark.parametrize(("aug", "sure"), [(0.5, True), (0.2, False)])
def test_p_values_are_adjusted_over_all_tests(tmp_path: Path, aug: float, sure: bool) -> None:
    world(tmp_path, aug)
    rows = gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, "auc")
    rows["DeepFM + title"] = rows["FM"]._replace(validation={})
    against = compare(rows, "auc")["against"]
    assert list(against) == ["DIN", "DeepFM + title"]
    gain = rows["ExpCTR-Aug"].mean("auc") - rows["DIN"].mean("auc")
    assert against["DIN"]["difference"]["auc"] == pytest.approx(gain)
    raw, adjusted = (
        [against[name][part][metric] for name in against for metric in PUBLISHED] for part in ("p", "p_adjusted")
    )
    assert adjusted == holm(raw)
    assert len(raw) == 8
    assert (against["DIN"]["p_adjusted"]["auc"] < 0.05) is sure


def test_best_and_best_baseline_are_marked_as_in_the_paper(tmp_path: Path) -> None:
    world(tmp_path)
    rows = gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path)
    paper = {"FM": (0.6, 0.7, 0.5, 0.5), "ICL": (0.61, 0.69, 0.51, 0.49), "ExpCTR-Aug": (0.7, 0.6, 0.4, 0.4)}
    write(rows, paper, [0, 1], "logloss", {}, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert f"| ExpCTR-Aug | **{rows['ExpCTR-Aug'].mean('auc'):.4f}** ± " in text
    assert f"| DIN | <u>{rows['DIN'].mean('auc'):.4f}</u> ± " in text
    assert "| ICL | <u>0.6100</u> | <u>0.6900</u> | 0.5100 | <u>0.4900</u> |" in text
    assert "| FM | 0.6000 | 0.7000 | <u>0.5000</u> | 0.5000 |" in text
    assert "| ExpCTR-Aug | **0.7000** | **0.6000** | **0.4000** | **0.4000** |" in text
    assert (
        "FM is the best baseline by validation LogLoss. P-values are adjusted by Holm's method over the 4 tests" in text
    )
    written = json.loads((tmp_path / "table1.json").read_text())
    assert written["rows"]["FM"]["metrics"]["auc"]["seeds"] == rows["FM"].values["auc"]
    assert written["rows"]["FM"]["validation"] == pytest.approx({"logloss": 0.6, "auc": 0.7})
    assert written["paper"]["ICL"]["rmse"] == 0.49
    assert Image.open(tmp_path / "table1.png").size[0] > 800


def test_the_spread_over_seeds_is_half_the_range(tmp_path: Path) -> None:
    world(tmp_path)
    row = gather(["FM"], [0, 1], tmp_path)["FM"]
    low, high = row.interval("ece")
    half = abs(row.values["ece"][0] - row.values["ece"][1]) / 2
    shown = table1_results.cell(row, "ece", ("", ""), "FM")
    assert shown == f"{row.mean('ece'):.4f} ± {half:.4f} ({low:.3f}–{high:.3f})"


def test_runs_on_different_rows_are_not_averaged(tmp_path: Path) -> None:
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})
    made(tmp_path / "FM-1", {"FM": scores(0.1, 1)}, 1 - labels())
    with pytest.raises(SystemExit, match="FM-1 were tested on different rows"):
        gather(["FM"], [0, 1], tmp_path)


def test_intervals_and_p_values_are_over_users(tmp_path: Path) -> None:
    """Users with 20 rows of one label each: there are 15 of them, not 300."""
    truth = (torch.arange(ROWS) // 20 % 2).float()
    skilled = {0: 0.05 * truth + 0.95 * scores(0, 1), 1: 0.15 * truth + 0.85 * scores(0, 2)}
    found = {}
    for each in (1, 20):
        out = tmp_path / str(each)
        made(out / "FM-0", {"FM": skilled[0]}, truth, each)
        made(out / "ExpCTR-0", {"ExpCTR-LLM": skilled[1], "ExpCTR-Aug": skilled[1]}, truth, each)
        found[each] = gather(["FM", "ExpCTR"], [0], out)
        numbers = torch.arange(ROWS) // each
        drawn = bootstrap(skilled[0].double(), truth, numbers)
        torch.testing.assert_close(found[each]["FM"].draws, drawn, equal_nan=True)  # some draws have one label only
    wide, narrow = (found[each]["FM"].interval("mae") for each in (20, 1))
    values = [dict(found[each]["FM"].values) for each in (20, 1)]
    assert all(math.isnan(one.pop("gauc")[0]) for one in values)  # no user has both labels
    assert values[0] == values[1]
    assert wide != narrow
    write(found[20], {}, [0], "logloss", {}, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "One seed, with 95% bootstrap intervals over the test users." in text
    assert len(cells := next(line for line in text.splitlines() if line.startswith("| FM |")).split(" | ")) == 9
    assert cells[1 + [*METRICS].index("gauc")] == "-"
    written = json.loads((tmp_path / "table1.json").read_text())
    assert written["rows"]["FM"]["metrics"]["gauc"] == {"mean": None, "interval": [None, None], "seeds": [None]}


def test_runs_of_an_older_version_are_refused_with_the_fix(tmp_path: Path) -> None:
    world(tmp_path)
    path = tmp_path / "FM-1" / "scores.parquet"
    pl.read_parquet(path).drop("user").write_parquet(path)
    with pytest.raises(SystemExit, match=r"scores.parquet of FM-1 has no column user.*expctr test --config RUN/config"):
        gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path)


def test_every_row_has_a_config() -> None:
    for path in table1.CONFIGS.values():
        config = yaml.safe_load(path.read_text())
        assert config["data"]["class_path"] == MovieLensDataModule.__name__


def test_a_slice_of_few_rows_has_a_count_but_no_auc_and_a_missing_run_no_row(tmp_path: Path) -> None:
    rare = torch.arange(ROWS) % 20 == 0  # 10 of the warm rows are positive, 5 of the cold ones
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)}, rare.float())
    rows = gather(["FM", "DIN"], [0], tmp_path)
    assert list(rows) == ["FM"]
    write(rows, {}, [0], "logloss", {}, tmp_path)
    warm = rows["FM"].slices["warm users"][0]
    text = (tmp_path / "table1.md").read_text()
    assert f"| FM | {warm:.4f} | - | - | - |" in text
    assert f"| warm users (200) | cold users ({ROWS - 200}) | warm items (0) | cold items (0) |" in text
    assert "a dash for fewer than 50 rows or 10 of a label" in text


def test_what_reads_our_explanations_is_no_baseline(tmp_path: Path) -> None:
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})
    made(tmp_path / "FM-explained-0", {"FM": scores(0.6, 2)})
    made(tmp_path / "ExpCTR-0", {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.3, 4)})
    fitted(tmp_path / "FM-0", (0.6, 0.7))
    fitted(tmp_path / "FM-explained-0", (0.5, 0.8))
    rows = gather(["FM", "FM-explained", "ExpCTR"], [0], tmp_path)
    assert list(rows) == ["FM", "FM + explanations", "ExpCTR-LLM", "ExpCTR-Aug"]
    write(rows, {}, [0], "logloss", {}, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert f"| FM | <u>{rows['FM'].mean('auc'):.4f}</u>" in text
    assert f"| FM + explanations | **{rows['FM + explanations'].mean('auc'):.4f}**" in text
    assert compare(rows, "logloss")["best_on_validation"] == "FM"


def test_comparison_models_are_rows_and_opponents_that_need_no_choice(tmp_path: Path) -> None:
    ours = {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.3, 4)}
    beside = {"DIN + title": scores(0.2, 5), "DIN + untrained sentences": scores(0.25, 6)}
    made(tmp_path / "ExpCTR-0", {"DIN": scores(0.1, 1), **ours, **beside})
    made(tmp_path / "ExpCTR-searched-0", {"DIN": scores(0.4, 7)})
    rows = gather(["ExpCTR", "ExpCTR-searched"], [0], tmp_path)
    assert list(rows) == [*beside, *ours, SEARCHED]
    compared = compare(rows, "logloss")
    assert compared["ours"] == SEARCHED  # the baselines are searched, too
    assert compared["best_on_validation"] is None
    assert list(compared["against"]) == [*beside]


def test_the_simple_baselines_come_first_from_the_first_runs_that_have_them(tmp_path: Path) -> None:
    counted = {system.name: scores(skill, 9) for system, skill in zip(SIMPLE, (0.3, 0.4), strict=True)}
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})  # of an older version
    made(tmp_path / "DIN-0", counted | {"DIN": scores(0.2, 1)})
    made(tmp_path / "ExpCTR-0", counted | {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.5, 4)})
    rows = gather(["FM", "DIN", "ExpCTR"], [0], tmp_path)
    assert list(rows) == [*counted, "FM", "DIN", "ExpCTR-LLM", "ExpCTR-Aug"]
    for name, values in counted.items():
        assert rows[name].values["auc"] == [ctr_metrics(values.double(), labels())["auc"]]


def test_explanations_need_their_writer() -> None:
    with pytest.raises(SystemExit):
        table1.parse(["--config", "c.yaml", "--rows", "FM", "--explained"])


# --- which runs


def own(*words: str) -> argparse.Namespace:
    return table1.parse(["--config", "c.yaml", *words])[0]


Calls = list[tuple[Path, list[str], tuple[str, ...]]]
CONFIG = {"model": {"init_args": {"ctr": {"init_args": {"backbone": {"init_args": {"embedding_dim": 10}}}}}}}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Commands that would run, with their folders and options; a trial with lr=0.0003 validates best."""
    calls: Calls = []

    def play(commands: tuple[str, ...], folder: Path, *args: object) -> None:
        calls.append((folder, [str(arg) for arg in args], commands))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"done": True}))
        fitted(folder, (0.6 if "--model.options.lr=0.0003" in args else 0.7, 0.5))

    monkeypatch.setattr(table1, "run_once", play)
    return calls


def play_all(line: argparse.Namespace, out: Path) -> list[str]:
    """Run all groups of a plan, and return the titles of those that are not empty."""
    titles = []
    for title, jobs in table1.plan(line, ["--config=c.yaml"], CONFIG, out):
        titles += [title] if jobs else []
        for job in jobs.values():
            job()
    return titles


def test_all_rows_stop_by_the_same_metric(tmp_path: Path, played: Calls) -> None:
    rows = ["FM", "TALLRec", "ICL", "ExpCTR"]
    assert play_all(own("--rows", *rows, "--monitor", "auc", "--explained"), tmp_path) == ["rows", "with explanations"]
    found = {folder.name: [arg for arg in args if "monitor" in arg] for folder, args, _ in played}
    plain = ["--model.options.monitor=auc"]
    nested = ["--model.init_args.ctr.init_args.options.monitor=auc"]
    assert found == {"TALLRec-0": plain, "ICL-0": [], "ExpCTR-0": nested, "FM-0": plain, "FM-explained-0": plain}
    assert {folder.name: commands for folder, _, commands in played}["ICL-0"] == ("fit", "validate", "test")


def test_the_best_trial_gives_the_settings_of_all_seeds(tmp_path: Path, played: Calls) -> None:
    line = own("--rows", "FM", "ExpCTR", "--search", "4", "--seeds", "5", "6")
    assert play_all(line, tmp_path) == ["search", "rows", "search with explanations", "with explanations"]
    tried = [(folder.name, commands) for folder, _, commands in played if folder.parent.name == "search"]
    assert tried == [(f"{row}-{i}", ("fit",)) for row in ("FM", "ExpCTR-searched") for i in range(4)]
    assert all("--seed_everything=5" in args for folder, args, _ in played if folder.parent.name == "search")
    found = table1.searches(["FM", "ExpCTR-searched"], line, CONFIG, tmp_path)
    assert list(found) == ["FM", "ExpCTR-searched"]
    for row, result in found.items():
        assert result.best["options.lr"] == 0.0003
        of_row = [args for folder, args, _ in played if folder.name in (f"{row}-5", f"{row}-6")]
        assert len(of_row) == 2
        assert all(args[-len(result.best) :] == search.as_options(result.best) for args in of_row)
    assert not any("--model.options" in arg for folder, args, _ in played if folder.name == "ExpCTR-5" for arg in args)
    assert f"--model.explanations={tmp_path / 'ExpCTR-6'}" in next(
        args for folder, args, _ in played if folder.name == "ExpCTR-searched-6"
    )


def test_trials_are_the_same_for_models_with_the_same_options() -> None:
    few, many = (search.draw_settings(["dropout", "embedding_dim"], number) for number in (3, 6))
    assert many[:3] == few
    assert few[0] == {}  # the config's own
    assert len({tuple(one.items()) for one in many}) == 6
    assert all(value in search.GRID[name] for one in many for name, value in one.items())
    assert "backbone.dropout" not in search.draw_settings(["embedding_dim"], 2)[1]


def test_a_fit_is_scored_where_its_weights_are_kept(tmp_path: Path) -> None:
    fitted(tmp_path / "run", (0.6, 0.7), (0.5, 0.65), (0.55, 0.8))
    assert runs.validation(tmp_path / "run", "logloss") == pytest.approx({"logloss": 0.5, "auc": 0.65})
    assert runs.validation(tmp_path / "run", "auc") == pytest.approx({"logloss": 0.55, "auc": 0.8})
    (tmp_path / "none").mkdir()
    assert runs.validation(tmp_path / "none", "auc") == {}


@pytest.mark.slow
def test_from_a_config_to_the_table(world: World, tmp_path: Path) -> None:
    """Also ExpCTR with another model than DeepFM, and other models on its explanations."""
    paths = [path for path in world.paths("") if "default_root_dir" not in path]
    options = ["--rows", "FM", "ICL", "TALLRec", "ExpCTR", "--explained", "--search", "2", f"--out={tmp_path / 'out'}"]
    line = [*options, "--", *paths, "--model.init_args.ctr.init_args.backbone=DIN"]
    command = [sys.executable, "-m", "tools.table1", f"--config={CONF / 'tiny.yaml'}", *line]
    environ = os.environ | ENVIRON
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((tmp_path / "out" / "table1.json").read_text())
    rows = [
        *(system.name for system in SIMPLE),
        "FM",
        "FM + explanations",
        "ICL",
        "TALLRec",
        "DIN + title",
        "ExpCTR-LLM",
        "ExpCTR-Aug",
        SEARCHED,
    ]
    assert list(written["rows"]) == rows
    assert written["compared"]["best_on_validation"] in [*rows[:2], "FM", "ICL", "TALLRec"]
    assert all(written["rows"][name]["validation"] for name in [*rows[:2], "FM", "ICL", "TALLRec"])
    assert list(written["compared"]["against"])[1:] == ["DIN + title"]
    assert list(written["search"]) == ["FM", "FM-explained", "ExpCTR-searched"]
    assert "DIN" in runs.table(tmp_path / "out" / "ExpCTR-0")["systems"]
    scored = tmp_path / "out" / "FM-0" / "scores.parquet"
    stamp = scored.stat().st_mtime_ns
    subprocess.run(command, capture_output=True, text=True, env=environ, check=True)  # nothing is run twice
    assert scored.stat().st_mtime_ns == stamp
