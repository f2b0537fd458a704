"""The bottleneck that z passes: what it computes, and that no model changes without text."""

import pytest
import torch
from torch import Tensor

from expctr.ctr.click_model import ClickModel, CTROptions
from expctr.ctr.fusion import TextLinear, narrow_text
from expctr.ctr.zoo import FM, ZOO, CTRBackbone, DeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.errors import UserError

SIZES = {"user": 6, "target": 9, "target_genres": 5, "liked": 9}
VOCABULARY = Vocabulary(SIZES, {"liked": "target"}, history=4)
TEXT, ROWS, SIZE = 12, 6, 3


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(low: int, size: int, *shape: int) -> Tensor:
        return torch.randint(low, size, (ROWS, *shape), generator=generator)

    return {
        **{"user": draw(1, 6), "target": draw(1, 9), "target_genres": draw(0, 5, 2), "liked": draw(0, 9, 3)},
        **{"history": draw(2, 9, 4), "history_liked": draw(1, 3, 4)},
    }


def click_model(backbone: type[CTRBackbone] = DeepFM, text_dim: int = TEXT, **options: object) -> ClickModel:
    made = ClickModel(backbone, CTROptions(**options))  # type: ignore[arg-type]
    made.build(VOCABULARY, text_dim, seed=3)
    return made


def layers(model: torch.nn.Module) -> list[TextLinear]:
    return [layer for layer in model.modules() if isinstance(layer, TextLinear)]


def test_z_is_projected_and_then_joins():
    layer = TextLinear(2, 1)
    layer.narrow(1, dropout=0.0)
    assert layer.bottleneck is not None
    with torch.no_grad():
        layer.bottleneck.weight.copy_(torch.tensor([[3.0, 1.0]]))
        layer.weight.copy_(torch.tensor([[2.0]]))
    # (3, 4) has a root mean square of 5 / sqrt 2, so it becomes (0.6, 0.8) times sqrt 2: 2 (1.8 + 0.8) sqrt 2
    torch.testing.assert_close(layer(torch.tensor([[3.0, 4.0]])), torch.tensor([[5.2 * 2**0.5]]))


def test_a_row_that_is_dropped_whole_reads_no_text():
    layer = TextLinear(TEXT, 4, dropout=0.0)
    layer.narrow(SIZE, dropout=1.0)
    assert not layer.train()(torch.randn(5, TEXT)).any()
    assert layer.eval()(torch.randn(5, TEXT)).all()


@pytest.mark.parametrize("name", ZOO)
def test_every_model_takes_it_and_without_text_is_the_model_that_has_none(name: str):
    narrowed, plain = (click_model(ZOO[name], dim, text_bottleneck=SIZE).eval() for dim in (TEXT, 0))
    (layer,) = layers(narrowed)
    assert layer.weight.shape[1] == SIZE
    assert not layers(plain)
    plain.load_state_dict(narrowed.state_dict(), strict=False)
    expected = plain(features())
    assert torch.equal(narrowed(features()), expected)
    assert torch.equal(narrowed(features(), torch.zeros(ROWS, TEXT)), expected)
    assert not torch.allclose(narrowed(features(), torch.randn(ROWS, TEXT)), expected)


def test_the_other_weights_begin_as_without_it():
    narrowed, whole = click_model(text_bottleneck=SIZE).state_dict(), click_model().state_dict()
    own = {name for name in narrowed if ".z." in name}
    assert {name.rpartition(".z.")[2] for name in own} == {"weight", "bottleneck.weight"}
    assert all(torch.equal(narrowed[name], whole[name]) for name in narrowed.keys() - own)


def test_the_cross_fitted_models_have_one_each_and_reset_restores_them():
    made = click_model(crossfit=2, text_bottleneck=SIZE, text_bottleneck_dropout=0.5)
    first, second = layers(made)
    assert first.dropout.p == second.dropout.p == 0.5
    assert not torch.equal(first.weight, second.weight)
    before = {name: weight.clone() for name, weight in made.state_dict().items()}
    adam, batch = made.optimizer(), Batch(torch.arange(ROWS), torch.ones(ROWS), features())
    made.loss(batch, torch.randn(ROWS, TEXT)).backward()
    adam.step()
    assert not any(torch.equal(before[name], weight) for name, weight in made.state_dict().items() if ".z." in name)
    made.reset(adam)
    assert all(torch.equal(before[name], weight) for name, weight in made.state_dict().items())


def test_a_model_without_text_has_none():
    model = FM(VOCABULARY)
    narrow_text(model, SIZE, 0.0)
    assert not layers(model)


def test_a_dropout_of_no_bottleneck_is_refused():
    with pytest.raises(UserError, match=r"Fix: set ctr\.options\.text_bottleneck, or leave"):
        CTROptions(text_bottleneck_dropout=0.3)
    with pytest.raises(UserError, match=r"ctr\.options\.text_bottleneck must be at least 1, not 0"):
        CTROptions(text_bottleneck=0)
