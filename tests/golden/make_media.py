"""images.json, images_full.safetensors, decoded/, resize.json, smart_resize.json: what the slow (PIL) processor does.

    python make_media.py             needs transformers, pillow, numpy, safetensors; no torch
"""

import inspect
import os
import re

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from transformers import logging
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, load_image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

from common import check_pins, path, random_bytes, sha256, sha256_array, versions, write_json

logging.set_verbosity_error()

# name -> (min_pixels, max_pixels). "default" is what the published Qwen2-VL checkpoints say; "up" forces enlargement.
LIMITS = {"default": (3136, 12845056), "tight": (3136, 200704), "small": (3136, 12544), "up": (100352, 602112)}
FULL = {"tiny_29x31.png": "default", "half_70x42.png": "default", "jpeg_420_33x35.jpg": "small"}


def message(e):
    text = str(e).replace(path("images") + os.sep, "")
    return {"type": type(e).__name__, "message": re.sub(r" object at 0x[0-9a-f]+", "", text)}


def process(image, limits, **kw):
    processor = Qwen2VLImageProcessor(min_pixels=limits[0], max_pixels=limits[1])
    out = processor(images=[image], return_tensors="np", **kw)
    return out["pixel_values"], out["image_grid_thw"]


def images():
    rows, full = {}, {}
    for old in os.listdir(path("decoded")) if os.path.isdir(path("decoded")) else []:
        os.remove(path("decoded", old))
    os.makedirs(path("decoded"), exist_ok=True)
    for name in sorted(os.listdir(path("images"))):
        row = {}
        rows[name] = row
        try:
            with Image.open(path("images", name)) as im:
                row.update(format=im.format, mode=im.mode, stored_size=list(im.size))
            image = load_image(path("images", name))
        except Exception as e:
            row["load_error"] = message(e)
            continue
        rgb = np.asarray(image)
        h, w = rgb.shape[:2]
        row.update(height=h, width=w, rgb_sha256=sha256_array(rgb))
        if name.endswith((".jpg", "lossy.webp")):
            png = name.rsplit(".", 1)[0] + ".png"
            if w * h < 100_000:
                image.save(path("decoded", png), optimize=True)
                row["decoded"] = "decoded/" + png
        if h in (1, 3):
            row["quirk"] = "height 1 or 3: the processor takes [h, w, 3] for channels-first; see out_channels_last"
        for key, kw in (("out", {}), ("out_channels_last", {"input_data_format": "channels_last"})):
            if key != "out" and h not in (1, 3):
                continue
            row[key] = {}
            for label, limits in LIMITS.items():
                try:
                    pixels, grid = process(image, limits, **kw)
                except Exception as e:
                    row[key][label] = {"error": message(e)}
                    continue
                t, gh, gw = (int(v) for v in grid[0])
                assert pixels.dtype == np.float32 and pixels.shape == (t * gh * gw, 1176)
                one = {"grid_thw": [t, gh, gw], "pixel_values_sha256": sha256_array(pixels)}
                if key != "out" or h not in (1, 3):
                    small = resize(rgb, (gh * 14, gw * 14), resample=3, input_data_format=ChannelDimension.LAST)
                    assert small.dtype == np.uint8
                    one["resized_sha256"] = sha256_array(small)
                    if FULL.get(name) == label:
                        full[f"{name}/{label}/resized"] = np.ascontiguousarray(small)
                        full[f"{name}/{label}/pixel_values"] = np.ascontiguousarray(pixels)
                row[key][label] = one
    save_file(full, path("images_full.safetensors"))
    write_json(
        "images.json",
        {"versions": versions(), "limits": {k: {"min_pixels": a, "max_pixels": b} for k, (a, b) in LIMITS.items()}, "images": rows},
        rows=("images",),
    )
    print(len(rows), "images")


def resize_cases():
    """(in_w, in_h, out_w, out_h, kind). Hand-picked rows first, then random ones in several families."""
    fixed = [
        (1, 1, 1, 1), (1, 1, 56, 56), (2, 2, 1, 1), (1, 7, 1, 3), (7, 1, 3, 1), (3, 3, 28, 28), (28, 28, 56, 56), (56, 56, 28, 28),
        (1, 500, 28, 28), (500, 1, 28, 28), (700, 29, 700, 28), (700, 29, 672, 28), (30, 900, 28, 896), (29, 700, 28, 700),
        # identity on one axis, and on both
        (100, 80, 100, 56), (100, 80, 84, 80), (64, 64, 64, 64), (333, 1, 333, 5), (1, 333, 5, 333), (200, 3, 50, 3), (3, 200, 3, 50),
        # extreme ratios: the pass order rules of different Pillow versions disagree here
        (4, 600, 2, 100), (5, 501, 5, 500), (5, 501, 6, 500), (5, 500, 4, 499), (6, 601, 3, 600), (2, 300, 28, 28), (3, 650, 28, 600),
        (7, 700, 7, 28), (6, 700, 28, 28), (1, 101, 2, 100), (1, 100, 2, 99), (2, 201, 1, 200), (2, 200, 3, 100),
        # h - out_h against 2 (w - out_w), on the border
        (100, 100, 90, 80), (100, 100, 90, 79), (100, 100, 90, 81), (100, 100, 100, 99), (100, 100, 99, 98), (100, 100, 99, 97),
        (100, 100, 101, 99), (100, 100, 101, 98), (100, 100, 101, 101), (100, 100, 50, 1), (100, 100, 51, 1), (100, 50, 75, 1),
        (100, 50, 76, 1), (100, 50, 74, 1), (40, 90, 20, 50), (40, 90, 20, 49), (40, 90, 20, 51), (90, 40, 80, 20), (90, 40, 80, 19),
        (60, 60, 56, 52), (60, 60, 56, 51), (60, 60, 56, 53), (61, 97, 56, 84), (97, 61, 84, 56), (97, 61, 112, 56), (61, 97, 56, 112),
        (640, 480, 644, 476), (500, 333, 504, 336), (333, 500, 336, 504), (341, 512, 336, 504), (700, 500, 504, 364), (157, 103, 168, 112),
    ]
    families = []
    r = iter(int(v) for v in np.frombuffer(random_bytes(0x05919E, 8 * 40_000).tobytes(), dtype="<u8"))

    def rand(lo, hi):
        return lo + next(r) % (hi - lo + 1)

    for _ in range(90):  # anything to anything, small
        families.append((rand(1, 40), rand(1, 40), rand(1, 60), rand(1, 60)))
    for _ in range(70):  # anything to anything, medium
        families.append((rand(1, 260), rand(1, 260), rand(1, 260), rand(1, 260)))
    for _ in range(60):  # what smart_resize does: to the nearest multiples of 28
        w, h = rand(28, 300), rand(28, 300)
        families.append((w, h, max(28, round(w / 28) * 28), max(28, round(h / 28) * 28)))
    for _ in range(30):  # strong reduction
        families.append((rand(200, 700), rand(200, 700), rand(1, 60), rand(1, 60)))
    for _ in range(20):  # strong enlargement
        families.append((rand(1, 30), rand(1, 30), rand(100, 400), rand(100, 400)))
    for _ in range(30):  # one axis kept
        w, h = rand(1, 300), rand(1, 300)
        families.append((w, h, w, rand(1, 300)) if rand(0, 1) else (w, h, rand(1, 300), h))
    for _ in range(40):  # tall and narrow, wide and low
        a, b, c, d = rand(1, 7), rand(100, 700), rand(1, 28), rand(1, 700)
        families.append((a, b, c, d) if rand(0, 1) else (b, a, d, c))
    for _ in range(40):  # near the border of the pass-order rule
        w, h = rand(20, 200), rand(60, 200)
        ow = rand(max(1, w - 25), w + 3)
        families.append((w, h, ow, max(1, h - 2 * (w - ow) - rand(-1, 1))))
    for _ in range(10):  # large
        families.append((rand(400, 700), rand(400, 700), rand(400, 700), rand(400, 700)))
    return fixed + families


def resizes():
    rows = []
    for i, (w, h, ow, oh) in enumerate(resize_cases()):
        kind = ("noise", "noise", "binary", "runs")[i % 4]
        data = random_bytes(i, w * h * 3)
        if kind == "binary":
            data = np.where(data >= 128, 255, 0).astype(np.uint8)
        elif kind == "runs":
            data = (data & 3) * 85
        im = Image.frombytes("RGB", (w, h), data.tobytes())
        out = im.resize((ow, oh), Image.Resampling.BICUBIC).tobytes()
        assert len(out) == ow * oh * 3
        rows.append([w, h, ow, oh, i, kind, sha256(out), list(out[:6])])
    write_json(
        "resize.json",
        {
            "versions": versions(),
            "prng": "splitmix64: state = seed; for each u64: state += 0x9E3779B97F4A7C15; z = state; "
            "z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z ^= z >> 31 (all mod 2^64); "
            "each u64 gives 8 bytes, least significant first; the first in_w * in_h * 3 bytes are the RGB image, row by row",
            "kinds": {"noise": "the bytes as they are", "binary": "255 if b >= 128 else 0", "runs": "(b & 3) * 85"},
            "check": {"seed": 7, "first_16_bytes": random_bytes(7, 16).tolist()},
            "columns": ["in_w", "in_h", "out_w", "out_h", "seed", "kind", "sha256 of the RGB bytes", "first six bytes of the result"],
            "cases": rows,
        },
        rows=("cases",),
    )
    print(len(rows), "resizes")


def smart_resizes():
    rows = []
    limits = [(3136, 12845056), (3136, 1003520), (3136, 200704), (3136, 12544), (100352, 602112), (12544, 12544), (784, 784), (1, 10**9)]
    sizes = [
        (1365, 2048), (1080, 1920), (2160, 3840), (4320, 7680), (8000, 8000), (28, 28), (27, 257), (1, 1), (70, 70), (42, 42), (14, 14),
        (13, 13), (14, 2800), (13, 2601), (13, 2600), (100, 20000), (100, 20001), (20000, 100), (1, 200), (1, 201), (201, 1), (200, 1),
        (2, 399), (2, 400), (2, 401), (56, 56), (55, 57), (41, 43), (98, 98), (126, 126), (154, 154), (7, 1400), (5, 1000), (5, 1001),
        (3584, 3584), (3585, 3584), (3598, 3570), (448, 448), (449, 448), (462, 434), (462, 435), (112, 112), (113, 112), (14, 200), (13, 200),
        (15, 15), (28, 5600), (29, 5600), (9, 14), (480, 640), (500, 700), (700, 29), (900, 30),
    ]
    r = iter(int(v) for v in np.frombuffer(random_bytes(0x5A17, 8 * 4000).tobytes(), dtype="<u8"))

    def rand(lo, hi):
        return lo + next(r) % (hi - lo + 1)

    cases = [(h, w, *limits[i % len(limits)]) for i, (h, w) in enumerate(sizes)] + [(h, w, *limits[0]) for h, w in sizes]
    cases += [(h, w, *limits[3]) for h, w in sizes]
    for i in range(200):
        top = (40, 200, 1000, 6000)[i % 4]
        cases.append((rand(1, top), rand(1, top), *limits[rand(0, len(limits) - 1)]))
    for _ in range(60):  # ties of round(): odd multiples of 14
        cases.append((14 * (2 * rand(0, 60) + 1), 14 * (2 * rand(0, 60) + 1), *limits[rand(0, 4)]))
    for h, w, lo, hi in cases:
        try:
            rh, rw = smart_resize(h, w, factor=28, min_pixels=lo, max_pixels=hi)
            rows.append([h, w, lo, hi, rh, rw])
        except Exception as e:
            rows.append([h, w, lo, hi, f"{type(e).__name__}: {e}"])
    write_json(
        "smart_resize.json",
        {
            "versions": versions(),
            "factor": 28,
            "columns": ["height", "width", "min_pixels", "max_pixels", "resized height, or the error", "resized width"],
            "signature_defaults": {k: v.default for k, v in inspect.signature(smart_resize).parameters.items() if v.default is not inspect._empty},
            "cases": rows,
        },
        rows=("cases",),
    )
    print(len(rows), "smart_resize cases,", sum(len(row) == 5 for row in rows), "errors")


if __name__ == "__main__":
    check_pins()
    smart_resizes()
    resizes()
    images()
