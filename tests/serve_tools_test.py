"""Structured output and tools: what the grammar promises holds for a small model, too."""

import json
import re

import openai
import pytest
from served import Server, hello
from weft import MODEL

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {
    "type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"],
    "additionalProperties": False}}}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def ask(client, text, **fields):
    return client.chat.completions.create(model=MODEL, messages=hello(text)["messages"],
                                          **{"max_tokens": 80, "temperature": 0, **fields})


def join_calls(chunks):
    calls, reason = {}, None
    for chunk in chunks:
        reason = chunk.choices[0].finish_reason or reason
        for part in chunk.choices[0].delta.tool_calls or []:
            if part.index not in calls:
                assert part.id and part.function.name and part.type == "function"
                calls[part.index] = [part.function.name, ""]
            calls[part.index][1] += part.function.arguments or ""
    return [calls[i] for i in sorted(calls)], reason


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema(client, stream):
    answer = ask(client, "Describe Ann, aged 30.", stream=stream, response_format={
        "type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}})
    text = ("".join(c.choices[0].delta.content or "" for c in answer) if stream else answer.choices[0].message.content)
    person = json.loads(text)
    assert set(person) == {"name", "age"} and 0 <= person["age"] <= 150
    assert "\n" not in text


def test_json_object_regex_choice_and_grammar(client):
    try:
        value = ask(client, "Answer with JSON: a person named Ann.", response_format={"type": "json_object"},
                    max_tokens=120)
        if value.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(value.choices[0].message.content), dict)
        assert value.choices[0].message.content.startswith("{")
    except openai.BadRequestError as fault:
        raise AssertionError(fault) from fault
    text = ask(client, "A phone number?", extra_body={"guided_regex": r"\d{3}-\d{4}"}).choices[0].message.content
    assert re.fullmatch(r"\d{3}-\d{4}", text)
    text = ask(client, "Is the sky blue?", extra_body={"guided_choice": ["yes", "no", "may be"]})
    assert text.choices[0].message.content in ("yes", "no", "may be") and text.choices[0].finish_reason == "stop"
    text = ask(client, "Sum?", extra_body={"structured_outputs": {"grammar": 'start: NUM "+" NUM\nNUM: /[0-9]{1,2}/'}})
    assert re.fullmatch(r"\d{1,2}\+\d{1,2}", text.choices[0].message.content)


@pytest.mark.parametrize("fields, param", [
    ({"guided_regex": "("}, None), ({"guided_json": "{"}, None), ({"guided_grammar": "nonsense"}, None),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"), ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs")])
def test_bad_grammars_are_refused(server, fields, param):
    status, _, body = server.chat(max_tokens=5, **fields)
    assert status == 400 and body["error"]["message"], body
    if param:
        assert body["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_tool_is_called(client, stream):
    answer = ask(client, "How is the weather in Paris?", tools=[WEATHER, TIME], stream=stream,
                 tool_choice={"type": "function", "function": {"name": "get_weather"}})
    if stream:
        calls, reason = join_calls(list(answer))
    else:
        calls = [(c.function.name, c.function.arguments) for c in answer.choices[0].message.tool_calls]
        reason = answer.choices[0].finish_reason
        assert answer.choices[0].message.content is None
    assert len(calls) == 1 and calls[0][0] == "get_weather" and reason == "tool_calls"
    arguments = json.loads(calls[0][1])
    assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("C", "F")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_required(client, stream):
    answer = ask(client, "What time is it?", tools=[TIME, WEATHER], tool_choice="required", stream=stream,
                 parallel_tool_calls=False, max_tokens=200)
    if stream:
        chunks = list(answer)
        calls, reason = join_calls(chunks)
        assert not any(c.choices[0].delta.content for c in chunks)
    else:
        calls = [(c.function.name, c.function.arguments) for c in answer.choices[0].message.tool_calls]
        reason = answer.choices[0].finish_reason
    assert len(calls) == 1 and calls[0][0] in ("get_time", "get_weather") and reason == "tool_calls"
    json.loads(calls[0][1])


def test_auto_and_none_and_results(server, client):
    free = ask(client, "Hello!", tools=[WEATHER], tool_choice="none", max_tokens=10)
    assert free.choices[0].message.tool_calls is None
    assert free.usage.prompt_tokens == ask(client, "Hello!", max_tokens=1).usage.prompt_tokens
    auto = ask(client, "Hello!", tools=[WEATHER], max_tokens=10)
    assert auto.usage.prompt_tokens > free.usage.prompt_tokens + 50  # the tools stand in the prompt
    conversation = [
        *hello("How is the weather in Paris?")["messages"],
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 25 C"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=conversation, tools=[WEATHER], max_tokens=20,
                                            temperature=0)
    assert answer.choices[0].message.content
    prompt = server.post("/tokenize", {"messages": conversation, "tools": [WEATHER]})[2]["tokens"]
    text = server.post("/detokenize", {"tokens": prompt})[2]["prompt"]
    assert "get_weather" in text and '"city": "Paris"' in text.replace('":"', '": "') and "Sunny, 25 C" in text
    assert "<tool_response>" in text


def test_responses_with_a_schema(client):
    answer = client.responses.create(model=MODEL, input="Describe Ann, aged 30.", max_output_tokens=80, temperature=0,
                                     text={"format": {"type": "json_schema", "name": "person", "schema": PERSON}})
    assert set(json.loads(answer.output_text)) == {"name", "age"}


def test_the_page_is_there(server):
    status, headers, text = server.get("/")
    assert status == 200 and headers["content-type"].startswith("text/html") and "<script" in text
