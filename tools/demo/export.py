"""Write a training checkpoint as a published-style bf16 checkpoint: python export.py joint.pt --out models/demo

And the way back, to train an exported model further: `load_exported`.
"""
import argparse
import os

import torch
from safetensors.torch import load_file, save_file


def published(name, value):
    """The tensor as it is on disk: for the patch projection, half for each of the two equal frames."""
    if name == "visual.patch_embed.proj.weight":
        value = value.reshape(value.shape[0], 3, 1, 14, 14).expand(-1, -1, 2, -1, -1) / 2
    return value.to(torch.bfloat16).contiguous()


def load_exported(path, model):
    """Puts exported weights into a training network. The auxiliary head is not exported: it stays as it is, so go on with the decoder stage."""
    tensors = load_file(path)
    state = model.state_dict()
    for name in (n for n in state if not n.startswith("aux")):
        value = tensors.pop(name.replace("/", ".")).float()
        if name == "visual/patch_embed/proj/weight":
            value = 2 * value[:, :, 0].reshape(state[name].shape)
        state[name] = value
    assert not tensors, sorted(tensors)
    model.load_state_dict(state)


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
