"""EuroSAT RGB (Helber et al. 2019): 27,000 satellite pictures of 64 x 64 pixels, ten kinds of land.

It has no official split: 80/10/10 of each class by hash. Parquet: blanchon/EuroSAT_RGB (columns image, label,
filename), whose three splits are pooled and split by the rule.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.class_names import CLASS_NAMES
from datamodules.imagefolder import list_images
from datamodules.labelled_pictures import FilePictures, PublishedPart, stems
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition

# Its archive's folder was 2750 until 2023, is EuroSAT_RGB on Zenodo today and EuroSAT on Kaggle.
FOLDERS = ("eurosat/2750", "eurosat/EuroSAT_RGB", "eurosat/EuroSAT", "EuroSAT_RGB", "eurosat", "2750", "")
SOURCE = "EuroSAT.zip or EuroSAT_RGB.zip from https://github.com/phelber/EuroSAT"


class EuroSAT(PublishedRecognition):
    """The files are `<root>/eurosat/2750/<Class>/*.jpg`, or in another of FOLDERS.

    Ids are file names without ending, "AnnualCrop_17".
    """

    name = "eurosat"
    square = True
    parts = {"all": "all"}
    counts = {"all": 27_000}
    source = SOURCE
    ids_from_files = True

    def files(self) -> list[Path]:
        return [self._folder()]

    def read_part(self, part: str) -> PublishedPart:
        top, classes = self._folder(), CLASS_NAMES["eurosat"]["raw"]
        paths = list_images(top, classes)
        return PublishedPart(
            stems(paths), [classes.index(path.split("/")[0]) for path in paths], FilePictures(top, paths)
        )

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "AnnualCrop/*.jpg")  # not the 13-band .tif of EuroSAT_MS
