"""traces/MODEL/CONVERSATION.safetensors, traces.json, bf16_noise.json: whole runs of the tiny models.

    python make_traces.py               needs torch; with torchvision it also checks against Qwen2VLProcessor
"""

import json
import os
import shutil

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, logging
from transformers.image_utils import load_image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from common import check_pins, path, sha256, sha256_array, versions, write_json

logging.set_verbosity_error()
torch.manual_seed(0)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

MODELS = ("tiny_a", "tiny_b")
NEW_TOKENS = 32
HIDDEN = "images_three"  # the conversation with the hidden states
FULL_PIXELS = ("cjk", "thin_and_still")  # the pixel values themselves, in tiny_a only; elsewhere a hash in traces.json
FULL_LOGITS = ("text_only", "cjk", "image_one")  # logits of all positions; elsewhere every 4th and the last


def conversations():
    for file in sorted(os.listdir(path("conversations"))):
        with open(path("conversations", file), encoding="utf-8") as f:
            yield file[: -len(".json")], json.load(f)


def media(messages):
    """Images, and videos as lists of frames, in the order of the placeholders. Paths are relative to conversations/."""
    images, videos = [], []
    for message in messages:
        for part in message["content"] if not isinstance(message["content"], str) else []:
            if part["type"] == "image":
                images.append(load_image(path("conversations", part["image"])))
            elif part["type"] == "video":
                videos.append([load_image(path("conversations", f)) for f in part["video"]])
    return images, videos


def expand(text, placeholder, grids):
    """What Qwen2VLProcessor does: each placeholder becomes t * h * w / 4 of them."""
    for grid in grids:
        text = text.replace(placeholder, "\0" * (int(np.prod(grid)) // 4), 1)
    assert placeholder not in text
    return text.replace("\0", placeholder)


def inputs(folder, messages):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = Qwen2VLImageProcessor.from_pretrained(folder)
    with open(os.path.join(folder, "chat_template.json"), encoding="utf-8") as f:
        template = json.load(f)["chat_template"]
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    images, videos = media(messages)
    out = {}
    if images:
        got = processor(images=images, return_tensors="np")
        out["pixel_values"], out["image_grid_thw"] = got["pixel_values"], got["image_grid_thw"].astype(np.int64)
        text = expand(text, "<|image_pad|>", out["image_grid_thw"])
    if videos:
        # the slow image processor still takes videos, as every release before the torchvision video processor did
        got = processor(images=None, videos=videos, return_tensors="np")
        out["pixel_values_videos"], out["video_grid_thw"] = got["pixel_values_videos"], got["video_grid_thw"].astype(np.int64)
        text = expand(text, "<|video_pad|>", out["video_grid_thw"])
    out["input_ids"] = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
    return tokenizer, processor, text, out


def load(folder, dtype):
    model, info = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"] and not set(info["missing_keys"]) - {"lm_head.weight"}, info
    assert model.config._attn_implementation == "eager" and model.model.visual.config._attn_implementation == "eager"
    return model.eval()


def as_torch(x):
    kw = {k: torch.from_numpy(v) for k, v in x.items() if k != "input_ids"}
    kw["input_ids"] = torch.from_numpy(x["input_ids"])[None]
    kw["attention_mask"] = torch.ones_like(kw["input_ids"])
    return kw


def run(model, x, hidden=False):
    """One forward pass over the prompt. f32 numpy of whatever dtype the model has."""
    states, hooks, tower = {}, [], []
    visual = model.model.visual

    def keep(name):
        def hook(_, __, output):
            value = output[0] if isinstance(output, tuple) else output
            states[name] = value.detach().float().numpy().reshape(-1, value.shape[-1])
        return hook

    hooks.append(visual.register_forward_hook(lambda _, __, output: tower.append(output.detach().float().numpy())))
    if hidden:
        hooks.append(visual.patch_embed.register_forward_hook(keep("visual.patch_embed")))
        hooks += [b.register_forward_hook(keep(f"visual.blocks.{i}")) for i, b in enumerate(visual.blocks)]
        hooks += [b.register_forward_hook(keep(f"model.layers.{i}")) for i, b in enumerate(model.model.language_model.layers)]
        hooks.append(model.model.language_model.norm.register_forward_hook(keep("model.norm")))
    with torch.no_grad():
        model.model.rope_deltas = None
        logits = model(**as_torch(x), use_cache=False).logits[0].float().numpy()
    for h in hooks:
        h.remove()
    out = {"logits": logits, **states}
    names = [n for n, k in (("image_embeds", "pixel_values"), ("video_embeds", "pixel_values_videos")) if k in x]
    assert len(names) == len(tower)
    out.update(zip(names, tower))
    return out


def generate(model, x):
    """Greedy tokens (with the eos, if one came), and the gap between the best two logits at each step."""
    model.model.rope_deltas = None
    with torch.no_grad():
        got = model.generate(**as_torch(x), max_new_tokens=NEW_TOKENS, do_sample=False, temperature=None, top_p=None, top_k=None,
                             repetition_penalty=1.0, output_logits=True, return_dict_in_generate=True)
    ids = got.sequences[0, len(x["input_ids"]):].numpy()
    top = [torch.topk(step[0].float(), 2).values for step in got.logits]
    return ids, [float(t[0] - t[1]) for t in top]


def noise(reference, other, digits=6):
    """How far bf16 is from f32: |difference| over the standard deviation, and what the argmax costs."""
    d = np.abs(other - reference) / reference.std()
    out = {"mean": float(d.mean()), "p99": float(np.quantile(d, 0.99)), "max": float(d.max())}
    if reference.shape[-1] > 1000:  # logits
        rows = np.arange(len(reference))
        best, picked = reference.argmax(-1), other.argmax(-1)
        regret = reference[rows, best] - reference[rows, picked]
        out.update(std=float(reference.std()), mean_regret=float(regret.mean()), max_regret=float(regret.max()),
                   last_regret=float(regret[-1]), same_argmax=float((best == picked).mean()))
    return {k: round(v, digits) for k, v in out.items()}


def check_processor(folder, messages, x):
    """With torchvision: the real processor gives the same ids, grids and image pixels. Returns how far its video pixels are."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    with open(os.path.join(folder, "preprocessor_config.json")) as f:
        limits = {k: v for k, v in json.load(f).items() if k.endswith("_pixels")}
    with open(os.path.join(folder, "chat_template.json"), encoding="utf-8") as f:
        template = json.load(f)["chat_template"]
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder),
                                 Qwen2VLVideoProcessor(**limits), chat_template=template)
    images, videos = media(messages)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    got = processor(text=[text], images=images or None, videos=videos or None, return_tensors="pt")
    got = {k: v.numpy() for k, v in got.items()}
    assert np.array_equal(got["input_ids"][0], x["input_ids"])
    if images:
        assert np.array_equal(got["pixel_values"], x["pixel_values"]) and np.array_equal(got["image_grid_thw"], x["image_grid_thw"])
    if not videos:
        return None
    assert np.array_equal(got["video_grid_thw"], x["video_grid_thw"])
    std = np.repeat(np.array([0.26862954, 0.26130258, 0.27577711], np.float32), 2 * 14 * 14)
    levels = np.abs(got["pixel_values_videos"] - x["pixel_values_videos"]) * std * 255
    return {"pixel_values_videos": got["pixel_values_videos"], "levels": levels}


def main():
    check_pins()
    rows, bf16, video = {}, {}, {}
    shutil.rmtree(path("traces"), ignore_errors=True)
    for name in MODELS:
        folder = path(name)
        os.makedirs(path("traces", name))
        f32, half, double = (load(folder, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64))
        assert f32.model.language_model.rotary_emb.inv_freq.dtype == half.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
        assert half.model.visual.rotary_pos_emb.inv_freq.dtype == torch.float32
        for conversation, messages in conversations():
            tokenizer, processor, text, x = inputs(folder, messages)
            t = len(x["input_ids"])
            hidden = conversation == HIDDEN
            out = run(f32, x, hidden)
            kw = as_torch(x)
            positions, delta = f32.model.get_rope_index(kw["input_ids"], kw.get("image_grid_thw"), kw.get("video_grid_thw"), kw["attention_mask"])
            ids, gaps = generate(f32, x)
            # decoding with the cache must agree with one pass over everything
            whole = run(f32, {**x, "input_ids": np.concatenate([x["input_ids"], ids])})["logits"]
            assert np.array_equal(whole[t - 1 : -1].argmax(-1), ids), (name, conversation)
            assert np.abs(whole[:t] - out["logits"]).max() < 1e-3

            tensors = {"input_ids": x["input_ids"], "position_ids": positions[:, 0].numpy().astype(np.int64), "generated_ids": ids.astype(np.int64)}
            for key in ("image_grid_thw", "video_grid_thw"):
                if key in x:
                    tensors[key] = x[key]
            row = {"file": f"traces/{name}/{conversation}.safetensors", "tokens": t, "rope_delta": int(delta[0, 0]), "prompt": text_of(text)}
            for key in ("pixel_values", "pixel_values_videos"):
                if key in x:
                    row[key + "_shape"], row[key + "_sha256"] = list(x[key].shape), sha256_array(x[key])
                    if name == "tiny_a" and conversation in FULL_PIXELS:
                        tensors[key] = x[key]
            for key, value in out.items():
                if key != "logits":
                    tensors[key] = value
            if conversation in FULL_LOGITS:
                tensors["logits"] = out["logits"]
            else:
                keep = np.unique(np.concatenate([np.arange(0, t, 4), [t - 1]])).astype(np.int64)
                tensors["logits_rows"], tensors["logits"] = keep, out["logits"][keep]
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path(row["file"]))
            row.update(
                logits_std=round(float(out["logits"].std()), 5),
                generated=ids.tolist(),
                generated_text=tokenizer.decode(ids, skip_special_tokens=False),
                smallest_gap=round(min(gaps), 6),
                smallest_gap_step=int(np.argmin(gaps)),
            )
            rows.setdefault(name, {})[conversation] = row

            low = run(half, x)
            low_ids, _ = generate(half, x)
            bf16.setdefault(name, {})[conversation] = {
                **noise(out["logits"], low["logits"]),
                **{k: noise(out[k], low[k]) for k in ("image_embeds", "video_embeds") if k in out},
                # f64 wherever transformers lets it (norm statistics, softmax and angles stay f32): the floor of f32
                "f64": {k: v for k, v in noise(out["logits"], run(double, x)["logits"], 9).items() if k in ("mean", "p99", "max")},
                "same_greedy_tokens": int((np.cumprod(low_ids[: len(ids)] == ids[: len(low_ids)])).sum()),
            }
            real = check_processor(folder, messages, x)
            if real:
                other = run(f32, {**x, "pixel_values_videos": real["pixel_values_videos"]})
                video.setdefault(name, {})[conversation] = {
                    "levels_max": round(float(real["levels"].max()), 3), "levels_mean": round(float(real["levels"].mean()), 5),
                    "values_that_differ": round(float((real["levels"] > 0.5).mean()), 5), "logits": noise(out["logits"], other["logits"]),
                }
            print(name, conversation, t, row["smallest_gap"], len(ids), row["generated_text"][:40].encode("ascii", "replace").decode())
    v = {**versions(), "torch": torch.__version__}
    write_json("traces.json", {"versions": v, **rows}, rows=MODELS)
    write_json("bf16_noise.json", {"versions": v, **bf16}, rows=MODELS)
    if video:
        write_json("video_processor.json", {"versions": v, **video}, rows=MODELS)


def text_of(text):
    """The prompt with runs of placeholders shortened."""
    import re

    return re.sub(r"(<\|(?:image|video)_pad\|>)\1*", lambda m: f"{m[1]}*{len(m[0]) // len(m[1])}", text)


if __name__ == "__main__":
    main()
