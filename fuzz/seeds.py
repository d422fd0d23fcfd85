"""Writes the first inputs of both targets into corpus/: pictures of every format, whole, hostile and cut, and bodies that use every field."""

import base64
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, raw, interlaced=0, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def bmp(width, height, bits, data, compression=0):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + head + data


def pictures():
    yield png(3, 2, 8, 2, (b"\0" + bytes(9)) * 2)
    yield png(3, 2, 16, 6, (b"\1" + bytes(24)) * 2)
    yield png(9, 2, 1, 3, (b"\2" + bytes(2)) * 2, extra=chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\x80\0"))
    yield png(4, 4, 8, 0, b"\0\0" * 30, interlaced=1, extra=chunk(b"gAMA", bytes(4)) + chunk(b"acTL", bytes(8)))
    yield png(60_000, 60_000, 8, 2, b"\0")
    yield png(200, 200, 8, 0, bytes(201 * 200))
    yield bmp(2, 2, 24, bytes(16))
    yield bmp(2, -2, 32, bytes(16), 3)
    yield bmp(4, 2, 8, bytes([2, 1, 0, 1, 4, 0]), 1)
    yield bmp(60_000, 60_000, 24, bytes(24))
    yield b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\2\3\x84\x51\0;"
    yield b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<I", 13) + bytes.fromhex("2f00000010071011118888fe0700")
    yield b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes.fromhex("100000000f00000f0000") + b"ALPH" + bytes(4)
    yield b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes.fromhex("300100 9d012a 1000 1000".replace(" ", ""))
    # EXIF with an orientation, before a frame of 8 x 8.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    yield b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + bytes.fromhex("ffc0000b080008000801011100ffd9")
    for file in sorted((HERE / "../examples").glob("*.[pj][np]g")):
        data = file.read_bytes()
        if len(data) < 50_000:
            yield data
            yield data[: len(data) // 2]


def bodies():
    url = "data:image/png;base64," + base64.b64encode(next(pictures())).decode()
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}]
    chat = {"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]}
    yield chat
    yield {**chat, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3, "stop": ["a", "b"]}
    yield {**chat, "temperature": 1.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "seed": -1}
    yield {**chat, "n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "user": {"a": [1]}}
    schema = {"type": "object", "properties": {"d": {"type": "integer"}}, "required": ["d"]}
    function = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema, "strict": True}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"d": 1}'}}
    called = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "r"}]
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ["none", "auto", "required", named]:
        yield {**chat, "messages": chat["messages"] + called, "tools": [function], "tool_choice": choice, "parallel_tool_calls": False}
    yield {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}}
    yield {**chat, "structured_outputs": {"regex": "a+"}, "n": 2, "priority": -1, "logprobs": True, "top_logprobs": 3}
    yield {**chat, "structured_outputs": {"choice": ["a", "b"]}, "frequency_penalty": 1, "presence_penalty": -1, "logit_bias": {"5": 9}}
    yield {"prompt": "x", "max_tokens": 1, "echo": False, "best_of": 1, "suffix": ""}
    yield {"prompt": [1, 2, 3], "stop": "x"}
    yield {"prompt": ["x"]}
    yield [[[[[[{}]]]]]]


def write(target, inputs):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(inputs):
        (folder / f"seed-{i:02}").write_bytes(data)


write("picture", pictures())
write("body", (json.dumps(body).encode() for body in bodies()))
