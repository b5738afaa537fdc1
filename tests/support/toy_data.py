"""A data set made of noise, and helpers to compare batches; no test."""

import torch

from datamodules.base import ImageTextDataModule, Row


class Toy(ImageTextDataModule):
    """37 images of different shapes in each split; `change` edits a row or a pixel."""

    name = "toy"
    task = "recognition"
    candidates = ["a", "b", "c"]

    def __init__(self, *, change="", count=37, **kwargs):
        super().__init__(**{"image_size": 12, "batch_size": 8, "eval_batch_size": 8, **kwargs})
        self.change, self.count = change, count

    def build_rows(self, split):
        rows = [Row(f"{split}-{i}", i % 3, "what?", "abc"[i % 3], f"a {'abc'[i % 3]}") for i in range(self.count)]
        edits = {"label": {"label": 2}, "question": {"question": "who?"}, "id": {"id": "other"}}
        rows[0] = rows[0]._replace(**edits.get(self.change, {}))
        return rows

    def load_image(self, split, index):
        generator = torch.Generator().manual_seed(1000 * len(split) + index)
        image = torch.randint(0, 256, (3, 14 + index % 5, 20), generator=generator, dtype=torch.uint8)
        if self.change == "pixel" and index == 0:
            image[0, 0, 0] ^= 1
        return image


def ids(batches):
    return [batch.ids for batch in batches]


def same(first, second):
    return len(first) == len(second) and all(
        a.ids == b.ids and torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def epoch_of(data, epoch):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)
