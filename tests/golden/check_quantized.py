"""Holds the formulas of make_quantized.py against the packages that they are taken from, layer by layer, bit for bit.

    pip install --no-deps compressed-tensors==0.12.2 loguru pydantic
    pip download --no-deps autoawq==0.2.9 auto-gptq==0.7.1 gptqmodel==7.7.0, and unpack them into one folder
    python check_quantized.py FOLDER

AutoGPTQ takes a zero point of 0, which version 1 stores as the top code and a borrow, for one above the top. It cannot write one itself; GPTQModel
can, and adds to whole words when it reads. Words with one are left out. compressed-tensors 0.20.0 gives the same values, but has dropped weight_g_idx.
"""

import importlib.util
import sys
import types

import numpy as np
import torch
from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file

from common import path
from make_quantized import LAYERS, unpack

FOLDER = sys.argv[1]


def module(name, file):
    """A file of a package on its own: the packages themselves ask for CUDA when they are imported."""
    spec = importlib.util.spec_from_file_location(name, f"{FOLDER}/{file}")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def auto_gptq(t, q):
    """What its layer gives for the identity, in float32."""
    layer = LINEAR(q["bits"], q["group_size"], t["qweight"].shape[0] * 32 // q["bits"], t["qweight"].shape[1], bias=False)
    layer.qweight, layer.qzeros, layer.scales, layer.g_idx = t["qweight"], t["qzeros"], t["scales"].float(), t["g_idx"]
    return layer(torch.eye(layer.infeatures)).T


def awq(t, q):
    k = len(t["qweight"])
    return AWQ.dequantize_gemm(t["qweight"], t["qzeros"], t["scales"].float(), 4, k if q["group_size"] == -1 else q["group_size"]).T


def compressed_tensors(t, q):
    weights, scale, zeros = q["config_groups"]["group_0"]["weights"], t["weight_scale"].float(), None
    codes = t["weight"] if "weight" in t else unpack_from_int32(t["weight_packed"], weights["num_bits"], torch.Size(t["weight_shape"]))
    if "weight_zero_point" in t:
        zeros = unpack_from_int32(t["weight_zero_point"], weights["num_bits"], scale.shape, packed_dim=0)
    return dequantize(codes, scale, zeros, QuantizationArgs(**weights), g_idx=t.get("weight_g_idx"))


def borrowed(t, q):
    """[N, K]: groups whose word of zero points has one of 0, from which the next ones borrow."""
    top = unpack(t["qzeros"].numpy(), q["bits"]) == 2 ** q["bits"] - 1
    words = top.reshape(len(top), -1, 32 // q["bits"]).any(-1)
    return np.repeat(words, 32 // q["bits"], axis=1)[t["g_idx"].numpy()].T


def stub(name):
    """An empty module whose attributes are empty modules."""
    made = types.ModuleType(name)
    made.__getattr__ = lambda attribute: stub(attribute)
    sys.modules[name] = made
    return made


for missing in ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"):
    stub(missing).__path__ = []
LINEAR = module("auto_gptq.nn_modules.qlinear.qlinear_cuda", "auto_gptq/nn_modules/qlinear/qlinear_cuda.py").QuantLinear
AWQ = module("awq_packing", "autoawq-0.2.9/awq/utils/packing_utils.py")

tensors = load_file(path("quantized", "layers.safetensors"))
for name, (q, n, k, _) in LAYERS.items():
    t = {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(name + ".")}
    want = t.pop("values").numpy()
    if q["quant_method"] == "gptq" and q["checkpoint_format"] == "gptq_v2":
        print(f"{name}: AutoGPTQ reads version 1 only")
        continue
    tool = {"gptq": auto_gptq, "awq": awq, "compressed-tensors": compressed_tensors}[q["quant_method"]]
    got, left = tool(t, q).detach().float().numpy(), np.zeros(want.shape, bool)
    if tool is auto_gptq:
        left = borrowed(t, q)
    print(f"{name}: {np.count_nonzero((got != want) & ~left)} of {np.count_nonzero(~left)} values differ")
