"""Table 1: what is compared, how it is marked, and that a second call fills in what is missing."""

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

from expctr.data.datamodules import MovieLensDataModule
from expctr.evaluation.table import ResultTable
from expctr.metrics import bootstrap, ctr_metrics
from expctr.systems import METRICS, SIMPLE
from tools import table1

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


def world(out: Path, aug: float = 0.5) -> None:
    for seed in (0, 1):
        made(out / f"FM-{seed}", {"FM": scores(0.1, seed)})
        made(out / f"DIN-{seed}", {"DIN": scores(0.2, 10 + seed)})
        ours = {"ExpCTR-LLM": scores(0.15, 20 + seed), "ExpCTR-Aug": scores(aug, 30 + seed)}
        made(out / f"ExpCTR-{seed}", ours)


def test_means_over_seeds_and_intervals_around_them(tmp_path: Path) -> None:
    world(tmp_path)
    rows = table1.gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, False)
    assert list(rows) == ["FM", "DIN", "ExpCTR-LLM", "ExpCTR-Aug"]
    single = [ctr_metrics(scores(0.2, 10 + seed), labels(), torch.arange(ROWS) // 3) for seed in (0, 1)]
    for metric in METRICS:
        assert rows["DIN"].mean(metric) == pytest.approx(sum(one[metric] for one in single) / 2)
        low, high = rows["DIN"].interval(metric)
        assert low < (rows["DIN"].mean(metric) if metric != "ece" else high) <= high  # whose intervals lie lower
    assert rows["DIN"].seconds == 3
    assert rows["DIN"].slices.keys() == {"warm users", "cold users"}


@pytest.mark.parametrize(("aug", "sure"), [(0.5, True), (0.2, False)])
def test_ours_is_compared_with_the_best_baseline(tmp_path: Path, aug: float, sure: bool) -> None:
    world(tmp_path, aug)
    rows = table1.gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, False)
    compared = table1.compare(rows)
    assert compared["baseline"] == "DIN"
    gain = rows["ExpCTR-Aug"].mean("auc") - rows["DIN"].mean("auc")
    assert compared["difference"]["auc"] == pytest.approx(gain)
    assert (compared["p"]["auc"] < 0.01) is sure
    assert table1.compare({"FM": rows["FM"]}) == {}


def test_best_and_best_baseline_are_marked_as_in_the_paper(tmp_path: Path) -> None:
    world(tmp_path)
    rows = table1.gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, False)
    paper = {"FM": (0.6, 0.7, 0.5, 0.5), "ICL": (0.61, 0.69, 0.51, 0.49), "ExpCTR-Aug": (0.7, 0.6, 0.4, 0.4)}
    table1.write(rows, paper, [0, 1], tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert f"| ExpCTR-Aug | **{rows['ExpCTR-Aug'].mean('auc'):.4f}** (" in text
    assert f"| DIN | <u>{rows['DIN'].mean('auc'):.4f}</u> (" in text
    assert "| ICL | <u>0.6100</u> | <u>0.6900</u> | 0.5100 | <u>0.4900</u> |" in text
    assert "| FM | 0.6000 | 0.7000 | <u>0.5000</u> | 0.5000 |" in text
    assert "| ExpCTR-Aug | **0.7000** | **0.6000** | **0.4000** | **0.4000** |" in text
    written = json.loads((tmp_path / "table1.json").read_text())
    assert written["rows"]["FM"]["metrics"]["auc"]["seeds"] == rows["FM"].values["auc"]
    assert written["paper"]["ICL"]["rmse"] == 0.49
    assert Image.open(tmp_path / "table1.png").size[0] > 800


def test_runs_on_different_rows_are_not_averaged(tmp_path: Path) -> None:
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})
    made(tmp_path / "FM-1", {"FM": scores(0.1, 1)}, 1 - labels())
    with pytest.raises(SystemExit, match="FM-1 were tested on different rows"):
        table1.gather(["FM"], [0, 1], tmp_path, False)


def test_intervals_and_p_values_are_over_users(tmp_path: Path) -> None:
    """Users with 20 rows of one label each: there are 15 of them, not 300."""
    truth = (torch.arange(ROWS) // 20 % 2).float()
    skilled = {0: 0.05 * truth + 0.95 * scores(0, 1), 1: 0.15 * truth + 0.85 * scores(0, 2)}
    found = {}
    for each in (1, 20):
        out = tmp_path / str(each)
        made(out / "FM-0", {"FM": skilled[0]}, truth, each)
        made(out / "ExpCTR-0", {"ExpCTR-LLM": skilled[1], "ExpCTR-Aug": skilled[1]}, truth, each)
        found[each] = table1.gather(["FM", "ExpCTR"], [0], out, False)
        numbers = torch.arange(ROWS) // each
        drawn = bootstrap(skilled[0].double(), truth, numbers)
        torch.testing.assert_close(found[each]["FM"].draws, drawn, equal_nan=True)  # some draws have one label only
    wide, narrow = (found[each]["FM"].interval("mae") for each in (20, 1))
    values = [dict(found[each]["FM"].values) for each in (20, 1)]
    assert all(math.isnan(one.pop("gauc")[0]) for one in values)  # no user has both labels
    assert values[0] == values[1]
    assert wide != narrow
    table1.write(found[20], {}, [0], tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "95% bootstrap intervals over the test users." in text
    assert "by a paired bootstrap over the test users:" in text


def test_runs_of_an_older_version_are_refused_with_the_fix(tmp_path: Path) -> None:
    world(tmp_path)
    path = tmp_path / "FM-1" / "scores.parquet"
    pl.read_parquet(path).drop("user").write_parquet(path)
    with pytest.raises(SystemExit, match=r"scores.parquet of FM-1 has no column user.*expctr test --config RUN/config"):
        table1.gather(["FM", "DIN", "ExpCTR"], [0, 1], tmp_path, False)


def test_every_row_has_a_config() -> None:
    for path in table1.CONFIGS.values():
        config = yaml.safe_load(path.read_text())
        assert config["data"]["class_path"] == MovieLensDataModule.__name__


def test_a_slice_of_one_class_has_no_auc_and_a_missing_run_no_row(tmp_path: Path) -> None:
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})
    content = json.loads((tmp_path / "FM-0" / "table.json").read_text())
    content["slices"]["cold users"]["systems"]["FM"]["auc"]["value"] = None
    (tmp_path / "FM-0" / "table.json").write_text(json.dumps(content))
    rows = table1.gather(["FM", "DIN"], [0], tmp_path, False)
    assert list(rows) == ["FM"]
    table1.write(rows, {}, [0], tmp_path)
    warm = rows["FM"].slices["warm users"][0]
    text = (tmp_path / "table1.md").read_text()
    assert f"| FM | {warm:.4f} | - | - | - |" in text
    assert f"| warm users (200) | cold users ({ROWS - 200}) | warm items (0) | cold items (0) |" in text


def test_what_reads_our_explanations_is_no_baseline(tmp_path: Path) -> None:
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})
    made(tmp_path / "FM-explained-0", {"FM": scores(0.6, 2)})
    made(tmp_path / "ExpCTR-0", {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.3, 4)})
    rows = table1.gather(["FM", "ExpCTR"], [0], tmp_path, True)
    assert list(rows) == ["FM", "FM + explanations", "ExpCTR-LLM", "ExpCTR-Aug"]
    table1.write(rows, {}, [0], tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert f"| FM | <u>{rows['FM'].mean('auc'):.4f}</u>" in text
    assert f"| FM + explanations | **{rows['FM + explanations'].mean('auc'):.4f}**" in text
    assert table1.compare(rows)["baseline"] == "FM"


def test_the_simple_baselines_come_first_from_the_first_runs_that_have_them(tmp_path: Path) -> None:
    counted = {system.name: scores(skill, 9) for system, skill in zip(SIMPLE, (0.3, 0.4), strict=True)}
    made(tmp_path / "FM-0", {"FM": scores(0.1, 0)})  # of an older version
    made(tmp_path / "DIN-0", counted | {"DIN": scores(0.2, 1)})
    made(tmp_path / "ExpCTR-0", counted | {"ExpCTR-LLM": scores(0.2, 3), "ExpCTR-Aug": scores(0.5, 4)})
    rows = table1.gather(["FM", "DIN", "ExpCTR"], [0], tmp_path, False)
    assert list(rows) == [*counted, "FM", "DIN", "ExpCTR-LLM", "ExpCTR-Aug"]
    for name, values in counted.items():
        assert rows[name].values["auc"] == [ctr_metrics(values.double(), labels())["auc"]]
    assert table1.compare(rows)["baseline"] == SIMPLE[1].name


def test_explanations_need_their_writer() -> None:
    with pytest.raises(SystemExit):
        table1.parse(["--config", "c.yaml", "--rows", "FM", "--explained"])


@pytest.mark.slow
def test_from_a_config_to_the_table(world: World, tmp_path: Path) -> None:
    """Also ExpCTR with another model than DeepFM, and other models on its explanations."""
    paths = [path for path in world.paths("") if "default_root_dir" not in path]
    options = ["--rows", "FM", "ICL", "TALLRec", "ExpCTR", "--explained", f"--out={tmp_path / 'out'}"]
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
        "ExpCTR-LLM",
        "ExpCTR-Aug",
    ]
    assert list(written["rows"]) == rows
    assert written["compared"]["baseline"] in [*rows[:2], "FM", "ICL", "TALLRec"]
    assert "DIN" in table1.table(tmp_path / "out" / "ExpCTR-0")["systems"]
    scored = tmp_path / "out" / "FM-0" / "scores.parquet"
    stamp = scored.stat().st_mtime_ns
    subprocess.run(command, capture_output=True, text=True, env=environ, check=True)  # nothing is run twice
    assert scored.stat().st_mtime_ns == stamp
