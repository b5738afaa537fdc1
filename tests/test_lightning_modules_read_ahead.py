"""The next target is read while the present one is scored: same records, two models at most, the same errors."""

from __future__ import annotations

import gc
import threading
import weakref
from itertools import pairwise

import pytest
import torch
from support.tiny_models import tiny_mllm
from test_lightning_modules_scorer import CONTEXT, make_module, make_prompt, make_scorer

from lightning_modules.evaluation import ModelSpec
from lightning_modules.records import ResultLog, read_rows
from lightning_modules.transfer_callback import TransferCallback
from model_zoo.pool import WeightPool

NAMES = ("tiny_blip2", "tiny_bliva", "tiny_llava")
ORDER = ("tiny_llava", "tiny_blip2", "tiny_bliva")
PAIRS = [("", ORDER[0]), (ORDER[0], ORDER[1]), (ORDER[1], ORDER[2])]
WAIT = 60  # seconds until a test fails that would otherwise wait for ever


class Watched(ModelSpec):
    """A tiny model that says when it is loaded, in which thread, and who is alive then.

    errors: name -> what its loading raises, once. inside: name -> called while the model is scored.
    """

    loads: list[tuple[str, bool, list[str]]] = []
    alive: list[tuple[str, weakref.ref]] = []
    started: dict[str, threading.Event] = {}
    errors: dict[str, BaseException] = {}
    inside: dict[str, object] = {}

    @classmethod
    def living(cls) -> list[str]:
        gc.collect()
        return [name for name, model in cls.alive if model() is not None]

    def load(self, device):
        here = threading.current_thread() is threading.main_thread()
        self.loads.append((self.name, here, self.living()))
        self.started[self.name].set()
        if self.name in self.errors:
            raise self.errors.pop(self.name)
        with torch.inference_mode(False):
            model = tiny_mllm(self.name.removeprefix("tiny_"))
        model.name, score = self.name, model.score

        def watched(*args, **kwargs):
            self.inside.get(self.name, lambda: None)()
            return score(*args, **kwargs)

        model.score = watched
        self.alive.append((self.name, weakref.ref(model)))
        return model

    def fingerprint(self):
        return f"fp-{self.name}"


@pytest.fixture(autouse=True)
def fresh():
    for kept in (Watched.loads, Watched.alive, Watched.errors, Watched.inside):
        kept.clear()
    Watched.started.update({name: threading.Event() for name in NAMES})


def specs():
    return [Watched(name, "heldout") for name in NAMES]


def scored(tmp_path, **options):
    scorer = make_scorer(tmp_path, controls=("black",), **options)
    return {spec.name: records for spec, records in scorer.score_all(specs(), "val", {"prompt": make_prompt()})}


def waits_for(name):
    def wait():
        assert Watched.started[name].wait(WAIT), f"'{name}' was not read meanwhile"

    return wait


def test_each_is_read_in_the_background_while_the_one_before_is_scored(tmp_path):
    Watched.inside |= {ORDER[0]: waits_for(ORDER[1]), ORDER[1]: waits_for(ORDER[2])}
    assert list(scored(tmp_path, order=ORDER, beside=PAIRS)) == list(NAMES)
    assert [(name, here) for name, here, _ in Watched.loads] == [(name, False) for name in ORDER]
    assert [living for *_, living in Watched.loads] == [[], [ORDER[0]], [ORDER[1]]]  # two with the one that is read
    assert Watched.living() == []


def test_the_first_one_is_read_while_the_sources_are_scored(tmp_path):
    scorer = make_scorer(tmp_path, controls=("black",), order=ORDER, beside=PAIRS)
    found = scorer.score_all(specs(), "val", {"prompt": make_prompt()})
    waits_for(ORDER[0])()  # nothing was asked of `found` yet
    assert len(list(found)) == 3


def test_one_that_does_not_fit_beside_the_one_before_is_read_when_that_has_gone(tmp_path):
    scored(tmp_path, order=ORDER, beside=[PAIRS[1]])
    assert Watched.loads == [(ORDER[0], True, []), (ORDER[1], False, [ORDER[0]]), (ORDER[2], True, [])]
    Watched.loads.clear()
    scored(tmp_path, order=ORDER)
    assert Watched.loads == [(name, True, []) for name in ORDER]


def test_pairs_are_of_models_that_follow_each_other_now(tmp_path):
    """Held-out targets may be left out of a validation: then others are neighbours."""
    scorer = make_scorer(tmp_path, controls=("black",), order=ORDER, beside=PAIRS)
    left = [spec for spec in specs() if spec.name != ORDER[1]]
    assert len(list(scorer.score_all(left, "val", {"prompt": make_prompt()}))) == 2
    assert Watched.loads == [(ORDER[0], False, []), (ORDER[2], True, [])]


@pytest.mark.slow
def test_records_are_the_same_bits_in_any_residency_and_come_in_the_order_of_the_targets(tmp_path):
    ways = {
        "plain": {},
        "keep": {"residency": "keep", "order": ORDER},
        "in order": {"order": ORDER},
        "ahead": {"order": ORDER, "beside": PAIRS},
    }
    found = {way: scored(tmp_path / way, **options) for way, options in ways.items()}
    for records in found.values():
        assert list(records) == list(NAMES)
        for name, inputs in records.items():
            for key, record in inputs.items():
                assert record.ids == found["plain"][name][key].ids
                assert (record.scores == found["plain"][name][key].scores).all()


def test_rows_are_written_in_the_order_of_the_targets(tmp_path):
    def rows(folder, **options):
        log = ResultLog(tmp_path / folder / "results.jsonl")
        scorer = make_scorer(tmp_path / folder, controls=("black",), **options)
        callback = TransferCallback([Watched("tiny_minigpt4", "source")], specs(), scorer, log, context=CONTEXT)
        logged = callback.score_split(make_module(), "val", 0, 0)
        return [{k: v for k, v in row.items() if k != "time"} for row in read_rows(log.path)], list(logged.items())

    assert rows("ahead", order=ORDER, beside=PAIRS) == rows("plain")


@pytest.mark.parametrize("failing", ORDER)
def test_what_fails_in_the_background_is_raised_as_it_is_and_nothing_stays(tmp_path, failing):
    Watched.errors[failing] = FileNotFoundError(f"No weights of '{failing}'.")
    with pytest.raises(FileNotFoundError, match=f"No weights of '{failing}'") as caught:
        scored(tmp_path, order=ORDER, beside=PAIRS)
    assert [name for name, *_ in Watched.loads] == list(ORDER[: ORDER.index(failing) + 1])
    del caught
    assert Watched.living() == []


def test_records_that_are_complete_are_handed_out_before_a_later_model_fails(tmp_path):
    Watched.errors[NAMES[2]] = ValueError("broken")
    scorer = make_scorer(tmp_path, controls=("black",), order=NAMES, beside=[*pairwise(NAMES)])
    found = scorer.score_all(specs(), "val", {"prompt": make_prompt()})
    assert [next(found)[0].name, next(found)[0].name] == list(NAMES[:2])
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_two_that_do_not_fit_after_all_are_loaded_one_after_the_other(tmp_path):
    Watched.errors[ORDER[1]] = torch.OutOfMemoryError("CUDA out of memory.")
    assert list(scored(tmp_path, order=ORDER, beside=PAIRS)) == list(NAMES)
    assert [load[:2] for load in Watched.loads] == [
        (ORDER[0], False),
        (ORDER[1], False),
        (ORDER[1], True),
        (ORDER[2], False),
    ]
    assert Watched.loads[2] == (ORDER[1], True, [])  # the one before had gone


def test_an_interrupted_scoring_lets_go_of_everything(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    Watched.inside[ORDER[1]] = interrupt
    with pytest.raises(KeyboardInterrupt) as caught:
        scored(tmp_path, order=ORDER, beside=PAIRS)
    del caught
    for thread in threading.enumerate():
        if thread.name.startswith("read ahead"):
            thread.join(WAIT)
    assert Watched.living() == []


def test_a_model_of_the_hub_is_never_built_beside_one_that_computes(tmp_path, monkeypatch):
    """transformers sets torch's default dtype meanwhile, for every thread."""
    monkeypatch.setattr("lightning_modules.read_ahead.is_hub_model", lambda name: name == ORDER[1])
    scored(tmp_path, order=ORDER, beside=PAIRS)
    assert Watched.loads[1] == (ORDER[1], True, [ORDER[0]])  # which stays, for what both have in common
    assert [here for _, here, _ in Watched.loads] == [False, True, False]


def test_one_model_is_loaded_once_for_all_that_is_scored_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.scorer.FIRST_ROUND", 4)
    spec, scorer = specs()[0], make_scorer(tmp_path)
    scorer.score(spec, "test", {"prompt": make_prompt()})  # two rounds of colours on val, then test
    assert len(Watched.loads) == 1 and Watched.living() == []


def test_weights_that_two_threads_read_at_once_are_held_once():
    pool, gate = WeightPool(), threading.Barrier(4, timeout=WAIT)
    found: list[list[torch.Tensor]] = [[] for _ in range(4)]

    def read(mine):
        gate.wait()
        mine.extend(pool.once(torch.full((50,), float(n))) for n in range(200))

    threads = [threading.Thread(target=read, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert all(len({mine[n].data_ptr() for mine in found}) == 1 for n in range(200)) and len(pool.entries()) == 200
