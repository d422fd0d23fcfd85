"""quantized/: layers and small models as GPTQ, AWQ and compressed-tensors store them, and what they mean.

    python make_quantized.py            needs torch

Quantized here by rounding to nearest: what is tested is the reading. Every value is computed from the *packed* tensors, by the formulas of AutoGPTQ
0.7.1 (qlinear_cuda.py), AutoAWQ 0.2.9 (packing_utils.py) and compressed-tensors 0.20.0 (pack_quantized, naive_quantized); check_quantized.py holds them
against these packages themselves.
"""

import json
import os
import shutil

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from common import check_pins, path, splitmix64, write_json
from make_traces import as_torch, generate, inputs, run

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # packing_utils.py: the column of eight that nibble i holds


# ---- words of 32 bits


def pack(codes, bits):
    """Codes along the last axis, the first in the lowest bits; the last word is filled with zeros."""
    per = 32 // bits
    pad = -codes.shape[-1] % per
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, pad)]).astype(np.uint32)
    codes = codes.reshape(*codes.shape[:-1], -1, per)
    return np.bitwise_or.reduce(codes << (np.arange(per, dtype=np.uint32) * np.uint32(bits)), axis=-1).view(np.int32)


def unpack(words, bits):
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return codes.reshape(*words.shape[:-1], -1).astype(np.int64)


def ones(bits):
    return np.uint32(sum(1 << s for s in range(0, 32, bits)))


# ---- what the stored tensors mean: float32 [N, K]


def gptq_values(t, q):
    bits = q["bits"]
    zeros = np.ascontiguousarray(t["qzeros"]).view(np.uint32)
    if q["checkpoint_format"] == "gptq":
        with np.errstate(over="ignore"):
            zeros = zeros + ones(bits)  # GPTQModel, convert_gptq_v1_to_v2_format: whole words
    zeros = unpack(zeros.view(np.int32), bits)
    codes = unpack(np.ascontiguousarray(t["qweight"].T), bits).T  # [K, N]
    k = codes.shape[0]
    group = k if q["group_size"] == -1 else q["group_size"]
    of = t.get("g_idx", np.arange(k) // group)
    return (t["scales"].astype(np.float32)[of] * (codes - zeros[of]).astype(np.float32)).T


def awq_values(t, q):
    inverse = np.argsort(AWQ_ORDER)
    plain = lambda words: unpack(words, 4).reshape(len(words), -1, 8)[..., inverse].reshape(len(words), -1)
    codes, zeros = plain(t["qweight"]), plain(t["qzeros"])
    of = np.arange(len(codes)) // (len(codes) // len(zeros))
    return (t["scales"].astype(np.float32)[of] * (codes - zeros[of]).astype(np.float32)).T


def ct_values(t, q):
    weights = q["config_groups"]["group_0"]["weights"]
    bits, scale = weights["num_bits"], t["weight_scale"].astype(np.float32)
    if "weight" in t:
        codes = t["weight"].astype(np.int64)
        n, k = codes.shape
        zeros = np.zeros(scale.shape, np.int64)
    else:
        n, k = t["weight_shape"]
        codes = unpack(t["weight_packed"], bits)[:, :k] - 2 ** (bits - 1)
        zeros = np.zeros(scale.shape, np.int64)
        if not weights["symmetric"]:
            zeros = unpack(np.ascontiguousarray(t["weight_zero_point"].T), bits).T[:n] - 2 ** (bits - 1)
    of = t.get("weight_g_idx", np.arange(k) // (k // scale.shape[1]))
    return scale[:, of] * (codes - zeros[:, of]).astype(np.float32)


VALUES = {"gptq": gptq_values, "awq": awq_values, "compressed-tensors": ct_values}


def values(t, q):
    return np.ascontiguousarray(VALUES[q["quant_method"]](t, q), dtype=np.float32)


# ---- rounding to nearest


def grid(w, bits, of, sym):
    """Codes [N, K], f16 scales and zero points [N, groups]; column k belongs to group of[k]."""
    top, groups = 2**bits - 1, of.max() + 1
    columns = [w[:, of == g] for g in range(groups)]
    low = np.stack([np.minimum(c.min(1), 0) for c in columns], 1)
    high = np.stack([np.maximum(c.max(1), 0) for c in columns], 1)
    if sym:
        high = np.maximum(high, -low)
        low = -high
    scales = np.maximum((high - low) / top, 1e-4).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = np.full(scales.shape, 2 ** (bits - 1)) if sym else np.clip(np.rint(-low / wide), 0, top)
    codes = np.clip(np.rint(w / wide[:, of]) + zeros[:, of], 0, top)
    return codes.astype(np.int64), scales, zeros.astype(np.int64)


def groups_of(k, size, shuffled=0):
    """The group of each column; with a seed, as act-order leaves them."""
    of = np.arange(k) // (k if size == -1 else size)
    return of[np.argsort(splitmix64(shuffled, k), kind="stable")] if shuffled else of


def gptq(w, q, shuffled=0):
    bits, of = q["bits"], groups_of(w.shape[1], q["group_size"], shuffled)
    codes, scales, zeros = grid(w, bits, of, q["sym"])
    words = pack(zeros.T, bits)
    if q["checkpoint_format"] == "gptq":
        with np.errstate(over="ignore"):
            words = (words.view(np.uint32) - ones(bits)).view(np.int32)
    qweight = np.ascontiguousarray(pack(codes, bits).T)
    return {"qweight": qweight, "qzeros": words, "scales": np.ascontiguousarray(scales.T), "g_idx": of.astype(np.int32)}


def awq(w, q, shuffled=0):
    codes, scales, zeros = grid(w, 4, groups_of(w.shape[1], q["group_size"]), False)
    packed = lambda a: pack(a.reshape(len(a), -1, 8)[..., AWQ_ORDER].reshape(len(a), -1), 4)
    return {"qweight": packed(codes.T), "qzeros": packed(zeros.T), "scales": np.ascontiguousarray(scales.T)}


def ct(w, q, shuffled=0):
    weights = q["config_groups"]["group_0"]["weights"]
    bits = weights["num_bits"]
    of = groups_of(w.shape[1], weights.get("group_size") or -1, shuffled)
    codes, scales, zeros = grid(w, bits, of, weights["symmetric"])
    if q["format"] == "int-quantized":
        return {"weight": (codes - 128).astype(np.int8), "weight_scale": scales}
    t = {"weight_packed": pack(codes, bits), "weight_scale": scales, "weight_shape": np.array(w.shape, np.int64)}
    if not weights["symmetric"]:
        t["weight_zero_point"] = np.ascontiguousarray(pack(zeros.T, bits).T)
    if shuffled:
        t["weight_g_idx"] = of.astype(np.int32)
    return t


WRITE = {"gptq": gptq, "awq": awq, "compressed-tensors": ct}


def write(w, q, shuffled=0):
    return WRITE[q["quant_method"]](w, q, shuffled)


# ---- configurations


def gptq_config(bits, group, sym, desc_act=False, version="gptq"):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": desc_act, "checkpoint_format": version}


def awq_config(group):
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm", "modules_to_not_convert": ["visual"]}


def ct_config(bits, group, sym, form="pack-quantized", int8_inputs=False):
    weights = {"num_bits": bits, "type": "int", "symmetric": sym, "strategy": "channel" if group == -1 else "group", "dynamic": False}
    if group != -1:
        weights["group_size"] = group
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True} if int8_inputs else None
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": scheme}, "ignore": ["lm_head"],
            "kv_cache_scheme": None, "quantization_status": "compressed"}


# ---- quantized/layers.safetensors: single layers [n, k] and their values

# name: configuration, n, k, seed of a shuffle
LAYERS = {
    "gptq4": (gptq_config(4, 16, False), 16, 48, 0),
    "gptq4_sym": (gptq_config(4, 16, True), 16, 48, 0),
    "gptq4_row": (gptq_config(4, -1, False), 16, 48, 0),
    "gptq4_v2": (gptq_config(4, 16, False, version="gptq_v2"), 16, 48, 0),
    "gptq4_order": (gptq_config(4, 16, False, True), 16, 48, 1),
    "gptq8": (gptq_config(8, 16, False), 16, 32, 0),
    "gptq8_sym_v2": (gptq_config(8, -1, True, version="gptq_v2"), 16, 32, 0),
    "gptq8_order": (gptq_config(8, 8, True, True), 16, 32, 2),
    "awq4": (awq_config(16), 16, 48, 0),
    "awq4_row": (awq_config(-1), 16, 48, 0),
    "ct4": (ct_config(4, 16, True), 20, 48, 0),
    "ct4_zeros": (ct_config(4, 16, False), 20, 48, 0),
    "ct4_row": (ct_config(4, -1, False), 20, 44, 0),  # the last word of a row is half full
    "ct4_order": (ct_config(4, 16, True), 20, 48, 3),
    "ct8": (ct_config(8, 16, True), 20, 32, 0),
    "ct8_zeros": (ct_config(8, -1, False), 20, 34, 0),
    "ct8_order": (ct_config(8, 16, False), 20, 32, 4),
    "ct_int8": (ct_config(8, -1, True, "int-quantized"), 20, 33, 0),
}


def random(seed, shape):
    """Uniform, the middle moved from row to row so that zero points reach 0 and the top."""
    w = (splitmix64(seed, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
    return (w.reshape(shape) + np.linspace(-1.1, 1.1, shape[0])[:, None]).astype(np.float32)


def layers():
    tensors = {}
    for seed, (name, (q, n, k, shuffled)) in enumerate(LAYERS.items(), 100):
        t = write(random(seed, (n, k)), q, shuffled)
        tensors.update({f"{name}.{suffix}": value for suffix, value in t.items()})
        tensors[f"{name}.values"] = values(t, q)
    save_file({n: np.ascontiguousarray(v) for n, v in tensors.items()}, path("quantized", "layers.safetensors"))
    write_json("quantized/layers.json", {name: {"n": n, "k": k, "quantization_config": q} for name, (q, n, k, _) in LAYERS.items()}, rows=())


# ---- quantized/NAME.safetensors: the quantized layers of models cut out of tiny_b, and what transformers makes of them

SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
         "max_window_layers": 2}

# name: configuration, prefix of the decoder, prefix of the tower, layers that are quantized
TEXT = ("model.layers.0.", "model.layers.1.")
MODELS = {
    "gptq4": (gptq_config(4, 16, False, True), "model.", "visual.", TEXT + ("lm_head.",)),
    "gptq8": (gptq_config(8, -1, True, version="gptq_v2"), "model.", "visual.", TEXT[:1]),
    "awq4": (awq_config(16), "model.language_model.", "model.visual.", TEXT),
    "ct4": (ct_config(4, 16, False), "language_model.model.", "visual.", TEXT + ("visual.blocks.0.attn.",)),
    "ct8": (ct_config(8, -1, True, "int-quantized"), "model.language_model.", "model.visual.", TEXT),
    "w8a8": (ct_config(8, -1, True, "int-quantized", int8_inputs=True), "model.", "visual.", TEXT + ("visual.blocks.0.mlp.",)),
}
CONVERSATION, ROWS = "image_one", 3


def small_config():
    with open(path("tiny_b", "config.json")) as f:
        config = json.load(f)
    config["text_config"].update(SMALL, layer_types=["full_attention"] * SMALL["num_hidden_layers"])
    config["vision_config"]["hidden_size"] = SMALL["hidden_size"]
    config["vision_config"]["depth"] = 1
    return config


def cut(shapes):
    """The leading part of every tensor of tiny_b, float32."""
    whole = {}
    for file in sorted(f for f in os.listdir(path("tiny_b")) if f.endswith(".safetensors")):
        with safe_open(path("tiny_b", file), "pt") as f:
            whole.update({canonical(name): f.get_tensor(name).float() for name in f.keys()})
    return {name: whole[name][tuple(slice(n) for n in shape)].contiguous().numpy() for name, shape in shapes.items()}


def canonical(name):
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def int8_rows(_, args):
    """Rounds each row of a layer's input to int8, as vLLM's scaled_int8_quant does."""
    x = args[0]
    scale = x.abs().amax(-1, keepdim=True) / 127
    return ((x / scale).round().clamp(-128, 127) * scale,)


def models():
    with open(path("conversations", CONVERSATION + ".json"), encoding="utf-8") as f:
        messages = json.load(f)
    _, _, _, x = inputs(path("tiny_b"), messages)
    for name, (q, text, tower, quantized) in MODELS.items():
        config = small_config()
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration._from_config(Qwen2VLConfig(**{**config, "dtype": "float32"}), attn_implementation="eager")
        parameters = {canonical(n): p for n, p in model.named_parameters()}
        assert {p.dtype for p in parameters.values()} == {torch.float32}
        weights = cut({n: p.shape for n, p in parameters.items()})
        stored = {}
        for layer in [n[: -len(".weight")] for n, p in weights.items() if n.startswith(quantized) and p.ndim == 2 and n.endswith(".weight")]:
            # q, k and v, and gate and up, see the same inputs and thus have one order
            seed = {"o_proj": 7, "down_proj": 9}.get(layer.split(".")[-1], 5)
            t = write(weights[layer + ".weight"], q, seed if q.get("desc_act") else 0)
            weights[layer + ".weight"] = values(t, q)
            if layer.endswith(("o_proj", "gate_proj", "up_proj", "down_proj")) and q["quant_method"] == "gptq":
                t["bias"] = np.zeros(weights[layer + ".weight"].shape[0], np.float16)  # as AutoGPTQ stores them
            stored.update({f"{layer}.{suffix}": value for suffix, value in t.items()})
        with torch.no_grad():
            for n, p in parameters.items():
                p.copy_(torch.from_numpy(weights[n]))
        model.eval()
        if q.get("config_groups", {}).get("group_0", {}).get("input_activations"):
            for n, module in model.named_modules():
                if canonical(n) + ".weight_scale" in stored:
                    module.register_forward_pre_hook(int8_rows)
        logits = run(model, x)["logits"]
        ids, gaps = generate(model, x)
        rows = np.unique(np.linspace(0, len(logits) - 1, ROWS).astype(np.int64))
        out = {prefixed(n, text, tower): v for n, v in stored.items()}
        out.update(golden_logits=logits[rows], golden_logits_rows=rows, golden_ids=ids.astype(np.int64))
        save_file({n: np.ascontiguousarray(v) for n, v in out.items()}, path("quantized", name + ".safetensors"))
        with open(path("quantized", name + ".json"), "w", newline="\n") as f:
            f.write(json.dumps({**config, "quantization_config": q}, indent=1) + "\n")
        print(name, len(stored), "tensors; smallest gap", min(gaps), "std", logits.std(), len(ids), "tokens,", len(set(ids.tolist())), "different")


def prefixed(name, text, tower):
    return name.replace("model.", text, 1) if name.startswith("model.") else name.replace("visual.", tower, 1)


if __name__ == "__main__":
    check_pins()
    shutil.rmtree(path("quantized"), ignore_errors=True)
    os.makedirs(path("quantized"))
    layers()
    models()
