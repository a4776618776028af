"""The OpenAI API over the real model, through OpenAI's own client."""

import json

import openai
import pytest
from served import Server, events, hello
from weft import MODEL, generate

QUESTION = hello("What is gravity?")["messages"]


@pytest.fixture(scope="module")
def server():
    with Server("--tp", 2) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def ask(client, **fields):
    fields = {"messages": QUESTION, "max_tokens": 24, "temperature": 0, **fields}
    return client.chat.completions.create(model=MODEL, **fields)


def test_an_answer_is_that_of_the_model_itself(client):
    answer = ask(client)
    choice = answer.choices[0]
    alone = generate("--tp", 2, "--max-tokens", 24, "What is gravity?")
    assert choice.message.content == alone["text"]
    assert choice.message.role == "assistant" and choice.finish_reason == "length"
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    assert answer.usage.prompt_tokens == alone["prompt_tokens"]
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == alone["prompt_tokens"] + 24


def test_a_stream_has_the_same_text_role_first_and_usage_last(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert len(chunks) > 15  # it streams


def test_a_stream_ends_with_done_and_without_usage_unless_asked(server):
    status, headers, text = server.request(
        "POST", "/v1/chat/completions",
        {"model": MODEL, "messages": QUESTION, "max_tokens": 3, "stream": True})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n")
    assert all("usage" not in event for event in events(text)[:-1])


def test_the_model_stops_by_itself(client):
    answer = ask(client, messages=hello("Reply with the single word: yes")["messages"], max_tokens=200)
    assert answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in answer.choices[0].message.content


def test_max_completion_tokens_is_the_newer_name(client):
    answer = ask(client, max_tokens=None, max_completion_tokens=5)
    assert answer.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["force", ["zzz", "fundamental force"], "ndamental fo"])
def test_stop_strings_are_cut_and_never_shown_in_part(client, stop, stream):
    free = ask(client, max_tokens=60).choices[0].message.content
    first = min((free.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in free), default=-1)
    answer = ask(client, max_tokens=60, stop=stop, stream=stream)
    if stream:
        chunks = list(answer)
        text, reason = "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    if first < 0:
        assert text == free and reason == "length"
    else:
        assert text == free[:first] and reason == "stop"


def test_a_stop_string_inside_the_answer(client):
    free = ask(client, max_tokens=40).choices[0].message.content
    word = free.split()[5]
    answer = ask(client, max_tokens=40, stop=word)
    assert answer.choices[0].message.content == free[: free.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    kept = ask(client, max_tokens=40, stop=word, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == free[: free.index(word) + len(word)]


def test_a_choice_that_meets_its_stop_string_ends_alone(server, client):
    asked = {"n": 2, "temperature": 1, "seed": 7, "max_tokens": 200, "extra_body": {"ignore_eos": True}}
    free = [choice.message.content for choice in ask(client, **asked).choices]
    word = next(word for word in free[0].split()[3:40] if word not in free[1])
    before = server.stats()["generation_tokens"]
    answer = ask(client, stop=word, **asked)
    drawn = server.stats()["generation_tokens"] - before
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]
    assert [choice.message.content for choice in answer.choices] == [free[0][: free[0].index(word)], free[1]]
    assert drawn - answer.usage.completion_tokens < 50  # the server finds it, some steps after the engine drew it


def test_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=3, max_tokens=6)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    for token in content:
        assert bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 3
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert token.logprob == tops[0] <= 0  # greedy: the likeliest one
    chunks = list(ask(client, logprobs=True, max_tokens=6, stream=True))
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in content]
    assert ask(client, max_tokens=2).choices[0].logprobs is None


def test_n_choices_differ_and_share_the_prompt(client):
    answer = ask(client, n=3, temperature=1, seed=7, max_tokens=12)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage.completion_tokens <= 36
    assert answer.usage.prompt_tokens == ask(client, max_tokens=1).usage.prompt_tokens
    chunks = list(ask(client, n=3, temperature=1, seed=7, max_tokens=12, stream=True))
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_seeds(client):
    def sample(seed):
        return ask(client, temperature=1, seed=seed, max_tokens=12).choices[0].message.content

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_logit_bias_and_min_tokens_and_stop_ids(server, client):
    first = ask(client, max_tokens=1, logprobs=True, extra_body={"return_token_ids": True})
    token = first.choices[0].model_extra["token_ids"][0]
    banned = ask(client, max_tokens=1, logit_bias={str(token): -100})
    assert banned.choices[0].message.content != first.choices[0].message.content
    stopped = ask(client, extra_body={"stop_token_ids": [token]})
    assert stopped.choices[0].message.content == "" and stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].model_extra["stop_reason"] == token
    longer = ask(client, messages=hello("Reply with the single word: yes")["messages"], max_tokens=40,
                 extra_body={"min_tokens": 40})
    assert longer.usage.completion_tokens == 40 and longer.choices[0].finish_reason == "length"
    ignoring = ask(client, messages=hello("Reply with the single word: yes")["messages"], max_tokens=50,
                   extra_body={"ignore_eos": True})
    assert ignoring.usage.completion_tokens == 50


def test_the_prefix_cache_shows_in_the_usage(client):
    text = "The quick brown fox jumps over the lazy dog. " * 30
    ask(client, messages=hello(text)["messages"], max_tokens=1)
    again = ask(client, messages=hello(text)["messages"], max_tokens=1)
    assert again.usage.prompt_tokens_details.cached_tokens >= 0.9 * again.usage.prompt_tokens


def test_content_parts_and_developer_messages(client):
    plain = ask(client, messages=[{"role": "system", "content": "Be brief."}, *QUESTION])
    parts = ask(client, messages=[{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                                  {"role": "user", "content": [{"type": "text", "text": "What is gravity?"}]}])
    assert parts.choices[0].message.content == plain.choices[0].message.content


def test_completions(client):
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0)
    assert answer.object == "text_completion" and "Paris" in answer.choices[0].text
    streamed = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0,
                                         stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    default = client.completions.create(model=MODEL, prompt="One, two,", temperature=0)
    assert default.usage.completion_tokens == 16


def test_completions_in_batches_and_from_token_ids(server, client):
    prompts = ["The capital of France is", "Water is made of"]
    one_by_one = [client.completions.create(model=MODEL, prompt=p, max_tokens=5, temperature=0).choices[0].text
                  for p in prompts]
    ids = [server.post("/tokenize", {"prompt": p})[2]["tokens"] for p in prompts]
    for batch in (prompts, ids):
        answer = client.completions.create(model=MODEL, prompt=batch, max_tokens=5, temperature=0)
        assert [choice.text for choice in answer.choices] == one_by_one
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert client.completions.create(model=MODEL, prompt=ids[0], max_tokens=5,
                                     temperature=0).choices[0].text == one_by_one[0]
    twice = client.completions.create(model=MODEL, prompt=prompts, max_tokens=5, n=2, seed=3)
    assert [choice.index for choice in twice.choices] == [0, 1, 2, 3]


def test_echo_with_logprobs(client):
    prompt = "The capital of France is"
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=2, temperature=0, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith(prompt)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True):
        assert choice.text[offset: offset + len(token)] == token
    assert all(len(top) in (2, 3) for top in choice.logprobs.top_logprobs[1:])
    only = client.completions.create(model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=0)
    assert only.choices[0].text == prompt and only.usage.completion_tokens == 0
    n = len(only.choices[0].logprobs.tokens)
    assert only.choices[0].logprobs.token_logprobs[1:] == choice.logprobs.token_logprobs[1:n]


def test_models(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == [MODEL] and listed[0].owned_by == "weft"
    assert client.models.retrieve(MODEL).model_extra["max_model_len"] == 8192
    with pytest.raises(openai.NotFoundError) as fault:
        client.models.retrieve("gpt-4")
    assert fault.value.code == "model_not_found"


def test_tokenize_and_back(server):
    status, _, answer = server.post("/tokenize", {"model": MODEL, "prompt": "Hello world", "return_token_strs": True})
    assert status == 200 and answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 8192
    assert server.post("/detokenize", {"model": MODEL, "tokens": answer["tokens"]})[2] == {"prompt": "Hello world"}
    chat = server.post("/tokenize", {"model": MODEL, "messages": QUESTION})[2]
    assert server.chat(messages=QUESTION, max_tokens=1)[2]["usage"]["prompt_tokens"] == chat["count"]
    text = server.post("/detokenize", {"tokens": chat["tokens"]})[2]["prompt"]
    assert text.endswith("<|im_start|>assistant\n")
    assert server.post("/tokenize", {})[0] == 400


def test_responses(client):
    answer = client.responses.create(model=MODEL, input="What is gravity?", max_output_tokens=12, temperature=0)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 12 and answer.output[0].role == "assistant"
    chat = ask(client, max_tokens=12).choices[0].message.content
    assert answer.output_text == chat
    stream = list(client.responses.create(model=MODEL, input=[{"role": "user", "content": "What is gravity?"}],
                                          max_output_tokens=12, temperature=0, stream=True))
    assert [event.sequence_number for event in stream] == list(range(len(stream)))
    assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == chat
    assert stream[0].type == "response.created" and stream[-1].type == "response.incomplete"
    assert stream[-1].response.output_text == chat
    done = client.responses.create(model=MODEL, instructions="Reply with one word.", input="Say yes.",
                                   max_output_tokens=200, temperature=0)
    assert done.status == "completed"


def test_operations(server):
    assert json.loads(server.get("/health")[2]) == {"status": "ok"}
    assert server.get("/live")[0] == 200
    assert set(json.loads(server.get("/version")[2])) == {"version"}
    status, headers, text = server.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    label = f'{{model_name="{MODEL}"}}'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert float(values[f"weft_{name}{label}"]) == 0
    for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total",
                 "generation_tokens_total", "time_to_first_token_seconds_count", "inter_token_latency_seconds_count",
                 "e2e_request_latency_seconds_count", "request_queue_time_seconds_count"):
        assert float(values[f"weft_{name}{label}"]) > 0
    assert any(key.startswith("weft_request_success_total{finished_reason=\"length\"") for key in values)
    stats = server.stats()
    assert stats["ready"] and stats["rank_pids"] == server.pids and stats["kv_pages_used"] == 0
