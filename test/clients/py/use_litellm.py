# needs: litellm==1.110.2
import json

import litellm
from pydantic import BaseModel

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCRIPT_URL, SUNNY, WEATHER, check, run, say

litellm.suppress_debug_info = True
BASES = {"openai": "/v1", "hosted_vllm": "/v1", "lm_studio": "/v1", "ollama_chat": "", "anthropic": ""}


def ask(kind, text, **kw):
    messages = kw.pop("messages", None) or [{"role": "user", "content": text}]
    return litellm.completion(model=f"{kind}/{NAME}", api_base=SCRIPT_URL + BASES[kind], api_key="none", messages=messages, num_retries=0, **kw)


class Weather(BaseModel):
    city: str
    days: int


def make(kind):
    def chat():
        assert ask(kind, say("Hello.")).choices[0].message.content == "Hello."

    def stream():
        assert "".join(c.choices[0].delta.content or "" for c in ask(kind, say("Hello there."), stream=True)) == "Hello there."

    def tools():
        messages = [{"role": "user", "content": say(PARIS)}]
        m = ask(kind, "", messages=messages, tools=[WEATHER]).choices[0].message
        [t] = m.tool_calls
        assert json.loads(t.function.arguments) == {"city": "Paris", "days": 2}
        messages += [m.model_dump(), {"role": "tool", "tool_call_id": t.id, "name": t.function.name, "content": SUNNY}]
        assert ask(kind, "", messages=messages, tools=[WEATHER]).choices[0].message.content == "Sunny it is."

    for fn in (chat, stream, tools):
        fn.__name__ = f"{kind}_{fn.__name__}"
        check(fn)


for kind in BASES:
    make(kind)


@check
def schema():
    for kind in ("openai", "hosted_vllm", "ollama_chat"):
        r = ask(kind, say(ROME), response_format=Weather)
        assert Weather.model_validate_json(r.choices[0].message.content) == Weather(city="Rome", days=3), kind


@check
def responses():
    r = litellm.responses(model=f"openai/{NAME}", api_base=SCRIPT_URL + "/v1", api_key="none", input=say("Hello."))
    assert r.output[0].content[0].text == "Hello."


@check
async def anthropic_messages():
    for kind in ("openai", "hosted_vllm", "anthropic"):
        r = await litellm.anthropic.messages.acreate(model=f"{kind}/{NAME}", api_base=SCRIPT_URL + BASES[kind], api_key="none", max_tokens=20,
                                                     messages=[{"role": "user", "content": say("Hello.")}])
        assert r["content"][0]["text"] == "Hello.", kind


@check
def embeddings():
    r = litellm.embedding(model=f"openai/{ENCODER}", api_base=MODEL_URL + "/v1", api_key="none", input=["one", "two words"])
    assert len(r.data) == 2


@check
def text_completion():
    r = litellm.text_completion(model=f"text-completion-openai/{NAME}", api_base=SCRIPT_URL + "/v1", api_key="none", prompt=say("Hello."))
    assert r.choices[0].text == "Hello."


run()
