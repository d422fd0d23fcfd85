"""adapters/: LoRA adapters on tiny_a and tiny_b, and what PEFT's merge_and_unload makes of the weights.

    python make_adapters.py

Most adapters hold small multiples of 2^-6 and have scales of few bits, so that B A and its scale are exact in f32 in whatever order they are computed: then
the merged bf16 weights have one right answer, and a hash says it. `rounding` has ordinary numbers; its reference is PEFT in f64.
"""

import hashlib
import json
import os
import shutil

import numpy as np
import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration, logging

from common import check_pins, path

logging.set_verbosity_error()
PEFT = "0.21.2"

TEXT = "model.language_model.layers"
CASES = {
    # name: (model, dtype of the file, LoraConfig)
    "plain": ("tiny_a", torch.float16, dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])),
    "patterns": ("tiny_b", torch.bfloat16, dict(
        r=4, lora_alpha=8, target_modules=["k_proj", "v_proj", "up_proj"],
        # one module may match several: the first counts
        rank_pattern={"^model\\.language_model\\.layers\\.0\\..*": 2, "k_proj": 1, "layers.1.mlp.up_proj": 8},
        alpha_pattern={"(self_attn\\.)?k_proj": 3, "2.mlp.up_proj": 2.5, "_proj": 4},
    )),
    "rslora": ("tiny_a", torch.bfloat16, dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["k_proj", "o_proj"], rank_pattern={"o_proj": 16})),
    "vision": ("tiny_b", torch.float16, dict(
        r=2, lora_alpha=4, target_modules=r".*visual\..*(patch_embed\.proj|attn\.qkv|attn\.proj|fc1|mlp\.0)")),
    "saved": ("tiny_b", torch.float32, dict(
        r=2, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["1.self_attn.v_proj", "ln_q", "blocks.1.norm2"])),
    "biases": ("tiny_b", torch.float32, dict(r=2, lora_alpha=2, target_modules=["q_proj", "fc2"], bias="all")),
    "embedding": ("tiny_a", torch.float16, dict(r=2, lora_alpha=4, target_modules=["embed_tokens"])),
    "head": ("tiny_a", torch.float16, dict(r=2, lora_alpha=4, target_modules=["lm_head"])),
    "rounding": ("tiny_b", torch.float32, dict(
        r=3, lora_alpha=5, target_modules=["k_proj"], layers_to_transform=[1], layers_pattern="layers")),
}


def canonical(name):
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def draw(name, p, rng, exact):
    n = rng.integers(-8, 9, tuple(p.shape)) / 64 if exact else 0.1 * rng.standard_normal(tuple(p.shape))
    if "modules_to_save" in name or name.endswith("bias"):
        n = rng.standard_normal(tuple(p.shape))  # more bits than bf16 has
    return torch.from_numpy(n).to(p.dtype)


def load(model, dtype):
    return Qwen2VLForConditionalGeneration.from_pretrained(path(model), dtype=dtype, attn_implementation="eager")


def train(name, dtype):
    """The model with an adapter that is not zero."""
    model, _, config = CASES[name]
    out = get_peft_model(load(model, dtype), LoraConfig(**config))
    rng = np.random.Generator(np.random.PCG64(sorted(CASES).index(name)))
    with torch.no_grad():
        for key, p in sorted(out.named_parameters()):
            if p.requires_grad:
                p.copy_(draw(key, p, rng, name != "rounding"))
    return out


def save(name, model):
    folder = path("adapters", name)
    model.save_pretrained(folder, save_embedding_layers=False)
    os.remove(os.path.join(folder, "README.md"))
    file = os.path.join(folder, "adapter_model.safetensors")
    save_file({k: v.to(CASES[name][1]).contiguous() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    file = os.path.join(folder, "adapter_config.json")
    with open(file, encoding="utf-8") as f:
        config = json.load(f)
    config["base_model_name_or_path"] = CASES[name][0]
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set before it was saved
    with open(file, "w", newline="\n") as f:
        f.write(json.dumps(config, indent=2, sort_keys=True) + "\n")


def merged(name, dtype=torch.bfloat16):
    state = train(name, dtype).merge_and_unload().state_dict()
    return {canonical(k): v for k, v in state.items()}


def sha(t):
    return hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def check_untied(name, changed):
    """Before it is merged, an adapter on the embedding does not act on the tied head, nor the other way round: PEFT's own logits say so."""
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        want = train(name, torch.float32)(input_ids=ids).logits
        model = load("tiny_a", torch.float32)
        base = model.model.language_model.embed_tokens.weight.detach().clone()
        new = merged(name, torch.float32)[changed]
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(new if changed == "lm_head.weight" else base)
        model.model.language_model.embed_tokens.weight = torch.nn.Parameter(base if changed == "lm_head.weight" else new)
        got = model(input_ids=ids).logits
        tied = train(name, torch.float32).merge_and_unload()(input_ids=ids).logits
    assert (got - want).abs().max() < 1e-4 * want.std(), name
    assert (tied - want).abs().max() > 0.1 * want.std(), name


def facts(name):
    """Hashes of the tensors that differ from the model's."""
    base = {canonical(k): v for k, v in load(CASES[name][0], torch.bfloat16).state_dict().items()}
    new = merged(name)
    assert base.keys() == new.keys(), base.keys() ^ new.keys()
    # PEFT merges into the one matrix of a tied model: which name it changes is the case's own.
    only = {"embedding": ["model.embed_tokens.weight"], "head": ["lm_head.weight"]}.get(name, sorted(base))
    for key in only[:1] if name in ("embedding", "head") else []:
        check_untied(name, key)
    return {k: sha(new[k]) for k in only if not torch.equal(base[k], new[k])}


def rounding():
    """PEFT in f64, and |W| + |scale| |B| |A|, which errors are in proportion to."""
    key = "model.layers.1.self_attn.k_proj.weight"
    model = train("rounding", torch.bfloat16)
    lora = model.base_model.model.model.language_model.layers[1].self_attn.k_proj
    w = lora.base_layer.weight.detach().double()
    a, b = (m["default"].weight.detach().double() for m in (lora.lora_A, lora.lora_B))
    wide = load("tiny_b", torch.float64)
    wide = get_peft_model(wide, LoraConfig(**CASES["rounding"][2]), autocast_adapter_dtype=False)
    wide_lora = wide.base_model.model.model.language_model.layers[1].self_attn.k_proj
    with torch.no_grad():
        wide_lora.lora_A["default"].weight.copy_(a)
        wide_lora.lora_B["default"].weight.copy_(b)
    value = wide.merge_and_unload().state_dict()["model.language_model.layers.1.self_attn.k_proj.weight"]
    assert value.dtype == torch.float64
    size = w.abs() + 5 / 3 * (b.abs() @ a.abs())
    # every other row, to keep the file small
    save_file({key: value[::2].contiguous(), "magnitude": size[::2].float().contiguous()}, path("adapters", "rounding", "merged.safetensors"))


def main():
    check_pins()
    assert peft.__version__ == PEFT, peft.__version__
    shutil.rmtree(path("adapters"), ignore_errors=True)
    out = {}
    for name, (model, _, _) in CASES.items():
        os.makedirs(path("adapters", name))
        save(name, train(name, torch.bfloat16))
        out[name] = {"model": model, "tensors": facts(name)}
        print(name, len(out[name]["tensors"]))
    rounding()
    with open(path("adapters", "merged.json"), "w", newline="\n") as f:
        f.write(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
