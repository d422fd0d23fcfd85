"""What users of the openai and langchain-openai packages do, against the server at the address that is the argument."""

import base64
import importlib.metadata
import os
import sys
from typing import Literal

import openai
import pydantic
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

base_url, key = f"{sys.argv[1]}/v1", os.environ["OSPREY_API_KEY"]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

picture = base64.b64encode(open("examples/shapes.png", "rb").read()).decode()
content = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}", "detail": "auto"}},
    {"type": "text", "text": "What color is the star?"},
]
messages = [{"role": "user", "content": content}]
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

parts = [
    {"type": "input_image", "image_url": f"data:image/png;base64,{picture}", "detail": "auto"},
    {"type": "input_text", "text": "What color is the star?"},
]
turns = [{"role": "user", "content": parts}]
response = client.responses.create(model=model, input=turns)
assert (response.output_text, response.status, response.store) == ("yellow", "completed", False), response
assert response.usage.input_tokens == whole.usage.prompt_tokens, response
# The package's own reader of streams puts the response together, and checks what it is told.
with client.responses.stream(model=model, input=turns, text_format=Star) as stream:
    kinds = [event.type for event in stream]
    parsed = stream.get_final_response()
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
assert isinstance(parsed.output_parsed, Star), parsed
# Answers can be given back as they are.
more = [*turns, *parsed.output, {"role": "user", "content": "And?"}]
client.responses.create(model=model, input=more, max_output_tokens=2)
said = client.responses.create(model=model, input=turns, max_output_tokens=1)
assert (said.status, said.incomplete_details.reason) == ("incomplete", "max_output_tokens"), said
for choice in ["required", {"type": "function", "name": "report"}]:
    asked = {"model": model, "input": turns, "tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    with client.responses.stream(**asked) as stream:
        assert "response.function_call_arguments.done" in [event.type for event in stream]
        called = stream.get_final_response().output[0]
    assert isinstance(called.parsed_arguments, Star), called
    [answer] = client.responses.parse(**asked).output
    result = {"type": "function_call_output", "call_id": answer.call_id, "output": "thanks"}
    client.responses.create(model=model, input=[*turns, answer, result], max_output_tokens=2)


def refused(kind, param, make=client.chat.completions.create, **more):
    asked = {"messages": messages} if make == client.chat.completions.create else {"input": turns}
    try:
        make(**{"model": model, **asked, **more})
    except kind as e:
        assert e.param == param, e
        return
    raise AssertionError(f"{more} should be refused")


refused(openai.BadRequestError, "temperature", temperature=-1)
refused(openai.BadRequestError, "top_logprobs", top_logprobs=2)
refused(openai.BadRequestError, "messages[0].content[0].image_url", messages=[
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}
])
refused(openai.NotFoundError, "model", model="gpt-4o")
refused(openai.BadRequestError, "previous_response_id", client.responses.create, previous_response_id=response.id)
refused(openai.BadRequestError, "max_output_tokens", client.responses.create, max_output_tokens=10**6)
try:
    openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key should be refused")
except openai.AuthenticationError:
    pass
print(f"openai {openai.__version__} for Python: all right")

chat = ChatOpenAI(model=model, base_url=base_url, api_key=key, max_retries=0, temperature=0, max_tokens=16)
said = chat.invoke([HumanMessage(content)])
assert said.content == "yellow" and said.response_metadata["finish_reason"] == "stop", said
assert said.usage_metadata["total_tokens"] == whole.usage.total_tokens, said
pieces = list(chat.stream([HumanMessage(content)], stream_usage=True))
assert "".join(piece.content for piece in pieces) == "yellow", pieces
both = chat.batch([[HumanMessage(content)], [HumanMessage("hi")]])
assert both[0].content == "yellow" and isinstance(both[1].content, str)
chat = ChatOpenAI(model=model, base_url=base_url, api_key=key, max_retries=0, temperature=0, use_responses_api=True)
said = chat.invoke([HumanMessage(content)])
assert said.text == "yellow" and said.usage_metadata["input_tokens"] == whole.usage.prompt_tokens, said
pieces = list(chat.stream([HumanMessage(content)]))
assert "".join(piece.text for piece in pieces) == "yellow", pieces
assert isinstance(chat.with_structured_output(Star).invoke([HumanMessage(content)]), Star)
print(f"langchain-openai {importlib.metadata.version('langchain-openai')}: all right")
