"""conversations/*.json: message lists as apply_chat_template takes them; paths are relative to the JSON file.

    python make_conversations.py
"""

import json
import os

from common import path


def text(s):
    return {"type": "text", "text": s}


def image(name):
    return {"type": "image", "image": f"../images/{name}"}


def video(frames, fps=2.0):
    return {"type": "video", "video": [f"../{f}" for f in frames], "fps": fps}


def balls(*numbers):
    return [f"frames/ball_{i}.png" for i in numbers]


def user(*parts):
    return {"role": "user", "content": list(parts)}


CONVERSATIONS = {
    "text_only": [user(text("What is the colour of the sky?"))],
    "image_one": [user(image("rgb_97x61.png"), text("What is in this picture?"))],
    # text before, between and behind; two images touch
    "images_three": [
        user(text("Compare "), image("aligned_56x84.png"), text(" with these: "), image("half_70x42.png"), image("rgb_640x480.png"), text("\nWhich is red?"))
    ],
    "video_4": [user(video(balls(0, 1, 2, 3)), text("Where does the ball go?"))],
    # odd: the last frame is repeated
    "video_5": [user(text("Look: "), video(balls(0, 1, 2, 3, 4), 1.5), text("How fast is it?"))],
    "second_turn": [
        user(image("tiny_29x31.png"), text("Name one colour.")),
        {"role": "assistant", "content": "Red, I think."},
        user(text("And another one?")),
    ],
    "cjk": [user(image("square_28x28.png"), text("这张图片里有什么？日本語と한국어도。"))],
    "emoji": [user(text("👩‍👩‍👧‍👦 and 🏳️‍🌈, 👍🏽! "), image("png_interlaced.png"), text("é or e\u0301? 🧑‍🚀"))],
    "system": [
        {"role": "system", "content": "You answer in one word."},
        user(image("webp_lossless.webp"), text("Shape?")),
    ],
    "mixed": [
        user(
            image("half_70x42.png"), text("first, then "), video(balls(1, 3)), text(" and "), image("tiny_9x14.png"),
            text(" and"), video([f"frames/bar_{i}.png" for i in range(3)], 1.0), text("?"),
        )
    ],
    # one frame is a video too; a grid 21 rows high and 1 wide moves the text far ahead in position
    "thin_and_still": [user(image("tall_30x900.png"), text("Tall. "), video(balls(2), 24), text("Still."))],
}


def main():
    os.makedirs(path("conversations"), exist_ok=True)
    for name, messages in CONVERSATIONS.items():
        with open(path("conversations", name + ".json"), "w", encoding="utf-8", newline="\n") as f:
            # one of them with \u escapes, surrogate pairs among them; the others in plain UTF-8
            f.write(json.dumps(messages, ensure_ascii=name == "emoji", indent=1) + "\n")


if __name__ == "__main__":
    main()
