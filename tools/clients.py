"""What a user of the openai package does, against the server whose log is the argument."""

import base64
import json
import sys
from typing import Literal

import openai
import pydantic

address = next(entry["address"] for entry in map(json.loads, open(sys.argv[1])) if "address" in entry)
client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="test-key", max_retries=0)

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

picture = base64.b64encode(open("examples/shapes.png", "rb").read()).decode()
messages = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}", "detail": "auto"}},
            {"type": "text", "text": "What color is the star?"},
        ],
    }
]
whole = client.chat.completions.create(model=model, messages=messages)
assert whole.choices[0].message.content == "yellow" and whole.choices[0].finish_reason == "stop", whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

chunks = list(
    client.chat.completions.create(model=model, messages=messages, stream=True, stream_options={"include_usage": True})
)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "yellow", chunks
assert chunks[-1].usage == whole.usage and not chunks[-1].choices

plain = client.completions.create(model=model, prompt="the the the the", max_tokens=4)
assert plain.object == "text_completion" and plain.usage.completion_tokens <= 4

listed = client.chat.completions.create(model=model, messages=messages, logprobs=True, top_logprobs=2).choices[0]
assert bytes(b for entry in listed.logprobs.content for b in entry.bytes) == b"yellow", listed
assert all(len(entry.top_logprobs) == 2 for entry in listed.logprobs.content), listed


class Star(pydantic.BaseModel):
    color: Literal["green", "yellow"]
    points: Literal[4, 5, 6]


parsed = client.chat.completions.parse(model=model, messages=messages, response_format=Star).choices[0].message.parsed
assert isinstance(parsed, Star), parsed
tool = openai.pydantic_function_tool(Star, name="report")
for choice in ["required", {"type": "function", "function": {"name": "report"}}]:
    asked = {"model": model, "messages": messages, "tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    with client.chat.completions.stream(**asked) as stream:
        called = stream.get_final_completion().choices[0].message
    assert isinstance(called.tool_calls[0].function.parsed_arguments, Star), called
    answer = client.chat.completions.create(**asked).choices[0].message
    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "thanks"}
    client.chat.completions.create(model=model, messages=[*messages, answer, result], max_tokens=2)


def refused(kind, param, **more):
    try:
        client.chat.completions.create(**{"model": model, "messages": messages, **more})
    except kind as e:
        assert e.param == param, e
        return
    raise AssertionError(f"{more} should be refused")


refused(openai.BadRequestError, "n", n=2)
refused(openai.BadRequestError, "top_logprobs", top_logprobs=2)
refused(openai.BadRequestError, "messages[0].content[0].image_url", messages=[
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}
])
refused(openai.NotFoundError, "model", model="gpt-4o")
try:
    openai.OpenAI(base_url=f"http://{address}/v1", api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key should be refused")
except openai.AuthenticationError:
    pass
print(f"openai {openai.__version__}: all right")
