"""Draw the example pictures: python examples.py --out examples

Also writes demo.jsonl: questions about them with the right answers (not what the model says).
"""
import argparse
import json
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data import box_answer
from draw import FONTS, handwriting, polygon

SMOOTH = 3  # drawn this much larger, then scaled down


def canvas(w, h, color):
    image = Image.new("RGB", (w * SMOOTH, h * SMOOTH), color)
    return image, ImageDraw.Draw(image)


def finish(image):
    return image.resize((image.width // SMOOTH, image.height // SMOOTH), Image.LANCZOS)


def shape(draw, kind, fill, x, y, r):
    x, y, r = x * SMOOTH, y * SMOOTH, r * SMOOTH
    if kind == "circle":
        draw.ellipse((x - .92 * r, y - .92 * r, x + .92 * r, y + .92 * r), fill=fill)
    else:
        draw.polygon(polygon(kind, x, y, r, 0), fill=fill)


def shapes():
    image, draw = canvas(400, 300, (247, 246, 242))
    for kind, fill, x, y, r in (("circle", "#d62828", 80, 80, 52), ("star", "#f4c400", 315, 85, 62),
                                ("square", "#2456d6", 95, 222, 54), ("triangle", "#2a9d3f", 305, 220, 58)):
        shape(draw, kind, fill, x, y, r)
    return finish(image)


def counting():
    image, draw = canvas(360, 360, (232, 240, 250))
    for kind, fill, x, y, r in (("circle", "#e07a10", 75, 80, 46), ("circle", "#7b1fa2", 270, 75, 46),
                                ("square", "#1b1b1b", 180, 180, 46), ("circle", "#2e8b57", 85, 285, 46),
                                ("star", "#d11a2a", 275, 280, 54)):
        shape(draw, kind, fill, x, y, r)
    return finish(image)


def centered(draw, size, text, px, ink, font=FONTS[1]):
    f = ImageFont.truetype(font, px * SMOOTH)
    box = f.getbbox(text)
    draw.text(((size[0] * SMOOTH - box[0] - box[2]) / 2, (size[1] * SMOOTH - box[1] - box[3]) / 2), text, font=f, fill=ink)


def sign():
    image, draw = canvas(420, 210, (236, 236, 232))
    draw.rounded_rectangle([v * SMOOTH for v in (20, 30, 400, 180)], radius=18 * SMOOTH, fill=(18, 84, 160))
    centered(draw, (420, 210), "HARBOR", 70, "white")
    return finish(image)


def number():
    image, draw = canvas(320, 240, (250, 248, 240))
    centered(draw, (320, 240), "427", 110, (30, 40, 60))
    return finish(image)


def digit():
    """A handwritten digit that was held out of training."""
    images, labels, held = handwriting()
    k = next(i for i in range(len(labels)) if held[i] and labels[i] == 5 and i > 500)
    glyph = Image.fromarray(np.pad(images[k], 1)).resize((270, 270), Image.BICUBIC).point(lambda v: max(0, min(255, (v - 70) * 3)))
    image = Image.new("RGB", (300, 300), (251, 249, 240))
    image.paste(Image.new("RGB", glyph.size, (25, 35, 110)), (15, 15), glyph)
    return image


def photo():
    """A street sign on a plaster wall: shading, grain, blur, JPEG."""
    rng = np.random.default_rng(7)
    image, draw = canvas(400, 240, (205, 190, 170))
    draw.rounded_rectangle([v * SMOOTH for v in (48, 58, 352, 182)], radius=8 * SMOOTH, fill=(30, 110, 60), outline="white", width=4 * SMOOTH)
    centered(draw, (400, 240), "PARK", 84, (245, 245, 240))
    pixels = np.asarray(finish(image).filter(ImageFilter.GaussianBlur(.7))).astype(float)
    light = np.linspace(1.08, .85, 400)[None, :, None] * np.linspace(1.04, .95, 240)[:, None, None]
    pixels = pixels * light + rng.normal(0, 5, (240, 400, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


RED_CIRCLE = box_answer("red circle", (32.2 / 400, 32.2 / 300, 127.8 / 400, 127.8 / 300))
PICTURES = {
    "shapes.png": (shapes, [("What color is the star?", "yellow"), ("What shape is blue?", "square"),
                            ("Where is the green triangle?", "bottom right"), ("Point to the red circle.", RED_CIRCLE)]),
    "counting.png": (counting, [("How many circles are there?", "3"), ("How many shapes are there?", "5")]),
    "sign.png": (sign, [("What does the sign say?", "HARBOR")]),
    "number.png": (number, [("What number is this?", "427")]),
    "digit.png": (digit, [("Which digit is this?", "5")]),
    "photo.jpg": (photo, [("What does the sign say?", "PARK")]),
}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", required=True)
    out = args.parse_args().out
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "demo.jsonl"), "w", encoding="utf-8") as f:
        for name, (paint, questions) in PICTURES.items():
            paint().save(os.path.join(out, name), **(dict(quality=82) if name.endswith("jpg") else dict(optimize=True)))
            for query, response in questions:
                f.write(json.dumps({"query": query, "response": response, "images": [name]}) + "\n")


if __name__ == "__main__":
    main()
