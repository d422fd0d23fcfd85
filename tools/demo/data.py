"""Samples: a picture, questions with answers, and dense labels for the auxiliary losses; and the background generator."""
import functools
import multiprocessing
import os
import random
import string
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

import draw
import phrases
from draw import CELL
from phrases import COLORS, PLACES, SHAPES

KINDS = ["naming", "counting", "place", "words", "numbers", "digits", "pointing"]
WORD_FILE = "/usr/share/dict/words"  # Debian: wamerican
# (rows, columns) of merged tokens and how often: all that 16..48 tokens and sides up to 3:1 allow, small ones more.
GRIDS = [(h, w) for h in range(3, 11) for w in range(3, 11) if 15 <= h * w <= 48 and max(h, w) / min(h, w) < 3.4]
LETTERS = string.ascii_uppercase + string.digits
IGNORE = -100


@functools.lru_cache(maxsize=2)
def words(held_out):
    """Capital words of 3 to 7 letters; one in fifty, by checksum, is never trained on."""
    with open(WORD_FILE) as f:
        found = [w.strip().upper() for w in f if w.strip().isascii() and w.strip().isalpha() and w.strip().islower()]
    return [w for w in found if 3 <= len(w) <= 7 and (zlib.crc32(w.encode()) % 50 == 0) == held_out]


def coordinate(v):
    """A fraction as the 0..1000 coordinate, in twenties."""
    return 20 * min(49, max(0, round(50 * v)))


def box_answer(name, box):
    x1, y1, x2, y2 = map(coordinate, box)
    return f"<|object_ref_start|>{name}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def place(box):
    """The name of the third of the picture, or None near a border of thirds."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if any(abs(v - t) < .045 for v in (x, y) for t in (1 / 3, 2 / 3)):
        return None
    return PLACES[int(3 * y)][int(3 * x)]


def article(name):
    return ("an " if name[0] in "aeiou" else "a ") + name


def scene_questions(rng, items):
    """All questions that the scene allows: lists by kind of (kind, question, answer, item it is about or None)."""
    found = {k: [] for k in ("naming", "counting", "place", "pointing", "describe")}
    ask = lambda kind, group, answer, item=None, **fill: found[kind].append(
        (kind, rng.choice(group).format(**fill).replace("crosss", "crosses"), answer, item))
    shapes, colors = [i.kind for i in items], [i.label for i in items]
    pairs = list(zip(colors, shapes))
    for item in items:
        if colors.count(item.label) == 1:
            ask("naming", phrases.SHAPE_OF, item.kind, item, c=item.label)
        if shapes.count(item.kind) == 1:
            ask("naming", phrases.COLOR_OF, item.label, item, s=item.kind)
        if pairs.count((item.label, item.kind)) == 1:
            name = f"{item.label} {item.kind}"
            if shapes.count(item.kind) == 1 and rng.random() < .2:
                name = item.kind
            ask("pointing", phrases.POINT_TO, box_answer(name, item.box), item, o=name)
            if place(item.box):
                ask("place", phrases.PLACE_OF, place(item.box), item, o=name)
    for s in {rng.choice(shapes), rng.choice(shapes), rng.choice(SHAPES)}:
        ask("counting", phrases.COUNT_SHAPE, str(shapes.count(s)), s=s)
    c = rng.choice(colors)
    ask("counting", phrases.COUNT_COLOR, str(colors.count(c)), c=c)
    ask("counting", phrases.COUNT_ALL, str(len(items)))
    by_x = sorted(items, key=lambda i: i.box[0] + i.box[2])
    gaps = [b.box[0] + b.box[2] - a.box[0] - a.box[2] for a, b in zip(by_x, by_x[1:])]
    if len(items) <= 3 and all(g > .16 for g in gaps):
        names = [article(f"{i.label} {i.kind}") for i in by_x]
        text = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] + "."
        ask("describe", phrases.DESCRIBE, text[0].upper() + text[1:])
    elif len(items) > 3:
        ask("describe", phrases.DESCRIBE, f"There are {len(items)} shapes.")
    return found


def chat_question(rng):
    questions, answer = rng.choice(phrases.CHAT)
    return "chat", rng.choice(questions), answer, None


def random_text(rng, longest, held_out):
    while True:
        if rng.random() < .3 and not held_out:
            return "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(3, min(7, longest))))
        text = rng.choice(words(held_out))
        if len(text) <= longest:
            return text


def random_number(rng, longest):
    n = rng.randint(2, min(5, longest))
    return str(rng.randint(1, 9)) + "".join(rng.choice(string.digits) for _ in range(n - 1))


@dataclass
class Sample:
    picture: draw.Picture
    questions: list  # (kind, question, answer, item), or for scenes a dict of such lists by kind


def make_sample(rng, what, size, scale, held_out=False, dense=False):
    """`what`: scene, words, numbers or digits. `dense` fills the picture (for the tower's own training)."""
    columns, rows = size[0] / scale / CELL, size[1] / scale / CELL
    longest = max(3, int(columns * 1.4))
    if what == "scene":
        picture = draw.scene(rng, size, scale, 6 if dense else None)
        if not picture.items:
            return make_sample(rng, what, size, scale, held_out, dense)
        return Sample(picture, scene_questions(rng, picture.items))
    if what == "digits":
        nx, ny = (max(1, int(columns / 2)), max(1, int(rows / 2))) if dense else (1, 1)
        places = [(x / nx, y / ny, (x + 1) / nx, (y + 1) / ny) for y in range(ny) for x in range(nx)]
        picture = draw.handwritten(rng, size, scale, held_out, places)
        label = picture.items[0].label
        asked = [("digits", rng.choice(phrases.READ_DIGIT), label, picture.items[0]),
                 ("describe", rng.choice(phrases.DESCRIBE), f"A handwritten {label}.", None)]
        return Sample(picture, asked)
    make = (lambda: random_text(rng, longest, held_out)) if what == "words" else (lambda: random_number(rng, longest))
    lines = rng.randint(max(1, int(rows * .4)), max(1, int(rows * .8))) if dense else 1
    picture = draw.sign(rng, size, scale, [make() for _ in range(lines)])
    if not picture.items:
        return make_sample(rng, what, size, scale, held_out, dense)
    text = picture.items[0].label
    group, name = (phrases.READ_WORD, "word") if what == "words" else (phrases.READ_NUMBER, "number")
    return Sample(picture, [(what, rng.choice(group), text, picture.items[0]),
                            ("describe", rng.choice(phrases.DESCRIBE), f"The {name} {text}.", None)])


def choose_questions(rng, sample, most):
    """The questions of one training picture; `most` says how many of each kind about a scene."""
    if not isinstance(sample.questions, dict):
        first, describe = sample.questions
        return [first] + ([describe] if rng.random() < .12 else []) + ([chat_question(rng)] if rng.random() < .03 else [])
    asked = []
    for kind, count in most.items():
        found = sample.questions[kind]
        asked += rng.sample(found, min(len(found), int(count + rng.random())))
    if rng.random() < .03:
        asked.append(chat_question(rng))
    rng.shuffle(asked)
    return asked or [rng.choice(sample.questions["counting"])]


LABELS = {"kind": 9, "color": 10, "center": 2, "hand": 10, **{f"box{i}": 10 for i in range(8)},
          "left": 37, "right": 37, "left_index": 8, "right_index": 8}


def overlaps(box, rows, columns):
    """How much of every cell the box covers, and the cells that show it (as masks [rows, columns])."""
    x1, y1, x2, y2 = box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows
    ys, xs = np.arange(rows), np.arange(columns)
    area = np.outer(np.clip(np.minimum(ys + 1, y2) - np.maximum(ys, y1), 0, 1),
                    np.clip(np.minimum(xs + 1, x2) - np.maximum(xs, x1), 0, 1))
    return area, area > .3 * min(1, (x2 - x1) * (y2 - y1))


def focus(item, rows, columns):
    """Where to look for the answer about an item: one list of cells, or for a text one per letter."""
    if item is None:
        return []
    if item.kind != "text":
        return [np.flatnonzero(overlaps(item.box, rows, columns)[1]).tolist()]
    row = min(rows - 1, max(0, int((item.box[1] + item.box[3]) / 2 * rows)))
    return [[row * columns + min(columns - 1, max(0, int(x * columns)))] for _, x in item.letters]


def cell_labels(items, rows, columns):
    """What the cells show, [len(LABELS), rows, columns]: the targets of the auxiliary heads."""
    out = np.full((len(LABELS), rows, columns), IGNORE, dtype=np.int16)
    row = {name: i for i, name in enumerate(LABELS)}
    for name in ("kind", "color", "center", "left", "right"):
        out[row[name]] = 0
    best = np.zeros((rows, columns))
    for item in items:
        x1, y1, x2, y2 = item.box[0] * columns, item.box[1] * rows, item.box[2] * columns, item.box[3] * rows
        overlap, shown = overlaps(item.box, rows, columns)
        cover = shown & (overlap > best)
        best = np.where(cover, overlap, best)
        shape = item.kind in SHAPES
        out[row["kind"]][cover] = 1 + SHAPES.index(item.kind) if shape else 7 if item.kind == "text" else 8
        out[row["color"]][cover] = 1 + COLORS.index(item.label) if shape else 0
        out[row["hand"]][cover] = int(item.label) if item.kind == "digit" else IGNORE
        for i, v in enumerate(item.box):
            out[row[f"box{2 * i}"]][cover] = coordinate(v) // 100 if shape else IGNORE
            out[row[f"box{2 * i + 1}"]][cover] = coordinate(v) // 10 % 10 if shape else IGNORE
        middle_y = min(rows - 1, max(0, int((y1 + y2) / 2)))
        if item.kind != "text":
            out[row["center"], middle_y, min(columns - 1, int((x1 + x2) / 2))] = 1
        for i, (c, x) in enumerate(item.letters):
            half = min(2 * columns - 1, max(0, int(x * 2 * columns)))
            side = "left" if half % 2 == 0 else "right"
            if out[row[side], middle_y, half // 2] == 0:
                out[row[side], middle_y, half // 2] = 1 + LETTERS.index(c)
                out[row[side + "_index"], middle_y, half // 2] = min(i, 7)
    return out


def random_grid(rng):
    return rng.choices(GRIDS, [(h * w) ** -1.3 for h, w in GRIDS])[0]


def make_batch(rng, mix, held_out=False):
    """Pictures of one grid: pixels [B, H, W, 3] uint8, labels [B, L, rows, columns], questions per picture.

    A batch is of one of the mix's parts; `dense` is the share of full pictures.
    """
    rows, columns = random_grid(rng)
    part = rng.choices(mix["parts"], [p["share"] for p in mix["parts"]])[0]
    count = max(8, part["cells"] // (rows * columns))
    pixels, labels, asked = [], [], []
    for _ in range(count):
        what = rng.choices(list(part["pictures"]), list(part["pictures"].values()))[0]
        scale = rng.choices([1, 1.5, 2, 3], [6, 1, 2, 1])[0]
        size = (round(scale * (columns * CELL + rng.randint(-12, 12))), round(scale * (rows * CELL + rng.randint(-12, 12))))
        sample = make_sample(rng, what, size, scale, held_out, dense=rng.random() < part["dense"])
        image = draw.wear(rng, sample.picture.image).resize((columns * CELL, rows * CELL), Image.BICUBIC)
        pixels.append(np.asarray(image))
        labels.append(cell_labels(sample.picture.items, rows, columns))
        if part["ask"]:
            asked.append([(kind, question, answer, focus(item, rows, columns)) for kind, question, answer, item
                          in choose_questions(rng, sample, mix["questions"])])
    return {"grid": (rows, columns), "pixels": np.stack(pixels), "labels": np.stack(labels), "asked": asked}


def _generate(queue, seed, mix):
    os.nice(3)
    rng = random.Random(seed)
    while True:
        queue.put(make_batch(rng, mix))


def background_batches(seed, mix, depth=24):
    """Endless batches from one background process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=depth)
    context.Process(target=_generate, args=(queue, seed, mix), daemon=True).start()
    while True:
        yield queue.get()
