"""`train.feature_cache` end to end on the smoke recipe: the same prompt bit for bit, also over a cut and a resume."""

from __future__ import annotations

import pytest
import torch
from test_experiments_train import Killed, delta_of, smoke

from experiments.train import main
from lightning_modules import feature_cache
from lightning_modules.artefact import read_manifest
from lightning_modules.tvp import TVPModule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]
FEW = ["targets.select=[]", "targets.heldout=[]", "data.n_test=0", "train.checkpoint_every=1"]


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")  # scored once for all runs of this module


@pytest.fixture(autouse=True)
def cache(controls, tmp_path, monkeypatch):
    """Where features go: a fresh folder for each test."""
    monkeypatch.setenv("TVP_CACHE", str(controls))
    monkeypatch.setattr(feature_cache, "feature_folder", lambda: tmp_path / "features")
    return tmp_path / "features"


def test_cached_float32_features_give_the_prompt_of_a_run_without_them(tmp_path, cache, capsys):
    plain = smoke(tmp_path / "plain", *FEW)
    assert not cache.exists()
    for i, hits in enumerate((32, 64)):  # two epochs over 32 pictures: the first run fills, the second only reads
        cached = smoke(tmp_path / f"{i}", *FEW, "train.feature_cache=float32")
        assert read_manifest(cached / "prompt")["prompt"] == read_manifest(plain / "prompt")["prompt"]
        assert capsys.readouterr().out.count(f"Clean features: {hits} of 64") == 1
    assert len(list(cache.glob("*/*.float32"))) == 32


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_cut_run_with_the_cache_resumes_to_the_uninterrupted_prompt(tmp_path, cache, monkeypatch, kind):
    words = [*FEW, f"train.feature_cache={kind}"]

    def cut(self, *_):
        if self.global_step == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(tmp_path / "cut", *words)
    assert list(cache.glob(f"*/*.{kind}"))
    main([f"resume={tmp_path / 'cut'}"])
    monkeypatch.setattr(feature_cache, "feature_folder", lambda: tmp_path / "other")
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(smoke(tmp_path / "whole", *words)))
