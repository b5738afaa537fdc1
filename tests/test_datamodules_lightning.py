"""Lightning drives the loaders as they expect: epochs reach the sampler, a mid-epoch checkpoint resumes in place."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.toy_data import Toy, epoch_of, ids


class Recorder(L.LightningModule):
    """One weight; remembers the ids of every training batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.ids)
        return (self.weight - batch.images.mean()).square().sum()

    def validation_step(self, batch, _):
        assert not self.trainer.sanity_checking or batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, folder, ckpt_path=None, **options):
    model = Recorder()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(**quiet, callbacks=[saver], use_distributed_sampler=False, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_gives_each_epoch_its_own_order(workers, tmp_path):
    model = fit(Toy(workers=workers), tmp_path, max_epochs=3)
    assert model.seen == [batch for epoch in range(3) for batch in ids(epoch_of(Toy(), epoch))]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_cut_short_is_followed_by_the_next_from_its_beginning(workers, tmp_path):
    short = {"max_epochs": 2, "limit_train_batches": 3}
    expected = [batch for epoch in range(3) for batch in ids(epoch_of(Toy(), epoch))[:3]]
    assert fit(Toy(workers=workers), tmp_path, **short).seen == expected[:6]
    short["max_epochs"] = 3
    assert fit(Toy(workers=workers), tmp_path, tmp_path / "step=6.ckpt", **short).seen == expected[6:]
    assert fit(Toy(workers=workers), tmp_path, tmp_path / "step=4.ckpt", **short).seen == expected[4:]


@pytest.mark.parametrize("position", ["from Lightning's checkpoint", "set by hand as well"])
@pytest.mark.parametrize("step", [3, 5, 7, 10], ids=lambda step: f"step {step} of 5 an epoch")
def test_a_resumed_run_sees_the_same_batches_as_an_uninterrupted_one(step, position, tmp_path):
    whole = fit(Toy(), tmp_path, max_epochs=3)
    data = Toy(workers=2)
    if position == "set by hand as well":
        data.set_position(*divmod(step, 5))
    resumed = fit(data, tmp_path, ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=3)
    assert resumed.seen == whole.seen[step:]
    assert torch.equal(resumed.weight, whole.weight)
