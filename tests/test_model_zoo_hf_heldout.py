"""Folders of other sizes, tokenizers and templates than the adapter was written with: all is read from the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_folders import write_folder
from support.hf_oracle import official_inputs, own_logp

from model_zoo.hf.load import load_folder
from model_zoo.hf.tiny import families, parts

TEMPLATE = (
    "{{ bos_token }}[sys]look closely[/sys]{% for m in messages %}[{{ m['role'] }}]"
    "{% for c in m['content'] | reverse %}{% if c['type'] == 'image' %}IMAGE{% else %} {{ c['text'] }} {% endif %}"
    "{% endfor %}[/{{ m['role'] }}]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CANDIDATES = ["cat", "a red car", "a red cat", "the dog on the mat"]
QUICK = ("qwen3_vl", "gemma3")
NAMES = ("llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "gemma3")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_everything_is_read_from_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, text_config, vision_config = parts.tokenizer, parts.text_config, parts.vision_config

    def other_text(tokens: Any, **more: Any) -> dict[str, Any]:
        sizes = {"intermediate_size": 40, "num_key_value_heads": 4}
        return text_config(tokens, **{"num_hidden_layers": 5, **more, **sizes})

    def other_tokenizer(*words: str, metaspace: bool = False, **named: str) -> Any:
        marks = [f"[{end}{role}]" for role in ("sys", "user", "assistant") for end in ("", "/")]
        return tokenizer(*words, *marks, metaspace=not metaspace, **named)

    monkeypatch.setattr(families, "tokenizer", other_tokenizer)
    monkeypatch.setattr(families, "text_config", other_text)
    monkeypatch.setattr(families, "vision_config", lambda **more: vision_config(num_attention_heads=3, **more))
    for template in ("TURN", "USER_ASSISTANT", "CAPITAL", "GEMMA"):
        mark = "IMAGE" if template in ("TURN", "GEMMA") else "<image>"
        monkeypatch.setattr(families, template, TEMPLATE.replace("IMAGE", mark))
    model = load_folder(name, write_folder(name, tmp_path / name), tiles="official")
    frame = torch.randint(0, 256, (3, 44, 44), dtype=torch.uint8)
    question = "what is in the picture?"
    with torch.no_grad():
        scores = model.score(frame[None] / 255, [question], CANDIDATES, normalize=False)[0]
    inputs = official_inputs(model, frame, question) | {"pixel_values": model.pixels(frame[None] / 255)["pixel_values"]}
    expected = torch.stack([own_logp(model, inputs, model.prompter.answer(text)) for text in CANDIDATES])
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=2e-7)
    whole = official_inputs(model, frame, question, CANDIDATES[1])["input_ids"][0].tolist()
    ids = [*model.prompter.row(question, 44).ids, *model.prompter.answer_and_end(CANDIDATES[1])]
    assert whole[: len(ids)] == ids
