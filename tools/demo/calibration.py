"""Draw the calibration set of `osprey quantize`: python calibration.py --out models/demo

12 pictures a kind with one question each, as calibration/<kind>-NN.png and calibration.jsonl (query, response, images). They are like
the training pictures: the words, digits and seeds of the held-out sets are not among them.
"""
import argparse
import json
import os
import random

import data
from heldout import picture_size

COUNT = 12


def item(kind, number):
    """The picture and one (question, answer) of item `number` of a kind; the same every time."""
    rng = random.Random(f"calibration {kind} {number}")
    what = kind if kind in ("words", "numbers", "digits") else "scene"
    while True:
        w, h, scale = picture_size(rng)
        sample = data.make_sample(rng, what, (w, h), scale, held_out=False)
        questions = sample.questions[kind] if what == "scene" else [q for q in sample.questions if q[0] == kind]
        if questions:
            _, query, response, _ = rng.choice(questions)
            return sample.picture.image, query, response


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", required=True)
    out = args.parse_args().out
    os.makedirs(os.path.join(out, "calibration"), exist_ok=True)
    with open(os.path.join(out, "calibration.jsonl"), "w", encoding="utf-8") as f:
        for number in range(COUNT):
            for kind in data.KINDS:
                image, query, response = item(kind, number)
                path = f"calibration/{kind}-{number:02d}.png"
                image.save(os.path.join(out, path), optimize=True)
                f.write(json.dumps({"query": query, "response": response, "images": [path]}) + "\n")


if __name__ == "__main__":
    main()
