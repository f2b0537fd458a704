"""The site builds without a warning, and what the pages name is there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from expctr.cli.help import class_options
from expctr.data.table import TableDataModule

ROOT = Path(__file__).parents[2]
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
HISTORY = {"log.md", "CHANGELOG.md"}
"""Pages that may name what is gone."""

PAGES = [*FRONT, *sorted((ROOT / "docs").glob("*.md"))]
CURRENT = [page for page in PAGES if page.name not in HISTORY]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_site_has_every_page_and_every_folder(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert all((site / page / "index.html").exists() for page in pages)
    folders = {path.parent.name for path in (ROOT / "expctr").glob("*/__init__.py")}
    assert folders <= {path.parent.name for path in (site / "api").glob("*/index.html")}


def test_api_pages_hold_docstrings(site: Path) -> None:
    text = (site / "api" / "rl" / "index.html").read_text(encoding="utf-8")
    assert 'id="expctr.rl.losses.gae"' in text


def test_pages_fetch_nothing(site: Path) -> None:
    fetched = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//[^"]+"[^>]*>')
    found = {tag for path in site.rglob("*.html") for tag in fetched.findall(path.read_text(encoding="utf-8"))}
    assert {tag for tag in found if 'rel="canonical"' not in tag} == set()


@pytest.mark.parametrize("page", FRONT, ids=lambda page: page.name)
def test_links_of_the_front_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:configs|docs|expctr|tests|tools)/[\w/.-]*\w", text))
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"python -m (tools[\w.]*)|`(expctr\.[\w.]+)`", text))
    assert sorted(name for pair in names for name in pair if name and not _exists(name)) == []


def _exists(name: str) -> bool:
    """Is there a module of this name, or a name in one?"""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        if base.is_dir() or base.with_suffix(".py").exists():
            file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
            source = file.read_text(encoding="utf-8") if file.exists() else ""
            return all(re.search(rf"\b{part}\b", source) for part in parts[length:])
    return False


def test_options_that_the_pages_name_are_there() -> None:
    classes = ["--model=ExpCTRModule", "--model.explainer=PPOExplainerModule", "--model.ctr=CTRModule"]
    line = [*classes, "--data=MovieLensDataModule", "--data.path=x", "--print_config"]
    done = subprocess.run([sys.executable, "-m", "expctr", "fit", *line], capture_output=True, text=True, check=True)
    options = names(yaml.safe_load(done.stdout)) | {*class_options(TableDataModule, "data")}
    groups = "alarms|checkpoint|data|model|results|stages|trainer"
    named = re.compile(rf"(?:`|--)((?:{groups})\.[\w.]*\w)")
    missing = {}
    for page in CURRENT:
        for name in set(named.findall(page.read_text(encoding="utf-8"))):
            if name.replace("init_args.", "") not in options:
                missing[name] = page.name
    files = ("data.json", "data.md")
    of_other_classes = ("data.category", "data.help", "model.backbone", "model.help", "model.backbone.help")
    assert {name: page for name, page in missing.items() if name not in {*files, *of_other_classes}} == {}


def names(config: Any, above: str = "") -> set[str]:
    """The full names of all options and groups of a config, as they are typed."""
    found = set()
    for key, value in config.items() if isinstance(config, dict) else ():
        name = above if key == "init_args" else f"{above}.{key}".removeprefix(".")
        found |= {name} | names(value, name)
    return found


def test_the_import_order_of_contributing_is_the_one_that_is_tested() -> None:
    order = (ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8")
    tested = re.findall(r'"(\w+)"', order[order.index("ORDER") : order.index("RANK")])
    folders = [name for name in tested if (ROOT / "expctr" / name).is_dir()]
    listed = re.findall(r"^\d+\. `(\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in listed if name in folders] == folders


def test_a_missing_name_is_found() -> None:
    assert _exists("expctr.rl.losses.gae")
    assert _exists("expctr.rl")
    assert not _exists("expctr.rl.losses.never_there")
    assert not _exists("expctr.never_there")


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1000


def test_a_broken_link_fails(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)\n")
    validation = re.search(r"^validation:\n(?: .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert validation
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n" + validation[0])
    line = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "gone.md" in done.stderr
