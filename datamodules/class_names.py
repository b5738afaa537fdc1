"""The words each recognition set calls its classes, as data: set -> style -> names in the order of the labels.

`raw` is what stands in the published files; `clean` (the default, the first of each set) is raw made readable: "_"
becomes a space, codes and joined words become words; `clip` is the list CLIP was scored with (openai/CLIP,
data/prompts.md, and its ImageNet notebook). Which words are used changes scores: they are part of every fingerprint.

Decisions: Pets are lower case throughout in `clean`, because in the published names (and in CLIP's) a capital marks a
cat, which would give the species away. ImageNette keeps ImageNet's own capitals ("French horn"), as the reference does.
EuroSAT's `clean` says "land" and "or road" where the bare folder name is no thing one can photograph.
Fashion-MNIST's "T-shirt/top" is "t-shirt" and its "Trouser" the plural that English has; CLIP was not scored with it.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

_CIFAR100 = _words(
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
_IMAGENETTE_CLIP = {"English springer": "English Springer Spaniel", "chain saw": "chainsaw"}

_EUROSAT = {  # folder: (clean, clip)
    "AnnualCrop": ("annual crop land", "annual crop land"),
    "Forest": ("forest", "forest"),
    "HerbaceousVegetation": ("herbaceous vegetation land", "brushland or shrubland"),
    "Highway": ("highway or road", "highway or road"),
    "Industrial": ("industrial buildings", "industrial buildings or commercial buildings"),
    "Pasture": ("pasture land", "pasture land"),
    "PermanentCrop": ("permanent crop land", "permanent crop land"),
    "Residential": ("residential buildings", "residential buildings or homes or apartments"),
    "River": ("river", "river"),
    "SeaLake": ("sea or lake", "lake or sea"),
}

_PETS = _words(
    "Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer "
    "British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees "
    "havanese japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian pomeranian pug "
    "Ragdoll Russian_Blue saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier "
    "wheaten_terrier yorkshire_terrier"
)

_DTD = _words(
    "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous flecked "
    "freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted meshed paisley "
    "perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled stained stratified "
    "striped studded swirly veined waffled woven wrinkled zigzagged"
)

_FASHION = {  # raw: clean
    "T-shirt/top": "t-shirt",
    "Trouser": "trousers",
    "Pullover": "pullover",
    "Dress": "dress",
    "Coat": "coat",
    "Sandal": "sandal",
    "Shirt": "shirt",
    "Sneaker": "sneaker",
    "Bag": "bag",
    "Ankle boot": "ankle boot",
}

_DIGITS = [str(digit) for digit in range(10)]
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def _spaced(names: list[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


CLASS_NAMES: dict[str, dict[str, list[str]]] = {
    "cifar10": {"clean": _CIFAR10, "raw": _CIFAR10, "clip": _CIFAR10},
    "cifar100": {"clean": _spaced(_CIFAR100), "raw": _CIFAR100, "clip": _spaced(_CIFAR100)},
    "imagenette": {
        "clean": list(_IMAGENETTE.values()),
        "raw": list(_IMAGENETTE),
        "clip": [_IMAGENETTE_CLIP.get(name, name) for name in _IMAGENETTE.values()],
    },
    "svhn": {"clean": _DIGITS, "raw": _DIGITS, "clip": _DIGITS, "words": _WORDS},
    "eurosat": {
        "clean": [clean for clean, _ in _EUROSAT.values()],
        "raw": list(_EUROSAT),
        "clip": [clip for _, clip in _EUROSAT.values()],
    },
    "oxford_pets": {"clean": [name.lower() for name in _spaced(_PETS)], "raw": _PETS, "clip": _spaced(_PETS)},
    "fashion_mnist": {"clean": list(_FASHION.values()), "raw": list(_FASHION)},
    "dtd": {"clean": _DTD, "raw": _DTD, "clip": _DTD},
}

# Spellings of a class in published copies that no style above has: uoft-cs/cifar100 on the Hugging Face hub says "cra".
MISSPELT = {"cifar100": {"cra": "crab"}}


def class_names(data: str, style: str | None = None) -> list[str]:
    """The names of a set in a style (None: clean). Raises: ValueError naming the styles there are."""
    styles = CLASS_NAMES[data]
    if style is not None and style not in styles:
        raise ValueError(f"Unknown names={style!r} of {data}. Expected one of: {', '.join(styles)}.")
    return styles[style or "clean"]


def match_class_names(data: str, given: list[str]) -> list[int]:
    """For each name given by another copy of the set, the label it has here.

    Names are compared without case, spaces and punctuation, in any style ("Annual_Crop" is "AnnualCrop").
    Raises: ValueError naming a class that the set does not have, or has twice.
    """
    known = {_bare(name): label for style in CLASS_NAMES[data].values() for label, name in enumerate(style)}
    known |= {_bare(wrong): known[_bare(right)] for wrong, right in MISSPELT.get(data, {}).items()}
    unknown = [name for name in given if _bare(name) not in known]
    if unknown:
        raise ValueError(
            f"Unknown class '{unknown[0]}' of {data}. Expected one of: {', '.join(CLASS_NAMES[data]['clean'])}."
        )
    labels = [known[_bare(name)] for name in given]
    if len(set(labels)) != len(labels):
        raise ValueError(f"The classes {given} name a class of {data} twice. Expected each once.")
    return labels


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
