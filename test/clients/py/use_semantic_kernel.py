# needs: semantic-kernel==1.45.0
from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (OpenAIChatCompletion, OpenAIChatPromptExecutionSettings, OpenAITextEmbedding)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function

from check import ENCODER, MODEL_URL, NAME, ROME, SCRIPT_URL, SUNNY, call, check, run, say


class Weather(BaseModel):
    city: str
    days: int


class Tools:
    @kernel_function(description="Weather of a city.")
    def get_weather(self, city: str, days: int) -> str:
        assert (city, days) == ("Paris", 2)
        return SUNNY


def service():
    return OpenAIChatCompletion(ai_model_id=NAME, async_client=AsyncOpenAI(base_url=SCRIPT_URL + "/v1", api_key="none", max_retries=0))


def history(text):
    h = ChatHistory(system_message="Be kind.")
    h.add_user_message(text)
    return h


@check
async def chat():
    assert str(await service().get_chat_message_content(history(say("Hello.")), OpenAIChatPromptExecutionSettings())) == "Hello."


@check
async def stream():
    parts = [str(p) async for p in service().get_streaming_chat_message_content(history(say("Hello there.")), OpenAIChatPromptExecutionSettings())]
    assert "".join(parts) == "Hello there."


@check
async def tools():
    kernel = Kernel()
    kernel.add_plugin(Tools(), "weather")
    settings = OpenAIChatPromptExecutionSettings(function_choice_behavior=FunctionChoiceBehavior.Auto())
    text = call("weather-get_weather", {"city": "Paris", "days": 2})
    assert str(await service().get_chat_message_content(history(say(text)), settings, kernel=kernel)) == "Sunny it is."


@check
async def structured():
    settings = OpenAIChatPromptExecutionSettings(response_format=Weather)
    r = str(await service().get_chat_message_content(history(say(ROME)), settings))
    assert Weather.model_validate_json(r) == Weather(city="Rome", days=3)


@check
async def embeddings():
    e = OpenAITextEmbedding(ai_model_id=ENCODER, async_client=AsyncOpenAI(base_url=MODEL_URL + "/v1", api_key="none"))
    assert len(await e.generate_embeddings(["one", "two words"])) == 2


run()
