"""tiny_a/ and tiny_b/: two small random Qwen2-VL checkpoints, written the two ways that one meets on disk.

    python make_models.py [TOKENIZER_DIR]      default: ../../models/demo

Weights are drawn in f32 from numpy's PCG64, scaled so that every part matters, rounded to bf16, and stored as bf16.
"""

import json
import os
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, logging

from common import HERE, check_pins, path

logging.set_verbosity_error()

TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.json")
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
EMBED_STD = {"tiny_a": 0.1, "tiny_b": 0.3}


def config_a(ids):
    """Flat, with the keys that the first Qwen2-VL checkpoints have: rope type "mrope", in_chans, spatial_patch_size."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "model_type": "qwen2_vl",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_theta": 100.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "embed_dim": 80,
            "mlp_ratio": 2,
            "num_heads": 1,
            "in_chans": 3,
            "hidden_size": 256,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": ids["vocab_size"],
    }


def config_b(ids):
    """Nested; goes through Qwen2VLConfig and is written as transformers 4.57.6 writes it."""
    return {
        "text_config": {
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "hidden_size": 144,
            "intermediate_size": 200,
            "max_position_embeddings": 4096,
            "num_attention_heads": 6,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "max_window_layers": 3,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 4, 6]},
            "tie_word_embeddings": False,
            "vocab_size": ids["vocab_size"],
        },
        "vision_config": {"depth": 3, "embed_dim": 96, "num_heads": 3, "mlp_ratio": 2, "hidden_size": 144},
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }


def draw(name, shape, rng, embed_std):
    n = rng.standard_normal(shape)
    if name.endswith(("layernorm.weight", ".norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight")):
        return 1 + 0.25 * n
    if name.endswith(".bias"):
        return 0.3 * n
    if "embed_tokens" in name:
        return embed_std * n
    if "lm_head" in name:
        return 0.15 * n
    fan_in = int(np.prod(shape[1:]))
    # sharper attention than at initialisation, so that wrong positions are seen in the logits
    gain = 1.6 if name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight")) else 1.1
    return gain * fan_in**-0.5 * n


def weights(config, seed, embed_std, ids):
    """Names as transformers holds them in memory (model.language_model., model.visual., lm_head.) -> bf16 tensors.

    The rows of the placeholders and of the unused end of the vocabulary are made small, so that they are never generated.
    """
    quiet = [ids[t] for t in ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>")] + list(range(ids["used"], ids["vocab_size"]))
    model = Qwen2VLForConditionalGeneration(config)
    rng = np.random.Generator(np.random.PCG64(seed))
    out = {}
    for name, p in sorted(model.named_parameters()):
        value = draw(name, tuple(p.shape), rng, embed_std)
        if "embed_tokens" in name or "lm_head" in name:
            value[quiet] *= 0.1
        out[name] = torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    return out


def write(folder, name, value):
    with open(os.path.join(folder, name), "w", newline="\n") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def common_files(folder, tokenizer, ids, processor, generation):
    for name in TOKENIZER:
        shutil.copyfile(os.path.join(tokenizer, name), os.path.join(folder, name))
    write(folder, "generation_config.json", {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], **generation})
    write(
        folder,
        "preprocessor_config.json",
        {**processor, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": MEAN, "image_std": STD,
         "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"},
    )


def shards(tensors, limit):
    """Greedy split in name order, as long lists of tensors are cut in real checkpoints."""
    groups, size = [[]], 0
    for name in tensors:
        n = tensors[name].numel() * 2
        if groups[-1] and size + n > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += n
    return groups


def main():
    check_pins()
    tokenizer = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "models", "demo")
    with open(os.path.join(tokenizer, "tokenizer.json"), encoding="utf-8") as f:
        t = json.load(f)
    ids = {a["content"]: a["id"] for a in t["added_tokens"]}
    used = max(list(ids.values()) + list(t["model"]["vocab"].values())) + 1
    ids["used"] = used
    ids["vocab_size"] = -(-used // 64) * 64
    eos = [ids["<|im_end|>"], ids["<|endoftext|>"]]

    for name in ("tiny_a", "tiny_b"):
        shutil.rmtree(path(name), ignore_errors=True)
        os.makedirs(path(name))

    # tiny_a: tied, one file, the names and the flat config of the published checkpoints
    a = config_a(ids)
    tensors = weights(Qwen2VLConfig(**json.loads(json.dumps(a))), SEEDS["tiny_a"], EMBED_STD["tiny_a"], ids)
    assert "lm_head.weight" not in tensors
    disk = {k.replace("model.language_model.", "model.").replace("model.visual.", "visual."): v for k, v in tensors.items()}
    save_file(disk, path("tiny_a", "model.safetensors"), metadata={"format": "pt"})
    write(path("tiny_a"), "config.json", a)
    common_files(path("tiny_a"), tokenizer, ids, {"min_pixels": 3136, "max_pixels": 12544},
                 {"do_sample": True, "eos_token_id": eos, "repetition_penalty": 1.0, "temperature": 0.01, "top_p": 0.001, "top_k": 1})

    # tiny_b: untied, shards, nested config, the names of transformers >= 4.52 in memory
    config = Qwen2VLConfig(**config_b(ids), architectures=["Qwen2VLForConditionalGeneration"], dtype="bfloat16")
    tensors = weights(config, SEEDS["tiny_b"], EMBED_STD["tiny_b"], ids)
    assert "lm_head.weight" in tensors
    groups = shards(tensors, 1_000_000)
    files = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    for file, group in zip(files, groups):
        save_file({k: tensors[k] for k in group}, path("tiny_b", file), metadata={"format": "pt"})
    write(path("tiny_b"), "model.safetensors.index.json", {
        "metadata": {"total_parameters": sum(v.numel() for v in tensors.values()), "total_size": sum(v.numel() * 2 for v in tensors.values())},
        "weight_map": dict(sorted((k, f) for f, g in zip(files, groups) for k in g)),
    })
    config.save_pretrained(path("tiny_b"))
    common_files(path("tiny_b"), tokenizer, ids, {"min_pixels": 3136, "max_pixels": 18816}, {"do_sample": False, "eos_token_id": eos})
    for name in ("tiny_a", "tiny_b"):
        total = sum(os.path.getsize(path(name, f)) for f in os.listdir(path(name)) if f.endswith(".safetensors"))
        print(name, total, "bytes of weights")


# Chosen so that no greedy step of any trace is a near tie, see smallest_gap in traces.json.
SEEDS = {"tiny_a": 18, "tiny_b": 12}

if __name__ == "__main__":
    main()
