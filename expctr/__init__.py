"""ExpCTR: language-model explanations and click-through-rate prediction, trained together."""
