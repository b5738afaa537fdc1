"""Scenes are pure functions of their key, and the embedded data sets ask right questions of them."""

import hashlib

import pytest
import torch

from datamodules.emoji import questions as emoji
from datamodules.emoji.art import FAR_STYLES, NAMES, STYLES, load_sprites
from datamodules.emoji.scenes import GRID, MAX_OBJECTS, SIZE, World, render_scenes

ALL = (emoji.EmojiRecognition, emoji.EmojiCounting, emoji.EmojiPresence, emoji.EmojiMatching)
BUSY = World(objects=(1, 4))


@pytest.fixture(scope="module")
def modules():
    return {cls.name: cls() for cls in ALL}


@pytest.mark.parametrize("cls", ALL)
def test_modules_are_named_after_the_file(cls):
    assert cls.name.startswith("emoji_") and cls.task in {"recognition", "counting", "hallucination", "reasoning"}


def test_scene_is_the_same_alone_and_in_any_batch():
    together = render_scenes(BUSY, 7, "any", range(24))
    backwards = render_scenes(BUSY, 7, "any", range(23, -1, -1))
    for i in (0, 5, 23):
        alone = render_scenes(BUSY, 7, "any", [i])
        for whole, reverse, one in zip(together, backwards, alone, strict=True):
            assert torch.equal(whole[i], one[0]) and torch.equal(reverse[23 - i], one[0])


def test_scene_does_not_depend_on_threads_or_global_seed():
    torch.manual_seed(1)
    first = render_scenes(BUSY, 7, "any", range(4)).images
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(2)
    second = render_scenes(BUSY, 7, "any", range(4)).images
    torch.set_num_threads(threads)
    assert torch.equal(first, second)


@pytest.mark.parametrize("change", [{"seed": 8}, {"split": "other"}, {"index": 1}, {"world": World(rotation=29.0)}])
def test_every_part_of_the_key_changes_the_scene(change):
    key = {"world": World(), "seed": 7, "split": "any", "index": 0}

    def draw(world, seed, split, index):
        return render_scenes(world, seed, split, [index]).images

    assert not torch.equal(draw(**key), draw(**{**key, **change}))


def test_scenes_have_the_documented_shapes_and_ranges():
    drawn = render_scenes(BUSY, 7, "any", range(16))
    assert drawn.images.shape == (16, 3, SIZE, SIZE) and drawn.images.dtype == torch.float32
    assert drawn.images.min() >= 0 and drawn.images.max() <= 1
    levels = drawn.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert drawn.classes.shape == (16, MAX_OBJECTS) and drawn.boxes.shape == (16, MAX_OBJECTS, 4)
    assert drawn.patches.shape == (16, GRID, GRID)
    assert drawn.counts.min() >= 1 and drawn.counts.max() <= MAX_OBJECTS


def test_patch_labels_name_objects_of_the_scene_only():
    drawn = render_scenes(BUSY, 7, "any", range(32))
    for patches, classes in zip(drawn.patches, drawn.classes, strict=True):
        assert set(patches.unique().tolist()) <= {0} | {c + 1 for c in classes.tolist() if c >= 0}
    assert ((drawn.patches > 0).flatten(1).sum(1) > 0).all()


def test_all_styles_draw_all_names():
    sprites = load_sprites()
    assert tuple(sprites) == STYLES + FAR_STYLES
    for art in sprites.values():
        assert art.shape[:2] == (len(NAMES), 4) and (art[:, 3].flatten(1).mean(1) > 0.1).all()
        assert (art[:, :3] <= art[:, 3:] + 1e-6).all()  # premultiplied


def test_unknown_style_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Unknown style.*crayon.*Available: twemoji"):
        World(styles=("crayon",))


@pytest.mark.parametrize("cls", [ALL[0], *(pytest.param(cls, marks=pytest.mark.slow) for cls in ALL[1:])])
def test_splits_share_no_scene(modules, cls):
    seen: dict[str, set] = {}
    for split in ("train", "val", "test"):
        images = modules[cls.name].scenes(split).images
        seen[split] = {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}
        assert len(seen[split]) == len(images) == emoji.SIZES[split]
    assert not seen["train"] & seen["val"] and not (seen["train"] | seen["val"]) & seen["test"]


def test_labels_answers_and_scenes_agree(modules):
    for data in modules.values():
        for row in data.rows("val"):
            assert (row.candidates or data.candidates)[row.label] == row.answer and row.caption
    recognition, counting = modules["emoji_recognition"], modules["emoji_counting"]
    names = [NAMES[c] for c in recognition.scenes("val").classes[:, 0].tolist()]
    assert [row.answer for row in recognition.rows("val")] == names
    assert [int(row.answer) for row in counting.rows("val")] == counting.scenes("val").counts.tolist()


def test_presence_and_matching_answers_are_true_of_the_scene(modules):
    for name in ("emoji_presence", "emoji_matching"):
        data = modules[name]
        for i, row in enumerate(data.rows("val")):
            there = emoji.present(data.scenes("val"), i)
            said = {n for n in NAMES if f"a {n} in" in row.question or f"an {n} in" in row.question}
            text = row.question.partition('"')[2].partition('"')[0]
            said |= {part.split(" ", 1)[1] for part in text.split(" and ")} if text else set()
            assert said and (row.answer == "yes") == (said <= set(there))


def test_answers_are_balanced(modules):
    for data, chance in ((modules["emoji_recognition"], 16), (modules["emoji_counting"], 4)):
        labels = torch.tensor([row.label for row in data.rows("test")])
        assert (labels.bincount(minlength=chance) == len(labels) // chance).all()


def test_rows_have_stable_ids(modules):
    assert modules["emoji_recognition"].rows("train")[12].id == "emoji_recognition/train/00012"


@pytest.mark.parametrize("size", [48, 64])
def test_batches_follow_the_contract(size):
    data = emoji.EmojiPresence(image_size=size, batch_size=4)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 3, size, size) and batch.images.dtype == torch.float32
    assert batch.candidates == [["no", "yes"]] * 4 and all(batch.captions)


def test_full_size_is_the_rendered_scene_itself():
    data = emoji.EmojiRecognition(image_size=64)
    data.setup()
    batch = next(iter(data.loader("val", batch_size=4)))
    drawn = data.scenes("val").images[:4].float() / 255
    at = [int(i.rsplit("/", 1)[1]) for i in batch.ids]
    assert at == [0, 1, 2, 3] and torch.allclose(batch.images, drawn, atol=1e-6)
