"""Renders the report, `expctr report RUN [RUN ...]`: the results of runs as one HTML file that needs nothing else."""

import argparse
import base64
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expctr.errors import UserError, exit_with_error
from expctr.report import figures, sections, training
from expctr.report.browser import LETTERS, browser
from expctr.report.figures import Mark, Row
from expctr.report.headline import Answer, headline
from expctr.report.run import Run, backbone, read_run, section
from expctr.report.terms import Terms, anchor
from expctr.systems import FEWEST_OF_A_LABEL, FEWEST_ROWS, T_NOTE
from expctr.untrusted import printable
from expctr.whole_files import replacing, writing

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
    "terms": "Terms",
}


_OWN = b'<meta http-equiv="Content-Security-Policy" content="default-src'
"""What every report has in its head."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; `args` in place of `sys.argv`, for tests."""
    parser = argparse.ArgumentParser(
        prog="expctr report",
        description="Write the results of a run as one HTML file that needs no network: metrics beside the paper's, "
        "curves, calibration, audit, the explanations before and after training, data and config. The report says "
        "what is missing, such as a test.",
        epilog="Several runs share their figures, and the report lists the options in which they differ.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, its trainer.default_root_dir")
    out_help = "the file to write (default: RUN/report.html, or ./report.html for several runs)"
    add("--out", type=Path, metavar="FILE", help=out_help)
    rows_help = "largest number of explanations in the file, those of the test first (default: 20000)"
    add("--rows", type=int, default=20_000, metavar="N", help=rows_help)
    given = parser.parse_args(args)
    try:
        if given.rows < 1:
            raise UserError(f"--rows must be at least 1, not {given.rows}")
        runs = read_runs(given.runs)
        if given.out is not None and not given.out.name:
            raise UserError("out: the name is empty. Fix: give a file, or leave --out out")
        out = given.out or (given.runs[0] if len(runs) == 1 else Path()) / "report.html"
        if out.is_file() and out.stat().st_size and _OWN not in out.read_bytes()[:1000]:
            raise UserError(f"{out} is there, and no report of expctr. Fix: name another file with --out")
        write(out, render(runs, given.rows), named=given.out is not None)
    except UserError as error:
        exit_with_error(error)
    for run in runs:
        for note in run.notes:
            print(printable(f"{run.name}: {note}"), file=sys.stderr)
    print(f"{printable(str(out))} ({out.stat().st_size / 1e6:.1f} MB): open it in any browser")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, with names that differ.

    Raises:
        UserError: a folder is not a run's, or there are more runs than colours.
    """
    if len(folders) > len(LETTERS):
        raise UserError(f"{len(folders)} runs: one report can show at most {len(LETTERS)}")
    places = [Path(os.path.realpath(folder)) for folder in folders]
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [f"{place.parent.name}/{place.name}" for place in places]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def render(runs: Sequence[Run], rows: int = 20_000) -> str:
    """The page of at most six runs, with at most `rows` explanations."""
    loader = PackageLoader("expctr.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    css, js = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    terms = Terms(runs)
    environment.filters |= {"terms": terms.mark, "anchor": anchor}
    view = {
        "title": f"{', '.join(run.name for run in runs)} – expctr report",
        "policy": policy(css, js),
        "css": Markup(css),
        "js": Markup(js),
        "sections": _SECTIONS.items(),
        "runs": [_run(run, i) for i, run in enumerate(runs)],
        "over": _over(runs),
        "metrics": {
            "figures": sections.metric_figures(runs),
            "tables": sections.metric_tables(runs),
            "about": _metrics_about(runs),
        },
        "rewards": training.reward_figures(runs),
        "squares": sections.squares(runs),
        "audit": sections.audit_figures(runs),
        "without_audit": [run.name for run in runs if not section(run.table, "audit")],
        "quality": sections.quality(runs),
        "browser": browser(runs, rows),
        "terms": terms,
        "slices": sections.slice_figures(runs),
        "few": (FEWEST_ROWS, FEWEST_OF_A_LABEL),
        "signs": training.sign_figures(runs),
        "differences": sections.differences(runs),
    }
    return environment.get_template("report.html.j2").render(view)


def write(path: Path, content: str, named: bool) -> None:
    """Write the file, and its folder if it does not exist.

    Args:
        path: the file.
        content: of the file.
        named: the user has named it; a link or a pipe in a stranger's run is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (writing if named else replacing)(path) as part:
            part.write_text(content, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Fix: give another file with --out") from error


def policy(css: str, js: str) -> str:
    """A Content-Security-Policy: only the page's own script and style run, and nothing is fetched."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'; "
        "form-action 'none'"
    )


def _run(run: Run, place: int) -> dict[str, Any]:
    """What the page shows about a single run."""
    return {
        "name": run.name,
        "letter": LETTERS[place],
        "series": place,
        "folder": str(run.folder),
        "about": _about(run),
        "notes": run.notes,
        "answers": [_answer(answer, place) for answer in headline(run)],
        "alarms": run.events.alarms,
        "unwatched": training.are_unwatched(run),
        "trained": bool(run.events.curves),
        "data": sections.data(run),
        "config_text": run.config_text,
    }


def _about(run: Run) -> str:
    """Dataset, language model, seed."""
    data, model = (section(run.config, part) for part in ("data", "model"))
    llm = section(model, "init_args", "explainer", "init_args", "llm").get("path")
    parts = [
        str(data.get("class_path", "")).rpartition(".")[2],
        f"language model {llm}" if llm else "",
        f"CTR model {backbone(run)}" if section(model, "init_args", "ctr") or run.table else "",
        f"seed {run.config['seed_everything']}" if "seed_everything" in run.config else "",
        sections.summary(run),
    ]
    return " · ".join(filter(None, parts))


def _answer(answer: Answer, place: int) -> dict[str, Any]:
    rows = [Row(comparison.title, [Mark(comparison.gain, place)]) for comparison in answer.comparisons]
    lines = [(comparison.title, comparison.sentence) for comparison in answer.comparisons]
    lines += [*((fact.title, fact.sentence) for fact in answer.facts), *answer.cautions]
    several = len({comparison.metric for comparison in answer.comparisons}) > 1
    caption = "Differences, with their 95% intervals." if several else "Difference in AUC, with its 95% interval."
    svg = figures.forest(caption, rows, zero=0, signed=True, values=False)
    return {**answer._asdict(), "lines": lines, "svg": svg, "caption": caption}


def _over(runs: Sequence[Run]) -> str:
    """What the intervals resample: users, or rows where the number of users is unknown."""
    tested = [run for run in runs if run.table]
    without = [run.name for run in tested if run.table.get("users") is None]
    if not without:
        return "the test users"
    return "the test rows" if len(without) == len(tested) else f"the test users (of {', '.join(without)}: the rows)"


def _metrics_about(runs: Sequence[Run]) -> str:
    level = next((v for run in runs if isinstance(v := run.table.get("interval_level"), float)), 0.95)
    papers = {str(run.table.get("dataset")) for run in runs if section(run.table, "paper")}
    about = f"Ranges are {level:.0%} bootstrap intervals over {_over(runs)}."
    if any(section(run.table, "temperature") for run in runs):
        about += f" {T_NOTE}"
    tested = [[run.table.get(name) for name in ("rows", "users", "test_rate")] for run in runs if run.table]
    if any(other != tested[0] for other in tested):
        about += " The runs were tested on different rows: compare differences within a run, not values across runs."
    return about + (f" The paper's values are its own results, on {' and '.join(sorted(papers))}." if papers else "")
