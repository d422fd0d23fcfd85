"""Loads folders that `osprey quantize` wrote with transformers, and holds the weights that it unpacks against the stored codes, bit for bit.

    pip install --no-deps compressed-tensors==0.20.0 loguru pydantic
    python check_written.py FOLDER [FOLDER ...]
"""

import glob
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.utils.quantization_config import CompressedTensorsConfig


def unpacked(words, bits, columns, dim):
    """Codes above zero out of int32 words, low bits first, along `dim`."""
    words = words.numpy().astype("uint32")
    words = words if dim == 1 else words.T
    parts = torch.stack([torch.from_numpy(((words >> (bits * i)) & (2**bits - 1)).astype("int64")) for i in range(32 // bits)], -1)
    codes = parts.reshape(words.shape[0], -1)[:, :columns]
    return codes if dim == 1 else codes.T


def values(tensors, name):
    """The formula of the README of compressed-tensors, in float32."""
    scale = tensors[name + ".weight_scale"].float()
    if name + ".weight_packed" not in tensors:
        return tensors[name + ".weight"].float() * scale
    n, k = tensors[name + ".weight_shape"].tolist()
    words = tensors[name + ".weight_packed"]
    bits = words.shape[1] * 32 // k
    codes = unpacked(words, bits, k, 1)
    zeros = torch.full_like(scale, 2 ** (bits - 1), dtype=torch.int64)
    if name + ".weight_zero_point" in tensors:
        zeros = unpacked(tensors[name + ".weight_zero_point"], bits, n, 0)
    group = k // scale.shape[1]
    return (codes - zeros.repeat_interleave(group, 1)).float() * scale.repeat_interleave(group, 1)


for folder in sys.argv[1:]:
    tensors = {}
    for file in glob.glob(folder + "/*.safetensors"):
        tensors |= load_file(file)
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, torch_dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False))
    checked = 0
    for name, module in model.named_modules():
        stored = name.replace("model.language_model.", "model.")
        if stored + ".weight_scale" not in tensors:
            continue
        want = values(tensors, stored)
        # transformers multiplies in the scales' 16 bits.
        assert torch.equal(module.weight.to(torch.bfloat16), want.to(torch.bfloat16)), f"{folder}: {name}"
        checked += 1
    assert checked == sum(n.endswith(".weight_scale") for n in tensors)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<|im_start|>user\nWhat can you do?<|im_end|>\n<|im_start|>assistant\n"
    out = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=16, do_sample=False)
    print(folder, checked, "linears equal;", json.dumps(tokenizer.decode(out[0])[len(text):]))
