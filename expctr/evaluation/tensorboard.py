"""What TensorBoard shows of a run besides its curves: a first page of six charts, and explanations to read."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from expctr.data.batches import SampleText
from expctr.modules.staged import StagedModule
from expctr.systems import AUG, LLM, PLAIN

_SYSTEMS = (LLM, AUG, PLAIN)
FIRST_PAGE = {
    "LC reward": ["lc/reward_lc", "ic/reward_lc", "val/reward_lc"],
    "IC reward": ["ic/reward_ic", "val/reward_ic"],
    "KL to the untrained model": ["lc/kl", "ic/kl"],
    "Distinct sentences": ["lc/unique", "ic/unique"],
    "AUC on the validation rows": [f"val/auc_{system.key}" for system in _SYSTEMS],
    "LogLoss on the validation rows": [f"val/logloss_{system.key}" for system in _SYSTEMS],
}
"""The charts of the page Custom Scalars: whether a run goes well, at a glance. Each has one or more curves, by tag."""

_NAMES = {"s_u": "s_u", "s_r": "s_r", "s_0": "s_0", "reward_lc": "LC reward", "reward_ic": "IC reward"}


def add_first_page(writer: SummaryWriter) -> None:
    """Lay out the page Custom Scalars; once per writer."""
    charts = {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in FIRST_PAGE.items()}
    writer.add_custom_scalars({"Run": charts})  # tags are patterns: without $, longer tags would match, too


def explanations_to_read(module: StagedModule, texts: Mapping[int, SampleText], count: int) -> str:
    """The last validation's first explanations as Markdown, each with its label, scores, rewards and prompt.

    Args:
        module: that has validated.
        texts: titles, by sample.
        count: of explanations, at most.
    """
    shown = {name: values[:count] for name, values in module.evaluated.items()}
    policy, parts = module.models.policy, []
    for i, sample in enumerate(shown["sample"]):
        numbers = [f"{title} {shown[name][i]:.3f}" for name, title in _NAMES.items() if name in shown]
        label = "liked" if shown["label"][i] else "disliked"
        prompt = str(policy.model.tokenizer.decode(policy.prompts.explanation([texts[sample]])[0]))
        parts += [
            f"#### {_escaped(texts[sample].target)} ({label})",
            f"> {_escaped(shown['text'][i]) or '(empty)'}",
            ", ".join(numbers),
            f"Prompt: {_escaped(prompt)}",
            "---",
        ]
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Text on one line in which neither Markdown nor HTML finds markup: special characters become entities."""
    plain = " ".join(text.split())
    return "".join(c if c.isalnum() or c in " ,.'" else f"&#{ord(c)};" for c in plain)
