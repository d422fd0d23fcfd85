"""Draws the source images of images/ and frames/. Deterministic for the pinned Pillow; the committed files are the truth.

    python make_images.py            writes images/ and frames/

Every file is small and drawn from formulas: no photograph, no licence question.
"""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw

from common import path, random_bytes, check_pins


def scene(w, h, seed=1, noise=0):
    """A smooth RGB scene with edges, u8 [h, w, 3]: gradients, one ellipse, one bar, optional noise."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    u, v = (x + 0.5) / w, (y + 0.5) / h
    k = seed % 7
    rgb = np.stack(
        [
            255 * u * (0.6 + 0.4 * np.cos(3 * v + k)),
            255 * v * (0.7 + 0.3 * np.sin(5 * u + k)),
            127 + 127 * np.sin(4 * (u + v) + k),
        ],
        axis=-1,
    )
    inside = ((u - 0.35) / 0.25) ** 2 + ((v - 0.45) / 0.3) ** 2 < 1
    rgb[inside] = [230, 60 + 20 * k, 40]
    bar = (u > 0.62) & (u < 0.8) & (v > 0.2) & (v < 0.9)
    rgb[bar] = [20, 40, 200 - 15 * k]
    if noise:
        rgb = rgb + (random_bytes(seed, w * h * 3).reshape(h, w, 3).astype(np.float64) - 127.5) * (noise / 127.5)
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)


def picture(w, h, seed=1, noise=0):
    return Image.fromarray(scene(w, h, seed, noise))


def alpha(w, h):
    y, x = np.mgrid[0:h, 0:w]
    return ((x * 255 // max(1, w - 1)) ^ ((y // 4 % 2) * 255)).astype(np.uint8)


# --- a PNG writer for what Pillow cannot write: Adam7, 16-bit RGB, sub-byte grey ------------------------------------

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows, bpp):
    """Rows of packed bytes, Sub filter on every row."""
    out = bytearray()
    for row in rows:
        r = np.frombuffer(bytes(row), np.uint8).astype(np.int16)
        left = np.concatenate([np.zeros(bpp, np.int16), r[:-bpp]]) if len(r) > bpp else np.zeros(len(r), np.int16)
        out += b"\x01" + (r - left).astype(np.uint8).tobytes()
    return bytes(out)


def write_png(name, width, height, depth, color, rows_of, bpp, interlace=False, extra=b""):
    if interlace:
        raw = b""
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            if x0 < width and y0 < height:
                raw += filtered(rows_of(slice(y0, None, dy), slice(x0, None, dx)), bpp)
    else:
        raw = filtered(rows_of(slice(None), slice(None)), bpp)
    ihdr = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlace))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    with open(path(name), "wb") as f:
        f.write(data)


def packed(values, depth):
    """One row of small integers into bytes, most significant first."""
    per = 8 // depth
    values = np.concatenate([values, np.zeros(-len(values) % per, values.dtype)]).reshape(-1, per)
    out = np.zeros(len(values), np.uint8)
    for i in range(per):
        out |= (values[:, i].astype(np.uint8) << (8 - depth * (i + 1))).astype(np.uint8)
    return out.tobytes()


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e.tobytes()


def main():
    check_pins()
    for folder in ("images", "frames"):
        os.makedirs(path(folder), exist_ok=True)

    def save(im, name, **kw):
        im.save(path("images", name), **kw)

    # shapes
    save(picture(97, 61, 1), "rgb_97x61.png", optimize=True)
    save(picture(640, 480, 2).point(lambda v: v & 0xF0), "rgb_640x480.png", optimize=True)
    save(picture(30, 900, 3), "tall_30x900.png", optimize=True)
    save(picture(700, 29, 4), "wide_700x29.png", optimize=True)
    save(picture(28, 28, 5), "square_28x28.png", optimize=True)
    save(picture(29, 31, 6, noise=20), "tiny_29x31.png", optimize=True)
    save(picture(27, 40, 7), "tiny_27x40.png", optimize=True)
    save(picture(56, 84, 8), "aligned_56x84.png", optimize=True)
    save(picture(70, 42, 9), "half_70x42.png", optimize=True)
    save(picture(9, 14, 9), "tiny_9x14.png", optimize=True)
    save(picture(1, 1, 10), "dot_1x1.png")
    save(picture(40, 1, 11), "row_40x1.png")
    save(picture(40, 3, 12), "row_40x3.png")
    save(picture(3, 40, 13), "column_3x40.png")
    save(picture(1000, 5, 14), "ratio200_1000x5.png", optimize=True)
    save(picture(5, 1001, 15), "ratio200_2_5x1001.png", optimize=True)
    # PNG modes
    save(picture(64, 50, 16).convert("L"), "png_l.png", optimize=True)
    grey = np.asarray(picture(64, 50, 17).convert("L"))
    save(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha(64, 50))]), "png_la.png", optimize=True)
    save(picture(75, 45, 18).quantize(24, dither=Image.Dither.NONE), "png_p.png", optimize=True)
    p = picture(75, 45, 19).quantize(16, dither=Image.Dither.NONE)
    save(p, "png_p_trns_index.png", optimize=True, transparency=3)
    save(p, "png_p_trns_table.png", optimize=True, transparency=bytes(range(0, 256, 16)))
    rgba = picture(60, 44, 20).convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha(60, 44)))
    save(rgba, "png_rgba.png", optimize=True)
    save(picture(50, 40, 21), "png_rgb_trns.png", optimize=True, transparency=(230, 60, 40))
    save(picture(61, 47, 22).convert("1"), "png_1.png", optimize=True)
    y, x = np.mgrid[0:40, 0:52]
    grey16 = (x * 1260 + y * 37 + (x * y) % 251).astype(np.uint16)
    save(Image.fromarray(grey16), "png_i16.png", optimize=True)
    save(Image.fromarray((x * 9 + y * 5).astype(np.uint16)), "png_i16_low.png", optimize=True)
    rgb16 = np.stack([x * 1260, y * 1600 + x, 65535 - (x + y) * 700], axis=-1).astype(">u2")
    write_png("images/png_rgb16.png", 52, 40, 16, 2, lambda r, c: [row.tobytes() for row in rgb16[r, c]], 6)
    rgba16 = np.concatenate([rgb16, np.broadcast_to((x * 1200).astype(">u2")[..., None], (40, 52, 1))], axis=-1).astype(">u2")
    write_png("images/png_rgba16.png", 52, 40, 16, 6, lambda r, c: [row.tobytes() for row in rgba16[r, c]], 8)
    grey4 = ((x // 3 + y // 5) % 16).astype(np.uint8)
    write_png("images/png_l4.png", 52, 40, 4, 0, lambda r, c: [packed(row, 4) for row in grey4[r, c]], 1)
    grey2 = ((x // 7 + y // 9) % 4).astype(np.uint8)
    write_png("images/png_l2.png", 52, 40, 2, 0, lambda r, c: [packed(row, 2) for row in grey2[r, c]], 1)
    adam = scene(83, 59, 23)
    write_png("images/png_interlaced.png", 83, 59, 8, 2, lambda r, c: [row.tobytes() for row in adam[r, c]], 3, interlace=True)
    gama = chunk(b"gAMA", struct.pack(">I", 100000))
    write_png("images/png_gama.png", 83, 59, 8, 2, lambda r, c: [row.tobytes() for row in adam[r, c]], 3, extra=gama)
    save(picture(50, 36, 24), "png_exif6.png", optimize=True, exif=exif(6))
    # JPEG
    photo = picture(109, 75, 25, noise=12)
    save(photo, "jpeg_444.jpg", quality=88, subsampling="4:4:4")
    save(photo, "jpeg_422.jpg", quality=88, subsampling="4:2:2")
    save(photo, "jpeg_420.jpg", quality=88, subsampling="4:2:0")
    save(photo, "jpeg_420_progressive.jpg", quality=80, subsampling="4:2:0", progressive=True)
    save(photo, "jpeg_444_progressive.jpg", quality=60, subsampling="4:4:4", progressive=True)
    save(photo, "jpeg_420_restart.jpg", quality=75, subsampling="4:2:0", restart_marker_rows=1)
    save(photo.convert("L"), "jpeg_grey.jpg", quality=85)
    save(photo.convert("CMYK"), "jpeg_cmyk.jpg", quality=85)
    save(photo, "jpeg_rgb.jpg", quality=90, keep_rgb=True)
    save(picture(700, 500, 26, noise=3), "jpeg_420_700x500.jpg", quality=72, subsampling="4:2:0")
    save(picture(33, 35, 27, noise=8), "jpeg_420_33x35.jpg", quality=90, subsampling="4:2:0")
    save(picture(35, 33, 27, noise=8), "jpeg_422_35x33.jpg", quality=90, subsampling="4:2:2")
    for o in range(2, 9):
        save(picture(72, 45, 28), f"jpeg_exif{o}.jpg", quality=85, subsampling="4:2:0", exif=exif(o))
    # others
    save(picture(90, 70, 29, noise=4), "webp_lossless.webp", lossless=True, method=6)
    save(picture(131, 90, 30, noise=6), "webp_lossy.webp", quality=80, method=6)
    save(rgba, "webp_rgba_lossless.webp", lossless=True, exact=True, method=6)
    save(picture(50, 36, 24), "webp_exif8.webp", lossless=True, method=6, exif=exif(8))
    save(picture(53, 41, 31), "bmp_rgb.bmp")
    save(picture(53, 41, 31).quantize(32, dither=Image.Dither.NONE), "bmp_p.bmp")
    frames = [picture(66, 48, s).quantize(32, dither=Image.Dither.NONE) for s in (32, 33, 34)]
    save(frames[0], "gif_animated.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    save(picture(66, 48, 35).quantize(32, dither=Image.Dither.NONE), "gif_transparent.gif", transparency=5)
    # broken files
    buf = io.BytesIO()
    photo.save(buf, "JPEG", quality=70)
    with open(path("images", "broken_truncated.jpg"), "wb") as f:
        f.write(buf.getvalue()[: len(buf.getvalue()) * 3 // 5])
    buf = io.BytesIO()
    picture(60, 60, 36, noise=30).save(buf, "PNG")
    with open(path("images", "broken_truncated.png"), "wb") as f:
        f.write(buf.getvalue()[: len(buf.getvalue()) // 2])
    with open(path("images", "broken_text.png"), "wb") as f:
        f.write(b"this is not an image\n")
    with open(path("images", "broken_empty.jpg"), "wb") as f:
        pass

    # frames of the short videos: a ball that moves over a fixed scene
    for i in range(5):
        im = picture(70, 56, 40)
        d = ImageDraw.Draw(im)
        cx, cy = 10 + 12 * i, 14 + 6 * i
        d.ellipse([cx - 8, cy - 8, cx + 8, cy + 8], fill=(255 - 40 * i, 230, 40 * i))
        im.save(path("frames", f"ball_{i}.png"), optimize=True)
    # another size: a bar that grows
    for i in range(3):
        im = picture(45, 95, 41)
        ImageDraw.Draw(im).rectangle([4, 60 - 20 * i, 14, 90], fill=(250, 250 - 60 * i, 30))
        im.save(path("frames", f"bar_{i}.png"), optimize=True)


if __name__ == "__main__":
    main()
