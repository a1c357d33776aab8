"""OpenAI's /v1/responses, driven by OpenAI's own client: whole answers and streams, conversations, items that come back."""
import json
import typing

import openai
import pydantic
import pytest

from conftest import MODEL, PATIENCE, ROOT, Server, tool, wait_until, write_keys
from ggufs import Gguf, one_layer


@pytest.fixture(scope="module")
def talk(new_db):
    s = Server("--history", new_db())
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A server whose model says what its prompt tells it (test/tool/script.c)."""
    s = Server("--path", "full", "--history", str(tmp_path_factory.mktemp("scripted") / "h.db"), binary=tool("script"))
    yield s
    assert s.stop() == 0


def client(s):
    return openai.OpenAI(base_url=s.url + "/v1", api_key="none", timeout=PATIENCE, max_retries=0)


def create(s, said="Say hello.", **kw):
    return client(s).responses.create(**{"model": MODEL.stem, "input": said, "max_output_tokens": 12, "temperature": 0, **kw})


def post(s, **kw):
    return s.http.post("/v1/responses", json={"input": "Say hello.", "max_output_tokens": 4, "temperature": 0, **kw})


def ignored(r):
    return r.usage.sparing.get("ignored", [])


def dump(r):
    return [item.model_dump(exclude_none=True) for item in r.output]


# --- answers ---------------------------------------------------------------------------------------


def test_an_answer_is_what_chat_says(server):
    chat = server.chat("Say hello.", max_tokens=12).json()
    r = create(server)
    assert r.output_text == chat["choices"][0]["message"]["content"] and r.object == "response" and r.id.startswith("resp_")
    assert r.usage.input_tokens == chat["usage"]["prompt_tokens"] and r.usage.output_tokens == 12 and r.usage.total_tokens == r.usage.input_tokens + 12
    assert r.status == "incomplete" and r.incomplete_details.reason == "max_output_tokens" and r.error is None
    assert r.output[0].type == "message" and r.output[0].role == "assistant" and r.output[0].status == "incomplete"
    assert r.max_output_tokens == 12 and r.temperature == 0 and r.tools == [] and r.tool_choice == "auto" and r.store is False


def test_instructions_are_the_system_message(server):
    r = create(server, instructions="You are a parrot.")
    chat = server.http.post("/v1/chat/completions", json={"messages": [{"role": "system", "content": "You are a parrot."}, {"role": "user", "content": "Say hello."}],
                                                          "max_tokens": 12, "temperature": 0}).json()
    assert r.output_text == chat["choices"][0]["message"]["content"] and r.instructions == "You are a parrot."


def test_forms_of_input_mean_the_same(server):
    want = create(server).output_text
    for form in ([{"role": "user", "content": "Say hello."}],
                 [{"type": "message", "role": "user", "id": "msg_1", "content": [{"type": "input_text", "text": "Say "}, {"type": "input_text", "text": "hello."}]}]):
        assert create(server, form).output_text == want
    as_developer = create(server, [{"role": "developer", "content": "Be a cat."}, {"role": "user", "content": "Hi"}]).output_text
    assert as_developer == create(server, [{"role": "system", "content": "Be a cat."}, {"role": "user", "content": "Hi"}]).output_text


def test_an_answer_that_ends_by_itself_is_completed(scripted):
    r = create(scripted, "[[say]]yes[[/say]]", max_output_tokens=400)
    assert r.status == "completed" and r.incomplete_details is None and r.output[0].status == "completed"


def test_tokens_are_counted_before_they_are_computed(server):
    counted = client(server).responses.input_tokens.count(model=MODEL.stem, input="Say hello.", instructions="Be brief.")
    assert counted.object == "response.input_tokens" and counted.input_tokens == create(server, instructions="Be brief.").usage.input_tokens
    r = server.http.post("/v1/responses/input_tokens", json={"input": []})
    assert r.status_code == 400 and r.json()["error"]["param"] == "input"


# --- streams ---------------------------------------------------------------------------------------


def events(s, **kw):
    got = list(create(s, stream=True, **kw))
    assert [e.sequence_number for e in got] == list(range(len(got)))
    return got


def kinds(got):
    """Names of events without the prefix, equal neighbours once."""
    names = [e.type.removeprefix("response.") for e in got]
    return [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]


def test_a_stream_has_the_events_in_order(server):
    want = create(server)
    got = events(server)
    assert kinds(got) == ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
                          "output_item.done", "incomplete"]
    assert "".join(e.delta for e in got if e.type == "response.output_text.delta") == want.output_text
    last = got[-1].response
    assert last.output_text == want.output_text and last.status == "incomplete" and last.usage.output_tokens == 12
    assert got[0].response.status == "in_progress" and got[0].response.output == [] and got[0].response.id == last.id
    item = next(e.item for e in got if e.type == "response.output_item.done")
    assert item == last.output[0] and {e.item_id for e in got if hasattr(e, "item_id")} == {item.id}


def test_the_clients_own_stream_helper_agrees(scripted):
    with client(scripted).responses.stream(model=MODEL.stem, input="[[say]]yes[[/say]]", max_output_tokens=400, temperature=0) as stream:
        kinds_seen = {e.type for e in stream}
        final = stream.get_final_response()
    assert "response.completed" in kinds_seen and final.output_text == create(scripted, "[[say]]yes[[/say]]", max_output_tokens=400).output_text == "yes"


def test_a_client_that_leaves_ends_its_answer(server):
    with server.http.stream("POST", "/v1/responses", json={"input": "Tell a long story.", "stream": True, "max_output_tokens": 3000}) as r:
        next(r.iter_lines())
    assert server.wait_metric("sparing_requests_running", 0)


# --- conversations ---------------------------------------------------------------------------------


def test_previous_response_id_goes_on(talk):
    first = create(talk, "My name is Ada. Remember it.")
    assert first.store is True and first.conversation.id
    second = create(talk, "What is my name?", previous_response_id=first.id, instructions="Be kind.")
    whole = create(talk, [{"role": "user", "content": "My name is Ada. Remember it."}, *dump(first), {"role": "user", "content": "What is my name?"}],
                   instructions="Be kind.", store=False)
    assert second.output_text == whole.output_text and second.previous_response_id == first.id and second.usage.input_tokens == whole.usage.input_tokens
    third = create(talk, "And now?", previous_response_id=second.id)  # instructions are of one response alone
    items = talk.http.get(f"/v1/conversations/{third.conversation.id}/items").json()["data"]
    assert [i["role"] for i in items] == ["user", "assistant"] * 3


def test_store_false_keeps_nothing(talk):
    r = create(talk, store=False)
    assert r.store is False
    with pytest.raises(openai.NotFoundError):
        create(talk, previous_response_id=r.id)


def test_a_conversation_by_its_id(talk):
    conv = talk.http.post("/v1/conversations", json={}).json()["id"]
    assert create(talk, conversation=conv).conversation.id == conv
    assert create(talk, conversation={"id": conv}, stream=False).conversation.id == conv
    assert len(talk.http.get(f"/v1/conversations/{conv}/items").json()["data"]) == 4


# --- the answer's form -----------------------------------------------------------------------------


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=0, le=9)
    colour: typing.Literal["red", "green"]


def test_parse_gives_objects(server):
    r = client(server).responses.parse(model=MODEL.stem, input="A point, please.", text_format=Point, temperature=0, max_output_tokens=60)
    assert isinstance(r.output_parsed, Point) and 0 <= r.output_parsed.x <= 9 and r.status == "completed"
    with client(server).responses.stream(model=MODEL.stem, input="A point, please.", text_format=Point, temperature=0, max_output_tokens=60) as stream:
        assert [e.type for e in stream][-1] == "response.completed" and stream.get_final_response().output_parsed == r.output_parsed


def test_json_objects_and_schemas_that_are_not_enforced(server):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "not": {"type": "string"}}
    r = create(server, text={"format": {"type": "json_schema", "name": "s", "schema": schema}}, max_output_tokens=40)
    assert json.loads(r.output_text)["a"] in (1, 2) and r.usage.sparing["not_enforced"] == ["not"]
    r = create(server, "Reply in JSON.", text={"format": {"type": "json_object"}}, max_output_tokens=12)
    assert r.output_text.startswith("{")


# --- what comes back -------------------------------------------------------------------------------


def test_output_items_are_input(server):
    first = create(server)
    again = create(server, [{"role": "user", "content": "Say hello."}, *dump(first), {"role": "user", "content": "Again."}])
    chat = server.http.post("/v1/chat/completions", json={"max_tokens": 12, "temperature": 0, "messages": [
        {"role": "user", "content": "Say hello."}, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "Again."}]}).json()
    assert again.output_text == chat["choices"][0]["message"]["content"] and ignored(again) == ["input[].id", "input[].status"]


def test_items_of_a_turn_are_one_message(server):
    """Calls and results are read, in every form, and reach the prompt."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{\"a\": 1}", "status": "completed"}
    texts = [create(server, [{"role": "user", "content": "Add."}, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}, call,
                             {"type": "function_call_output", "call_id": "c1", "output": output}]) for output in ("17", [{"type": "input_text", "text": "17"}])]
    assert texts[0].output_text == texts[1].output_text and texts[0].usage.input_tokens == texts[1].usage.input_tokens
    assert ignored(texts[0]) == ["input[].id", "input[].encrypted_content", "input[].status"]


# --- parameters ------------------------------------------------------------------------------------

HARMLESS = {"metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k", "client_metadata": {"x": "y"}, "truncation": "auto", "user": "u",
            "reasoning": {"effort": None, "summary": "auto"}, "text": {"format": {"type": "text"}, "verbosity": "low"}, "include": ["reasoning.encrypted_content"]}


def test_harmless_parameters_are_taken_and_named(server):
    r = post(server, **HARMLESS).json()
    assert sorted(r["usage"]["sparing"]["ignored"]) == ["client_metadata", "include.reasoning.encrypted_content", "prompt_cache_key", "reasoning.summary",
                                                        "service_tier", "text.verbosity", "truncation", "user"]
    assert r["metadata"] == {"a": "b"} and r["text"]["verbosity"] == "low"


def test_unknown_tools_are_skipped_and_named(server):
    r = post(server, tools=[{"type": "namespace", "tools": [{"type": "function", "name": "f"}]}, {"type": "web_search"}, {"type": "custom", "name": "x"}, {"type": "local_shell"}])
    assert r.json()["usage"]["sparing"]["ignored"] == ["tools[].namespace", "tools[].web_search", "tools[].custom", "tools[].local_shell"]


@pytest.mark.parametrize("body, param, says", [
    ({"input": None}, "input", "input is missing"),
    ({"input": []}, "input", "1 to"),
    ({"input": [7]}, "input", "input[0] is not an object"),
    ({"input": [{"type": "nothing"}]}, "input", "input[0].type: nothing"),
    ({"input": [{"role": "king", "content": "x"}]}, "input", "input[0].role"),
    ({"input": [{"role": "user", "content": "x", "nope": 1}]}, "input", "input[0]: nope"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input", "input[0].content[0]: images cannot be read"),
    ({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": {}}]}, "input", "input[0]: a call needs"),
    ({"input": [{"type": "function_call_output", "output": "5"}]}, "input", "input[0].call_id"),
    ({"input": "word " * 20000}, "input", "tokens"),
    ({"no_such": 1}, "no_such", "no_such is not a parameter"),
    ({"background": True}, "background", "while its client waits"),
    ({"max_output_tokens": 0}, "max_output_tokens", "must be from 1"),
    ({"tools": {}}, "tools", "tools must be a list"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["x"]}]}, "tools", "--knowledge"),
    ({"tool_choice": "maybe"}, "tool_choice", "tool_choice must be"),
    ({"previous_response_id": "resp_x"}, "previous_response_id", "--history"),
    ({"conversation": 5}, "conversation", "conversation must be"),
    ({"text": {"no_such": 1}}, "text", "text: no_such"),
    ({"text": {"format": {"type": "yaml"}}}, "text", "text.format: its type must be"),
    ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text", "schema is missing"),
    ({"text": {"format": {"type": "json_schema", "name": "s", "strict": True, "schema": {"not": {}}}}}, "text", "not"),
    ({"metadata": {"a": 1}}, "metadata", "metadata.a"),
    ({"model": "other"}, "model", "does not exist"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_named(server, body, param, says, stream):
    r = post(server, **body, stream=stream)
    assert r.status_code in (400, 404), r.text
    assert r.json()["error"]["param"] == param and says in r.json()["error"]["message"], r.text


# --- kept responses --------------------------------------------------------------------------------


def test_a_kept_response_is_there_to_be_read_and_deleted(talk):
    c = client(talk)
    first = create(talk, [{"role": "user", "content": "Name a colour."}, {"type": "function_call", "call_id": "c1", "name": "pick", "arguments": "{\"n\": 1}"},
                          {"type": "function_call_output", "call_id": "c1", "output": "blue"}], instructions="Be brief.")
    got = c.responses.retrieve(first.id)
    assert got.output_text == first.output_text and got.id == first.id and got.status == first.status and got.output[0].id == first.output[0].id
    listed = c.responses.input_items.list(first.id, order="asc").data
    assert [i.type for i in listed] == ["message", "function_call", "function_call_output"]
    assert listed[0].content[0].text == "Name a colour." and listed[1].arguments == "{\"n\": 1}" and listed[2].output == "blue"
    assert [i.id for i in c.responses.input_items.list(first.id, limit=2)] == [i.id for i in reversed(listed)]  # latest first; the client turns pages
    second = create(talk, "Another.", previous_response_id=first.id)
    whole = create(talk, [i.model_dump(exclude_none=True) for i in listed] + dump(first) + [{"role": "user", "content": "Another."}], store=False)
    assert second.output_text == whole.output_text and second.usage.input_tokens == whole.usage.input_tokens  # calls are kept too
    conv = f"/v1/conversations/{first.conversation.id}"
    assert [i["type"] for i in talk.http.get(conv + "/items").json()["data"]] == ["message", "function_call", "function_call_output", "message", "message", "message"]
    c.responses.delete(first.id)
    assert talk.http.get(f"/v1/responses/{first.id}").status_code == 404 and talk.http.get(conv).status_code == 200  # the second one stands on it
    c.responses.delete(second.id)
    assert talk.http.get(conv).status_code == 404


def test_a_kept_response_is_what_was_answered(scripted):
    """Everything: what was asked, the items with their ids, the usage. A stream's last event holds the same."""
    c = client(scripted)
    first = act(scripted, say("I look. " + PARIS), store=True, instructions="Be brief.", metadata={"a": "b"})
    assert c.responses.retrieve(first.id).model_dump() == first.model_dump() and first.usage.output_tokens and first.metadata == {"a": "b"}
    last = list(act(scripted, say("Hello."), store=True, stream=True, previous_response_id=first.id))[-1].response
    got = c.responses.retrieve(last.id)
    assert got.model_dump() == last.model_dump() and got.previous_response_id == first.id and got.output_text == "Hello."
    chat = scripted.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": say("Kept.")}], "store": True, "max_tokens": 8}).json()
    assert c.responses.retrieve(chat["id"]).output_text == "Kept."  # by the messages that are kept


def thinking_model(path, n_ctx=None):
    """One layer of SmolLM2 with two tokens for what it thinks, and a template that speaks of them."""
    g = Gguf(one_layer(MODEL, path, n_ctx))
    tokens = g.keys["tokenizer.ggml.tokens"][1][1]
    for old, new in (("<repo_name>", "<think>"), ("<file_sep>", "</think>")):
        tokens[tokens.index(old)] = new
    kind, template = g.keys["tokenizer.chat_template"]
    thought = "('<think>\\n' + message['reasoning_content'] + '\\n</think>\\n' if message['reasoning_content'] else '')"
    g.keys["tokenizer.chat_template"] = (kind, template.replace("+ message['content']", f"+ {thought} + message['content']"))
    return g.write(path)


def test_what_is_thought_is_an_item(tmp_path):
    s = Server("-m", str(thinking_model(tmp_path / MODEL.name)), "--path", "full", binary=tool("script"))
    try:
        r = create(s, say("<think>\nHm, so it is.\n</think>\nIt is."), max_output_tokens=60, store=False)
        assert [i.type for i in r.output] == ["reasoning", "message"] and r.output[0].content[0].text.strip() == "Hm, so it is." and r.output_text.strip() == "It is."
        assert r.usage.output_tokens_details.reasoning_tokens > 3 and r.output[0].id.startswith("rs_")
        got = list(create(s, say("<think>\nHm, so it is.\n</think>\nIt is."), max_output_tokens=60, store=False, stream=True))
        thought = "".join(e.delta for e in got if e.type == "response.reasoning_text.delta")
        assert thought.strip() == "Hm, so it is." and [i.type for i in got[-1].response.output] == ["reasoning", "message"]
        again = create(s, [{"role": "user", "content": "Is it?"}, *dump(r), {"role": "user", "content": say("Yes.")}], max_output_tokens=60, store=False)
        assert again.output_text.strip() == "Yes."  # and it is taken back
    finally:
        assert s.stop() == 0


def test_thinking_is_ended_from_outside(tmp_path):
    """The script would think for 6,000 tokens; told to answer, the model closes its thoughts at once."""
    control = "/v1/chat/completions/control"
    s = Server("-m", str(thinking_model(tmp_path / MODEL.name, 16384)), "--path", "full", binary=tool("script"))
    try:
        body = {"messages": [{"role": "user", "content": say("<think>" + " la" * 6000 + "</think>Never.")}], "max_tokens": 7000, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True}, "sparing": {"think_tokens": 6500}}
        usage, told, after = None, None, 0
        with s.http.stream("POST", "/v1/chat/completions", json=body) as r:
            for line in r.iter_lines():
                if not line.startswith("data: {"):
                    continue
                j = json.loads(line[6:])
                usage = j.get("usage") or usage
                delta = j["choices"][0]["delta"] if j["choices"] else {}
                after += bool(told and delta.get("content"))
                if after > 20:
                    break  # it answers, whatever it says
                if delta.get("reasoning_content") and not told:
                    told = s.http.post(control, json={"id": j["id"], "action": "reasoning_end"})
                    assert told.status_code == 200 and told.json() == {"id": j["id"], "action": "reasoning_end", "success": True}
        assert after > 20
        for body, status, says in (({"id": "chatcmpl-none", "action": "reasoning_end"}, 404, "chatcmpl-none"), ({"id": "x", "action": "stop"}, 400, "action"),
                                   ({"action": "reasoning_end"}, 400, "id"), ({"id": "x", "action": "reasoning_end", "more": 1}, 400, "more")):
            r = s.http.post(control, json=body)
            assert r.status_code == status and says in r.json()["error"]["message"], r.text
    finally:
        assert s.stop() == 0


def test_thoughts_are_ended_in_every_protocol_and_by_their_tenant_alone(tmp_path):
    """The id is the one that the stream says; to another tenant it is none."""
    keys = write_keys(tmp_path / "keys", {"ann": "ann", "bob": "bob"})
    ann, bob = ({"Authorization": f"Bearer {k}"} for k in ("ann", "bob"))
    text = say("<think>" + " la" * 6000 + "</think>Never.")
    s = Server("-m", str(thinking_model(tmp_path / MODEL.name, 16384)), "--path", "full", "--think-tokens", "6500", "--keys", str(keys), binary=tool("script"))
    kinds = {  # the id, whether the model thinks, whether it answers
        "/v1/responses": ({"input": text, "max_output_tokens": 7000}, lambda j: j.get("response", {}).get("id"),
                          lambda j: j["type"] == "response.reasoning_text.delta", lambda j: j["type"] == "response.output_text.delta"),
        "/v1/messages": ({"messages": [{"role": "user", "content": text}], "max_tokens": 7000, "thinking": {"type": "enabled", "budget_tokens": 6500}},
                         lambda j: j.get("message", {}).get("id"), lambda j: j.get("delta", {}).get("type") == "thinking_delta",
                         lambda j: j.get("delta", {}).get("type") == "text_delta")}
    try:
        for path, (body, id_of, thinks, answers) in kinds.items():
            name, told, after = None, False, 0
            with s.http.stream("POST", path, json={**body, "temperature": 0, "stream": True}, headers=ann) as r:
                assert r.status_code == 200, r.read()
                for line in r.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    j = json.loads(line[6:])
                    name = name or id_of(j)
                    if thinks(j) and not told:
                        end = lambda who: s.http.post("/v1/chat/completions/control", json={"id": name, "action": "reasoning_end"}, headers=who)  # noqa: E731
                        assert end(bob).status_code == 404 and end(ann).status_code == 200, path
                        told = True
                    after += answers(j)
                    if after > 5:
                        break
            assert told and after > 5, path
    finally:
        assert s.stop() == 0


def test_a_search_is_an_item(tmp_path):
    s = Server("--path", "full", "--knowledge", str(tmp_path / "k.db"), binary=tool("script"))
    try:
        c = client(s)
        f = c.files.create(file=("door.txt", b"The office in Lisbon has the door code 4711. " * 4), purpose="assistants")
        store = c.vector_stores.create(name="doors")
        assert c.vector_stores.files.create_and_poll(f.id, vector_store_id=store.id).status == "completed"
        asked = {"tools": [{"type": "file_search", "vector_store_ids": [store.id]}], "max_output_tokens": 40, "store": False}
        text = "What is the door code in Lisbon? " + say("The door code is 4711.")
        bare, full = create(s, text, **asked), create(s, text, **asked, include=["file_search_call.results"])
        for r in (bare, full):
            assert [i.type for i in r.output] == ["file_search_call", "message"] and r.output[0].status == "completed" and r.output[0].queries
        assert bare.output[0].results is None and "4711" in full.output[0].results[0].text and full.output[0].results[0].file_id == f.id
        got = list(create(s, text, **asked, stream=True))
        added = [e.item.type for e in got if e.type == "response.output_item.added"]
        assert added == ["file_search_call", "message"] and got[-1].response.output[0].type == "file_search_call"
        again = create(s, [{"role": "user", "content": "The code?"}, *dump(bare), {"role": "user", "content": say("Again.")}], store=False, max_output_tokens=20)
        assert again.output_text == "Again."
    finally:
        assert s.stop() == 0


def test_a_conversation_outlives_its_responses(talk):
    conv = talk.http.post("/v1/conversations", json={}).json()["id"]
    client(talk).responses.delete(create(talk, conversation=conv).id)
    assert len(talk.http.get(f"/v1/conversations/{conv}/items").json()["data"]) == 2


@pytest.mark.parametrize("method, path, status, says", [
    ("GET", "resp_none", 404, "no stored response"), ("DELETE", "resp_none", 404, "no stored response"), ("POST", "resp_none/cancel", 404, "no stored response"),
    ("GET", "resp_none/other", 404, "not possible at this path"), ("GET", "resp_none/input_items?limit=0", 400, "limit"), ("GET", "x" * 90, 404, "not possible")])
def test_bad_requests_for_kept_responses_are_named(talk, method, path, status, says):
    r = talk.http.request(method, "/v1/responses/" + path)
    assert r.status_code == status and says in r.json()["error"]["message"], r.text


def test_only_the_background_is_cancelled(talk):
    kept = create(talk)
    r = talk.http.post(f"/v1/responses/{kept.id}/cancel")
    assert r.status_code == 400 and "background" in r.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError, match="background"):
        client(talk).responses.cancel(kept.id)
    again = client(talk).responses.retrieve(kept.id)  # it is as it was
    assert again.status == kept.status and again.output_text == kept.output_text
    with pytest.raises(openai.NotFoundError):
        client(talk).responses.cancel("resp_none")
    assert create(talk, previous_response_id=kept.id).previous_response_id == kept.id


def test_a_client_that_leaves_cancels_its_response(talk):
    """A stream that is closed ends its answer: nobody computes what nobody reads, and nothing of it is kept."""
    before = talk.metric('sparing_requests_total{result="cancelled"}')
    with talk.http.stream("POST", "/v1/responses", json={"input": "Tell me a story.", "max_output_tokens": 2000, "stream": True, "text": {"format": {
        "type": "json_schema", "name": "x", "strict": True, "schema": {"type": "string", "minLength": 9000}}}}) as r:
        lines = (json.loads(line[6:]) for line in r.iter_lines() if line.startswith("data: {"))
        name = next(e["response"]["id"] for e in lines if e["type"] == "response.created")
        next(e for e in lines if e["type"] == "response.output_text.delta")
    wait_until(lambda: talk.metric('sparing_requests_total{result="cancelled"}') == before + 1, "it was cancelled")
    assert talk.http.get(f"/v1/responses/{name}").status_code == 404


def test_without_history_nothing_is_kept(server):
    r = server.http.get("/v1/responses/resp_1")
    assert r.status_code == 404 and "--history" in r.json()["error"]["message"]


# --- functions -------------------------------------------------------------------------------------

WEATHER = {"type": "function", "name": "get_weather", "description": "Weather of a city.", "strict": True, "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}}, "required": ["city", "days"], "additionalProperties": False}}
CLOCK = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


def say(text, before=""):
    return f"{before}[[say]]{text}[[/say]]"


def act(s, said, **kw):
    return create(s, said, **{"tools": [WEATHER, CLOCK], "max_output_tokens": 80, "store": False, **kw})


def calls(r):
    return [(i.name, json.loads(i.arguments)) for i in r.output if i.type == "function_call"]


def test_a_tool_loop(scripted):
    asked = {"role": "user", "content": say("I look. " + PARIS + "\n" + TIME, "Weather? ")}
    first = act(scripted, [asked])
    assert [i.type for i in first.output] == ["message", "function_call", "function_call"] and first.output_text.strip() == "I look." and first.status == "completed"
    assert calls(first) == [("get_weather", {"city": "Paris", "days": 2}), ("get_time", {})] and len({i.call_id for i in first.output[1:]}) == 2
    results = [{"type": "function_call_output", "call_id": first.output[1].call_id, "output": "sunny"},
               {"type": "function_call_output", "call_id": first.output[2].call_id, "output": [{"type": "input_text", "text": say("It is sunny, and noon.")}]}]
    second = act(scripted, [asked, *dump(first), *results])
    assert second.output_text == "It is sunny, and noon." and calls(second) == []
    kept = act(scripted, [asked], store=True)
    results = [{**result, "call_id": item.call_id} for result, item in zip(results, kept.output[1:])]
    third = act(scripted, results, previous_response_id=kept.id, store=True)
    assert third.output_text == second.output_text and third.usage.input_tokens == second.usage.input_tokens


def test_a_form_or_calls(scripted):
    form = {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
    assert act(scripted, say('{"a": 3}'), text=form).output_text == '{"a": 3}'
    for r in (act(scripted, say(PARIS), text=form), list(act(scripted, say(PARIS), text=form, stream=True))[-1].response):
        assert [i.type for i in r.output] == ["function_call"] and json.loads(r.output[0].arguments)["city"] == "Paris"


def test_a_streamed_call(scripted):
    got = list(act(scripted, say("I look. " + PARIS), stream=True))
    assert [e.sequence_number for e in got] == list(range(len(got)))
    assert kinds(got)[:2] == ["created", "in_progress"] and kinds(got)[-6:] == ["output_item.done", "output_item.added", "function_call_arguments.delta",
                                                                            "function_call_arguments.done", "output_item.done", "completed"]
    arguments = "".join(e.delta for e in got if e.type == "response.function_call_arguments.delta")
    done = next(e for e in got if e.type == "response.function_call_arguments.done")
    assert json.loads(arguments) == {"city": "Paris", "days": 2} and done.arguments == arguments and done.name == "get_weather"
    last = got[-1].response
    assert [i.type for i in last.output] == ["message", "function_call"] and last.output[1].arguments == arguments and done.item_id == last.output[1].id
    assert [e.output_index for e in got if e.type == "response.output_item.added"] == [0, 1]


def test_choices_of_tools(scripted):
    assert calls(act(scripted, say("No."), tool_choice={"type": "function", "name": "get_weather"}))[0][0] == "get_weather"
    assert len(calls(act(scripted, say("No."), tool_choice="required", parallel_tool_calls=False))) == 1
    assert calls(act(scripted, say(PARIS), tool_choice="none")) == []
    assert len(calls(act(scripted, say(PARIS + "\n" + TIME), parallel_tool_calls=False))) == 1
    for choice, says in (({"type": "function", "name": "nope"}, "nope"), ({"type": "function"}, "name is missing"), ("perhaps", "tool_choice must be")):
        r = post(scripted, tools=[WEATHER], tool_choice=choice)
        assert r.status_code == 400 and says in r.json()["error"]["message"] and r.json()["error"]["param"] == "tool_choice"


# --- an agent's requests ---------------------------------------------------------------------------


def agent(items, **kw):
    """The shape and the size of what a coding agent sends, with words of our own: about 10,000 tokens before the first question."""
    text = (ROOT / "test/data/licences.txt").read_text()
    functions = [{"type": "function", "name": f"tool_{i}", "description": text[600 * i:600 * i + 500], "strict": i % 2 == 0, "parameters": {
        "type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}, "description": text[9000 + 100 * i:9080 + 100 * i]},
                                         "mode": {"type": "string", "enum": ["read", "write"]}}, "required": ["command", "mode"], "additionalProperties": False}} for i in range(7)]
    other = [{"type": "namespace", "name": "more", "tools": [{"type": "function", "name": "inner", "parameters": {"type": "object"}}]}, {"type": "web_search"}]
    front = [{"type": "message", "role": "developer", "id": "msg_d", "content": [{"type": "input_text", "text": text[10000:22000]}]},
             {"type": "message", "role": "user", "id": "msg_e", "content": [{"type": "input_text", "text": text[22000:38000]}]}]
    return {"model": MODEL.stem, "instructions": text[38000:46000], "input": front + items, "tools": functions + other, "tool_choice": "auto", "parallel_tool_calls": True,
            "reasoning": {"summary": "auto"}, "store": False, "stream": True, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "5f0c",
            "extra_body": {"client_metadata": {"session": "1"}}, "max_output_tokens": 80, "temperature": 0, **kw}


def test_an_agents_second_turn_is_cached(tmp_path):
    s = Server("-m", str(one_layer(MODEL, tmp_path / MODEL.name, 16384)), "--path", "full", binary=tool("script"))
    try:
        asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say(
            '<tool_call>\n{"name": "tool_2", "arguments": {"command": ["ls", "-l"], "mode": "read"}}\n</tool_call>', "List the files. ")}]}
        first = list(client(s).responses.create(**agent([asked])))[-1].response
        assert first.status == "completed" and calls(first) == [("tool_2", {"command": ["ls", "-l"], "mode": "read"})] and first.usage.input_tokens > 9000
        result = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": say("There are three files.", "a b c ")}
        second = list(client(s).responses.create(**agent([asked, *dump(first), result])))[-1].response
        assert second.output_text == "There are three files." and second.usage.input_tokens_details.cached_tokens >= 0.95 * second.usage.input_tokens
        assert {"tools[].namespace", "tools[].web_search", "prompt_cache_key", "client_metadata"} <= set(ignored(second))
    finally:
        assert s.stop() == 0
