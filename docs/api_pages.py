"""A hook of MkDocs: one API page per public folder of the package, made from the names of its files."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "expctr"


def folders() -> dict[str, list[str]]:
    """Full names of the modules by the name of their page; the page `expctr` has the files beside the folders."""
    pages: dict[str, list[str]] = {"expctr": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            page = parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "expctr"
            pages.setdefault(page, []).append(".".join(parts))
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages to the navigation."""
    nav: list[Any] = config.nav or []
    nav.append({"API": [{name: f"api/{name}.md"} for name in folders()]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for name, modules in folders().items():
        title = name if name == "expctr" else f"expctr.{name}"
        parts = [f"# {title}\n", *(f"## {module}\n\n::: {module}\n" for module in modules)]
        files.append(File.generated(config, f"api/{name}.md", content="\n".join(parts)))
    return files
