"""`python -m datamodules`: what is published is stated rightly, and a wrong command line is one message."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import run

import datamodules.__main__ as program
from datamodules import load_datamodule
from datamodules.prepare.catalogue import PUBLISHED

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_entry_is_complete_and_stays_below_the_root(name):
    published = PUBLISHED[name]
    assert published.licence and published.homepage.startswith("http") and published.what and published.archives
    assert published.how or all(archive.urls for archive in published.archives)
    for archive in published.archives:
        assert all(url.startswith(("https://", "http://")) for url in archive.urls)
        assert not archive.target.startswith("/") and ".." not in archive.target.split("/")
        digests = [*archive.files.values(), *([archive.digest] if archive.digest else [])]
        assert all(
            len(d.value) == 2 * hashlib.new(d.algorithm.removeprefix("gunzip-")).digest_size and d.source
            for d in digests
        )
        assert archive.files or archive.counts or archive.digest


def test_digests_are_those_that_torchvision_states():
    from torchvision import datasets

    stated = {
        "cifar-10-python.tar.gz": datasets.CIFAR10.tgz_md5,
        "cifar-100-python.tar.gz": datasets.CIFAR100.tgz_md5,
        "dtd-r1.0.1.tar.gz": datasets.DTD._MD5,
        "CLEVR_v1.0.zip": datasets.CLEVRClassification._MD5,
    }
    stated |= {url.split("/")[-1]: value for url, value in datasets.OxfordIIITPet._RESOURCES}
    stated |= {url.split("/")[-1]: value for url, value in datasets.Imagenette._ARCHIVES.values()}
    stated |= {file: value for _, file, value in datasets.SVHN.split_list.values()}
    archives = {archive.file: archive for published in PUBLISHED.values() for archive in published.archives}
    checked = {file for file in stated if file in archives and archives[file].digest.value == stated[file]}
    assert checked == set(stated) - {"extra_32x32.mat"}
    for kind, name in ((datasets.CIFAR10, "cifar10"), (datasets.CIFAR100, "cifar100")):
        files = dict(kind.train_list + kind.test_list) | {kind.meta["filename"]: kind.meta["md5"]}
        assert {file: digest.value for file, digest in PUBLISHED[name].archives[0].files.items()} == files


# ---- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["list", "root=nowhere"]])
def test_help_and_list_load_no_torch(words):
    code = f"import sys, datamodules.__main__ as m; m.main({words!r}); "
    code += "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_list_names_every_data_set_with_its_licence_and_what_is_missing(tmp_path, capsys):
    shown = run(capsys, "list", f"root={tmp_path}")
    for name, published in PUBLISHED.items():
        assert name in shown and published.licence in shown and published.homepage in shown
    assert "imagefolder" in shown and "vqa_jsonl" in shown and f"missing   {tmp_path}/CLEVR_v1.0" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepar", "cifar10"], "Unknown command 'prepar'. Did you mean 'prepare'?"),
        (["prepare", "cifar-10"], "Unknown data set 'cifar-10'. Did you mean 'cifar10'? Available: cifar10"),
        (["verify", "xyzzy"], "Unknown data set 'xyzzy'. Available"),
        (["prepare", "imagefolder"], "'imagefolder' has no published files"),
        (["prepare"], "Expected one NAME after 'prepare', got none"),
        (["list", "cifar10"], "Expected no NAME after 'list', got cifar10"),
        (["prepare", "cifar10", "form=x"], "Unknown key 'form'. Did you mean 'from'?"),
        (["prepare", "cifar10", "from="], "Nothing after 'from='"),
        (["prepare", "cifar10", "from=/nowhere"], "No 'from=/nowhere'. Expected an archive or a folder"),
        (["prepare", "svhn", "from=tests"], "'tests' does not hold all of 'svhn'. Expected there: train_32x32.mat or"),
        (["prepare", "cifar10", "keep=maybe"], "Expected true or false for keep, got 'maybe'"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    extra = [f"root={tmp_path / 'data'}"] if words[-1] != "prepare" else []
    assert message in run(capsys, *words, *extra, code=2)
    assert not (tmp_path / "data").exists()


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_dispatch", interrupt)
    assert run(capsys, "list", code=130) == "Interrupted.\n"


def test_a_path_that_begins_with_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """No shell expands the tilde in root=~/data; taken as it stands it would make a folder called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    program.main(["list", "root=~/data"])
    program.main(["verify", "cifar10", "root=~/data"])
    assert load_datamodule("cifar10", root="~/data").root == str(tmp_path / "data")
    assert not (tmp_path / "~").exists()
