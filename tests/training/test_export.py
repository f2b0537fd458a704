"""What `expctr export` writes is the run's model, for programs that do not know this package."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from llama_cpp_file import write_gguf
from peft import PeftModel
from running import TESTS, World, expctr, sharded
from safetensors.torch import load_file
from tiny import KINDS, typed_samples
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.zoo import DeepFM
from expctr.data.batches import SampleTable
from expctr.data.features import Features
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.modules.ctr import CTRModule
from expctr.training.export import write

SENTENCE = "The liked books: none. Considering the preference of the customer,"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def out(world: World) -> Path:
    """Of the run that the tests of ranks make, too."""
    options = world.options("one")
    run = world.once("one", ["fit", *options], ["test", *options])
    with world.first("one-exported") as first:
        if first:
            expctr("export", *options, f"--out={run / 'export'}", "--merged=true").ok()
    return run / "export"


def tokens(world: World) -> Tensor:
    ids: Tensor = AutoTokenizer.from_pretrained(world.folder / "llm")(SENTENCE, return_tensors="pt").input_ids
    return ids


def policy(world: World, run: str, **options: Any) -> LanguageModel:
    """The run's language model with the weights of its checkpoint."""
    model = LanguageModel.load(LLMOptions(path=str(world.folder / "llm"), dtype="float32", lora_r=2, **options))
    newest = sorted((world.folder / run / "checkpoints").iterdir())[-1]
    weights: dict[str, Tensor] = torch.load(newest, weights_only=True)["state_dict"]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (found,) = (weight for key, weight in weights.items() if key.endswith(f"model.{name}"))
            parameter.data.copy_(found)
    return model


def by_peft(world: World, adapter: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.folder / "llm"), adapter).eval()


@torch.no_grad()
def test_the_adapter_and_the_merged_model_say_what_the_policy_says(out: Path, world: World) -> None:
    ids, model = tokens(world), policy(world, "one")
    expected = model.logits(model.hidden(ids, torch.ones_like(ids), adapter=True))
    base = model.logits(model.hidden(ids, torch.ones_like(ids), adapter=False))
    assert (expected - base).abs().max() > 1e-3  # what was learnt is larger than the tolerance
    theirs = by_peft(world, out / "adapter")(input_ids=ids).logits
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(out / "merged")(SENTENCE).input_ids == ids[0].tolist()
    assert not any("expctr" in file.read_text() for file in (out / "adapter").glob("*.json"))


def looked_up(vocabulary: dict[str, Any], field: str, value: Any) -> list[tuple[int, float]]:
    """The indices of a field's values, and what their vectors are multiplied by, as the README has it."""
    kind = vocabulary["kinds"].get(field)
    if kind and value in (None, "", []):
        return [(vocabulary["missing"][field], 1.0)]
    if kind == "number":
        mean, deviation = (vocabulary["numbers"][field][name] for name in ("mean", "deviation"))
        return [(2, min(max((value - mean) / deviation, -5), 5) if deviation else 0.0)]
    known = vocabulary["values"][vocabulary["shares"].get(field, field)]
    if kind == "quantiles":
        return [
            (known[max((low for low in known if float(low) <= value), key=float, default=min(known, key=float))], 1.0)
        ]
    values = value if field in vocabulary["lists"] else [value]
    if kind == "boolean":
        values = ["true" if value else "false"]
    elif kind is None:
        values = [each // 5 * 5 if isinstance(each, int) else each for each in values]
    return [(known.get(str(each), 1), 1.0) for each in values]


def deepfm(folder: Path, row: dict[str, Any], z: Tensor) -> float:
    """DeepFM's probability of a click from the exported files alone, as its README has it; z is 0 without a text."""
    weights, about = load_file(folder / "model.safetensors"), json.loads((folder / "model.json").read_text())
    vocabulary = json.loads((folder.parent / "vocabulary.json").read_text())
    if about["text"] is not None:
        z = z - weights["text_mean"] if about["text"]["centred"] and z.any() else z
        z = z / z.square().mean().sqrt().clamp_min(1e-12)
    logits = []
    for model in range(about["models"]):
        own = {name.removeprefix(f"{model}."): w for name, w in weights.items() if name.startswith(f"{model}.")}
        vectors = []
        for field, place in about["tables"]["fields"].items():
            found = looked_up(vocabulary, field, row[field])
            rows = [own["fields.weight"][place["start"] + index] * factor for index, factor in found]
            vectors.append(torch.stack(rows).mean(0) if rows else torch.zeros(own["fields.weight"].shape[1]))
        first, v = torch.stack(vectors)[:, -1].sum(), torch.stack(vectors)[:, :-1]
        fm = ((v.sum(0) ** 2 - (v**2).sum(0)) / 2).sum()
        hidden = v.flatten() @ own["deep.layers.0.x.weight"].T + own["deep.layers.0.x.bias"]
        if about["text"] is not None:
            bottleneck = own.get("deep.layers.0.z.bottleneck.weight")
            hidden = hidden + (z if bottleneck is None else z @ bottleneck.T) @ own["deep.layers.0.z.weight"].T
        logits.append(first + fm + hidden.relu() @ own["last.x.weight"].T + own["last.x.bias"])
    return float(torch.stack(logits).mean().sigmoid())


def vector(world: World, text: str) -> Tensor:
    """The explanation's vector by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(world.folder / "llm")
    encoder = AutoModel.from_pretrained(world.folder / "llm")
    with torch.no_grad():
        states: Tensor = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return states


def samples(world: World, run: str, cache: Path) -> dict[int, dict[str, Any]]:
    """A run's rows by sample; not of the world's cache, which has other tests' samples, too."""
    expctr("prepare", *world.options(run), f"--data.init_args.cache_dir={cache}").ok()
    tables = [pl.read_parquet(path) for path in cache.glob("*.parquet")]  # the samples, and the items with a title
    (found,) = (table for table in tables if "sample" in table.columns)
    return {row["sample"]: row for row in found.to_dicts()}


def assert_deepfm(world: World, run: Path, out: Path, rows: dict[int, dict[str, Any]]) -> None:
    """The exported models score test rows, with a text and without one, as the run's test did."""
    written = pl.read_parquet(run / "explanations" / "test.parquet")
    written = written.filter(pl.col("text").str.strip_chars() != "").head(4)
    assert len(written) > 1
    for row in written.to_dicts():
        sample = rows[row["sample"]]
        z = vector(world, row["text"])
        assert deepfm(out / "ctr", sample, z) == pytest.approx(row["s_r"], abs=1e-5)
        assert deepfm(out / "ctr", sample, torch.zeros_like(z)) == pytest.approx(row["s_0"], abs=1e-5)
        plain = deepfm(out / "ctr_without_text", sample, torch.zeros(0))
        assert plain == pytest.approx(row["s_plain"], abs=1e-5)


def test_deepfm_can_be_computed_from_the_files_alone(out: Path, world: World, tmp_path: Path) -> None:
    assert_deepfm(world, world.folder / "one", out, samples(world, "one", tmp_path))


CENTRED = "--model.init_args.encoder.centre=true"


@pytest.fixture(scope="module")
def centred(world: World) -> Path:
    """A run with three cross-fitted models and centred text vectors, which pass a bottleneck."""
    folds, narrow = (f"--model.init_args.ctr.init_args.options.{x}" for x in ("crossfit=3", "text_bottleneck=3"))
    options = [*world.options("centred"), CENTRED, folds, narrow, "--stages.rounds=1", "--stages.ctr.epochs=2"]
    run = world.once("centred", ["fit", *options], ["test", *options])
    with world.first("centred-exported") as first:
        if first:
            expctr("export", *options).ok()
    return run


@pytest.mark.slow
def test_cross_fitted_models_of_centred_texts_too(centred: Path, world: World, tmp_path: Path) -> None:
    about = json.loads((centred / "export" / "ctr" / "model.json").read_text())
    assert (about["models"], about["text"]["centred"]) == (3, True)
    mean = load_file(centred / "export" / "ctr" / "model.safetensors")["text_mean"]
    assert mean.norm() > 0.1  # enough to be missed
    assert_deepfm(world, centred, centred / "export", samples(world, "centred", tmp_path))
    assert not (centred / "predictions.parquet").exists()  # an export predicts one row, which must leave no trace


@pytest.mark.slow
def test_a_model_of_a_finished_runs_explanations_too(centred: Path, world: World, tmp_path: Path) -> None:
    model = {
        "explanations": centred,
        "encoder.path": world.folder / "llm",
        "encoder.centre": "true",
        "backbone": "DeepFM",
        "backbone.init_args.mlp": "[8]",
        "options.crossfit": 2,
    }
    options = [
        "--seed_everything=1",
        "--model=ExplainedCTRModule",
        *(f"--model.init_args.{name}={value}" for name, value in model.items()),
        "--data=MovieLensDataModule",
        f"--data.init_args.path={world.folder / 'movielens'}",
        f"--data.init_args.cache_dir={world.folder / 'cache'}",
        "--data.init_args.samples.fractions=[0.6,0.2,0.2]",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={world.folder / 'explained'}",
    ]
    for command in ("fit", "predict", "export"):
        expctr(command, *options).ok()
    out = world.folder / "explained" / "export"
    assert not (out / "adapter").exists()
    texts = pl.read_parquet(centred / "explanations" / "latest.parquet").select("sample", "text")
    rows = samples(world, "centred", tmp_path)
    predicted = pl.read_parquet(world.folder / "explained" / "predictions.parquet").join(texts, on="sample")
    assert len(predicted) == 12
    for row in predicted.to_dicts():
        z = vector(world, row["text"]) if row["text"].strip() else torch.zeros(32)
        assert deepfm(out / "ctr", rows[row["sample"]], z) == pytest.approx(row["score"], abs=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "gguf"])
@torch.no_grad()
def test_a_merge_starts_from_the_exact_base(world: World, kind: str) -> None:
    """Not from the one in 4 bits; and of a GGUF file it is an ordinary model."""
    folder, llm = world.folder / f"merged-{kind}", "--model.init_args.explainer.llm"
    more = [f"{llm}.quantization=nf4"]
    if kind == "gguf":
        (world.folder / "gguf").mkdir(exist_ok=True)
        write_gguf(world.folder / "llm", world.folder / "gguf" / "tiny.gguf")
        more = [f"{llm}.path={world.folder / 'gguf'}", f"{llm}.gguf_file=tiny.gguf"]
    options = [*world.options(folder.name), *more, "--stages.rounds=0"]
    expctr("fit", *options).ok()
    expctr("export", *options, "--merged=true").ok()
    ids, exact = tokens(world), policy(world, folder.name)
    expected = exact.logits(exact.hidden(ids, torch.ones_like(ids), adapter=True))
    merged = AutoModelForCausalLM.from_pretrained(folder / "export" / "merged")
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    assert not hasattr(merged.config, "quantization_config")
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(folder / "export" / "merged")(SENTENCE).input_ids == ids[0].tolist()
    theirs = by_peft(world, folder / "export" / "adapter")(input_ids=ids).logits
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)
    if kind == "nf4":  # what a merge into the rounded base would be off by
        rounded = policy(world, folder.name, quantization="nf4")
        theirs = rounded.logits(rounded.hidden(ids, torch.ones_like(ids), adapter=True))
        assert (theirs - expected).abs().max() > 1e-2


def test_what_an_adapter_of_responses_means_is_said_and_its_exact_use_works(world: World) -> None:
    scope = "--model.init_args.explainer.llm.adapter_scope=response"
    options = [*world.options("responses"), scope, "--stages.rounds=0"]
    expctr("fit", *options).ok()
    done = expctr("export", *options, "--merged=true").ok()
    out = world.folder / "responses" / "export"
    assert "ANOTHER MODEL" in done.output
    for folder in ("adapter", "merged"):
        assert "another model" in (out / folder / "README.md").read_text()
    assert "no CTR model" in done.output
    assert not (out / "ctr").exists()
    ids, model = tokens(world), policy(world, "responses", adapter_scope="response")
    mask, cut = torch.ones_like(ids), ids[:, :-1]
    with torch.no_grad():
        cache = DynamicCache()
        model.hidden(cut, torch.ones_like(cut), adapter=False, cache=cache)
        expected = model.logits(model.hidden(ids[:, -1:], mask, adapter=True, cache=cache))[:, -1]
    code = (out / "adapter" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    load, _, rest = code.partition("\n")
    assert load.startswith("model = PeftModel.from_pretrained(")
    rest = rest.replace("do_sample=False", "do_sample=False, max_new_tokens=1, output_logits=True")
    rest = rest.replace("model.generate(", "found = model.generate(return_dict_in_generate=True, ")
    names: dict[str, Any] = {"model": by_peft(world, out / "adapter"), "ids": ids, "torch": torch}
    exec(rest, names)
    torch.testing.assert_close(names["found"].logits[0], expected, atol=1e-5, rtol=0)
    usual = names["model"](input_ids=ids).logits[:, -1]
    assert (usual - expected).abs().max() > 1e-4


@pytest.mark.slow
def test_a_sharded_run_exports_the_same(out: Path, world: World) -> None:
    options = [*world.options("two"), *sharded(2)]
    run = world.once("two", ["fit", *options], ["test", *options, "--data.init_args.eval_batch_size=1"], ranks=2)
    expctr("export", *options, f"--out={run / 'export'}", ranks=2).ok()
    files = sorted(file.relative_to(out) for file in out.rglob("*.safetensors") if "merged" not in file.parts)
    assert [str(file) for file in files] == [
        "adapter/adapter_model.safetensors",
        "critic.safetensors",
        "ctr/model.safetensors",
        "ctr_without_text/model.safetensors",
    ]
    for file in files:
        found, expected = load_file(run / "export" / file), load_file(out / file)
        assert set(found) == set(expected)
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-5)


def alone(world: World, name: str, *options: str) -> list[str]:
    """Arguments of a baseline's run."""
    config = TESTS.parent / "configs" / f"{'baseline' if name == 'deepfm' else name}.yaml"
    return [
        f"--config={config}",
        *(["--model.backbone=DeepFM"] if name == "deepfm" else []),
        f"--data.path={world.folder / 'movielens'}",
        f"--data.cache_dir={world.folder / 'cache'}",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={world.folder / f'export-{name}'}",
        *options,
    ]


def test_baselines_are_exported_too(world: World) -> None:
    llm = [f"--model.llm.path={world.folder / 'llm'}", "--model.llm.dtype=float32"]
    files = {}
    for name, options in (("deepfm", []), ("tallrec", llm)):
        expctr("fit", *alone(world, name, *options)).ok()
        expctr("export", *alone(world, name, *options)).ok()
        out = world.folder / f"export-{name}" / "export"
        files[name] = {str(file.relative_to(out)) for file in out.rglob("*.*") if file.suffix != ".md"}
    assert files["deepfm"] == {"ctr/model.safetensors", "ctr/model.json", "vocabulary.json", "config.yaml"}
    assert files["tallrec"] == {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "config.yaml"}


def test_side_features_of_all_kinds_can_be_computed_from_the_files_alone(tmp_path: Path) -> None:
    features = Features.fit(typed_samples(), kinds=KINDS)
    module = CTRModule(partial(DeepFM, mlp=(8,)))
    module.build(features.vocabulary)
    with torch.no_grad():
        for table in (part for part in module.modules() if isinstance(part, FieldEmbeddings)):
            table.weight.mul_(3)  # scores that differ visibly
    write(module, features, tmp_path, merged=False)
    far, new = {"target_price": 1e9, "target_stock": -3}, {"target_brand": "violet", "target_sizes": [40, 99]}
    rows = typed_samples().with_columns(
        *(pl.when(sample=0).then(pl.lit(value)).otherwise(name).alias(name) for name, value in far.items()),
        *(pl.when(sample=1).then(pl.lit(value)).otherwise(name).alias(name) for name, value in new.items()),
    )
    expected = module.score(SampleTable.from_samples(rows, features)).tolist()
    assert max(expected) - min(expected) > 0.1
    found = [deepfm(tmp_path / "ctr", row, torch.zeros(0)) for row in rows.to_dicts()]
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_exported_is_said(out: Path, world: World) -> None:
    again = expctr("export", *world.options("one"))
    assert again.code == 2
    assert f"{out} exists already and is not empty" in again.output
    icl = alone(world, "icl", f"--model.llm.path={world.folder / 'llm'}")
    expctr("fit", *icl).ok()
    assert "ICLModule trains nothing" in expctr("export", *icl).output
    assert (
        "CTRModule has no language model"
        in expctr("export", *alone(world, "deepfm"), f"--out={world.folder / 'nowhere'}", "--merged=true").output
    )
