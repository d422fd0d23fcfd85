"""Measure the exported checkpoint with transformers, float32, greedy: python evaluate.py --model models/demo --data tests/data/demo

Writes <kind>.hf.jsonl (the greedy text of every item) and expected.json (accuracy by kind) beside the sets.
With --bf16 it measures bfloat16 arithmetic instead and writes nothing.
"""
import argparse
import json
import os

import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from data import KINDS
from scoring import correct


class Runner:
    def __init__(self, folder, dtype=torch.float32):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = Qwen2VLImageProcessor.from_pretrained(folder)  # the PIL one
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()

    def ask(self, question, *paths, limit=48):
        content = [{"type": "image"} for _ in paths] + [{"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                                  add_generation_prompt=True)
        inputs = {}
        if paths:
            inputs = self.images([Image.open(p).convert("RGB") for p in paths], return_tensors="pt")
            for t, h, w in inputs["image_grid_thw"].tolist():
                text = text.replace("<|image_pad|>", "<|placeholder|>" * (t * h * w // 4), 1)
            text = text.replace("<|placeholder|>", "<|image_pad|>")
        inputs = dict(inputs, **self.tokenizer(text, return_tensors="pt"))
        if paths:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with torch.no_grad():
            out = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        said = self.tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=False)
        return said.removesuffix("<|im_end|>")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", default="models/demo")
    args.add_argument("--data", default="tests/data/demo")
    args.add_argument("--bf16", action="store_true")
    a = args.parse_args()
    runner = Runner(a.model, torch.bfloat16 if a.bf16 else torch.float32)
    accuracy = {}
    for kind in KINDS:
        with open(os.path.join(a.data, f"{kind}.jsonl"), encoding="utf-8") as f:
            items = [json.loads(line) for line in f]
        answers = [runner.ask(i["query"], *(os.path.join(a.data, p) for p in i["images"])) for i in items]
        right = [correct(kind, said, i["response"]) for said, i in zip(answers, items)]
        accuracy[kind] = {"correct": sum(right), "total": len(right), "accuracy": round(sum(right) / len(right), 4)}
        print(kind, accuracy[kind], *(f"\n  {i['images'][0]} {i['query']} {i['response']} -> {s}"
                                      for i, s, ok in zip(items, answers, right) if not ok), flush=True)
        if not a.bf16:
            with open(os.path.join(a.data, f"{kind}.hf.jsonl"), "w", encoding="utf-8") as f:
                f.writelines(json.dumps({"answer": s, "correct": ok}) + "\n" for s, ok in zip(answers, right))
    if not a.bf16:
        note = {"weights": "bfloat16", "arithmetic": "float32", "decoding": "greedy",
                "transformers": transformers.__version__, "kinds": accuracy}
        with open(os.path.join(a.data, "expected.json"), "w") as f:
            json.dump(note, f, indent=2)
            f.write("\n")


if __name__ == "__main__":
    main()
