"""The order of batches is a function of (seed, epoch), for any ranks, workers and interruptions."""

from collections import Counter
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from support.toy_data import Toy, epoch_of, ids, same

from datamodules.sampling import EpochBatchSampler


def test_order_and_pixels_are_a_pure_function_of_seed_and_epoch():
    assert same(epoch_of(Toy(), 3), epoch_of(Toy(), 3))
    assert ids(epoch_of(Toy(), 3)) != ids(epoch_of(Toy(), 4))
    assert ids(epoch_of(Toy(), 3)) != ids(epoch_of(Toy(seed=1), 3))


def test_iterating_leaves_torchs_generator_alone():
    state = torch.random.get_rng_state()
    list(Toy().train_dataloader()), list(Toy().val_dataloader())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_workers_change_nothing():
    alone, helped = Toy(), Toy(workers=2)
    loader = helped.train_dataloader()
    for epoch in (0, 1):  # the workers persist: the second epoch must reach them too
        loader.batch_sampler.set_epoch(epoch)
        assert same(epoch_of(alone, epoch), list(loader))
    assert same(list(alone.val_dataloader()), list(helped.val_dataloader()))


def test_an_epoch_drops_nothing_and_repeats_only_its_beginning():
    batches = epoch_of(Toy(), 0)
    flat = [row for batch in batches for row in batch.ids]
    assert len(batches) == 5 and all(len(batch.ids) == 8 for batch in batches)
    assert len(set(flat[:37])) == 37 and flat[37:] == flat[:3]


def test_two_ranks_together_are_one_rank_with_twice_the_batch():
    for n in (37, 32, 5):
        ranks = [EpochBatchSampler(n, 4, seed=1, rank=r, world=2) for r in range(2)]
        whole = EpochBatchSampler(n, 8, seed=1)
        for sampler in [*ranks, whole]:
            sampler.set_epoch(2)
        assert len(ranks[0]) == len(ranks[1]) == len(whole)
        assert [a + b for a, b in zip(*ranks, strict=True)] == list(whole)


def test_the_data_module_asks_torch_distributed_for_its_rank(monkeypatch):
    whole = ids(epoch_of(Toy(batch_size=16), 0))
    halves = []
    for rank in range(2):
        monkeypatch.setattr("datamodules.base.distributed_rank", lambda rank=rank: (rank, 2))
        halves.append(ids(epoch_of(Toy(batch_size=8), 0)))
        assert ids(Toy().val_dataloader()) == ids(Toy().loader("val", shard=(rank, 2)))
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_resumed_epoch_is_the_tail_of_the_whole_one_and_later_epochs_are_whole():
    for workers in (0, 2):
        data = Toy(workers=workers)
        data.set_position(3, 2)
        loader = data.train_dataloader()
        assert len(loader) == 5
        assert same(list(loader), epoch_of(Toy(), 3)[2:])
        loader.batch_sampler.set_epoch(4)
        assert same(list(loader), epoch_of(Toy(), 4))


def test_a_position_moves_a_loader_already_made_and_is_checked():
    data = Toy()
    loader = data.train_dataloader()
    data.set_position(1, 4)
    assert ids(loader) == ids(epoch_of(Toy(), 1))[4:]
    with pytest.raises(ValueError, match="Cannot continue at batch 6 of epoch 0: an epoch has 5 batches"):
        data.set_position(0, 6)


def test_the_loaders_state_counts_what_was_handed_out_not_what_was_fetched_ahead():
    loader = Toy(workers=2).train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    again = Toy().train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert ids(again) == ids(epoch_of(Toy(), 0))[2:]
    with pytest.raises(ValueError, match=r"global batch .* of 8, this run has 4"):
        Toy(batch_size=4).train_dataloader().load_state_dict(loader.state_dict())


@pytest.mark.parametrize("n", [None, 1, 2, 10, 37])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_cover_each_sample_once(n, world):
    data = Toy()
    parts = [ids(data.loader("val", n=n, shard=(rank, world))) for rank in range(world)]
    seen = Counter(row for part in parts for batch in part for row in batch)
    assert seen == Counter(row.id for row in data.subset("val", n))
    assert set(seen.values()) == {1}


def test_a_loader_can_be_sent_to_a_spawned_worker():
    loader = Toy().val_dataloader()
    copy = torch.utils.data.DataLoader(_round_trip(loader.dataset), batch_size=8, collate_fn=loader.collate_fn)
    assert same(list(copy), list(loader))


def _round_trip(value):
    return ForkingPickler.loads(ForkingPickler.dumps(value))


def _rank(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([ids(Toy().train_dataloader()), ids(Toy().val_dataloader())], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_real_processes_share_the_rows(tmp_path):
    torch.multiprocessing.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    train, val = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)), strict=True)
    assert [a + b for a, b in zip(*train, strict=True)] == ids(epoch_of(Toy(batch_size=16), 0))
    seen = Counter(row for part in val for batch in part for row in batch)
    assert seen == Counter(row.id for row in Toy().rows("val"))


# ---- rows of like length ---------------------------------------------------------------------------------------------
class Mixed(Toy):
    """Questions of one to seven words; every fourth row has candidates of its own."""

    def build_rows(self, split):
        def own(i):
            return ["a", "b", "a long answer of many words"] if i % 4 == 0 else None

        rows = enumerate(super().build_rows(split))
        return [row._replace(question="what " * (1 + 5 * i % 7), candidates=own(i)) for i, row in rows]


def length(row):
    return len(row.question) + len("".join(row.candidates or "abc"))


def test_rows_of_like_length_stand_together_the_longest_first():
    data = Mixed()
    rows = {row.id: row for row in data.rows("val")}
    order = [rows[key] for batch in data.loader("val", by_length=True) for key in batch.ids]
    assert order == sorted(data.rows("val"), key=length, reverse=True) != data.rows("val")

    def padded(batches):
        return sum(len(batch) * max(length(rows[key]) for key in batch) for batch in batches)

    assert padded(ids(data.loader("val", by_length=True))) < 0.8 * padded(ids(data.loader("val")))


def test_rows_of_one_length_stay_in_their_order():
    assert ids(Toy().loader("val", by_length=True)) == ids(Toy().loader("val")) == ids(Toy().val_dataloader())
    of_one = [row for batch in Mixed().loader("val", by_length=True) for row in batch.ids]
    lengths = {row.id: length(row) for row in Mixed().rows("val")}
    for some in set(lengths.values()):
        assert [key for key in of_one if lengths[key] == some] == [key for key in lengths if lengths[key] == some]


def test_grouped_rows_are_those_of_the_sub_sample_each_on_one_rank():
    parts = [ids(Mixed().loader("val", 20, shard=(rank, 2), by_length=True)) for rank in (0, 1)]
    seen = Counter(key for part in parts for batch in part for key in batch)
    assert seen == Counter(row.id for row in Mixed().subset("val", 20))
