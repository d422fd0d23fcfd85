"""Muon for the matrices inside the network, Adam for embeddings, norms, biases and the first and last projection."""
import torch


def orthogonalize(g):
    """Five Newton-Schulz steps towards the nearest (semi-)orthogonal matrix; g is [N, rows, columns]."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if flip else x).float()


class Optimizer:
    def __init__(self, named):
        self.step_count = 0
        self.matrices, self.rest = [], []
        for name, p in named:
            inner = p.ndim == 2 and ("blocks" in name or "layers" in name or "merger" in name)
            (self.matrices if inner else self.rest).append((name, p))
        self.state = {n: [torch.zeros_like(p)] if i == 0 else [torch.zeros_like(p), torch.zeros_like(p)]
                      for i, group in enumerate((self.matrices, self.rest)) for n, p in group}

    @torch.no_grad()
    def step(self, lr, decay=0.01):
        """One update; `lr` scales Muon's 0.02 and Adam's 0.002."""
        self.step_count += 1
        by_shape = {}
        for name, p in self.matrices:
            if p.grad is None:
                continue
            momentum = self.state[name][0]
            momentum.lerp_(p.grad, 0.05)
            update = p.grad.lerp(momentum, 0.95)
            for w, u in zip(*(t.chunk(3) if "qkv" in name else (t,) for t in (p, update))):
                by_shape.setdefault(w.shape, []).append((w, u))
        for shape, pairs in by_shape.items():
            updates = orthogonalize(torch.stack([u for _, u in pairs]))
            scale = 0.02 * lr * max(1, shape[0] / shape[1]) ** .5
            for (w, _), u in zip(pairs, updates):
                w.mul_(1 - 0.02 * lr * decay * 5).sub_(u, alpha=scale)
        t = self.step_count
        for name, p in self.rest:
            if p.grad is None:
                continue
            m, v = self.state[name]
            m.lerp_(p.grad, 0.1)
            v.lerp_(p.grad.square(), 0.02)
            p.sub_(0.002 * lr * (m / (1 - 0.9 ** t)) / ((v / (1 - 0.98 ** t)).sqrt() + 1e-8))
        for _, p in self.matrices + self.rest:
            p.grad = None

    def state_dict(self):
        return {"step": self.step_count, "state": self.state}

    def load_state_dict(self, saved):
        self.step_count = saved["step"]
        for name, tensors in saved["state"].items():
            for mine, theirs in zip(self.state[name], tensors):
                mine.copy_(theirs)
