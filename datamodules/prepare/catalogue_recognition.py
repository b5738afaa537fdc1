"""The eight published recognition sets and CIFAR-10-C as data; see published.py."""

from __future__ import annotations

from datamodules.prepare.catalogue_entry import MB, TORCHVISION, Archive, Count, Digest, PublishedData


def _md5(source: str, **values: str) -> dict[str, Digest]:
    return {name: Digest("md5", value, TORCHVISION + source) for name, value in values.items()}


def _imagenette(name: str, md5: str, size: int, unpacked: int) -> Archive:
    return Archive(
        f"{name}.tgz",
        name,
        (f"https://s3.amazonaws.com/fast-ai-imageclas/{name}.tgz",),
        size,
        Digest("md5", md5, TORCHVISION + "imagenette.py, Imagenette._ARCHIVES"),
        unpacked,
        counts=(Count("train/*/*.JPEG", 9469), Count("val/*/*.JPEG", 3925)),
        part="imagenette2",
    )


def _svhn(split: str, md5: str, size: int) -> Archive:
    file = f"{split}_32x32.mat"
    digest = Digest("md5", md5, TORCHVISION + "svhn.py, SVHN.split_list")
    return Archive(file, f"svhn/{file}", (f"http://ufldl.stanford.edu/housenumbers/{file}",), size, digest)


def _pets(file: str, md5: str, size: int, unpacked: int, counts: tuple[Count, ...] = ()) -> Archive:
    digest = Digest("md5", md5, TORCHVISION + "oxford_iiit_pet.py, OxfordIIITPet._RESOURCES")
    url = f"https://www.robots.ox.ac.uk/~vgg/data/pets/data/{file}"
    return Archive(file, f"oxford-iiit-pet/{file.split('.')[0]}", (url,), size, digest, unpacked, counts=counts)


def _fashion(file: str, size: int, md5: str) -> Archive:
    url = f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}.gz"
    digest = Digest("gunzip-md5", md5, "its README, unpacked: Debian packs the same bytes anew")
    return Archive(f"{file}.gz", f"fashion-mnist/{file}.gz", (url,), size, digest)


RECOGNITION: dict[str, PublishedData] = {
    "cifar10": PublishedData(
        "recognition",
        "60,000 photographs of 32 x 32, 10 classes",
        "none stated",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        (
            Archive(
                "cifar-10-python.tar.gz",
                "cifar-10-batches-py",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                170_498_071,  # the server's Content-Length in many public logs
                Digest("md5", "c58f30108f718f92721af3b95e74349a", "its homepage, and torchvision CIFAR10.tgz_md5"),
                187 * MB,
                files=_md5(
                    "cifar.py, CIFAR10.train_list, test_list and meta",
                    data_batch_1="c99cafc152244af753f735de768cd75f",
                    data_batch_2="d4bba439e000b95fd0a9bffe97cbabec",
                    data_batch_3="54ebc095f3ab1f0389bbae665268c751",
                    data_batch_4="634d18415352ddfa80567beed471001a",
                    data_batch_5="482c414d41f54cd18b22e5b47cb7c3cb",
                    test_batch="40351d587109b95175f43aff81a1287e",
                    **{"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
                ),
            ),
        ),
    ),
    "cifar100": PublishedData(
        "recognition",
        "60,000 photographs of 32 x 32, 100 classes",
        "none stated",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        (
            Archive(
                "cifar-100-python.tar.gz",
                "cifar-100-python",
                ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
                169_001_437,  # the server's Content-Length in many public logs
                Digest("md5", "eb9058c3a382ffc7106e4002c42a8d85", "its homepage, and torchvision CIFAR100.tgz_md5"),
                187 * MB,
                files=_md5(
                    "cifar.py, CIFAR100.train_list, test_list and meta",
                    train="16019d7e3df5f24257cddd939b257f8d",
                    test="f0ef6b0ae62326f3e7ffdfab6717acfc",
                    meta="7973b15100ade9c7d40fb424638fde48",
                ),
            ),
        ),
    ),
    "imagenette": PublishedData(
        "recognition",
        "13,394 photographs, 10 easy ImageNet classes (from= also takes the 320 and 160 pixel forms)",
        "Apache-2.0; the photographs under ImageNet's terms (non-commercial research)",
        "https://github.com/fastai/imagenette",
        (
            _imagenette("imagenette2", "fe2fc210e6bb7c5664d602c3cd71e612", 1_556_914_727, 1570 * MB),
            _imagenette("imagenette2-320", "3df6f0d01a2c9592104656642f5e78a3", 341_553_947, 350 * MB),
            _imagenette("imagenette2-160", "e793b78cc4c9e9a4ccc0c1155377a412", 98_948_031, 105 * MB),
        ),
    ),
    "svhn": PublishedData(
        "recognition",
        "99,289 house-number digits of 32 x 32, 10 classes (the `extra` file is not used)",
        "non-commercial use only",
        "http://ufldl.stanford.edu/housenumbers/",
        (
            _svhn("train", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
            _svhn("test", "eb5a983be6a315427106f1b164d9cef3", 64_275_384),
        ),
    ),
    "eurosat": PublishedData(
        "recognition",
        "27,000 satellite images of 64 x 64, 10 classes of land use",
        "MIT",
        "https://github.com/phelber/eurosat",
        (
            Archive(
                "EuroSAT.zip",
                "eurosat/2750",
                (
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    "https://madm.dfki.de/files/sentinel/EuroSAT.zip",
                ),
                94_280_567,
                Digest("md5", "c8fa014336c82ac7804f0398fcb19387", TORCHVISION + "eurosat.py, EuroSAT.download"),
                95 * MB,
                counts=(Count("*/*.jpg", 27000),),
            ),
        ),
    ),
    "oxford_pets": PublishedData(
        "recognition",
        "7,349 photographs, 37 breeds of cats and dogs",
        "CC BY-SA 4.0",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        (
            _pets(
                "images.tar.gz",
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                791_918_971,
                800 * MB,
                (Count("*.jpg", 7349, more=True),),  # those in the lists; some more are in none
            ),
            _pets(
                "annotations.tar.gz",
                "95a8c909bbe2e81eed6a22bccdf3f68f",
                19_173_078,
                60 * MB,
                (Count("trainval.txt", 3680, lines=True), Count("test.txt", 3669, lines=True)),
            ),
        ),
    ),
    "fashion_mnist": PublishedData(
        "recognition",
        "70,000 grey photographs of 28 x 28, 10 kinds of clothes, bags and shoes",
        "MIT",
        "https://github.com/zalandoresearch/fashion-mnist",
        (
            _fashion("train-images-idx3-ubyte", 26_421_880, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            _fashion("train-labels-idx1-ubyte", 29_515, "9018921c3c673c538a1fc5bad174d6f9"),
            _fashion("t10k-images-idx3-ubyte", 4_422_102, "8181f5470baa50b63fa0f6fddb340f0a"),
            _fashion("t10k-labels-idx1-ubyte", 5_148, "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
    ),
    "dtd": PublishedData(
        "recognition",
        "5,640 photographs, 47 textures, ten published splits",
        "research use (its homepage)",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        (
            Archive(
                "dtd-r1.0.1.tar.gz",
                "dtd/dtd",
                ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
                625_239_812,
                Digest("md5", "fff73e5086ae6bdbea199a49dfb8a4c1", TORCHVISION + "dtd.py, DTD._MD5"),
                640 * MB,
                counts=(
                    Count("images/*/*.jpg", 5640),
                    *(Count(f"labels/{split}1.txt", 1880, lines=True) for split in ("train", "val", "test")),
                ),
            ),
        ),
    ),
    "cifar10c": PublishedData(
        "robustness",
        "CIFAR-10's test pictures under 19 corruptions at 5 severities",
        "CC BY 4.0",
        "https://zenodo.org/records/2535967",
        (
            Archive(
                "CIFAR-10-C.tar",
                "CIFAR-10-C",
                ("https://zenodo.org/records/2535967/files/CIFAR-10-C.tar?download=1",),
                2_918_471_680,
                Digest("md5", "56bf5dcef84df0e2308c6dcbcbbd8499", "its Zenodo record 2535967"),
                2_918 * MB,
                counts=(Count("*.npy", 20),),
            ),
        ),
    ),
}
