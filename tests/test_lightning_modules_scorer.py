"""PromptScorer and TransferCallback: controls once, right samples, no held-out steering, no partial validations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.tiny_models import tiny_mllm
from support.toy_data import Toy

import lightning_modules.evaluation as evaluation
from lightning_modules.controls import ControlStore
from lightning_modules.evaluation import ModelSpec
from lightning_modules.label_mapping import fit_mapping, read_through
from lightning_modules.prompts import PadPrompt
from lightning_modules.records import FIELDS, ResultLog, read_rows
from lightning_modules.result_rows import score_rows, summarise
from lightning_modules.scorer import PromptScorer
from lightning_modules.transfer_callback import TransferCallback
from lightning_modules.vocabulary import CONTROLS

FRAME, PAD = 16, 2
CONTEXT = {"run": "r", "seed": 0, "method": "tvp", "source": "tiny_minigpt4", "official": False, "bounds": "image"}


class Spec(ModelSpec):
    """A tiny random model by architecture; counts how often it is loaded."""

    loads: list[str] = []

    def load(self, device):
        self.loads.append(self.name)
        model = tiny_mllm(self.name.removeprefix("tiny_"))
        model.name = self.name
        return model

    def fingerprint(self):
        return f"fp-{self.name}"


@pytest.fixture(autouse=True)
def fresh_loads():
    Spec.loads.clear()


@pytest.fixture
def counted(monkeypatch):
    """Names of the inputs each scoring pass really ran."""
    passes = []
    original = evaluation.score_batches

    def counting(mllm, batches, inputs, *rest):
        passes.extend((mllm.name, getattr(name, "name", name)) for name in inputs if name != "drift")
        return original(mllm, batches, inputs, *rest)

    monkeypatch.setattr(evaluation, "score_batches", counting)
    return passes


def make_scorer(tmp_path, **options):
    data = Toy(image_size=FRAME - 2 * PAD, count=11)
    sizes = {"val": 7, "test": None}
    return PromptScorer(data, ControlStore(tmp_path), **{"frame": FRAME, "pad": PAD, "sizes": sizes, **options})


def make_prompt(value=0.5):
    prompt = PadPrompt(FRAME, PAD)
    prompt.delta.data.fill_(value)
    prompt.project_()
    return prompt


def test_controls_are_scored_once_and_only_the_prompt_again(tmp_path, counted):
    spec = Spec("tiny_minigpt4", "source")
    first = make_scorer(tmp_path).score(spec, "val", {"prompt": make_prompt()})
    assert sorted(name for _, name in counted if name != "constant") == ["black", "full", "prompt", "replicate"]
    assert sum(name == "constant" for _, name in counted) == 27
    counted.clear()
    again = make_scorer(tmp_path).score(spec, "val", {"prompt": make_prompt()})
    assert counted == [("tiny_minigpt4", "prompt")]
    assert list(first) == list(again) == [*CONTROLS, "prompt"]
    for name in first:
        assert first[name].ids == again[name].ids and (first[name].scores == again[name].scores).all()


def test_a_zero_prompt_scores_bit_for_bit_as_the_black_border(tmp_path):
    for name in ("tiny_minigpt4", "tiny_blip2", "tiny_llava"):
        records = make_scorer(tmp_path).score(Spec(name, "heldout"), "val", {"prompt": make_prompt(0.0)})
        assert (records["prompt"].scores == records["black"].scores).all()
        assert not (records["full"].scores == records["black"].scores).all()


def test_what_frames_go_through_reaches_prompts_and_controls_alike_and_is_stored_apart(tmp_path):
    spec, prompts = Spec("tiny_minigpt4", "source"), {"prompt": make_prompt(0.0)}
    plain = make_scorer(tmp_path).score(spec, "val", prompts)
    sender = make_scorer(tmp_path, through=["resize:0.25", "8bit"])
    sent = sender.score(spec, "val", prompts)

    def rows_of(scorer, records):
        return score_rows(scorer, spec, "val", records, prompts, {})

    assert (sent["prompt"].scores == sent["black"].scores).all()  # a zero prompt is the black border, on any way
    for name in ("full", "black", "prompt"):
        assert not (sent[name].scores == plain[name].scores).all()
    assert {row["through"] for row in rows_of(sender, sent)} == {"resize:0.25,8bit"}  # and every row says so
    assert not any("through" in row for row in rows_of(make_scorer(tmp_path), plain))
    again = make_scorer(tmp_path).score(spec, "val", prompts)
    assert all((again[name].scores == plain[name].scores).all() for name in plain)


def test_the_constant_border_on_test_is_the_best_of_validation(tmp_path):
    spec, scorer = Spec("tiny_llava", "heldout"), make_scorer(tmp_path)
    records = scorer.score(spec, "test", {"prompt": make_prompt()})
    chosen, key = scorer.colours["tiny_llava"], scorer.store_key(spec, "val", 7)
    accuracy = {c: scorer.store.load(c, **key).correct.mean() for c in scorer.controls if c.name == "constant"}
    assert accuracy[chosen] == max(accuracy.values())
    assert len(records["constant"].ids) == 11  # all of test
    assert not any(scorer.store.load(c, **scorer.store_key(spec, "test", None)) for c in accuracy if c != chosen)


def test_colours_compete_in_two_rounds_and_the_winner_is_the_best_finalist(tmp_path, counted, monkeypatch):
    monkeypatch.setattr("lightning_modules.scorer.FIRST_ROUND", 4)
    monkeypatch.setattr("lightning_modules.scorer.FINALISTS", 3)
    spec, scorer = Spec("tiny_llava", "heldout"), make_scorer(tmp_path)
    records = scorer.score(spec, "val", {"prompt": make_prompt()})
    assert sum(name == "constant" for _, name in counted) == 27 + 3
    constants = [c for c in scorer.controls if c.name == "constant"]
    first = [scorer.store.load(c, **scorer.store_key(spec, "val", 4)).correct.mean() for c in constants]
    last = {c: scorer.store.load(c, **scorer.store_key(spec, "val", 7)) for c in constants}
    kept = [c for c in constants if last[c] is not None]
    assert len(kept) == 3 and min(first[constants.index(c)] for c in kept) >= sorted(first)[-3]
    assert records["constant"].correct.mean() == max(last[c].correct.mean() for c in kept)
    assert len(records["constant"].ids) == 7


def test_residencies_give_the_same_scores_and_load_as_they_say(tmp_path):
    spec, records = Spec("tiny_blip2", "heldout"), {}
    for residency, loads in (("sequential", 2), ("keep", 1)):
        Spec.loads.clear()
        scorer = make_scorer(tmp_path / residency, residency=residency)
        scorer.score(spec, "val", {"prompt": make_prompt()})
        records[residency] = scorer.score(spec, "val", {"prompt": make_prompt()})
        assert len(Spec.loads) == loads
    assert all((records["keep"][k].scores == records["sequential"][k].scores).all() for k in records["keep"])
    with pytest.raises(ValueError, match=r"Unknown residency 'cloud'\. Available: sequential, keep, process"):
        make_scorer(tmp_path, residency="cloud")


def test_label_maps_are_fitted_on_validation_with_the_same_prompt_and_stand_beside_the_plain_score(tmp_path):
    spec, prompts = Spec("tiny_llava", "heldout"), {"prompt": make_prompt()}
    scorer, plain = make_scorer(tmp_path, label_mapping=True), make_scorer(tmp_path)
    expected = {split: plain.score(spec, split, prompts) for split in ("val", "test")}
    for split in ("test", "val"):  # test first: nothing of an earlier validation is used
        records = scorer.score(spec, split, prompts)
        for name, record in records.items():
            assert (record.scores == expected[split][name].scores).all()
            wanted = read_through(record, fit_mapping(expected["val"][name]))
            assert (scorer.mapped[split, "tiny_llava"][name].scores == wanted.scores).all()
        rows = score_rows(scorer, spec, split, records, prompts, {})
        values = {(row["input"], row["metric"]): row["value"] for row in rows}
        mapped = scorer.mapped[split, "tiny_llava"]["prompt"]
        assert values["prompt", "top1_mapped"] == mapped.correct.mean() and ("full", "top1_mapped") in values
        assert values["prompt", "top1"] == records["prompt"].correct.mean()
    assert not any(row["metric"] == "top1_mapped" for row in score_rows(plain, spec, "val", records, prompts, {}))
    assert plain.mapped == {}


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_scores(tmp_path):
    spec = ModelSpec("embedded_llava", "heldout")
    prompt = PadPrompt(64, 8)
    prompt.delta.data.fill_(0.3)
    prompt.project_()
    from datamodules.registry import load_datamodule

    records = []
    for residency in ("process", "sequential"):
        data = load_datamodule("emoji_recognition", image_size=48)
        sizes = {"val": 6, "test": 6}
        options = {"frame": 64, "pad": 8, "sizes": sizes, "controls": ("black",), "residency": residency}
        scorer = PromptScorer(data, ControlStore(tmp_path / residency), **options)
        records.append(scorer.score(spec, "val", {"prompt": prompt}))
    for name in ("black", "prompt"):
        assert (records[0][name].scores == records[1][name].scores).all()


def make_callback(tmp_path, targets):
    source = Spec("tiny_minigpt4", "source")
    log = ResultLog(tmp_path / "results.jsonl")
    return TransferCallback(
        [source], targets, make_scorer(tmp_path), log, context=CONTEXT, scores_folder=tmp_path / "s"
    )


def make_module():
    return SimpleNamespace(device="cpu", result=make_prompt(), sources=[Spec("tiny_minigpt4", "source").load("cpu")])


@pytest.mark.parametrize(("png", "others"), [("all", {"prompt", "png"}), ("source", {"prompt"})])
def test_the_reread_png_is_scored_on_test_only_and_on_the_source_alone_where_that_is_asked(
    tmp_path, counted, png, others
):
    callback = make_callback(tmp_path, [Spec("tiny_llava", "heldout")])
    callback.png, callback.test_prompts = png, {"png": make_prompt(0.4)}
    module = make_module()
    for split in ("val", "test"):
        callback.score_split(module, split, 0, 0)
    given = {name: {r["input"] for r in read_rows(callback.results.path) if (r["mllm"], r["split"]) == (name, "test")}
             for name in ("tiny_minigpt4", "tiny_llava")}  # fmt: skip
    assert given == {"tiny_minigpt4": {*CONTROLS, "prompt", "png"}, "tiny_llava": {*CONTROLS} | others}
    assert counted.count(("tiny_llava", "png")) == (png == "all") and counted.count(("tiny_minigpt4", "png")) == 1


def test_every_source_of_an_ensemble_is_scored_as_one(tmp_path):
    callback = make_callback(tmp_path, [Spec("tiny_llava", "heldout")])
    callback.sources.append(Spec("tiny_bliva", "source"))
    module = make_module()
    module.sources.append(Spec("tiny_bliva", "source").load("cpu"))
    callback.score_split(module, "val", 0, 0)
    roles = {(row["mllm"], row["role"]) for row in read_rows(callback.results.path)}
    assert roles == {("tiny_minigpt4", "source"), ("tiny_bliva", "source"), ("tiny_llava", "heldout")}


def test_held_out_targets_never_enter_the_mean_that_may_steer(tmp_path):
    targets = [Spec("tiny_blip2", "select"), Spec("tiny_bliva", "select"), Spec("tiny_llava", "heldout")]
    logged = make_callback(tmp_path, targets).score_split(make_module(), "val", 0, 0)
    for control in CONTROLS:
        pair = [logged[f"val/gain/{control}/{name}"] for name in ("tiny_blip2", "tiny_bliva")]
        assert logged[f"val/gain/{control}/mean_select"] == pytest.approx(sum(pair) / 2)
        assert f"val/gain/{control}/tiny_llava" in logged
    only_held_out = make_callback(tmp_path, [Spec("tiny_llava", "heldout")])
    assert not any(key.endswith("mean_select") for key in only_held_out.score_split(make_module(), "val", 0, 0))


def test_rows_state_everything_and_the_scores_behind_them_are_kept(tmp_path):
    callback = make_callback(tmp_path, [Spec("tiny_llava", "heldout")])
    callback.score_split(make_module(), "val", epoch=3, step=40)
    rows = read_rows(callback.results.path)
    assert {row["input"] for row in rows} == {*CONTROLS, "prompt"} and {row["n"] for row in rows} == {7}
    assert {(row["mllm"], row["role"]) for row in rows} == {("tiny_minigpt4", "source"), ("tiny_llava", "heldout")}
    assert all(list(row) == list(FIELDS) and row["epoch"] == 3 and row["step"] == 40 for row in rows)
    assert all((row["prompt"] is None) == (row["kind"] == "control") for row in rows)
    assert len(list((tmp_path / "s").glob("val_*.npz"))) == 10


def test_rows_of_groups_are_written_for_the_prompt_and_every_control(tmp_path):
    class Grouped(Toy):
        task = "counting"
        candidates = ["1", "2", "5"]

        def build_rows(self, split):
            rows = super().build_rows(split)
            return [r._replace(group="even" if i % 2 else "odd", answer="125"[r.label]) for i, r in enumerate(rows)]

    scorer = make_scorer(tmp_path)
    scorer.datamodule, scorer.metric = Grouped(image_size=FRAME - 2 * PAD, count=11), "accuracy"
    spec, prompts = Spec("tiny_llava", "heldout"), {"prompt": make_prompt()}
    records = scorer.score(spec, "test", prompts)
    rows = score_rows(scorer, spec, "test", records, prompts, {})
    seen = {(r["input"], r["group"], r["metric"]): r["n"] for r in rows if not r["metric"].startswith("drift")}
    sizes = {"": 11, "even": 5, "odd": 6, "mean_groups": 11}
    assert seen == {(i, g, m): n for i in (*CONTROLS, "prompt") for g, n in sizes.items() for m in ("accuracy", "mae")}
    assert summarise(scorer, "tiny_llava", "test", records)["test/mae/tiny_llava"] >= 0


def test_a_partial_or_sanity_validation_is_never_scored(tmp_path, capsys):
    callback = make_callback(tmp_path, [])
    trainer = SimpleNamespace(sanity_checking=False, num_val_batches=[3], current_epoch=0, global_step=1, world_size=1)
    module = make_module()
    module.trainer, module.log_dict = trainer, lambda *a, **k: None
    callback.on_validation_epoch_start(trainer, module)
    callback.on_validation_batch_end()
    callback.on_validation_epoch_end(trainer, module)
    assert "skipped a partial validation (1 of 3 batches)" in capsys.readouterr().out
    trainer.sanity_checking = True
    callback.on_validation_epoch_end(trainer, module)
    assert not (tmp_path / "results.jsonl").exists()
    trainer.sanity_checking = False
    for _ in range(2):
        callback.on_validation_batch_end()
    callback.on_validation_epoch_end(trainer, module)
    assert {row["input"] for row in read_rows(callback.results.path)} == {*CONTROLS, "prompt"}


def test_records_say_which_rows_are_about_one_picture_also_when_a_stored_control_is_older(tmp_path):
    spec, prompts = Spec("tiny_minigpt4", "heldout"), {"prompt": make_prompt()}
    plain = make_scorer(tmp_path).score(spec, "test", prompts)
    assert all(record.units == () for record in plain.values())
    scorer = make_scorer(tmp_path)  # reads the controls that the first one stored
    scorer.datamodule.picture = lambda split, index: f"picture {index // 2}"
    records = scorer.score(spec, "test", prompts)
    expected = [scorer.datamodule.units("test")[key] for key in records["full"].ids]
    assert len(set(expected)) == 6
    assert [record.units for record in records.values()] == [expected] * len(records)
    assert scorer.drifts["test", spec.name].units
    rows = score_rows(scorer, spec, "test", records, prompts, CONTEXT | {"epoch": 0, "step": 0})
    assert {row["interval"] for row in rows} == {"wilson over units", "bootstrap over units"}
