# needs: autogen-agentchat==0.7.5 autogen-ext[openai]==0.7.5
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

from check import NAME, PARIS, ROME, SCRIPT_URL, SUNNY, check, run, say


class Weather(BaseModel):
    city: str
    days: int


def client():
    return OpenAIChatCompletionClient(model=NAME, base_url=SCRIPT_URL + "/v1", api_key="none", max_retries=0, model_info={
        "vision": False, "function_calling": True, "json_output": True, "family": ModelFamily.UNKNOWN, "structured_output": True})


async def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return SUNNY


@check
async def chat():
    assert (await client().create([UserMessage(content=say("Hello."), source="me")])).content == "Hello."


@check
async def stream():
    *_, last = [p async for p in client().create_stream([UserMessage(content=say("Hello there."), source="me")])]
    assert last.content == "Hello there."


@check
async def agent():
    r = await AssistantAgent("helper", model_client=client(), tools=[get_weather], reflect_on_tool_use=True).run(task=say(PARIS))
    assert r.messages[-1].content == "Sunny it is."


@check
async def json_output():
    r = await client().create([UserMessage(content=say('{"a": 1}'), source="me")], json_output=True)
    assert r.content == '{"a": 1}'
    r = await client().create([UserMessage(content=say(ROME), source="me")], json_output=Weather)
    assert Weather.model_validate_json(r.content) == Weather(city="Rome", days=3)


run()
