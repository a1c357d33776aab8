# needs: ollama==0.6.3
"""test/e2e/test_ollama.py drives the rest."""
import json

import ollama

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCHEMA, SCRIPT_URL, SUNNY, WEATHER, check, run, say

client = ollama.Client(host=SCRIPT_URL)


def user(text):
    return [{"role": "user", "content": text}]


@check
def chat():
    assert client.chat(NAME, user(say("Hello."))).message.content == "Hello."


@check
async def stream():
    parts = [p.message.content async for p in await ollama.AsyncClient(host=SCRIPT_URL).chat(NAME, user(say("Hello there.")), stream=True)]
    assert "".join(parts) == "Hello there."


@check
def tools():
    messages = user(say(PARIS))
    m = client.chat(NAME, messages, tools=[WEATHER]).message
    assert m.tool_calls[0].function.arguments == {"city": "Paris", "days": 2}
    assert client.chat(NAME, [*messages, m, {"role": "tool", "tool_name": "get_weather", "content": SUNNY}], tools=[WEATHER]).message.content == "Sunny it is."


@check
def format():
    assert json.loads(client.chat(NAME, user(say(ROME)), format=SCHEMA).message.content) == {"city": "Rome", "days": 3}


@check
def embed():
    assert len(ollama.Client(host=MODEL_URL).embed(ENCODER, ["one", "two"]).embeddings) == 2


run()
