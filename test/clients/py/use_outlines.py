# needs: outlines==1.3.3 openai
import typing

import openai
import outlines
from pydantic import BaseModel

from check import NAME, ROME, SCRIPT_URL, check, run, say

client = openai.OpenAI(base_url=SCRIPT_URL + "/v1", api_key="none", max_retries=0)


class Weather(BaseModel):
    city: str
    days: int


@check
def from_openai():
    m = outlines.from_openai(client, NAME)
    assert m(say("Hello.")) == "Hello."
    assert Weather.model_validate_json(m(say(ROME), Weather)) == Weather(city="Rome", days=3)


@check
def from_vllm():
    m = outlines.from_vllm(client, NAME)
    assert Weather.model_validate_json(m(say(ROME), Weather)) == Weather(city="Rome", days=3)
    assert m(say("Paris"), typing.Literal["Paris", "Rome"]) == "Paris"
    assert m(say("4711"), outlines.regex("[0-9]{4}")) == "4711"


run()
