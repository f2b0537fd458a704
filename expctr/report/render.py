"""`expctr report RUN [RUN ...]`: what runs came to, as one HTML file that needs nothing else."""

import argparse
import base64
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expctr.errors import UserError
from expctr.report import figures, sections
from expctr.report.answers import Answer, answers, sentence
from expctr.report.figures import Mark, Row
from expctr.report.rows import LETTERS, browser
from expctr.report.run import Run, names_users, read_run, section

_SECTIONS = {
    "metrics": "Metrics",
    "training": "Training",
    "scores": "Calibration",
    "audit": "Audit",
    "quality": "Sentences",
    "explanations": "Explanations",
    "slices": "Warm and cold",
    "alarms": "Alarms",
    "data": "Data",
    "config": "Config",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; `args` in place of `sys.argv`, for tests."""
    parser = argparse.ArgumentParser(
        prog="expctr report",
        description="Write what a run came to as one HTML file that needs no network: metrics beside the paper's, "
        "curves, calibration, audit, the explanations before and after training, data and config. What a run has not "
        "got yet, such as a test, is left out and named.",
        epilog="Several runs are drawn over each other and their options compared.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder (trainer.default_root_dir)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file; RUN/report.html by default, ./report.html of several runs"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=20_000,
        metavar="N",
        help="explanations in the file at most, those of the test first (default: 20000)",
    )
    given = parser.parse_args(args)
    try:
        if given.rows < 1:
            raise UserError(f"--rows must be at least 1, not {given.rows}")
        runs = read_runs(given.runs)
        out = given.out or (given.runs[0] if len(runs) == 1 else Path()) / "report.html"
        write(out, render(runs, given.rows))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    for run in runs:
        for note in run.notes:
            print(f"{run.name}: {note}", file=sys.stderr)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB): open it in any browser")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, with names that tell them apart.

    Raises:
        UserError: one of them is no run, or there are more than can be told apart.
    """
    if len(folders) > len(LETTERS):
        raise UserError(f"{len(folders)} runs: more than {len(LETTERS)} are not told apart in one figure")
    places = [folder.resolve() for folder in folders]
    short = [place.name for place in places]
    names = short if len(set(short)) == len(short) else [f"{place.parent.name}/{place.name}" for place in places]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def render(runs: Sequence[Run], rows: int = 20_000) -> str:
    """The page.

    Args:
        runs: what it is about, at most as many as there are `LETTERS`.
        rows: explanations in it at most.
    """
    loader = PackageLoader("expctr.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    css, js = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    found, answered = browser(runs, rows), [answers(run) for run in runs]
    view = {
        "title": f"{', '.join(run.name for run in runs)} – expctr report",
        "policy": policy(css, js),
        "css": Markup(css),
        "js": Markup(js),
        "sections": _SECTIONS.items(),
        "runs": [_run(run, i, answered[i]) for i, run in enumerate(runs)],
        "over": _over(runs),
        "paired": _paired(answered),
        "metrics": {
            "figures": sections.metric_figures(runs),
            "rows": sections.metric_rows(runs),
            "headings": list(sections.METRICS.values()),
            "about": _metrics_about(runs),
        },
        "rewards": sections.reward_figures(runs),
        "curve_note": "Grey: each batch; the line is its running mean."
        if len(runs) == 1
        else "Lines are running means.",
        "squares": sections.squares(runs),
        "audit": sections.audit_figures(runs),
        "no_audit": ""
        if all(section(run.table, "audit") for run in runs)
        else "There is no audit of the verdict words and no counterfactuals in table.json"
        + (f" of {', '.join(run.name for run in runs if not section(run.table, 'audit'))}." if len(runs) > 1 else "."),
        "quality": sections.quality(runs),
        "browser": found and {**found._asdict(), "about": _browser_about(found.shown, found.total, found.invented)},
        "slices": sections.slice_figures(runs),
        "few": sections.FEW,
        "signs": sections.sign_figures(runs),
        "differences": sections.differences(runs),
    }
    return environment.get_template("report.html.j2").render(view)


def write(path: Path, content: str) -> None:
    """Write the file, and its folder if need be.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another file by --out") from error


def policy(css: str, js: str) -> str:
    """A Content-Security-Policy: nothing runs but the page's own script and style, and nothing is fetched."""
    style, script = (
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in (css, js)
    )
    return f"default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"


def _run(run: Run, place: int, answered: Sequence[Answer]) -> dict[str, Any]:
    """What is shown of a run by itself."""
    return {
        "name": run.name,
        "letter": LETTERS[place],
        "series": place,
        "folder": str(run.folder),
        "about": _about(run),
        "notes": run.notes,
        "answers": [_answer(answer, place) for answer in answered],
        "alarms": run.events.alarms,
        "trained": bool(run.events.curves),
        "data": sections.data(run),
        "config_text": run.config_text,
    }


def _about(run: Run) -> str:
    """Dataset, language model, seed."""
    data, model = section(run.config, "data"), section(run.config, "model")
    llm = section(model, "init_args", "explainer", "init_args", "llm").get("path")
    backbone = str(section(model, "init_args", "ctr", "init_args", "backbone").get("class_path", "")).rpartition(".")[2]
    parts = [
        str(data.get("class_path", "")).rpartition(".")[2],
        f"language model {llm}" if llm else "",
        f"click model {backbone}" if backbone else "",
        f"seed {run.config['seed_everything']}" if "seed_everything" in run.config else "",
        sections.summary(run),
    ]
    return " · ".join(part for part in parts if part)


def _answer(answer: Answer, place: int) -> dict[str, Any]:
    rows = [Row(c.title, [Mark(c.gain, place)]) for c in answer.comparisons]
    lines = [(c.title, sentence(c)) for c in answer.comparisons]
    for fact in answer.facts:
        by_chance = "" if fact.chance is None else f"; by chance {fact.chance:.1%}"
        lines.append((fact.title, f"{sections.whisker_words(fact.value)}{by_chance}."))
    lines += answer.cautions
    svg = figures.forest("Differences in AUC", rows, zero=0, signed=True, values=False)
    return {**answer._asdict(), "lines": lines, "svg": svg}


def _over(runs: Sequence[Run]) -> str:
    """What the intervals are over."""
    tested = [run for run in runs if run.table or run.test.height or run.scores.height]
    without = [run.name for run in tested if not names_users(run)]
    if not without:
        return "the test users"
    return "the test rows" if len(without) == len(tested) else f"the test users (of {', '.join(without)}: the rows)"


def _paired(answered: Sequence[Sequence[Answer]]) -> str:
    if all(c.paired for pair in answered for answer in pair for c in answer.comparisons):
        return ""
    return ". Where rows are not at hand, a difference's is made of two intervals, which is wider than need be"


def _metrics_about(runs: Sequence[Run]) -> str:
    level = next((v for run in runs if isinstance(v := run.table.get("interval_level"), float)), 0.95)
    said = f"Ranges are {level:.0%} bootstrap intervals over {_over(runs)}."
    papers = {str(run.table.get("dataset")) for run in runs if section(run.table, "paper")}
    return said + (f" The paper's values are its own, on {' and '.join(sorted(papers))}." if papers else "")


def _browser_about(shown: int, total: int, invented: bool) -> str:
    said = (
        "s_u: the frozen model's reading of the sentence, the verdict if above a half. s_r and s_0: the click model "
        "with it and without. Rewards are raw. "
    )
    said += "Invented titles are marked. " if invented else "Invented titles were not looked for in this run. "
    return said + (f"Of {total:,} explanations {shown:,} are in this file (--rows)." if shown < total else "")
