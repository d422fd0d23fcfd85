"""When an answer counts as correct."""
import re


def iou(a, b):
    """Intersection over union of two (x1, y1, x2, y2) boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    return w * h / (area(a) + area(b) - w * h)


def parse_box(text):
    """(label, [x1, y1, x2, y2]) of a pointing answer, or None."""
    found = re.fullmatch(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>"
                         r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>", text)
    return found and (found[1], [int(n) for n in found.groups()[1:]])


def correct(kind, said, expected):
    """Equal text; for pointing an equal label and a box with IoU of at least 0.5."""
    if kind != "pointing":
        return said == expected
    mine, wanted = parse_box(said), parse_box(expected)
    return mine is not None and mine[0] == wanted[0] and iou(mine[1], wanted[1]) >= .5
