"""Your own questions about your own pictures: JSON lines of image, question, answer.

    {"image": "a.jpg", "question": "What animal is it?", "answer": "cat"}
    {"image": "b.jpg", "question": "Is it red?", "answer": "yes", "candidates": ["no", "yes"], "group": "colour"}

root/train.jsonl  root/val.jsonl  root/test.jsonl   splits as given; without val.jsonl a tenth of train's images by hash
root/<any>.jsonl, one file                          split 80/10/10 by hash; all questions about an image stay together
root/*.json instead of .jsonl                       the same rows as one array: [{...}, {...}]
root/info.json, optional                            {"task": "counting", "candidates": ["1", "2", "3"]}
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.base import TASKS, Row
from datamodules.image_files import ImageFiles, read_json, take_field
from datamodules.json_rows import read_rows
from datamodules.registry import suggest
from datamodules.rows import expect
from datamodules.splits import SPLITS, three_way

REQUIRED = ("image", "question", "answer")
OPTIONAL = ("candidates", "id", "caption", "group")
INFO = ("task", "candidates")


class VQAJsonl(ImageFiles):
    """Every answer is one of the row's `candidates`, or else of the shared ones.

    candidates: shared by rows without their own; None: those of info.json, else all answers of all files, sorted.
    task: decides the metrics; None: that of info.json, else "recognition". For yes/no tasks the first candidate is no.
    Paths of images are below root. Without "id" a row is called "<file>:<line>"; without "caption" the TSE loss reads
    "<question> <answer>".
    """

    name = "vqa_jsonl"
    task = "recognition"

    def __init__(self, *, candidates: Sequence[str] | None = None, task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        info = self._read_info()
        self.task = task or info.get("task", "recognition")
        expect("task", self.task, TASKS)
        self._shared = list(candidates or info.get("candidates") or [])

    @property
    def candidates(self) -> list[str] | None:
        """The shared list, or None when every row of every file has its own."""
        return self._known_candidates

    def missing(self) -> list[str]:
        paths = self._jsonl()
        if len(paths) == 1 or {"train", "test"} <= {path.stem for path in paths}:
            return []
        files = [path.name for path in paths]
        found = f"it has: {', '.join(files)}" if files else "it has no *.jsonl"
        deeper = [] if files else sorted(Path(self.root).glob("*/*.jsonl"))
        found += f", '{deeper[0].parent}' has: give data.root={deeper[0].parent}" if deeper else ""
        return [f"{self.root}/train.jsonl and test.jsonl (and perhaps val.jsonl), or a single *.jsonl; {found}"]

    def build_rows(self, split: str) -> list[Row]:
        lines = self._lines(split)
        self._files[split] = [line["image"] for line in lines]
        return [self._row(line) for line in lines]

    def _jsonl(self) -> list[Path]:
        """The files of rows: *.jsonl; train, val and test also as .json, as is the only file of all.

        Raises: ValueError where both forms of one file are there.
        """
        lines = sorted(Path(self.root).glob("*.jsonl"))
        arrays = sorted(path for path in Path(self.root).glob("*.json") if path.name != "info.json")
        named = [path for path in arrays if path.stem in SPLITS]
        both = {path.stem for path in lines} & {path.stem for path in named}
        if both:
            raise ValueError(
                f"'{self.root}' has {min(both)}.jsonl and {min(both)}.json. Expected one of them, or every row could "
                "count twice; move the other one away."
            )
        return sorted([*lines, *named]) or arrays[:1] * (len(arrays) == 1)

    def _read_info(self) -> dict:
        path = Path(self.root, "info.json")
        info = read_json(path) if path.is_file() else {}
        if not isinstance(info, dict):
            raise ValueError(
                f"'{path}' is a {type(info).__name__}. Expected an object with {' and '.join(INFO)}; rows belong into "
                "train.json and test.json, or into a single file of another name."
            )
        for key in info:
            if key not in INFO:
                raise ValueError(f"'{path}' has an unknown key '{key}'.{suggest(key, INFO)} Known: {', '.join(INFO)}.")
        return info

    @cached_property
    def _all(self) -> dict[str, list[dict]]:
        """File stem -> its checked lines, each with the place it came from."""
        self.setup()
        return {path.stem: [_check_line(line, path) for line in read_rows(path)] for path in self._jsonl()}

    @cached_property
    def _known_candidates(self) -> list[str] | None:
        lines = [line for part in self._all.values() for line in part]
        if all("candidates" in line for line in lines):
            return None
        return self._shared or sorted({line["answer"] for line in lines if "candidates" not in line})

    def _lines(self, split: str) -> list[dict]:
        alone = len(self._all) == 1
        if not alone and split in self._all and (split != "train" or "val" in self._all):
            return self._all[split]
        lines = next(iter(self._all.values())) if alone else self._all["train"]
        images = sorted({line["image"] for line in lines})  # all questions about an image stay together
        same = [0] * len(images)
        places = three_way(images, same, self.split_seed)[split] if alone else self.train_or_val(split, images, same)
        chosen = {images[i] for i in places}
        return [line for line in lines if line["image"] in chosen]

    def _row(self, line: dict) -> Row:
        own, answer = line.get("candidates"), line["answer"]
        candidates = own or self._known_candidates or []
        if answer not in candidates:
            raise ValueError(
                f"{line['where']}: the answer '{answer}' is not among the candidates "
                f"{', '.join(candidates)}.{suggest(answer, candidates)} Expected one of them, letter by letter."
            )
        caption = line.get("caption", f"{line['question']} {answer}")
        row_id = str(line.get("id", line["place"]))
        return Row(row_id, candidates.index(answer), line["question"], answer, caption, line.get("group", ""), own)


def _check_line(line: dict, path: Path) -> dict:
    """Raises: ValueError naming file and line for a missing or mistyped field, or an unknown key."""
    where = f"'{path}' line {line['line']}"
    known = (*REQUIRED, *OPTIONAL)
    for key in line:
        if key not in (*known, "line"):
            raise ValueError(f"{where} has an unknown key '{key}'.{suggest(key, known)} Known: {', '.join(known)}.")
    for key in REQUIRED:
        take_field(line, key, str, path)
    for key, kind in (("candidates", list), ("id", (str, int)), ("caption", str), ("group", str)):
        if key in line:
            take_field(line, key, kind, path)
    _check_candidates(line.get("candidates"), where)
    if Path(line["image"]).is_absolute() or ".." in Path(line["image"]).parts:
        raise ValueError(f"{where}: image '{line['image']}' is outside the folder. Expected a path below it.")
    return line | {"where": where, "place": f"{path.stem}:{line['line']}"}


def _check_candidates(candidates: list | None, where: str) -> None:
    if candidates is None:
        return
    if len(candidates) < 2 or len(set(map(str, candidates))) < len(candidates):
        raise ValueError(f"{where}: candidates {candidates}. Expected at least two, all different.")
    if not all(isinstance(text, str) for text in candidates):
        raise ValueError(f"{where}: candidates {candidates}. Expected texts in quotes.")
