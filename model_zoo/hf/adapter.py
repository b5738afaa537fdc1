"""Any vision-language model of the library as source or target, through the three doors of its own code."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from model_zoo.adapter import SCORERS
from model_zoo.base import CLIP_MEAN, CLIP_STD, MLLM, Visual
from model_zoo.generation import REFERENCE_DECODING
from model_zoo.hf.doors import Doors, cast
from model_zoo.hf.features import Form, join, split
from model_zoo.hf.pixels import differentiable, run
from model_zoo.hf.prompt import Prompter, Row, stack
from model_zoo.hf.tree import can_follow, node_inputs, tree, tree_inputs
from model_zoo.scoring.budget import budget_of, plan_rounds
from model_zoo.scoring.candidates import encode_candidates, finish, naive_log_likelihood, score_naive
from model_zoo.scoring.packing import Scorer, tally
from model_zoo.scoring.trie import Packed, Trie, stack_tries
from model_zoo.sequences import log_softmax_pick, require_texts

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
TREE_ATTENTION = ("eager", "sdpa")
CACHED_ROWS = 64  # candidates at a time behind a copied cache


class Connector(NamedTuple):
    """What callers ask of a connector: whether visual features depend on the question."""

    reads_text: bool = False


class Known(NamedTuple):
    """A frame's side, and how the features of such a frame lie in the model's own output."""

    size: int
    form: Form


class HuggingFaceMLLM(MLLM):
    """A `...ForConditionalGeneration` of transformers with its processor.

    `Visual.tokens` holds all that the language model reads of a picture, deepstack features side by side in its width.

    Args:
        name, official: see `MLLM`.
        model: the model, with weights.
        processor: its official processor.
        tiles: `one` tile a picture, or as many as the `official` processor cuts; set on model and processor already.
        options: of the processor, for these tiles.
        suffix, template_kwargs: see `Prompter`.
        scoring, max_nodes, memory: see `Adapter`.

    Raises ValueError where prompts and answers have no place (see `Prompter`) or an attention cannot take a tree.
    """

    connector = Connector()
    doors_class = Doors

    def __init__(
        self,
        name: str,
        model: Any,
        processor: Any,
        *,
        tiles: str,
        options: Mapping[str, Any] | None = None,
        suffix: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        scoring: str = "packed",
        max_nodes: int | None = None,
        memory: int | None = None,
        official: bool = False,
    ) -> None:
        images = processor.image_processor
        mean, std = (getattr(images, key, None) or usual for key, usual in USUAL)
        super().__init__(name, own_size(model.config, images), mean=mean, std=std, official=official)
        if scoring not in SCORERS:
            raise ValueError(f"Unknown scoring {scoring!r}. Expected one of {', '.join(SCORERS)}.")
        self.model, self.doors, self.tiles = model, self.doors_class(model), tiles
        self.scoring, self.max_nodes, self.memory = scoring, max_nodes, memory
        self.images = differentiable(images)
        self.prompter = Prompter(processor, self.images, options or {}, suffix=suffix, template_kwargs=template_kwargs)
        self.tokenizer, self.template = processor.tokenizer, self.prompter.template_kwargs
        self.answer_type = 1 if suffix else 0
        self._known: dict[int, Known] = {}  # by number of visual tokens
        used = self.llm.config._attn_implementation
        if scoring == "packed" and used not in TREE_ATTENTION:
            raise ValueError(
                f"Attention {used!r} cannot take the mask of a token trie. Expected one of "
                f"{', '.join(TREE_ATTENTION)}, or scoring=naive."
            )

    @property
    def llm(self) -> Any:
        """The language model without its head."""
        return self.doors.llm

    def language_parts(self) -> list[Any]:
        return [self.llm, self.model.get_output_embeddings()]

    @property
    def recurrent(self) -> bool:
        """Whether a layer's state is a sum over the past: then a trie cannot stand in one row."""
        return bool(set(getattr(self.llm.config, "layer_types", None) or ATTENTION) - ATTENTION)

    def prepare(self, images: Tensor) -> Tensor:
        return self.pixels(images)["pixel_values"]

    def pixels(self, images: Tensor) -> dict[str, Any]:
        """What the official image processor makes of frames (B, 3, S, S), with gradients."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"Expected square RGB images (B, 3, S, S), got {tuple(images.shape)}. Crop or pad them first."
            )
        images = images if images.dtype == torch.float64 else images.float()
        options = self.prompter.picture(images.shape[-1]).options
        found = cast(run(self.images, images, options), self.device, self.dtype)
        return found | {"pixel_values": not_padding(found["pixel_values"])}

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        tokens, form = join(self.doors.image_features(self.pixels(images)), len(images))
        self._known[tokens.shape[1]] = Known(images.shape[-1], form)
        return Visual(tokens, tokens.shape[1])

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        require_texts("answers", answers, len(questions))
        return torch.tensor([len(self.prompter.answer_and_end(answer)) for answer in answers], dtype=torch.long)

    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens, prefixes = self._start(images, questions, visual)
        require_texts("answers", answers, len(tokens))
        targets = [self.prompter.answer_and_end(answer) for answer in answers]
        logits, row, ids = self._teacher_forced(tokens, prefixes, targets)
        logp = log_softmax_pick(logits, ids)
        nats = logp.new_zeros(len(tokens)).index_add(0, row, -logp)
        return nats, row.new_zeros(len(tokens)).index_add(0, row, torch.ones_like(row))

    def score(
        self,
        images: Tensor,
        questions: Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        visual: Visual | None = None,
        normalize: bool = True,
    ) -> Tensor:
        tokens, prefixes = self._start(images, questions, visual)
        rows = encode_candidates(candidates, self.prompter.answer, len(tokens))
        if self.scoring == "naive":

            def logits_of(b: int, candidate: list[int]) -> Tensor:
                return self._teacher_forced(tokens[b : b + 1], prefixes[b : b + 1], [candidate])[0]

            return finish(score_naive(logits_of, rows), rows, normalize)
        return finish((self._cached if self.recurrent else self._packed)(tokens, prefixes, rows), rows, normalize)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        questions: Sequence[str],
        *,
        style: str = "infer",
        visual: Visual | None = None,
        **decoding: object,
    ) -> list[str]:
        tokens, prefixes = self._start(images, questions, visual, style)
        settings: dict[str, Any] = {**REFERENCE_DECODING, "pad_token_id": self._pad(), **decoding}
        if settings["num_beams"] == 1:
            settings.pop("length_penalty", None)
        inputs = self._inputs(prefixes, tokens, left=True)
        pictures = len(inputs["pixel_values"])

        def features(n: int) -> Any:  # beams repeat every row
            return split(tokens.repeat_interleave(n // pictures, 0), self._of(tokens).form)

        ids = self.doors.generate(inputs, features, **settings)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _start(
        self, images: Tensor, questions: Sequence[str], visual: Visual | None, style: str = "cls"
    ) -> tuple[Tensor, list[Row]]:
        """The visual tokens, encoded unless given, and the prompts."""
        count = len(images) if visual is None else len(visual.tokens)
        require_texts("questions", questions, count)
        tokens = (self.encode_image(images, questions) if visual is None else visual).tokens
        size = self._of(tokens).size
        return tokens, [self.prompter.row(question, size, style) for question in questions]

    def _of(self, tokens: Tensor) -> Known:
        return self._known[tokens.shape[1]]

    def _inputs(self, rows: list[Row], tokens: Tensor, *, left: bool = False) -> dict[str, Any]:
        """What the whole model is given: rows, and a blank picture a row where its own would be; left: to generate."""
        blank = self.doors.takes(self.prompter.picture(self._of(tokens).size).inputs)
        # Pixels are only looked at by what is answered from outside; `generate` counts them.
        found = {k: v if k == "pixel_values" and not left else repeat(v, len(rows)) for k, v in blank.items()}
        return {**stack(rows, self.device, left=left), **cast(found, self.device, self.dtype)}

    def _language_inputs(self, rows: list[Row], tokens: Tensor) -> dict[str, Any]:
        """What the language model is given for rows of text around the pictures of tokens (B, T, D)."""
        return self.doors.language_inputs(self._inputs(rows, tokens), split(tokens, self._of(tokens).form))

    def _teacher_forced(
        self, tokens: Tensor, prefixes: list[Row], targets: list[list[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, V) that predict all target ids (N,) of all rows, and which row each is of (N,)."""
        rows = [prefix.then(ids, self.answer_type) for prefix, ids in zip(prefixes, targets, strict=True)]
        hidden = self.doors.hidden(self._language_inputs(rows, tokens))
        places = [(b, len(p.ids) + i) for b, p in enumerate(prefixes) for i in range(len(targets[b]))]
        row, at = torch.tensor(places, device=tokens.device).unbind(-1)
        ids = torch.tensor([i for target in targets for i in target], device=tokens.device)
        return self.doors.logits(hidden[row, at - 1]), row, ids

    def _packed(self, tokens: Tensor, prefixes: list[Row], rows: list[list[list[int]]]) -> Tensor:
        """Summed log-likelihoods (B, K): all candidates of a picture in one forward, or in a few rounds."""
        longest = max(len(prefix.ids) for prefix in prefixes)
        shape = tokens.new_empty(0).expand(len(tokens), longest, 0)
        budget = budget_of(self.llm.config, shape, self.memory, heads=2)
        rounds = plan_rounds(rows, self.max_nodes, budget)
        packs = [stack_tries(tries).to(tokens.device) for tries in rounds]
        lengths = torch.tensor([len(prefix.ids) for prefix in prefixes], device=tokens.device)
        read = self._rounds(tokens, prefixes, lengths, packs) if len(packs) > 1 else None
        if read is None:  # one round, or a family whose nodes cannot follow a cache
            read = [self._together(tokens, prefixes, lengths, pack) for pack in packs]
        return self._tally(read, rounds, max(map(len, rows)), budget.vocab_rows())

    def _tally(self, read: list[Tensor], rounds: Sequence[Sequence[Trie]], n: int, vocab_rows: int) -> Tensor:
        scorer = Scorer(no_forward, no_forward, self.doors.logits, vocab_rows=vocab_rows)
        return torch.stack([tally(states, scorer, tries, n) for states, tries in zip(read, rounds, strict=True)]).sum(0)

    def _with_nodes(self, tokens: Tensor, prefixes: list[Row], pack: Packed) -> dict[str, Any]:
        """Language inputs of every prefix with its nodes right behind it, as if they were plain text."""
        nodes = pack.ids.expand(len(prefixes), -1).tolist()
        rows = [prefix.then(ids, self.answer_type) for prefix, ids in zip(prefixes, nodes, strict=True)]
        return self._language_inputs(rows, tokens)

    def _together(self, tokens: Tensor, prefixes: list[Row], lengths: Tensor, pack: Packed) -> Tensor:
        """States (B, 1+N, D) of each prefix's end and its nodes, in one forward."""
        inputs, n = self._with_nodes(tokens, prefixes, pack), pack.ids.shape[1]
        if n:
            some = lengths[:1] if bool((lengths == lengths[0]).all()) else lengths
            inputs = tree_inputs(inputs, self.llm, tree(some, pack, inputs["inputs_embeds"].shape[1]))
        return ends_and_nodes(self.doors.hidden(inputs), lengths, n)

    def _rounds(self, tokens: Tensor, prefixes: list[Row], lengths: Tensor, packs: list[Packed]) -> list[Tensor] | None:
        """States (B, 1+N, D) a round behind a prefix that is read once; None where nodes cannot follow a cache."""
        inputs = self._language_inputs(prefixes, tokens)
        if not can_follow(inputs):
            return None
        cache = DynamicCache()  # without a configuration: layers with a window would drop keys the mask speaks of
        ends = ends_and_nodes(self.doors.hidden(inputs, cache), lengths, 0)
        past, states = int(lengths.max()), []
        for pack in packs:
            if not (n := pack.ids.shape[1]):
                states.append(ends)
                continue
            plain = self._with_nodes(tokens, prefixes, pack)
            here = tree(lengths, pack, plain["inputs_embeds"].shape[1])
            nodes = node_inputs(plain, self.llm, here, lengths, n, past)
            states.append(torch.cat([ends, self.doors.hidden(nodes, cache)], 1))
            cache.crop(-n)
        return states

    def _cached(self, tokens: Tensor, prefixes: list[Row], rows: list[list[list[int]]]) -> Tensor:
        """Summed log-likelihoods (B, K): candidates as a batch behind a copy of the prefix's cache."""
        table = torch.zeros(len(rows), max(map(len, rows)), device=tokens.device)
        lines = []
        for b, candidates in enumerate(rows):
            sums = self._cached_row(tokens[b : b + 1], prefixes[b], candidates)
            lines.append(torch.cat([sums, sums.new_zeros(table.shape[1] - len(sums))]))
        return torch.stack(lines)

    def _cached_row(self, tokens: Tensor, prefix: Row, candidates: list[list[int]]) -> Tensor:
        past, longest = len(prefix.ids), max(map(len, candidates))
        plain = self._language_inputs([prefix.then([0] * longest, self.answer_type)], tokens)
        cache = DynamicCache(config=self.llm.config)
        end = self.doors.hidden(self._language_inputs([prefix], tokens), cache)[:, -1:]
        sums = []
        for start in range(0, len(candidates), CACHED_ROWS):
            some = candidates[start : start + CACHED_ROWS]
            ids = torch.tensor([[*c[:-1], *[0] * (longest - len(c))] for c in some], device=tokens.device)
            states = end.expand(len(some), -1, -1)
            if ids.shape[1]:
                copied = copy.deepcopy(cache)
                first: Any = torch.zeros(len(some), dtype=torch.long, device=tokens.device)
                copied.reorder_cache(first)
                follow = self._behind(plain, ids, past, len(some))
                states = torch.cat([states, self.doors.hidden(follow, copied)], 1)
            sums += [naive_log_likelihood(self.doors.logits(states[k, : len(c)]), c) for k, c in enumerate(some)]
        return torch.stack(sums)

    def _behind(self, plain: dict[str, Any], ids: Tensor, past: int, rows: int) -> dict[str, Any]:
        """Language inputs of text ids (K, n) right behind a prefix, at the positions of the plain sequence."""
        n = ids.shape[1]
        found = {"inputs_embeds": self.llm.get_input_embeddings()(ids)}
        if (positions := plain.get("position_ids")) is not None:
            here = positions[..., past : past + n]
            found["position_ids"] = here.expand(*here.shape[:-2], rows, n)
        found["attention_mask"] = torch.ones(rows, past + n, dtype=torch.long, device=ids.device)
        return found


USUAL = (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD))


def own_size(config: Any, images: Any) -> int:
    """The side in pixels of the vision tower's own input, 224 where it takes any."""
    size = getattr(getattr(config, "vision_config", None), "image_size", None) or 224
    return int(size[0] if isinstance(size, list | tuple) else size)


def not_padding(pixels: Tensor) -> Tensor:
    """Pixels with no tile (B, tiles, 3, H, W) of zeros alone, which families take for padding: an even grey is one."""
    if pixels.ndim != 5:
        return pixels
    return pixels + 1e-6 * (pixels == 0).all(-1).all(-1).all(-1)[..., None, None, None].to(pixels.dtype)


def repeat(value: Any, times: int) -> Any:
    """One picture's part of a processor's output for several pictures."""
    return torch.cat([value] * times) if isinstance(value, Tensor) else [*value] * times


def ends_and_nodes(hidden: Tensor, lengths: Tensor, nodes: int) -> Tensor:
    """States (B, 1+N, D) of each prefix's end and of the N entries behind it; hidden (B, L, D), lengths (B,)."""
    at = lengths.view(-1, 1) - 1 + torch.arange(nodes + 1, device=hidden.device)
    return hidden[torch.arange(len(hidden), device=hidden.device).unsqueeze(1), at]


def no_forward(*args: Any) -> Any:
    """Stands where a part of `Scorer` is not called."""
    raise NotImplementedError("The three doors run the model themselves.")
