# needs: openai==3.57.0
"""test/e2e drives most of what this client can; here is what stands beside it, and each kind of answer once."""
import io
import json
import time

import openai
from pydantic import BaseModel

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCRIPT_URL, SUNNY, WEATHER, check, run, say

script = openai.OpenAI(base_url=SCRIPT_URL + "/v1", max_retries=0)
model = openai.OpenAI(base_url=MODEL_URL + "/v1", max_retries=0)


class Place(BaseModel):
    name: str
    near: "list[Place] | None" = None


class Weather(BaseModel):
    city: str
    days: int


def user(text):
    return [{"role": "user", "content": text}]


@check
def chat():
    m = script.chat.completions.create(model=NAME, messages=user(say("Hello.")))
    assert m.choices[0].message.content == "Hello." and m._request_id


@check
def stream():
    with script.chat.completions.stream(model=NAME, messages=user(say("Hello there."))) as s:
        assert s.get_final_completion().choices[0].message.content == "Hello there."


@check
def tools():
    messages = user(say(PARIS))
    m = script.chat.completions.create(model=NAME, messages=messages, tools=[WEATHER]).choices[0].message
    assert json.loads(m.tool_calls[0].function.arguments) == {"city": "Paris", "days": 2}
    messages += [m, {"role": "tool", "tool_call_id": m.tool_calls[0].id, "content": SUNNY}]
    assert script.chat.completions.create(model=NAME, messages=messages, tools=[WEATHER]).choices[0].message.content == "Sunny it is."


@check
def parse():
    text = '{"name": "Rome", "near": [{"name": "Ostia", "near": null}]}'
    m = script.chat.completions.parse(model=NAME, messages=user(say(text)), response_format=Place).choices[0].message
    assert m.parsed == Place(name="Rome", near=[Place(name="Ostia")])
    tool = openai.pydantic_function_tool(Weather, name="get_weather")
    m = script.chat.completions.parse(model=NAME, messages=user(say(PARIS)), tools=[tool]).choices[0].message
    assert m.tool_calls[0].function.parsed_arguments == Weather(city="Paris", days=2)


@check
def responses():
    r = script.responses.create(model=NAME, input=say("Hello."))
    assert r.output_text == "Hello." and r.id.startswith("resp_")
    assert script.responses.retrieve(r.id).output_text == "Hello."
    again = script.responses.create(model=NAME, input=say("More."), previous_response_id=r.id)
    assert again.output_text == "More." and again.previous_response_id == r.id
    script.responses.delete(r.id)
    assert script.responses.parse(model=NAME, input=say(ROME), text_format=Weather, store=False).output_parsed == Weather(city="Rome", days=3)
    with script.responses.stream(model=NAME, input=say("Hello there."), store=False) as s:
        kinds = [e.type for e in s]
        assert s.get_final_response().output_text == "Hello there." and kinds[0] == "response.created" and kinds[-1] == "response.completed"


@check
def embeddings():
    r = model.embeddings.create(model=ENCODER, input=["one", "two words"])
    assert len(r.data) == 2 and len(r.data[0].embedding) == 384


@check
def files_and_vector_stores():
    f = model.files.create(file=("door.txt", io.BytesIO(b"The office in Lisbon has the door code 4711. " * 4)), purpose="assistants")
    store = model.vector_stores.create(name="doors", file_ids=[f.id])
    while model.vector_stores.retrieve(store.id).status != "completed":
        time.sleep(0.05)
    assert "4711" in model.vector_stores.search(store.id, query="door code in Lisbon").data[0].content[0].text
    r = model.responses.create(model=NAME, input="What is the door code?", max_output_tokens=12, store=False, tools=[{"type": "file_search", "vector_store_ids": [store.id]}])
    assert r.output[0].type == "file_search_call" and r.output[0].status == "completed"
    model.vector_stores.delete(store.id)
    model.files.delete(f.id)


@check
async def asynchronous():
    async with openai.AsyncOpenAI(base_url=SCRIPT_URL + "/v1", max_retries=0) as c:
        parts = [p async for p in await c.chat.completions.create(model=NAME, messages=user(say("Hello there.")), stream=True)]
        assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == "Hello there."


run()
