"""ExpCTR: the explainer and the CTR model, each trained in its stages (paper 4.3.2)."""

from dataclasses import replace

from expctr.ctr.encoder import EncoderOptions, SentenceEncoder
from expctr.errors import UserError
from expctr.llm.sharding.fsdp import shard
from expctr.modules.ctr import CTRModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.modules.staged import StagedModule
from expctr.stages.models import Models


class ExpCTRModule(StagedModule):
    """Trains explanations and click predictions together.

    Args:
        explainer: the policy.
        ctr: the CTR model that reads the explanations' vectors. A second one without text is trained beside it: the
            table's baseline.
        encoder: the sentence encoder (Eq. 11); `nano` is the shipped model.
    """

    kinds = ("lc", "ctr", "ic")

    def __init__(
        self, explainer: PPOExplainerModule, ctr: CTRModule, encoder: EncoderOptions = EncoderOptions()
    ) -> None:
        super().__init__()
        self.explainer, self.ctr = explainer, ctr
        self.baseline = CTRModule(ctr.backbone, replace(ctr.options, crossfit=1))
        self.encoder = SentenceEncoder(encoder)
        self.models = Models(explainer, ctr, self.baseline, self.encoder)

    def setup(self, stage: str) -> None:
        """Make the stages.

        Raises:
            UserError: no `StageScheduler` has given a plan.
        """
        if not self.scheduled:
            raise UserError("ExpCTRModule trains by a plan of stages: add StageScheduler() to the trainer's callbacks")
        super().setup(stage)

    def build_models(self) -> None:
        """Load the base and build the CTR models for the data's vocabularies."""
        self.encoder.check_cache()
        vocabulary, seed = self.data.features.vocabulary, self.data.seed
        mesh = self.device_mesh["data_parallel"] if self.device_mesh is not None else None
        self.explainer.build(self.data.nouns, seed, mesh, self.trainer.strategy.root_device)
        self.ctr.build(vocabulary, self.encoder.dim, seed)
        self.baseline.build(vocabulary, seed=seed)
        if mesh is not None:
            shard(self.explainer.model, self.explainer.value_head, mesh)
            self.ctr.shard(mesh)
            self.baseline.shard(mesh)
