"""What tiny models of the hub are made of: tokenizers, sizes, and chat templates in the form of each family's."""

from __future__ import annotations

from typing import Any

import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = ["a photo of a cat on a mat", "what is in the picture? a red car", "the dog and the carpet of the house"]

TURN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER_ASSISTANT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{{ '<image>\n' }}{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CAPITAL = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}[IMG]{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/INST]{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)


def tokenizer(*special: str, metaspace: bool = False, **named: str) -> Any:
    """A BPE tokenizer of `TEXTS`; `named` are tokens a processor asks for by name."""
    base = ["<pad>", "<s>", "</s>", "<unk>"]
    words = list(dict.fromkeys([*base, *special, *named.values()]))
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    if metaspace:
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        alphabet = sorted(set("".join(TEXTS)) | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ:\n.?"))
    else:
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = [AddedToken(word, special=True, normalized=False) for word in words]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=tokens, initial_alphabet=alphabet)
    raw.train_from_iterator(TEXTS * 4, trainer)
    if metaspace:  # as LLaMA's does
        ids = [("<s>", 1)]
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B:1", special_tokens=ids)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token=next((w for w in ("<|im_end|>", "<end_of_turn>", "<end_of_utterance>") if w in words), "</s>"),
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )


def text_config(tokens: Any, **more: Any) -> dict[str, Any]:
    """Sizes of a tiny language model."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": tokens.eos_token_id, "pad_token_id": 0}
    return {
        **sizes,
        "num_key_value_heads": 2,
        "vocab_size": len(tokens),
        "max_position_embeddings": 2048,
        **ids,
        **more,
    }


def vision_config(**more: Any) -> dict[str, Any]:
    """Sizes of a tiny vision tower of CLIP's or SigLIP's kind."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {**sizes, "image_size": 28, "patch_size": 7, **more}
