# needs: haystack-ai==3.4.1
from haystack.components.agents import Agent
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCHEMA, SCRIPT_URL, SUNNY, check, run, say


class Weather(BaseModel):
    city: str
    days: int


base = {"api_key": Secret.from_token("none"), "api_base_url": SCRIPT_URL + "/v1", "model": NAME, "max_retries": 0}
weather = Tool(name="get_weather", description="Weather of a city.", parameters=SCHEMA, function=lambda city, days: SUNNY)


@check
def chat():
    assert OpenAIChatGenerator(**base).run([ChatMessage.from_user(say("Hello."))])["replies"][0].text == "Hello."


@check
def stream():
    parts = []
    g = OpenAIChatGenerator(**base, streaming_callback=lambda c: parts.append(c.content))
    assert g.run([ChatMessage.from_user(say("Hello there."))])["replies"][0].text == "Hello there." and "".join(parts) == "Hello there."


@check
def agent():
    r = Agent(chat_generator=OpenAIChatGenerator(**base), tools=[weather]).run(messages=[ChatMessage.from_user(say(PARIS))])
    assert r["messages"][-1].text == "Sunny it is."


@check
def structured():
    g = OpenAIChatGenerator(**base, generation_kwargs={"response_format": Weather})
    assert Weather.model_validate_json(g.run([ChatMessage.from_user(say(ROME))])["replies"][0].text) == Weather(city="Rome", days=3)


@check
def embeddings():
    e = OpenAITextEmbedder(api_key=Secret.from_token("none"), api_base_url=MODEL_URL + "/v1", model=ENCODER)
    assert len(e.run("one")["embedding"]) == 384


run()
