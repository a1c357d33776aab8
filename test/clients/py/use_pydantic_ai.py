# needs: pydantic-ai-slim[openai,anthropic]==2.68.0
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from check import NAME, PARIS, ROME, SCRIPT_URL, SUNNY, check, rest, run, say

openai = OpenAIProvider(base_url=SCRIPT_URL + "/v1", api_key="none")
MODELS = {"chat": OpenAIChatModel(NAME, provider=openai), "responses": OpenAIResponsesModel(NAME, provider=openai),
          "anthropic": AnthropicModel(NAME, provider=AnthropicProvider(base_url=SCRIPT_URL, api_key="none"))}


class Weather(BaseModel):
    city: str
    days: int


def make(kind, model):
    def text():
        assert Agent(model).run_sync(say("Hello.")).output == "Hello."

    async def stream():
        async with Agent(model).run_stream(say("Hello there.")) as r:
            assert await r.get_output() == "Hello there."

    def tools():
        agent = Agent(model)

        @agent.tool_plain
        def get_weather(city: str, days: int) -> str:
            """Weather of a city."""
            assert (city, days) == ("Paris", 2)
            return SUNNY
        assert agent.run_sync(say(PARIS)).output == "Sunny it is."

    def outputs():
        kinds = [("prompted", PromptedOutput(Weather), ROME), ("tool", ToolOutput(Weather, name="weather"), None)]
        kinds += [("native", NativeOutput(Weather), ROME)] if kind != "anthropic" else []
        for name, output, text in kinds:
            r = Agent(model, output_type=output, retries=0).run_sync(say(text or rest_of(kind)))
            assert isinstance(r.output, Weather), name
            assert r.output == Weather(city="Rome", days=3), name

    for fn in (text, stream, tools, outputs):
        fn.__name__ = f"{kind}_{fn.__name__}"
        check(fn)


def rest_of(kind):
    """tool_choice is required, not named: the name is still to be said."""
    return 'weather", "arguments": ' + rest(ROME)


for kind, model in MODELS.items():
    make(kind, model)

run()
