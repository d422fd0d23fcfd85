"""Pictures: scenes of shapes, signs with a word or a number, handwritten digits. Pure functions of a `random.Random`.

Every picture is drawn on a canvas that will be resized to a grid of 28-pixel cells (one merged token each).
A picture knows what is on it as a list of `Item`s with boxes in fractions of the canvas.
"""
import colorsys
import functools
import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from phrases import COLORS, SHAPES

CELL = 28
FONT_DIR = "/usr/share/fonts/truetype/"  # Debian: fonts-{dejavu,liberation,freefont-ttf,lato,open-sans,roboto-unhinted}
FONTS = [FONT_DIR + name for name in (
    "dejavu/DejaVuSans.ttf", "dejavu/DejaVuSans-Bold.ttf", "dejavu/DejaVuSerif-Bold.ttf", "dejavu/DejaVuSansMono-Bold.ttf",
    "liberation/LiberationSans-Regular.ttf", "liberation/LiberationSans-Bold.ttf", "freefont/FreeSansBold.ttf",
    "lato/Lato-Bold.ttf", "open-sans/OpenSans-Semibold.ttf", "roboto/unhinted/RobotoTTF/Roboto-Bold.ttf")]
# Hue in degrees, saturation, value: the range of each color name.
HSV = {"red": (-8, 8, .75, 1, .70, 1), "orange": (24, 39, .85, 1, .90, 1), "yellow": (51, 61, .7, 1, .9, 1),
       "green": (95, 145, .6, 1, .42, .85), "blue": (212, 242, .7, 1, .6, 1), "purple": (268, 300, .6, 1, .42, .78),
       "pink": (325, 350, .25, .58, .95, 1), "black": (0, 360, 0, .3, 0, .14), "white": (0, 360, 0, .03, .94, 1)}


@dataclass
class Item:
    kind: str                 # a shape name, "text" or "digit"
    label: str                # the color of a shape, the text, or the digit
    box: tuple                # x1, y1, x2, y2 as fractions
    letters: list = field(default_factory=list)  # of a text: (character, x center) with x as a fraction


@dataclass
class Picture:
    image: Image.Image
    items: list


def rgb(rng, color):
    h1, h2, s1, s2, v1, v2 = HSV[color]
    r, g, b = colorsys.hsv_to_rgb((rng.uniform(h1, h2) % 360) / 360, rng.uniform(s1, s2), rng.uniform(v1, v2))
    return tuple(round(255 * c) for c in (r, g, b))


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))


def background(rng, size):
    """An image and the colors at its two ends."""
    kind = rng.random()
    if kind < .35:
        c = (rng.randint(244, 255),) * 3
    elif kind < .6:
        c = tuple(rng.randint(195, 250) for _ in range(3))
    elif kind < .75:
        c = (rng.randint(110, 215),) * 3
    elif kind < .88:
        c = tuple(rng.randint(0, 70) for _ in range(3))
    else:
        c = tuple(rng.randint(170, 255) for _ in range(3))
        d = tuple(max(0, min(255, v + rng.randint(-70, 70))) for v in c)
        mask = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize(size, Image.BILINEAR)
        return Image.composite(Image.new("RGB", size, d), Image.new("RGB", size, c), mask), (c, d)
    return Image.new("RGB", size, c), (c, c)


def polygon(shape, cx, cy, r, angle):
    """Corner points of a shape with circumscribed radius r."""
    if shape == "cross":
        t = .36
        unit = [(-t, -1), (t, -1), (t, -t), (1, -t), (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t), (-1, -t), (-t, -t)]
        unit = [(x * .95, y * .95) for x, y in unit]
    elif shape == "diamond":
        unit = [(0, -1), (.72, 0), (0, 1), (-.72, 0)]
    elif shape == "square":
        unit = [(-.85, -.85), (.85, -.85), (.85, .85), (-.85, .85)]
    elif shape == "triangle":
        unit = [(0, -.95), (1, .8), (-1, .8)]
    else:  # star
        unit = [((1 if i % 2 == 0 else .42) * math.sin(i * math.pi / 5), -(1 if i % 2 == 0 else .42) * math.cos(i * math.pi / 5))
                for i in range(10)]
    c, s = math.cos(angle), math.sin(angle)
    return [(cx + r * (x * c - y * s), cy + r * (x * s + y * c)) for x, y in unit]


def scene(rng, size, scale, count=None):
    """1 to 6 shapes that do not touch. `scale` is canvas pixels per model pixel."""
    w, h = size
    image, ends = background(rng, size)
    draw = ImageDraw.Draw(image)
    colors = [c for c in COLORS if all(distance(rgb(rng, c), e) > 95 for e in ends)]
    n = count or rng.choice([1, 2, 2, 3, 3, 4, 4, 5, 6])
    few = rng.random()
    shapes = rng.sample(SHAPES, 6 if few < .5 else 3 if few < .8 else rng.choice([1, 2]))
    if rng.random() < .2:
        colors = rng.sample(colors, min(len(colors), rng.choice([1, 2])))
    distinct = rng.random() < .5
    small = min(w, h)
    high = max(15 * scale, small * {1: .42, 2: .32, 3: .27}.get(n, .22))
    items, placed = [], []
    for i in range(n):
        shape = shapes[i % len(shapes)] if distinct else rng.choice(shapes)
        color = rng.choice(colors)
        for _ in range(40):
            r = rng.uniform(12 * scale, high)
            x, y = rng.uniform(r + scale, w - r - scale), rng.uniform(r + scale, h - r - scale)
            if all(max(abs(x - px), abs(y - py)) > r + pr + 3 * scale or
                   math.hypot(x - px, y - py) > 1.1 * (r + pr) + 2 * scale for px, py, pr in placed):
                break
        else:
            continue
        fill = rgb(rng, color)
        if any(distance(fill, e) < 80 for e in ends):
            continue
        placed.append((x, y, r))
        line = dict(outline=rng.choice([(0, 0, 0), (60, 60, 60)]), width=max(1, round(scale))) if rng.random() < .12 else {}
        if shape == "circle":
            box = (x - .92 * r, y - .92 * r, x + .92 * r, y + .92 * r)
            draw.ellipse(box, fill=fill, **line)
        else:
            points = polygon(shape, x, y, r, rng.gauss(0, .06) if rng.random() < .5 else 0)
            draw.polygon(points, fill=fill, **line)
            xs, ys = zip(*points)
            box = (min(xs), min(ys), max(xs), max(ys))
        items.append(Item(shape, color, (box[0] / w, box[1] / h, box[2] / w, box[3] / h)))
    return Picture(image, items)


@functools.lru_cache(maxsize=4000)
def font(path, size):
    return ImageFont.truetype(path, size)


def ink_pair(rng):
    """(paper, ink) with good contrast."""
    while True:
        paper, ink = [tuple(rng.randint(0, 255) for _ in range(3)) if rng.random() < .4 else rgb(rng, rng.choice(COLORS))
                      for _ in range(2)]
        light = [.3 * c[0] + .59 * c[1] + .11 * c[2] for c in (paper, ink)]
        if abs(light[0] - light[1]) > 90:
            return paper, ink


def text_item(draw, path, px, text, x, y, ink, size):
    """Draw `text` with its glyph box's top left at (x, y)."""
    f = font(path, px)
    left, top, right, bottom = f.getbbox(text)
    draw.text((x - left, y - top), text, font=f, fill=ink)
    ends = [f.getlength(text[:i]) for i in range(len(text) + 1)]
    letters = [(c, (x - left + (a + b) / 2) / size[0]) for c, a, b in zip(text, ends, ends[1:])]
    return Item("text", text, (x / size[0], y / size[1], (x + right - left) / size[0], (y + bottom - top) / size[1]), letters)


def sign(rng, size, scale, texts):
    """Lines of text below each other, usually one; lines that do not fit are left out."""
    w, h = size
    paper, ink = ink_pair(rng)
    style = rng.random()
    image = Image.new("RGB", size, paper)
    if style < .25:
        image, ends = background(rng, size)
        while any(distance(ink, e) < 130 for e in ends):
            ink = tuple(rng.randint(0, 255) for _ in range(3))
    draw = ImageDraw.Draw(image)
    path = rng.choice(FONTS)
    longest = max(texts, key=len)
    unit = font(path, 100).getlength(longest) / 100
    low = max(15 * scale * len(longest) / unit, 20 * scale)
    high = min((w - 6 * scale) / unit, (h / len(texts) - 6 * scale) / .8, 62 * scale)
    px = int(high if high <= low else rng.uniform(low, high))
    rows, y = [], 0
    slot = h / len(texts)
    for i, text in enumerate(texts):
        left, top, right, bottom = font(path, px).getbbox(text)
        free_x, free_y = w - (right - left), slot - (bottom - top)
        if free_x < 2 * scale or free_y < 0:
            continue
        x = rng.uniform(scale, free_x - scale) if rng.random() < .6 else free_x / 2
        y = i * slot + (rng.uniform(0, free_y) if rng.random() < .6 else free_y / 2)
        rows.append((text, x, y, x + right - left, y + bottom - top))
    if rows and len(texts) == 1 and .25 < style < .5:  # a panel on another ground
        _, x, y, x2, y2 = rows[0]
        ground, _ = background(rng, size)
        pad = rng.uniform(3, 9) * scale
        box = (max(0, x - pad), max(0, y - pad), min(w - 1, x2 + pad), min(h - 1, y2 + pad))
        edge = ink if rng.random() < .5 else None
        draw = ImageDraw.Draw(ground)
        draw.rounded_rectangle(box, radius=rng.uniform(0, 6) * scale, fill=paper, outline=edge, width=max(1, round(scale)))
        image = ground
    return Picture(image, [text_item(draw, path, px, t, x, y, ink, size) for t, x, y, _, _ in rows])


@functools.lru_cache(maxsize=1)
def handwriting():
    """The UCI digits (1,797 of 8x8): images as uint8, labels, and which are held out (every fifth)."""
    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    return images, data.target, np.arange(len(images)) % 5 == 4


def handwritten(rng, size, scale, held_out, places=((0, 0, 1, 1),)):
    """One handwritten digit in each of the `places` (fractions of the canvas)."""
    w, h = size
    images, labels, held = handwriting()
    paper, ink = ink_pair(rng)
    if rng.random() < .35:
        paper, ink = rng.choice([((255,) * 3, (0,) * 3), ((0,) * 3, (255,) * 3), ((250, 248, 240), (25, 35, 110))])
    image = Image.new("RGB", size, paper)
    pool = np.flatnonzero(held == held_out)
    items = []
    for x1, y1, x2, y2 in places:
        k = int(pool[rng.randrange(len(pool))])
        pw, ph = (x2 - x1) * w, (y2 - y1) * h
        most = min(pw, ph, 130 * scale)
        side = int(rng.uniform(max(.5 * most, min(36 * scale, most)), .98 * most))
        glyph = Image.fromarray(images[k]).resize((side, side), rng.choice([Image.BICUBIC, Image.BILINEAR, Image.LANCZOS]))
        glyph = glyph.rotate(rng.uniform(-12, 12), Image.BICUBIC)
        low, high = (rng.uniform(0, 90), rng.uniform(140, 255)) if rng.random() < .7 else (0, 255)
        glyph = glyph.point(lambda v: max(0, min(255, (v - low) * 255 / (high - low))))
        x, y = int(x1 * w + rng.uniform(0, pw - side)), int(y1 * h + rng.uniform(0, ph - side))
        image.paste(Image.new("RGB", glyph.size, ink), (x, y), glyph)
        items.append(Item("digit", str(labels[k]), (x / w, y / h, (x + side) / w, (y + side) / h)))
    return Picture(image, items)


def wear(rng, image):
    """Camera-like damage: noise, JPEG."""
    if rng.random() < .12:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 9), (image.height, image.width, 1))
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if rng.random() < .15:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(45, 92))
        image = Image.open(buffer).convert("RGB")
    return image
