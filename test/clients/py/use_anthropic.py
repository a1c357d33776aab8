# needs: anthropic==2.14.0 pydantic
"""test/e2e/test_anthropic.py drives most of what this client can; here are its helpers."""
import anthropic
from anthropic import beta_tool
from pydantic import BaseModel

from check import NAME, PARIS, ROME, SCRIPT_URL, SUNNY, check, run, say

client = anthropic.Anthropic(base_url=SCRIPT_URL, api_key="none", max_retries=0)
base = {"model": NAME, "max_tokens": 80}


class Weather(BaseModel):
    city: str
    days: int


def user(text):
    return [{"role": "user", "content": text}]


@check
def messages():
    assert client.messages.create(**base, messages=user(say("Hello."))).content[0].text == "Hello."


@check
def stream():
    with client.messages.stream(**base, messages=user(say("Hello there."))) as s:
        assert "".join(s.text_stream) == "Hello there." and s.get_final_message().stop_reason == "end_turn"


@check
def tool_runner():
    @beta_tool
    def get_weather(city: str, days: int) -> str:
        """Weather of a city."""
        assert (city, days) == ("Paris", 2)
        return SUNNY
    last = client.beta.messages.tool_runner(**base, messages=user(say(PARIS)), tools=[get_weather]).until_done()
    assert last.content[0].text == "Sunny it is."


@check
def parse():
    assert client.messages.parse(**base, messages=user(say(ROME)), output_format=Weather).parsed_output == Weather(city="Rome", days=3)


@check
def count_tokens():
    assert client.messages.count_tokens(model=NAME, messages=user("Hello.")).input_tokens > 3


@check
def models():
    assert client.models.list().data[0].id == NAME and client.models.retrieve(NAME).display_name


run()
