"""Write the held-out sets: python heldout.py --out tests/data/demo

40 pictures a kind with one question each, as <kind>/NNN.png (or .jpg) and <kind>.jsonl (query, response, images). Their seeds,
words and handwritten digits are not used in training.
"""
import argparse
import json
import os
import random

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

import data
import draw
from tokenizer import MAX_PIXELS, MIN_PIXELS

COUNT = 40


def picture_size(rng):
    """(width, height, scale) like training: mostly small pictures, some larger ones that will be scaled down."""
    if rng.random() < .2:
        w, h = rng.choice([(320, 240), (400, 300), (300, 300), (240, 320), (360, 240)])
        th, tw = smart_resize(h, w, 28, MIN_PIXELS, MAX_PIXELS)
        return w, h, min(w / tw, h / th)
    rows, columns = data.random_grid(rng)
    w, h = columns * draw.CELL + rng.randint(-12, 12), rows * draw.CELL + rng.randint(-12, 12)
    return w, h, 1


def item(kind, number, seen):
    """The picture and one (question, answer) of item `number` of a kind; the same every time. No word in `seen` again."""
    rng = random.Random(f"held-out {kind} {number}")
    what = kind if kind in ("words", "numbers", "digits") else "scene"
    while True:
        w, h, scale = picture_size(rng)
        sample = data.make_sample(rng, what, (w, h), scale, held_out=True)
        if what == "scene":
            asked = sample.questions[kind]
            if kind == "counting":  # every answer about equally often
                asked = [q for q in asked if int(q[2]) == number % 7]
        else:
            asked = [q for q in sample.questions if q[0] == kind and (kind == "digits" or q[2] not in seen)]
            if kind == "digits":
                asked = [q for q in asked if int(q[2]) == number % 10]
        if asked:
            _, query, response, _ = rng.choice(asked)
            seen.add(response)
            return sample.picture.image, query, response


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", required=True)
    out = args.parse_args().out
    for kind in data.KINDS:
        os.makedirs(os.path.join(out, kind), exist_ok=True)
        seen = set()
        with open(os.path.join(out, f"{kind}.jsonl"), "w", encoding="utf-8") as f:
            for number in range(COUNT):
                image, query, response = item(kind, number, seen)
                jpeg = number % 8 == 7
                path = f"{kind}/{number:03d}.{'jpg' if jpeg else 'png'}"
                image.save(os.path.join(out, path), **(dict(quality=85) if jpeg else dict(optimize=True)))
                f.write(json.dumps({"query": query, "response": response, "images": [path]}) + "\n")


if __name__ == "__main__":
    main()
