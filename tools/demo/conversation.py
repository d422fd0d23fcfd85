"""Questions and answers to token rows: many independent conversations share one picture's prefix in one row."""
import functools
import random

import torch
from tokenizers import Tokenizer

from phrases import CHAT, COLORS, SHAPES

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
ASK, ANSWERED, NEXT = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", "\n<|im_start|>user\n"
PAD = 0


class Rows:
    """One batch of rows. Column k of a row: token, conversation (0: shared prefix, -1: padding), position, target."""

    def __init__(self, tokenizer, asked, grid, rng, chained=0.2):
        encode = tokenizer.encode_ids
        head = encode(SYSTEM + ("<|vision_start|>" if grid else ""))
        tail = encode("<|vision_end|>") if grid else []
        cells = grid[0] * grid[1] if grid else 0
        self.image = slice(len(head), len(head) + cells)
        prefix = head + [PAD] * cells + tail
        place = [[i] * 3 for i in range(len(head))]
        if grid:
            place += [[len(head), len(head) + y, len(head) + x] for y in range(grid[0]) for x in range(grid[1])]
            place += [[len(head) + max(grid)] * 3]
        first = place[-1][0] + 1
        rows, looks, names, self.answers = [], [], [], []  # answers: (kind, row, first column whose prediction counts, target ids)
        for b, questions in enumerate(asked):
            tokens, groups, positions = list(prefix), [0] * len(prefix), list(place)
            group = 0
            for kind, question, answer, look in questions:
                chain = group and rng.random() < chained
                group += not chain
                position = positions[-1][0] + 1 if chain else first
                asking = encode((NEXT if chain else "") + question + ASK)
                answering = encode(answer + ANSWERED)
                self.answers.append((kind, b, len(tokens) + len(asking) - 1, answering))
                named = [len(tokens) + i for i, t in enumerate(asking) if t in tokenizer.names]
                names += [named] * len(answering)
                looks += [look[0] if len(look) == 1 else look[i] if i < len(look) else [] for i in range(len(answering))]
                turn = asking + answering
                tokens += turn
                groups += [group] * len(turn)
                positions += [[position + i] * 3 for i in range(len(turn))]
            rows.append((tokens, groups, positions))
        width = -(-max(len(t) for t, _, _ in rows) // 16) * 16
        fill = lambda values, pad: values + [pad] * (width - len(values))
        self.tokens = torch.tensor([fill(t, PAD) for t, _, _ in rows])
        self.groups = torch.tensor([fill(g, -1) for _, g, _ in rows])
        self.positions = torch.tensor([fill(p, [0, 0, 0]) for _, _, p in rows]).permute(2, 0, 1)
        at = [(b * width + c + i, t, len(ids) ** -.5) for _, b, c, ids in self.answers for i, t in enumerate(ids)]
        index, target, weight = zip(*at)
        self.index, self.target = torch.tensor(index), torch.tensor(target)
        self.weight = torch.tensor(weight) / sum(weight)
        self.focus = torch.zeros(len(at), cells)  # where each answer token should look, for the attention loss
        for i, look in enumerate(looks):
            self.focus[i, look] = 1
        self.names = torch.zeros(len(at), width)  # the colors and shapes that its question names
        for i, named in enumerate(names):
            self.names[i, named] = 1


class Text:
    """The tokenizer, with a cache."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.encode_ids = functools.lru_cache(100_000)(lambda text: self.tokenizer.encode(text).ids)
        self.names = {self.encode_ids(f" {word}{s}")[-1] for word in COLORS + SHAPES for s in ("", "s")}
        self.decode = lambda ids: self.tokenizer.decode(ids, skip_special_tokens=False)


def chat_rows(tokenizer, rng):
    """Two rows of text-only conversations that together ask every chat question."""
    pairs = [("chat", q, answer, []) for questions, answer in CHAT for q in questions]
    rng.shuffle(pairs)
    half = len(pairs) // 2
    return Rows(tokenizer, [pairs[:half], pairs[half:]], None, rng)
