"""No file of the package, its tools or its docs loads a pickle or runs text as code, by their syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("expctr", "tools", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
READS_CONTENTS = "expctr/training/sharded_loading.py"
"""The one file that has an unpickler, which knows plain classes only; `tests/faults/test_checkpoints.py` tests it."""

MODULES = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "torch.hub", "torch.package", "_pickle"}
"""Modules that load pickles or code."""
CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
    *("torch.jit.load", "torch.export.load", "torch.hub.load", "torch.ops.load_library", "torch.classes.load_library"),
    *("os.system", "os.popen"),
}
METHODS = {"deserialize", "load_from_checkpoint", "read_pickle"}
"""Methods of any object; polars' `deserialize` runs pickled functions."""
KEYWORDS = {"allow_pickle": (), "shell": (False,), "trust_remote_code": (False,), "weights_only": (True,)}
"""Arguments, and the constants that they may be; a variable is an option, which `OPTIONS` must name."""
OPTIONS = {"options.trust_remote_code", "weights_only"}
PICKLE = {"UnpicklingError"}
"""What may be used of `pickle`."""


def faults(source: str, name: str = "") -> Iterator[str]:
    """What a source does that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module in MODULES | {"pickle"} or full & (MODULES | CALLS):
                yield f"from {node.module} import ..."
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr not in PICKLE:
            if name != READS_CONTENTS or node.attr not in ("_Unpickler", "BUILD"):
                yield f"pickle.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from faults_of_call(node)


def faults_of_call(node: ast.Call) -> Iterator[str]:
    called, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    if called in CALLS or called.rpartition(".")[2] in METHODS:
        yield called
    if called == "torch.load" and "weights_only" not in given:
        yield "torch.load without weights_only"
    if not called.endswith(".save_checkpoint"):
        unsafe = (key for key in KEYWORDS.keys() & given if not allowed(key, given[key]))
        yield from (f"{key}={ast.unparse(given[key])}" for key in unsafe)


def allowed(keyword: str, value: ast.expr) -> bool:
    """Whether an argument of `KEYWORDS` is safe, or the user's own choice."""
    if isinstance(value, ast.Constant):
        return value.value in KEYWORDS[keyword]
    return ast.unparse(value) in OPTIONS


def test_no_file_loads_a_pickle_or_runs_text() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    found = {name: [*faults(source, name)] for name, source in sources.items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads",
        "import pickle\nclass Mine(pickle.Unpickler): pass",
        "import joblib",
        "from torch import hub",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=not safe)",
        "trainer.fit(model, ckpt_path=path, weights_only=False)",
        "read(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=config.wishes)",
        "subprocess.run(line, shell=True)",
        "ExpCTRModule.load_from_checkpoint(path)",
        "pl.LazyFrame.deserialize(file)",
        "exec(text)",
    ],
)
def test_what_runs_a_file_is_found(source: str) -> None:
    assert [*faults(source)]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "model.eval()",
        "trainer.save_checkpoint(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=options.trust_remote_code)",
    ],
)
def test_what_is_safe_is_let_pass(source: str) -> None:
    assert not [*faults(source)]


def test_sharded_checkpoints_are_loaded_by_the_careful_reader_only() -> None:
    """The reader and planner of torch unpickle whatever a checkpoint holds."""
    careless = ("FileSystemReader(", "DefaultLoadPlanner(", "dcp.load", "dcp_to_torch_save")
    found = [path.name for path in FILES if any(word in path.read_text(encoding="utf-8") for word in careless)]
    assert found == []
    loads = [
        ast.unparse(node)
        for path in FILES
        if "checkpoint.state_dict_loader" in (source := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "load"
    ]
    assert loads == ["load(state, storage_reader=ShardReader(path), planner=ShardPlanner())"]
