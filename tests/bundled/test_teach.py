"""The makers' loop learns, and goes on where it was stopped."""

import pytest
import torch
from torch import nn

from tuner.bundled import teach as loop
from tuner.bundled.teach import course, teach


def network():
    torch.manual_seed(1)
    return nn.ModuleDict({"layers": nn.Linear(6, 5), "head": nn.Linear(5, 2)})


def loss_of(model, broken_at=-1):
    def loss(step):
        if step == broken_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        return (model["head"](torch.relu(model["layers"](x))) - x[:, :2]).square().mean()

    return loss


@pytest.mark.parametrize("within", [(), ("layers.",)])
def test_what_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch, within):
    monkeypatch.setattr(loop, "OFTEN", 4)
    options = {"steps": 12, "learning_rate": 3e-2, "matrices_rate": 1e-1, "within": within, "say": lambda words: None}
    whole, cut = network(), network()
    before = float(loss_of(whole)(99))
    teach(whole, loss_of(whole), **options)
    assert float(loss_of(whole)(99)) < 0.8 * before
    with pytest.raises(KeyboardInterrupt):
        teach(cut, loss_of(cut, broken_at=10), keep=tmp_path / "kept", **options)
    again = network()
    teach(again, loss_of(again), keep=tmp_path / "kept", **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert not (tmp_path / "kept").exists()


def test_the_rate_rises_and_falls():
    assert course(0) == pytest.approx(0.04) and course(0.1) == pytest.approx(1) and course(1) == pytest.approx(0)
    assert course(0.05) < course(0.09) < 1 > course(0.5) > course(0.9)
