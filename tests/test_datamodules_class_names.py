"""The words of the classes: snapshots, and the option that chooses them."""

import hashlib
import json

import pytest
from support.data_files import write_cifar10, write_svhn

from datamodules import load_datamodule
from datamodules.class_names import CLASS_NAMES, class_names, match_class_names

# sha256 of the JSON list, first 12 digits: a change of words is a change of every score.
SNAPSHOT = {
    "cifar10 clean": "fcdc2e1a755e",
    "cifar10 raw": "fcdc2e1a755e",
    "cifar10 clip": "fcdc2e1a755e",
    "cifar100 clean": "acf08d36f2d7",
    "cifar100 raw": "407f97f9f231",
    "cifar100 clip": "acf08d36f2d7",
    "imagenette clean": "650459478fbe",
    "imagenette raw": "fbdb7f06bfe8",
    "imagenette clip": "7f2ac3aef31e",
    "svhn clean": "14a21a638a55",
    "svhn raw": "14a21a638a55",
    "svhn clip": "14a21a638a55",
    "svhn words": "dbee3a162dc5",
    "eurosat clean": "5f48d8a0fade",
    "eurosat raw": "7426cb53ee05",
    "eurosat clip": "cac25108cf8f",
    "oxford_pets clean": "ff71cf84b8ef",
    "oxford_pets raw": "b1424ac1b090",
    "oxford_pets clip": "0bce0590ff88",
    "fashion_mnist clean": "e23e1334a850",
    "fashion_mnist raw": "2be74b4380e8",
    "dtd clean": "a63a5d4efba3",
    "dtd raw": "a63a5d4efba3",
    "dtd clip": "a63a5d4efba3",
}


def digest(names):
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]


def test_no_word_has_changed():
    assert {
        f"{data} {style}": digest(names) for data, styles in CLASS_NAMES.items() for style, names in styles.items()
    } == (SNAPSHOT)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("cifar10", "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"),
        (
            "imagenette",
            "tench, English springer, cassette player, chain saw, church, French horn, garbage truck, gas pump, "
            "golf ball, parachute",
        ),
        ("svhn", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (
            "eurosat",
            "annual crop land, forest, herbaceous vegetation land, highway or road, industrial buildings, "
            "pasture land, permanent crop land, residential buildings, river, sea or lake",
        ),
    ],
)
def test_the_short_lists(data, names):
    assert ", ".join(class_names(data)) == names


def test_the_long_lists():
    assert class_names("cifar100")[:2] == ["apple", "aquarium fish"] and class_names("cifar100")[41] == "lawn mower"
    assert class_names("cifar100") == sorted(class_names("cifar100")) and len(class_names("cifar100")) == 100
    assert class_names("dtd")[6] == "cobwebbed" and class_names("dtd")[30] == "polka-dotted"
    assert class_names("dtd") == sorted(class_names("dtd")) and len(class_names("dtd")) == 47
    pets = class_names("oxford_pets")
    assert len(pets) == 37 and pets[0] == "abyssinian" and pets[25] == "pug" and pets[36] == "yorkshire terrier"
    assert pets == sorted(pets) == [name.lower() for name in pets]


def test_a_capital_marks_a_cat_in_the_published_pets_and_not_in_ours():
    cats = [name for name in class_names("oxford_pets", "raw") if name[0].isupper()]
    assert len(cats) == 12 and "Maine_Coon" in cats
    assert class_names("oxford_pets", "clip")[20] == "Maine Coon" and class_names("oxford_pets")[20] == "maine coon"


@pytest.mark.parametrize("data", CLASS_NAMES)
def test_every_style_names_each_class_once(data):
    assert next(iter(CLASS_NAMES[data])) == "clean" and "raw" in CLASS_NAMES[data]
    assert ("clip" in CLASS_NAMES[data]) == (data != "fashion_mnist")  # CLIP was not scored with it
    for names in CLASS_NAMES[data].values():
        assert len(names) == len(set(names)) == len(CLASS_NAMES[data]["clean"])
    assert all("_" not in name for name in class_names(data))


def test_the_words_are_an_option_and_part_of_the_fingerprint(tmp_path):
    kwargs = write_svhn(tmp_path)
    digits, words = (load_datamodule("svhn", **kwargs, names=names) for names in (None, "words"))
    assert words.candidates[:3] == ["zero", "one", "two"]
    row = words.rows("test")[0]
    assert row.answer == words.candidates[row.label] and row.caption == f"this is a photo of a {row.answer}"
    assert [r.id for r in words.rows("val")] == [r.id for r in digits.rows("val")]
    assert words.fingerprint("test") != digits.fingerprint("test")


def test_an_unknown_style_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown names='words' of cifar10\. Expected one of: clean, raw, clip\."):
        load_datamodule("cifar10", **write_cifar10(tmp_path), names="words")


def test_names_of_other_copies_are_recognised():
    assert match_class_names("eurosat", ["Annual_Crop", "SeaLake", "brushland or shrubland"]) == [0, 9, 2]
    assert match_class_names("cifar100", ["cra"]) == [26]
    assert match_class_names("dtd", ["polka_dotted"]) == [30]
    with pytest.raises(ValueError, match=r"Unknown class 'Desert' of eurosat\. Expected one of: annual crop land, "):
        match_class_names("eurosat", ["Forest", "Desert"])
    with pytest.raises(ValueError, match="twice"):
        match_class_names("eurosat", ["Forest", "forest"])
