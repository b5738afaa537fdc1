"""Instruction templates of every MLLM, as data.

Source: the prompts recorded from the reference (`text.prompts` in the golden files). A template has a wrapper around
the visual tokens and a text after them. Each piece is tokenised on its own, as the reference does.
"""

from __future__ import annotations

from typing import NamedTuple

IMAGE_MARK = "<ImageHere>"
STYLES = ("cls", "infer", "vqa")


class Template(NamedTuple):
    """Wrappers hold `<ImageHere>` where the visual tokens go, or are empty when they simply come first.

    wrapper: around the image for ranking and training (`cls`). system: the same for generation (`infer`, `vqa`).
    cls, infer, vqa: the text after it, with `{question}` where the raw question goes.
    stops: strings that end a generated answer.
    """

    wrapper: str = ""
    cls: str = "{question}"
    system: str = ""
    infer: str = "{question}"
    vqa: str = "{question}"
    stops: tuple[str, ...] = ()


class Segments(NamedTuple):
    """One rendered instruction: text before the visual tokens, text right after them, then the question text."""

    before: str
    after: str
    text: str


TEMPLATES: dict[str, Template] = {
    "minigpt4": Template(
        wrapper="<Img><ImageHere></Img>",
        system=(
            "Give the following image: <Img>ImageContent</Img>.You will be able to see the image once I provide it to "
            "you.Please answer my questions. ###Human: <Img><ImageHere></Img>"
        ),
        infer="{question} ###Assistant:",
        vqa="{question} Answer this question in a single word. ###Assistant:",
        stops=("###",),
    ),
    "vpgtrans": Template(
        wrapper="<Img><ImageHere></Img>",
        system="###Human: <Img><ImageHere></Img>",
        infer="{question} ###Assistant:",
        vqa="{question} ###Assistant:",
        stops=("###",),
    ),
    "instructblip": Template(vqa="{question} Answer this question in a single word."),
    "blip2": Template(infer="Question: {question} Answer:", vqa="Question: {question} Short answer:"),
    "bliva": Template(infer="Question: {question} Answer:", vqa="Question: {question} Short answer:"),
    "visualglm": Template(
        wrapper="<img><ImageHere></img>",
        cls=" {question}",
        system="<img><ImageHere></img> Q:",
        infer="{question} \nA:",
        vqa="{question} \nA:",
    ),
    "llava": Template(
        system="USER: <ImageHere>",
        infer="{question} ASSISTANT:",
        vqa="{question} Answer this question in a single word. ASSISTANT:",
    ),
}


def render(template: Template, question: str, style: str = "cls") -> Segments:
    """Fill a template with a raw question.

    >>> render(TEMPLATES["minigpt4"], "This is a photo of a")
    Segments(before='<Img>', after='</Img>', text='This is a photo of a')

    Raises ValueError for a style other than cls, infer or vqa.
    """
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}. Expected one of {', '.join(STYLES)}.")
    wrapper = template.wrapper if style == "cls" else template.system
    before, _, after = wrapper.partition(IMAGE_MARK)
    # `replace`, not `format`: a question may contain braces.
    return Segments(before, after, getattr(template, style).replace("{question}", question))
