"""Write the demo model's tokenizer and configuration files: python tokenizer.py --out models/demo"""
import argparse
import json
import os

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import phrases

BPE_VOCAB = 1130
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
           "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
           "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = """\
{%- set seen = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{%- set seen.images = seen.images + 1 -%}
{%- if add_vision_id -%}{{- 'Picture ' + seen.images|string + ': ' -}}{%- endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{%- set seen.videos = seen.videos + 1 -%}
{%- if add_vision_id -%}{{- 'Video ' + seen.videos|string + ': ' -}}{%- endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 256, 4, 2, 1, 512
TOWER_DIM, TOWER_DEPTH, TOWER_HEADS = 160, 6, 2
# The published models use 1e6. With it the width channels (40..63 of 64) turn by less than 0.0002 per column, which a
# model this small cannot learn to read; with 500 they turn by up to 0.02, little enough to still match by content.
ROPE_THETA = 500.0
MIN_PIXELS, MAX_PIXELS = 16 * 28 * 28, 48 * 28 * 28


def build_tokenizer():
    byte_level = dict(add_prefix_space=False, use_regex=False)
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(trim_offsets=False, **byte_level)])
    tok.decoder = decoders.ByteLevel(trim_offsets=False, **byte_level)
    tok.post_processor = processors.ByteLevel(trim_offsets=False, **byte_level)
    trainer = trainers.BpeTrainer(vocab_size=BPE_VOCAB, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(phrases.corpus(), trainer)
    assert tok.get_vocab_size() == BPE_VOCAB, tok.get_vocab_size()
    tok.add_special_tokens(SPECIAL)
    return tok


def configs(base):
    """The json files beside the tokenizer; `base` is the id of <|endoftext|>."""
    ids = {name: base + i for i, name in enumerate(SPECIAL)}
    added = {str(i): {"content": name, "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True} for name, i in ids.items()}
    padded_vocab = -(-(base + len(SPECIAL)) // 128) * 128
    yield "config.json", {
        "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"], "hidden_act": "silu", "hidden_size": HIDDEN,
        "initializer_range": 0.02, "intermediate_size": FFN, "max_position_embeddings": 2048,
        "max_window_layers": LAYERS, "model_type": "qwen2_vl", "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-06,
        "rope_theta": ROPE_THETA, "sliding_window": 2048, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.57.6", "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {"depth": TOWER_DEPTH, "embed_dim": TOWER_DIM, "mlp_ratio": 4,
                          "num_heads": TOWER_HEADS, "in_chans": 3, "in_channels": 3, "hidden_size": HIDDEN,
                          "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
                          "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": padded_vocab}
    yield "preprocessor_config.json", {
        "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor"}
    yield "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": False,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "transformers_version": "4.57.6"}
    yield "tokenizer_config.json", {
        "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": SPECIAL[1:],
        "bos_token": None, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 2048,
        "pad_token": "<|endoftext|>", "padding_side": "left", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    yield "chat_template.json", {"chat_template": CHAT_TEMPLATE}


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--out", required=True)
    out = args.parse_args().out
    os.makedirs(out, exist_ok=True)
    tok = build_tokenizer()
    tok.save(os.path.join(out, "tokenizer.json"), pretty=False)
    tok.model.save(out)  # vocab.json, merges.txt
    for name, value in configs(BPE_VOCAB):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=2)
            f.write("\n")


if __name__ == "__main__":
    main()
