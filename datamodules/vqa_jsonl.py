"""Your own questions about your own pictures: JSON lines of image, question, answer.

    {"image": "a.jpg", "question": "What animal is it?", "answer": "cat"}
    {"image": "b.jpg", "question": "Is it red?", "answer": "yes", "candidates": ["no", "yes"], "group": "colour"}

root/train.jsonl  root/val.jsonl  root/test.jsonl   splits as given; without val.jsonl a tenth of train's images by hash
root/<any>.jsonl, one file                          split 80/10/10 by hash; all questions about an image stay together
root/*.json instead of .jsonl                       the same rows as one array: [{...}, {...}]
root/info.json, optional                            {"task": "counting", "candidates": ["1", "2", "3"]}

Files may be called as other tools call them (valid.jsonl, Test.jsonl, training_set.json); a file may be one JSON array.
Spaces around an answer or a candidate do not count. Beside splits every other .jsonl is left out, and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.base import TASKS, Row
from datamodules.folder_scan import scan, warn_left_out
from datamodules.image_files import ImageFiles
from datamodules.imagefolder import split_word
from datamodules.rows import check_candidates, check_ids, expect, same_words
from datamodules.splits import three_way
from datamodules.text_files import read_json, read_jsonl, take_field
from datamodules.whole_files.command_line import suggest

REQUIRED = ("image", "question", "answer")
OPTIONAL = ("candidates", "id", "caption", "group")
INFO = ("task", "candidates")
ENDINGS = (".jsonl", ".json", ".ndjson")


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
        self._shared = [_clean(text, "candidates") for text in candidates or info.get("candidates") or []]
        if self._shared:
            check_candidates(self._shared, "candidates=" if candidates else f"'{Path(self.root, 'info.json')}'")

    @property
    def candidates(self) -> list[str] | None:
        """The shared list, or None when every row of every file has its own."""
        return self._known_candidates

    def missing(self) -> list[str]:
        if len(files := self._files_here) == 1 or {"train", "test"} <= set(files):
            return []
        found = f"it has: {', '.join(path.name for path in files.values())}" if files else "it has no *.jsonl"
        deeper = [] if files else sorted(Path(self.root).glob("*/*.jsonl"))
        found += f", '{deeper[0].parent}' has: give data.root={deeper[0].parent}" if deeper else ""
        return [f"{self.root}/train.jsonl and test.jsonl (and perhaps val.jsonl), or a single *.jsonl; {found}"]

    def build_rows(self, split: str) -> list[Row]:
        lines = self._lines(split)
        self._files[split] = [line["image"] for line in lines]
        return [self._row(line) for line in lines]

    @cached_property
    def _files_here(self) -> dict[str, Path]:
        """Split -> its file, where two or more files are called after splits; else name -> file, of every *.jsonl.

        Raises: ValueError for two files of one split.
        """
        root = Path(self.root)
        files = [path for path in scan(root) if path.suffix.lower() in ENDINGS] if root.is_dir() else []
        named = [(split, path) for path in files if (split := split_word(path.stem))]
        if len({split for split, _ in named}) < 2:
            lines = [path for path in files if path.suffix.lower() != ".json"]
            arrays = [path for path in files if path.suffix.lower() == ".json" and path.name != "info.json"]
            return {path.name: path for path in lines or arrays}
        found: dict[str, Path] = {}
        for split, path in named:
            if split in found:
                raise ValueError(
                    f"'{root}' has two files of the split '{split}': '{found[split].name}' and '{path.name}'. Expected "
                    "one: join them or move one away."
                )
            found[split] = path
        others = [path for path in files if path not in found.values() and path.name != "info.json"]
        warn_left_out("called after no split", others, root)
        return found

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
        """Split or file name -> its checked lines, each with the place it came from."""
        self.setup()
        lines = {key: [_check_line(line, path) for line in read_jsonl(path)] for key, path in self._files_here.items()}
        check_ids((_row_id(line), line["where"]) for part in lines.values() for line in part)
        return lines

    @cached_property
    def _known_candidates(self) -> list[str] | None:
        lines = [line for part in self._all.values() for line in part]
        if all("candidates" in line for line in lines):
            return None
        first: dict[str, str] = {}
        for line in lines:
            if "candidates" not in line:
                first.setdefault(line["answer"], line["where"])
        answers = sorted(first)
        if not self._shared:
            where = f"'{self.root}', of all answers,"
            check_candidates(answers, where, f"spell them alike; they are first at {_places(first)}")
        return self._shared or answers

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
        return Row(
            _row_id(line), candidates.index(answer), line["question"], answer, caption, line.get("group", ""), own
        )


def _row_id(line: dict) -> str:
    return str(line.get("id", line["place"]))


def _places(first: dict[str, str]) -> str:
    """Where answers that are the same words as another were read first."""
    words = Counter(map(same_words, first))
    return "; ".join(f"{answer!r}: {where}" for answer, where in sorted(first.items()) if words[same_words(answer)] > 1)


def _clean(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{where}: the candidate {text!r} is a {type(text).__name__}. Expected texts in quotes.")
    return text.strip()


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
            line[key] = take_field(line, key, kind, path)
    line["answer"] = line["answer"].strip()
    if "candidates" in line:
        line["candidates"] = [_clean(text, where) for text in line["candidates"]]
        check_candidates(line["candidates"], where)
    if Path(line["image"]).is_absolute() or ".." in Path(line["image"]).parts:
        raise ValueError(f"{where}: image '{line['image']}' is outside the folder. Expected a path below it.")
    return line | {"where": where, "place": f"{path.stem}:{line['line']}"}
