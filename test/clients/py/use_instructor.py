# needs: instructor==1.17.0
import instructor
import openai
from pydantic import BaseModel

from check import NAME, ROME, SCRIPT_URL, call, check, rest, run, say


class Weather(BaseModel):
    city: str
    days: int


CALL = call("Weather", {"city": "Rome", "days": 3})
FENCED = f"```json\n{ROME}\n```"
SAYS = {"TOOLS": rest(ROME), "TOOLS_STRICT": rest(ROME), "PARALLEL_TOOLS": CALL, "JSON": ROME, "JSON_SCHEMA": ROME, "MD_JSON": ROME + "\n```", "JSON_O1": ROME,
        "RESPONSES_TOOLS": rest(ROME)}


def make(mode):
    def fn():
        client = instructor.from_openai(openai.OpenAI(base_url=SCRIPT_URL + "/v1", api_key="none", max_retries=0), mode=getattr(instructor.Mode, mode))
        model = Weather
        if mode == "PARALLEL_TOOLS":
            from collections.abc import Iterable
            model = Iterable[Weather]
        r = client.chat.completions.create(model=NAME, response_model=model, max_retries=1, messages=[{"role": "user", "content": say(SAYS[mode])}])
        r = list(r)[0] if mode == "PARALLEL_TOOLS" else r
        assert (r.city, r.days) == ("Rome", 3)
    fn.__name__ = mode
    check(fn)


for mode in SAYS:
    if hasattr(instructor.Mode, mode):
        make(mode)


@check
def partial():
    client = instructor.from_openai(openai.OpenAI(base_url=SCRIPT_URL + "/v1", api_key="none", max_retries=0))
    *_, last = client.chat.completions.create_partial(model=NAME, response_model=Weather, messages=[{"role": "user", "content": say(rest(ROME))}])
    assert (last.city, last.days) == ("Rome", 3)


run()
