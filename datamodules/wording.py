"""What is asked in a recipe's words instead of the data set's: one question for all rows, another caption for TSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.rows import Row

CAPTION = "this is a photo of a {}"


@dataclass(frozen=True)
class Wording:
    """Texts that take the place of a data set's own; None, or no names, leaves them.

    question: of every row. eval_question: of val and test rows only, before `question`. caption: the text TSE compares
    a picture with, `{}` is the class. caption_names: what captions call the classes, in the order of the labels;
    synonyms or wrong names show what TSE makes of them.
    """

    question: str | None = None
    eval_question: str | None = None
    caption: str | None = None
    caption_names: tuple[str, ...] = ()

    def apply(self, rows: Sequence[Row], split: str, candidates: Sequence[str] | None, where: str) -> list[Row]:
        """The rows of a split in these words.

        Raises:
            ValueError: rows ask different questions, or choose from answers of their own, which one text for all would
                not fit; not one name a class.
        """
        question = self.question if split == "train" or self.eval_question is None else self.eval_question
        if question is not None:
            if len(asked := dict.fromkeys(row.question for row in rows)) > 1:
                raise ValueError(
                    f"{where} asks {len(asked):,} different questions, so that data.question and data.eval_question "
                    "would make them one. Expected a data set with one question for all rows: leave them out."
                )
            rows = [row._replace(question=question) for row in rows]
        if self.caption is None and not self.caption_names:
            return list(rows)
        if candidates is None or (self.caption_names and len(self.caption_names) != len(candidates)):
            classes = "no classes" if candidates is None else f"{len(candidates)} classes"
            raise ValueError(
                f"{where} has {classes}; got data.caption={self.caption!r} and {len(self.caption_names)} "
                "data.caption_names. Expected both for recognition only, with one name a class."
            )
        names = self.caption_names or candidates
        caption = CAPTION if self.caption is None else self.caption
        return [row._replace(caption=caption.replace("{}", names[row.label])) for row in rows]
