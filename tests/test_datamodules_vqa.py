"""CLEVR, Hateful Memes, POPE and one's own questions: texts, splits, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.vqa_files import KINDS, vqa_lines, write_clevr, write_hateful_memes, write_pope, write_vqa_jsonl

from datamodules import load_datamodule
from datamodules.hateful_memes import clean_text
from datamodules.images import decode_image
from datamodules.pope_questions import build_questions, choose_images, read_objects, write_questions

WRITERS = {
    "clevr": write_clevr,
    "hateful_memes": write_hateful_memes,
    "pope": write_pope,
    "vqa_jsonl": write_vqa_jsonl,
}


def load(name, kwargs, **more):
    return load_datamodule(name, **{"image_size": 8, **kwargs, **more})


@pytest.fixture
def written(request, tmp_path):
    return request.param, WRITERS[request.param](tmp_path)


def edit_line(path, number, **changes):
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps({k: v for k, v in (json.loads(lines[number - 1]) | changes).items() if v != "DROP"})
    path.write_text("\n".join(lines) + "\n")


every = pytest.mark.parametrize("written", sorted(WRITERS), indirect=True)


@every
def test_rows_answers_candidates_and_pictures_belong_together(written):
    data = load(written[0], written[1])
    for split in ("train", "val", "test"):
        rows = data.rows(split)
        for row in rows:
            assert (row.candidates or data.candidates)[row.label] == row.answer
        last = len(rows) - 1
        assert torch.equal(data.original(split, last), decode_image(data.image_path(split, last)))
        batch = next(iter(data.loader(split)))
        assert batch.images.shape[1:] == (3, 8, 8) and batch.images.dtype == torch.float32
    assert load(*written).rows("train") == data.rows("train")


@every
def test_no_picture_is_shared_between_splits(written):
    data = load(written[0], written[1])
    pictures = [{data.image_path(s, i) for i in range(data.n(s))} for s in ("train", "val", "test")]
    assert not (pictures[0] & pictures[1] or pictures[0] & pictures[2] or pictures[1] & pictures[2])
    other = load(*written, split_seed=7)
    assert [row.id for row in other.rows("val")] != [row.id for row in data.rows("val")]


@every
def test_official_val_leaves_train_whole(written):
    name, kwargs = written
    data = load(name, kwargs)
    whole = load(name, kwargs, val="official")
    expected = data.n("train") + (data.n("val") if name != "vqa_jsonl" else 0)
    assert whole.n("train") == expected
    if name in ("clevr", "hateful_memes", "vqa_jsonl"):
        return  # 5 % of each class of so small a test is no row
    assert {row.id for row in whole.rows("val")} <= {row.id for row in whole.rows("test")}


@every
def test_an_absent_root_lists_what_is_expected(written, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"No {written[0]} data in '.*'\. Expected:\n  .*nowhere"):
        load(written[0], {"root": str(tmp_path / "nowhere")}).rows("train")


# ---- CLEVR ----------------------------------------------------------------------------------------------------------
def test_clevr_asks_for_the_number_of_objects(tmp_path):
    data = load("clevr", write_clevr(tmp_path))
    assert data.candidates == ["3", "4", "5", "6", "7", "8", "9", "10"] and data.task == "counting"
    row = data.rows("test")[7]
    assert row[:5] == (
        "CLEVR_val_000007",
        7,
        "How many objects are there in this image? Answer with a single number.",
        "10",
        "a photo of 10 objects",
    )
    assert (data.n("train"), data.n("val"), data.n("test")) == (144, 16, 40)
    assert set(Counter(row.label for row in data.rows("val")).values()) == {2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["scenes"][2].update(objects=[{}] * 11), r"image 'CLEVR_train_000002\.png' has 11 objects\. Expec"),
        (lambda c: c["scenes"][1].pop("objects"), r"scene 1 lacks 'image_filename' or 'objects'"),
        (lambda c: c.pop("scenes"), r"has no list 'scenes'"),
    ],
    ids=["eleven", "no objects", "no scenes"],
)
def test_clevr_scenes_of_another_form_are_named(change, message, tmp_path):
    kwargs = write_clevr(tmp_path)
    path = tmp_path / "CLEVR_v1.0/scenes/CLEVR_train_scenes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load("clevr", kwargs).rows("train")


def test_half_a_json_file_is_named(tmp_path):
    kwargs = write_clevr(tmp_path)
    path = tmp_path / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
    path.write_text(path.read_text()[:300])
    with pytest.raises(ValueError, match=r"CLEVR_val_scenes\.json' is not JSON: .*Expected a complete file"):
        load("clevr", kwargs).rows("test")


# ---- Hateful Memes --------------------------------------------------------------------------------------------------
def test_memes_ask_with_their_text_on_one_line_in_single_quotes(tmp_path):
    data = load("hateful_memes", write_hateful_memes(tmp_path))
    row = data.rows("test")[3]
    asked = "This is an image with: \"when they say 'stay' and you 'go'\" written on it. Is it hateful?"
    assert row[:5] == ("dev_seen/2003", 1, asked, "yes", "a hateful meme")
    assert data.rows("test")[2].caption == "a harmless meme" and data.task == "reasoning"
    verbatim = load("hateful_memes", {"root": str(tmp_path)}, official=True).rows("test")[3].question
    assert 'when they say "stay" \n and you “go”' in verbatim
    assert (data.n("train"), data.n("val"), data.n("test")) == (54, 6, 20)


def test_clean_text_changes_nothing_else():
    assert clean_text("it's 5 o'clock - ok?") == "it's 5 o'clock - ok?"


def test_the_first_release_s_test_is_used_where_only_it_is_there_and_says_so(tmp_path):
    data = load("hateful_memes", write_hateful_memes(tmp_path, test_file="dev.jsonl"))
    assert data.test_file == "dev.jsonl" and data.rows("test")[0].id == "dev/2000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"train\.jsonl' line 5: 'label' is 2\. Expected 0 or 1"),
        ({"label": "DROP"}, r"train\.jsonl' line 5: 'label' is None"),
        ({"text": "DROP"}, r"train\.jsonl' line 5: 'text' is missing\. Expected str"),
        ({"img": 7}, r"train\.jsonl' line 5: 'img' is 7\. Expected str"),
    ],
)
def test_a_meme_s_wrong_field_is_named_with_file_and_line(change, message, tmp_path):
    kwargs = write_hateful_memes(tmp_path)
    edit_line(tmp_path / "hateful_memes/train.jsonl", 5, **change)
    with pytest.raises(ValueError, match=message):
        load("hateful_memes", kwargs).rows("train")


# ---- POPE -----------------------------------------------------------------------------------------------------------
def test_pope_has_three_groups_and_its_own_questions(tmp_path):
    data = load("pope", write_pope(tmp_path))
    assert Counter(row.group for row in data.rows("test")) == {"random": 24, "popular": 24, "adversarial": 24}
    assert data.rows("test")[0] == (
        "random/00001", 1, "Is there a cup in the image?", "yes", "", "random", None,
    )  # fmt: skip
    assert data.candidates == ["no", "yes"] and data.task == "hallucination"
    train = data.rows("train")
    assert len(train) + data.n("val") == 3 * 20 * 6 and data.n("val") == 3 * 2 * 6
    assert Counter(row.label for row in train) == {0: len(train) // 2, 1: len(train) // 2}


def test_the_first_half_is_the_reference_s_test_and_can_be_had_alone(tmp_path):
    kwargs = write_pope(tmp_path)
    assert load("pope", kwargs, official=True).n("test") == 36
    assert load("pope", kwargs, half=True).n("test") == 36
    assert load("pope", kwargs, official=True, half=False).n("test") == 72
    half = load("pope", kwargs, half=True)
    assert [row.id for row in half.rows("test")[:12]] == [row.id for row in load("pope", kwargs).rows("test")[:12]]


def test_another_number_of_questions_is_refused(tmp_path):
    kwargs = write_pope(tmp_path)
    with pytest.raises(ValueError, match=r"coco_pope_random\.json' has 24 questions\. Expected 3000 .*2,910"):
        load("pope", {"root": kwargs["root"]}).rows("test")


def test_training_questions_ask_for_what_is_there_and_what_is_not(tmp_path):
    data = load("pope", write_pope(tmp_path))
    for row in data.rows("train"):
        asked = next(kind for kind in KINDS if f" {kind} in" in row.question)
        assert (asked in row.caption.split(", ")) == (row.answer == "yes")


def test_negatives_are_popular_or_co_occurring_as_counted_by_hand():
    chosen = {"a": ["cat", "dog", "cup"], "b": ["cat", "dog", "tv"], "c": ["cup", "tv", "bed"]}
    chosen |= {"d": ["cat", "cup", "tv"], "e": ["sink", "toilet", "car"]}
    asked = {}
    for group in ("popular", "adversarial"):
        questions = build_questions(chosen, group, seed=0)
        assert [q["label"] for q in questions] == ["yes", "no"] * 15
        asked[group] = [q["text"].split()[3] for q in questions if q["label"] == "no"]
    # Seen in: cat 3, cup 3, tv 3, dog 2, the others once. With cat: tv twice. With cup: cat twice, dog once.
    assert asked["popular"][:3] == ["tv", "bed", "car"] == asked["adversarial"][:3]
    assert asked["popular"][6:9] == ["cat", "dog", "car"] == asked["adversarial"][6:9]
    assert asked["popular"][12:] == ["cat", "cup", "tv"]  # what is most often anywhere ...
    assert asked["adversarial"][12:] == ["bed", "cat", "cup"]  # ... but nothing was ever with a sink: by name


def test_questions_are_the_same_for_a_seed_and_their_digest_is_checked(tmp_path):
    kwargs = write_pope(tmp_path)
    first = (tmp_path / "pope/train_random.json").read_bytes()
    digests = write_questions(tmp_path, images=20)
    assert (tmp_path / "pope/train_random.json").read_bytes() == first and len(digests) == 3
    assert write_questions(tmp_path, images=20, seed=7) != digests
    edit_line(tmp_path / "pope/train_popular.json", 2, label="yes")
    with pytest.raises(ValueError, match=r"train_popular\.json' has SHA-256 .*make it again with python -m"):
        load("pope", kwargs).rows("train")
    (tmp_path / "pope/train_manifest.json").unlink()  # as with questions from elsewhere
    assert load("pope", kwargs).rows("train")


def test_images_of_training_questions_show_at_least_three_kinds(tmp_path):
    write_pope(tmp_path)
    objects = read_objects(tmp_path / "coco/annotations/instances_train2014.json")
    chosen = choose_images(objects, 20, seed=42)
    assert len(chosen) == 20 and all(len(there) >= 3 for there in chosen.values())
    assert all(sorted(there) == objects[name] for name, there in chosen.items())
    with pytest.raises(ValueError, match=r"images have 3 or more kinds of objects\. Expected at least 200"):
        choose_images(objects, 200, seed=42)
    with pytest.raises(FileNotFoundError, match=r"No '.*instances_train2014\.json'\. Expected COCO's annotations"):
        write_questions(tmp_path / "nowhere")


def test_a_missing_coco_image_is_named(tmp_path):
    data = load("pope", write_pope(tmp_path))
    assert data.n("test") == 72
    path = data.image_path("test", 5)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"No image '.*{path.name}'"):
        list(data.loader("test"))


# ---- one's own ------------------------------------------------------------------------------------------------------
def test_one_file_is_split_with_all_questions_about_a_picture_together(tmp_path):
    data = load("vqa_jsonl", write_vqa_jsonl(tmp_path))
    assert (data.n("train"), data.n("val"), data.n("test")) == (64, 8, 8)
    assert data.candidates == ["cat", "dog", "fish"]
    row = next(row for row in data.rows("train") if row.id == "data:1")
    assert row[1:] == (0, "What is it?", "cat", "What is it? cat", "what", None)
    red = next(row for row in data.rows("train") if row.id.startswith("red-"))
    assert red.candidates == ["no", "yes"] and red.caption == "a thing" and red.group == ""


@pytest.mark.parametrize(
    ("files", "sizes"), [(("train", "test"), (36, 4, 40)), (("test", "train", "val"), (26, 26, 28))]
)
def test_files_called_train_and_test_are_the_splits(files, sizes, tmp_path):
    data = load("vqa_jsonl", write_vqa_jsonl(tmp_path, files=files))
    assert (data.n("train"), data.n("val"), data.n("test")) == sizes
    assert data.candidates == ["cat", "dog", "fish"]


def test_info_gives_task_and_candidates(tmp_path):
    kwargs = write_vqa_jsonl(tmp_path)
    (tmp_path / "info.json").write_text(json.dumps({"task": "counting", "candidates": ["fish", "dog", "cat", "owl"]}))
    data = load("vqa_jsonl", kwargs)
    assert data.task == "counting" and data.candidates == ["fish", "dog", "cat", "owl"]
    assert load("vqa_jsonl", kwargs, task="reasoning").task == "reasoning"
    (tmp_path / "info.json").write_text('{"tusk": "counting"}')
    with pytest.raises(ValueError, match=r"info\.json' has an unknown key 'tusk'\. Did you mean 'task'\?"):
        load("vqa_jsonl", kwargs)


def test_rows_that_all_have_their_own_candidates_share_none(tmp_path):
    data = load("vqa_jsonl", write_vqa_jsonl(tmp_path, lines=[line for line in vqa_lines() if "candidates" in line]))
    assert data.candidates is None and next(iter(data.loader("test"))).candidates[0] == ["no", "yes"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"data\.jsonl' line 3 is not JSON: .*repair that line"),
        ("[1]", r"data\.jsonl' line 3 is a list\. Expected an object"),
        ({"answer": "DROP"}, r"data\.jsonl' line 3: 'answer' is missing\. Expected str"),
        ({"answer": 3}, r"line 3: 'answer' is 3\. Expected str"),
        ({"anwser": "x"}, r"line 3 has an unknown key 'anwser'\. Did you mean 'answer'\? Known: image, question"),
        (
            {"candidates": ["cats", "dog"], "answer": "cat"},
            r"line 3: the answer 'cat' is not among the candidates",
        ),
        ({"candidates": ["cat"]}, r"line 3: candidates \['cat'\]\. Expected at least two"),
        ({"image": "../a.png"}, r"line 3: image '\.\./a\.png' is outside the folder"),
        (
            {"id": "red-0"},
            r"has the id 'red-0' twice: '.*data\.jsonl' line \d+ and '.*data\.jsonl' line \d+\.",
        ),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(line, message, tmp_path):
    kwargs = write_vqa_jsonl(tmp_path, files=("data",))
    path = tmp_path / "data.jsonl"
    if isinstance(line, dict):
        edit_line(path, 3, **line)
    else:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match=message):
        data = load("vqa_jsonl", kwargs)
        for split in ("train", "val", "test"):
            data.rows(split)


def test_files_that_are_no_split_are_refused(tmp_path):
    kwargs = write_vqa_jsonl(tmp_path, files=("train", "dev"))
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl and test\.jsonl .*or a single \*\.jsonl; it has: dev\."):
        load("vqa_jsonl", kwargs).rows("train")
    assert Path(tmp_path, "dev.jsonl").is_file()


def write_lines(path, lines):
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def simple(root, split, count=20, **extra):
    """`count` questions about as many pictures, answers cat and dog, in root/<split>.jsonl."""
    root.mkdir(exist_ok=True)
    lines = []
    for i in range(count):
        name = f"{split.split('.')[0]}-{i}.png"
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name)
        lines.append({"image": name, "question": "What?", "answer": ("cat", "dog")[i % 2], **extra})
    write_lines(root / (split if "." in split else f"{split}.jsonl"), lines)
    return lines


def loaded(root, **kwargs):
    return load_datamodule("vqa_jsonl", root=str(root), image_size=8, **kwargs)


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("TrainSet", "dev", "Test"), ("train.json", "test.json")]
)
def test_files_called_as_other_tools_call_splits_are_splits(names, tmp_path):
    for name in names:
        simple(tmp_path, name)
    data = loaded(tmp_path)
    assert data.n("test") == 20 and data.n("train") == (20 if len(names) == 3 else 18)


def test_backups_beside_the_splits_are_not_read(tmp_path):
    for name in ("train", "test", ".train", "train_backup", "train (copy)"):
        simple(tmp_path, name)
    write_lines(tmp_path / "old-answers.jsonl", [{"image": "x.png", "question": "?", "answer": "giraffe"}])
    (tmp_path / "._train.jsonl").write_bytes(b"\0\5\x16\7\xff")
    with pytest.warns(UserWarning, match=r"called after no split:\n  3 x .jsonl: 'old-answers.jsonl'"):
        data = loaded(tmp_path)
        assert data.candidates == ["cat", "dog"] and data.n("test") == 20


def test_two_files_of_one_split_are_refused(tmp_path):
    for name in ("train", "test", "valid", "val"):
        simple(tmp_path, name)
    with pytest.raises(ValueError, match=r"two files of the split 'val': 'val.jsonl' and 'valid.jsonl'"):
        loaded(tmp_path).rows("train")


def test_an_id_shared_by_train_and_test_names_both_lines(tmp_path):
    for name in ("train", "test"):
        write_lines(tmp_path / f"{name}.jsonl", [line | {"id": 7} for line in simple(tmp_path, name, 1)])
    with pytest.raises(ValueError, match=r"the id '7' twice: '.*test.jsonl' line 1 and '.*train.jsonl' line 1"):
        loaded(tmp_path).rows("train")


def test_answers_that_are_the_same_words_are_named_with_their_lines(tmp_path):
    lines = simple(tmp_path, "data")
    lines[3]["answer"] = " dog "  # spaces around do not count
    write_lines(tmp_path / "data.jsonl", lines)
    assert loaded(tmp_path).candidates == ["cat", "dog"]
    lines[4]["answer"] = "Dog"
    write_lines(tmp_path / "data.jsonl", lines)
    with pytest.raises(ValueError, match=r"'Dog' and 'dog' are the same words.*'Dog': '.*' line 5; 'dog': .*line 2"):
        loaded(tmp_path).rows("train")


@pytest.mark.parametrize("given", [["yes", "Yes "], ["hot_dog", "hot dog"], ["yes", " "], ["yes"]])
def test_candidates_given_by_hand_are_checked(given, tmp_path):
    simple(tmp_path, "data")
    with pytest.raises(ValueError, match=r"candidates=: (the candidates? .*|candidates \['yes'\])"):
        loaded(tmp_path, candidates=given)


def test_accents_composed_otherwise_on_the_disk_are_the_same_file(tmp_path):
    lines = simple(tmp_path, "data")
    (tmp_path / lines[0]["image"]).rename(tmp_path / "cafe\u0301.png")
    lines[0]["image"] = "caf\u00e9.png"
    write_lines(tmp_path / "data.jsonl", lines)
    data = loaded(tmp_path)
    assert sum(data.image(s, i).numel() > 0 for s in ("train", "val", "test") for i in range(data.n(s))) == 20


def test_a_label_with_a_point_is_the_number(tmp_path):
    kwargs = write_hateful_memes(tmp_path)
    known = load("hateful_memes", kwargs).rows("train")
    path = tmp_path / "hateful_memes/train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [line | {"label": float(line["label"])} for line in lines])
    assert load("hateful_memes", kwargs).rows("train") == known
    edit_line(path, 5, label=0.5)
    with pytest.raises(ValueError, match=r"train.jsonl' line 5: 'label' is 0.5. Expected 0 or 1"):
        load("hateful_memes", kwargs).rows("train")


# ---- units -----------------------------------------------------------------------------------------------------------
def test_popes_unit_is_the_picture_over_its_three_types(tmp_path):
    data = load("pope", write_pope(tmp_path))
    pictures = {}
    for i, row in enumerate(data.rows("test")):
        pictures.setdefault(data.image_path("test", i).name, set()).add(data.units("test")[row.id])
    assert len(pictures) == 4 and data.n("test") == 72
    assert all(len(units) == 1 for units in pictures.values()) and len(set.union(*pictures.values())) == 4


def test_questions_about_one_picture_are_one_unit_also_under_another_name(tmp_path):
    kwargs = write_vqa_jsonl(tmp_path, files=("train", "val", "test"))
    (tmp_path / "again.png").symlink_to(tmp_path / "pictures" / "002.png")
    with open(tmp_path / "test.jsonl", "a") as file:
        file.write(json.dumps({"image": "again.png", "question": "What?", "answer": "cat", "id": "again"}) + "\n")
    data = load("vqa_jsonl", kwargs)
    units = data.units("test")
    of_two = [row.id for i, row in enumerate(data.rows("test")) if data.image_path("test", i).name == "002.png"]
    assert len(of_two) == 2 and {units[key] for key in [*of_two, "again"]} == {of_two[0]}
    assert len(set(units.values())) == (data.n("test") - 1) / 2


@pytest.mark.parametrize("name, write", [("clevr", write_clevr), ("hateful_memes", write_hateful_memes)])
def test_where_a_picture_is_asked_about_once_every_row_is_its_own_unit(tmp_path, name, write):
    data = load(name, write(tmp_path))
    assert data.units("test") == {row.id: row.id for row in data.rows("test")}
