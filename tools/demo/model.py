"""Qwen2-VL in plain PyTorch for training: dense batches of pictures of one size, the checkpoint's own tensor names.

Parameters are a flat dict; `export.py` turns it into the published layout (the patch projection is trained for one
frame, since a still picture is the same frame twice).
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from data import LABELS
from tokenizer import FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, ROPE_THETA, TOWER_DEPTH, TOWER_DIM, TOWER_HEADS

HEAD_DIM = HIDDEN // HEADS
PATCH_INPUT = 3 * 14 * 14
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def parameters(vocab):
    """name -> (shape, init): init is a number (standard deviation), "one" or "zero"."""
    table = {"visual.patch_embed.proj.weight": ((TOWER_DIM, PATCH_INPUT), PATCH_INPUT ** -.5)}
    linear = lambda name, out, inp, bias=True, gain=1.0: table.update(
        {name + ".weight": ((out, inp), gain * inp ** -.5)} | ({name + ".bias": ((out,), "zero")} if bias else {}))
    norm = lambda name, dim: table.update({name + ".weight": ((dim,), "one"), name + ".bias": ((dim,), "zero")})
    for i in range(TOWER_DEPTH):
        p = f"visual.blocks.{i}."
        norm(p + "norm1", TOWER_DIM)
        norm(p + "norm2", TOWER_DIM)
        linear(p + "attn.qkv", 3 * TOWER_DIM, TOWER_DIM)
        linear(p + "attn.proj", TOWER_DIM, TOWER_DIM, gain=.2)
        linear(p + "mlp.fc1", 4 * TOWER_DIM, TOWER_DIM)
        linear(p + "mlp.fc2", TOWER_DIM, 4 * TOWER_DIM, gain=.2)
    norm("visual.merger.ln_q", TOWER_DIM)
    linear("visual.merger.mlp.0", 4 * TOWER_DIM, 4 * TOWER_DIM)
    linear("visual.merger.mlp.2", HIDDEN, 4 * TOWER_DIM)
    table["model.embed_tokens.weight"] = ((vocab, HIDDEN), .05)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        table[p + "input_layernorm.weight"] = ((HIDDEN,), "one")
        linear(p + "self_attn.q_proj", HIDDEN, HIDDEN)
        linear(p + "self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        linear(p + "self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        linear(p + "self_attn.o_proj", HIDDEN, HIDDEN, bias=False, gain=.2)
        table[p + "post_attention_layernorm.weight"] = ((HIDDEN,), "one")
        linear(p + "mlp.gate_proj", FFN, HIDDEN, bias=False)
        linear(p + "mlp.up_proj", FFN, HIDDEN, bias=False)
        linear(p + "mlp.down_proj", HIDDEN, FFN, bias=False, gain=.2)
    table["model.norm.weight"] = ((HIDDEN,), "one")
    linear("aux", sum(LABELS.values()), HIDDEN)  # training only
    return table


def merge_order(rows, columns):
    """(row, column) of every patch, the four of a merged token next to each other."""
    y, x = torch.meshgrid(torch.arange(2 * rows), torch.arange(2 * columns), indexing="ij")
    block = lambda t: t.reshape(rows, 2, columns, 2).permute(0, 2, 1, 3).reshape(-1)
    return block(y), block(x)


def patches(pixels):
    """uint8 [B, H, W, 3] -> normalised [B, P, 588] in merge order."""
    b, h, w, _ = pixels.shape
    x = (pixels.float() / 255 - MEAN) / STD
    x = x.reshape(b, h // 28, 2, 14, w // 28, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(b, -1, PATCH_INPUT)


def tower_angles(rows, columns):
    inv = 10000.0 ** -(torch.arange(0, 40, 2).float() / 40)
    y, x = merge_order(rows, columns)
    angle = torch.cat([y[:, None] * inv, x[:, None] * inv], -1)
    return torch.cat([angle, angle], -1)


def text_angles(positions):
    """positions [3, B, T] -> [B, T, 128]: channels 0-15 follow t, 16-39 the row, 40-63 the column."""
    inv = ROPE_THETA ** -(torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    t, h, w = (positions[i, ..., None] * inv for i in range(3))
    angle = torch.cat([t[..., :16], h[..., 16:40], w[..., 40:]], -1)
    return torch.cat([angle, angle], -1)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def attend(q, k, v, mask=0):
    """Attention written out: on the CPU its backward pass is over twice as fast as the fused one's."""
    scores = (q @ k.mT).float() * q.shape[-1] ** -.5 + mask
    weights = torch.softmax(scores, -1)
    return weights.to(v.dtype) @ v, weights


class Model(nn.Module):
    def __init__(self, vocab, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = {}
        for name, (shape, init) in parameters(vocab).items():
            value = (torch.ones(shape) if init == "one" else torch.zeros(shape) if init == "zero"
                     else torch.randn(shape, generator=generator) * init)
            self.names[name] = name.replace(".", "/")
            self.register_parameter(self.names[name], nn.Parameter(value))

    def p(self, name):
        return self._parameters[self.names[name]]

    def linear(self, x, name):
        bias = self.names.get(name + ".bias")
        return F.linear(x, self.p(name + ".weight"), None if bias is None else self._parameters[bias])

    def layer_norm(self, x, name):
        return F.layer_norm(x, (TOWER_DIM,), self.p(name + ".weight"), self.p(name + ".bias"), 1e-6)

    def rms_norm(self, x, name):
        return F.rms_norm(x.float(), (HIDDEN,), self.p(name + ".weight"), 1e-6)

    def tower(self, x, cos, sin):
        """[B, P, 588] -> one row per merged token [B, P / 4, HIDDEN]."""
        b, n, _ = x.shape
        x = F.linear(x, self.p("visual.patch_embed.proj.weight")).float()
        for i in range(TOWER_DEPTH):
            p = f"visual.blocks.{i}."
            qkv = self.linear(self.layer_norm(x, p + "norm1"), p + "attn.qkv")
            q, k, v = qkv.reshape(b, n, 3, TOWER_HEADS, -1).permute(2, 0, 3, 1, 4)
            a, _ = attend(rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v)
            x = x + self.linear(a.transpose(1, 2).reshape(b, n, TOWER_DIM), p + "attn.proj")
            h = self.linear(self.layer_norm(x, p + "norm2"), p + "mlp.fc1")
            x = x + self.linear(h * torch.sigmoid(1.702 * h), p + "mlp.fc2")
        x = self.layer_norm(x, "visual.merger.ln_q").reshape(b, n // 4, 4 * TOWER_DIM)
        return self.linear(F.gelu(self.linear(x, "visual.merger.mlp.0")), "visual.merger.mlp.2")

    def decoder(self, x, cos, sin, mask):
        """Embeddings [B, T, HIDDEN], angles [B, 1, T, 128], additive mask [B, 1, T, T] -> normed hidden states, and the
        attention weights [B, T, T] of the first head of the first two layers, which are taught where to look."""
        b, n, _ = x.shape
        looking = []
        split = lambda t: t.reshape(b, n, -1, HEAD_DIM).transpose(1, 2)
        for i in range(LAYERS):
            p = f"model.layers.{i}."
            h = self.rms_norm(x, p + "input_layernorm")
            q, k, v = (split(self.linear(h, f"{p}self_attn.{c}_proj")) for c in "qkv")
            q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
            a, weights = attend(q, *(t.expand(b, HEADS, n, HEAD_DIM) for t in (k, v)), mask)
            if i < 2:
                looking.append(weights[:, 0])
            x = x + self.linear(a.transpose(1, 2).reshape(b, n, HIDDEN), p + "self_attn.o_proj")
            h = self.rms_norm(x, p + "post_attention_layernorm")
            x = x + self.linear(F.silu(self.linear(h, p + "mlp.gate_proj")) * self.linear(h, p + "mlp.up_proj"),
                                p + "mlp.down_proj")
        return self.rms_norm(x, "model.norm"), looking

    def aux_losses(self, rows, labels):
        """Cross entropy of every dense label; rows [B, N, HIDDEN], labels [B, L, N] -> {name: (loss, accuracy)}.

        Most cells show no letter: those count a twentieth in the loss, and not at all in the accuracy.
        """
        logits = self.linear(rows, "aux").float().split(list(LABELS.values()), -1)
        out = {}
        for (name, _), z, y in zip(LABELS.items(), logits, labels.unbind(1)):
            keep = y != -100
            weight = keep.float()
            if name in ("left", "right"):
                keep = y > 0
                weight = torch.where(keep, weight, .05 * weight)
            loss = F.cross_entropy(z.transpose(1, 2), y, ignore_index=-100, reduction="none")
            out[name] = ((loss * weight).sum() / weight.sum().clamp(min=1),
                         ((z.argmax(-1) == y) & keep).sum() / keep.sum().clamp(min=1))
        return out


def attention_mask(groups):
    """Additive [B, 1, T, T]: causal; a token sees the shared prefix (group 0) and its own group; -1 is padding."""
    n = groups.shape[1]
    same = (groups[:, None, :] == groups[:, :, None]) | (groups[:, None, :] == 0)
    keep = same & torch.ones(n, n, dtype=torch.bool).tril()
    return torch.zeros(keep.shape).masked_fill(~keep, -math.inf)[:, None]
