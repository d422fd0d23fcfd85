"""Train the demo model on the CPU.

  python train.py tower --out tower.pt --until 23:50          the tower alone, on dense labels
  python train.py joint --init tower.pt --out joint.pt --until 01:00   everything; the learning rate ends at 0 there
  python train.py decoder --init joint.pt --out decoder.pt --until 02:00   answers only, over a tower that stays as it is

The same command goes on from --out if that exists.
"""
import argparse
import collections
import datetime
import os
import random
import signal
import time

import torch
import torch.nn.functional as F

import data
from conversation import Rows, Text, chat_rows
from export import load_exported
from model import Model, attention_mask, patches, text_angles, tower_angles
from optim import Optimizer
from scoring import correct

AUX_WEIGHT = {"kind": 1, "color": 1, "center": 2, "hand": 1, **{f"box{i}": .15 for i in range(8)},
              "left": 1, "right": 1, "left_index": .3, "right_index": .3}
AUX_SHARE = .3  # of the dense batches' losses, beside the answers
DENSE = dict(ask=False, dense=.7, cells=1024, pictures=dict(scene=.27, words=.33, numbers=.15, digits=.25))
TOWER_MIX = dict(parts=[dict(DENSE, share=1)])
# Scenes have many questions, signs and digits one or two: apart, so that the rows of a batch are of about one length.
JOINT_MIX = dict(questions=dict(naming=.8, counting=2.1, place=.6, pointing=2.2, describe=.25), parts=[
    dict(DENSE, share=.12),
    dict(ask=True, dense=0, share=.5, cells=448, pictures=dict(scene=1)),
    dict(ask=True, dense=0, share=.38, cells=1024, pictures=dict(words=.6, numbers=.28, digits=.12))])

DECODER_MIX = dict(JOINT_MIX, parts=[p for p in JOINT_MIX["parts"] if p["ask"]])


class Trainer:
    def __init__(self, folder, compiled=True, frozen=False):
        self.text, self.frozen = Text(folder), frozen
        self.model = Model(-(-self.text.tokenizer.get_vocab_size() // 128) * 128)
        wrap = (lambda f: torch.compile(f, dynamic=True)) if compiled else (lambda f: f)
        self.tower, self.decoder = wrap(self.model.tower), wrap(self.model.decoder)

    def see(self, batch):
        """Image rows [B, N, HIDDEN] and the auxiliary losses."""
        angles = tower_angles(*batch["grid"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            rows = self.tower(patches(torch.from_numpy(batch["pixels"])), angles.cos(), angles.sin())
            return rows, self.model.aux_losses(rows, torch.from_numpy(batch["labels"]).long().flatten(2))

    def answer(self, rows, image=None):
        """Logits of every answer token of `rows`, and the loss of looking elsewhere than at the name and the thing."""
        table = self.model.p("model.embed_tokens.weight")
        x = F.embedding(rows.tokens, table)
        if image is not None:
            x = torch.cat([x[:, :rows.image.start], image.to(x.dtype), x[:, rows.image.stop:]], 1)
        angles = text_angles(rows.positions)[:, None]
        hidden, looking = self.decoder(x, angles.cos(), angles.sin(), attention_mask(rows.groups))
        logits = F.linear(hidden.flatten(0, 1)[rows.index], table).float()
        if image is None:
            return logits, None
        word, cell = (w.flatten(0, 1)[rows.index] for w in looking)
        return logits, look_loss(word, rows.names) + look_loss(cell[:, rows.image], rows.focus)


def look_loss(weights, wanted):
    """How little attention falls on the wanted columns, over the rows that want any."""
    used = wanted.any(-1)
    return -(torch.log((weights * wanted).sum(-1) + 1e-4) * used).sum() / used.sum().clamp(min=1)


def token_loss(logits, rows):
    return (F.cross_entropy(logits, rows.target, reduction="none") * rows.weight).sum()


@torch.no_grad()
def held_out_accuracy(trainer, batches):
    """Teacher-forced accuracy by kind on pictures, words and digits that training never sees."""
    right, total = collections.Counter(), collections.Counter()
    for batch, rows in batches:
        image, aux = trainer.see(batch)
        for name, (_, hit) in aux.items():
            key = "aux-" + name.rstrip("01234567")
            right[key] += float(hit)
            total[key] += float(hit) > 0
        if not rows:
            continue
        best = trainer.answer(rows, image)[0].argmax(-1).tolist()
        at = 0
        for kind, _, _, ids in rows.answers:
            said = best[at:at + len(ids)]
            right[kind] += said[-1] == ids[-1] and correct(kind, *(trainer.text.decode(t[:-1]) for t in (said, ids)))
            total[kind] += 1
            at += len(ids)
    return " ".join(f"{k} {100 * right[k] / total[k]:.1f}" for k in sorted(total) if total[k])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("stage", choices=["tower", "joint", "decoder"])
    args.add_argument("--model", default="models/demo", help="folder with the tokenizer")
    args.add_argument("--init", help="weights to begin with: a training checkpoint, or an exported model.safetensors for the decoder stage")
    args.add_argument("--out", required=True, help="checkpoint; training resumes from it")
    args.add_argument("--until", required=True, help="HH:MM (UTC) at which training ends")
    args.add_argument("--lr", type=float, default=1.0)
    args.add_argument("--decay-minutes", type=float, default=0, help="length of the final linear decay to zero")
    args.add_argument("--seed", type=int, default=1)
    a = args.parse_args()
    torch.set_num_threads(2)
    trainer = Trainer(a.model, frozen=a.stage == "decoder")
    model, done = trainer.model, {"steps": 0, "pictures": 0, "answers": 0}
    optimizer = Optimizer(list(model.named_parameters()))
    if os.path.exists(a.out):
        saved = torch.load(a.out)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["done"]
    elif a.init:
        if a.init.endswith(".safetensors"):
            load_exported(a.init, model)
        else:
            saved = torch.load(a.init)
            model.load_state_dict(saved["model"])
            done["pictures"] = saved["done"]["pictures"]
    mix = {"tower": TOWER_MIX, "joint": JOINT_MIX, "decoder": DECODER_MIX}[a.stage]
    hour, minute = map(int, a.until.split(":"))
    start = time.time()
    until = datetime.datetime.now(datetime.timezone.utc).replace(hour=hour, minute=minute, second=0).timestamp()
    until += 86400 if until < start else 0
    rng = random.Random(a.seed + done["steps"])
    held = random.Random("held out")
    check = [data.make_batch(held, mix, held_out=True) for _ in range(16)]
    check = [(b, b["asked"] and Rows(trainer.text, b["asked"], b["grid"], held, chained=0)) for b in check]
    batches = data.background_batches(f"{a.seed}-{a.stage}-{done['steps']}", mix)
    autocast = torch.autocast("cpu", torch.bfloat16)
    recent, last_log, last_check, last_save = collections.defaultdict(float), start, start, start
    first_step = done["steps"]
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    while (now := time.time()) < until and not stop:
        batch = next(batches)
        with autocast:
            image, aux = trainer.see(batch)
            aux_loss = sum(AUX_WEIGHT[n] * loss for n, (loss, _) in aux.items())
            loss = aux_loss * AUX_SHARE
            if batch["asked"]:
                rows = Rows(trainer.text, batch["asked"], batch["grid"], rng)
                logits, looking = trainer.answer(rows, image)
                answer_loss = token_loss(logits, rows)
                loss = loss + answer_loss + .3 * looking
                recent["look"] += float(looking.detach())
                recent["answer"] += float(answer_loss.detach())
                recent["asked"] += 1
                done["answers"] += len(rows.answers)
        loss.backward()
        if batch["asked"] and done["steps"] % 30 == 0:
            rows = chat_rows(trainer.text, rng)
            with autocast:
                chat_loss = token_loss(trainer.answer(rows)[0], rows)
            (.2 * chat_loss).backward()
            recent["chat"] += 30 * float(chat_loss.detach())
        warm = min(1, (done["steps"] - first_step + 1) / 60)
        fade = min(1, (until - now) / (60 * a.decay_minutes)) if a.decay_minutes else 1
        optimizer.step(a.lr * warm * fade)
        done["steps"] += 1
        done["pictures"] += len(batch["pixels"])
        recent["aux"] += float(aux_loss.detach())
        recent["n"] += 1
        if now - last_log > 30:
            n, asked = recent.pop("n"), recent.pop("asked", 0)
            for key in ("answer", "look"):
                recent[key] *= n / max(1, asked)
            print(f"{datetime.datetime.now():%H:%M:%S} {done} lr {a.lr * warm * fade:.3f} {(now - last_log) / n:.2f} s/step",
                  " ".join(f"{k} {v / n:.4f}" for k, v in recent.items()), flush=True)
            recent.clear()
            last_log = now
        if now - last_check > 300:
            with autocast:
                print("  held out:", held_out_accuracy(trainer, check), flush=True)
            last_check = now
        if now - last_save > 300:
            save(a.out, model, optimizer, done)
            last_save = now
    save(a.out, model, optimizer, done)
    with autocast:
        print("end:", done, held_out_accuracy(trainer, check), flush=True)


def save(path, model, optimizer, done):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, path + ".tmp")
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
