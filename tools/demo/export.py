"""Write a training checkpoint as a published-style bf16 checkpoint: python export.py joint.pt --out models/demo"""
import argparse
import os

import torch
from safetensors.torch import save_file


def published(name, value):
    """The tensor as it is on disk: for the patch projection, half for each of the two equal frames."""
    if name == "visual.patch_embed.proj.weight":
        value = value.reshape(value.shape[0], 3, 1, 14, 14).expand(-1, -1, 2, -1, -1) / 2
    return value.to(torch.bfloat16).contiguous()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("checkpoint")
    args.add_argument("--out", required=True)
    a = args.parse_args()
    weights = torch.load(a.checkpoint)["model"]
    tensors = {(n := name.replace("/", ".")): published(n, value) for name, value in weights.items() if not name.startswith("aux")}
    path = os.path.join(a.out, "model.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    print(f"{path}: {sum(t.numel() for t in tensors.values()):,} parameters, {os.path.getsize(path):,} bytes")


if __name__ == "__main__":
    main()
