"""Shared by the make_*.py scripts: paths, hashes, stable JSON, the documented PRNG."""

import hashlib
import json
import os
import platform

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))

PINS = {"transformers": "4.57.6", "pillow": "13.0.0"}


def path(*parts):
    return os.path.join(HERE, *parts)


def sha256(data):
    return hashlib.sha256(bytes(data)).hexdigest()


def sha256_array(a):
    """SHA-256 of the little-endian, C-order bytes of an array."""
    a = np.ascontiguousarray(a)
    return sha256(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes())


def write_json(name, value, rows=(), ascii=False):
    """Stable JSON; the lists named in `rows` are written one element a line, so that diffs stay readable."""
    body = dict(value) if isinstance(value, dict) else value
    if isinstance(body, dict):
        parts = []
        for key, val in body.items():
            if key in rows and isinstance(val, list):
                inner = ",\n".join("  " + json.dumps(v, ensure_ascii=ascii) for v in val)
                parts.append(f" {json.dumps(key)}: [\n{inner}\n ]")
            elif key in rows and isinstance(val, dict):
                inner = ",\n".join(f"  {json.dumps(k, ensure_ascii=ascii)}: {json.dumps(v, ensure_ascii=ascii)}" for k, v in val.items())
                parts.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
            else:
                parts.append(f" {json.dumps(key)}: {json.dumps(val, ensure_ascii=ascii)}")
        text = "{\n" + ",\n".join(parts) + "\n}\n"
    else:
        text = json.dumps(body, ensure_ascii=ascii, indent=1) + "\n"
    json.loads(text)
    with open(path(name), "w", encoding="utf-8", newline="\n") as f:
        f.write(text)


def splitmix64(seed, n):
    """n outputs of splitmix64, vectorised: output i mixes seed + (i + 1) * 0x9E3779B97F4A7C15 (mod 2^64)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_bytes(seed, n):
    """The first n bytes of the splitmix64 stream, each u64 written little-endian."""
    return splitmix64(seed, (n + 7) // 8).astype("<u8").view(np.uint8)[:n]


def check_pins():
    import PIL
    import transformers

    got = {"transformers": transformers.__version__, "pillow": PIL.__version__}
    if got != PINS:
        raise SystemExit(f"these goldens want {PINS}, found {got}")


def versions():
    """What a data file records about its origin. Patch levels of Python are left out: nothing depends on them."""
    import PIL
    from PIL import features
    import transformers

    return {
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "webp": features.version("webp"),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
