# needs: litellm[proxy]==1.100.0 openai==2.54.0 anthropic==2.14.0
"""litellm's proxy before this server: what its clients ask in OpenAI's and Anthropic's protocols comes here through its own translations."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import anthropic
import openai

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCHEMA, SCRIPT_URL, SUNNY, WEATHER, check, run, say

PATIENCE = 300  # seconds until the proxy answers; only a hang takes them
MODELS = {"script": f"openai/{NAME}", "vllm": f"hosted_vllm/{NAME}", "messages": f"anthropic/{NAME}"}


def config():
    params = {"script": SCRIPT_URL + "/v1", "vllm": SCRIPT_URL + "/v1", "messages": SCRIPT_URL}
    rows = [{"model_name": n, "litellm_params": {"model": m, "api_base": params[n], "api_key": "none"}} for n, m in MODELS.items()]
    rows.append({"model_name": "encoder", "litellm_params": {"model": f"openai/{ENCODER}", "api_base": MODEL_URL + "/v1", "api_key": "none"}})
    return {"model_list": rows, "litellm_settings": {"num_retries": 0, "telemetry": False}}


def start(folder):
    """The proxy's process and address. YAML holds JSON."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "config.yaml").write_text(json.dumps(config()))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    p = subprocess.Popen([pathlib.Path(sys.executable).parent / "litellm", "--config", folder / "config.yaml", "--host", "127.0.0.1", "--port", str(port)], stdout=sys.stderr, stderr=sys.stderr, env=env)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and p.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=10).read()
            return p, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.5)
    p.kill()
    raise SystemExit(f"FAIL proxy: it ended with {p.wait()} before it answered")


folder = tempfile.TemporaryDirectory()
proxy, url = start(pathlib.Path(folder.name))
client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


def chat(model, messages, **kw):
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return client.chat.completions.create(model=model, messages=messages, **kw)


def make(model):
    def plain():
        assert chat(model, say("Hello.")).choices[0].message.content == "Hello."

    def stream():
        assert "".join(c.choices[0].delta.content or "" for c in chat(model, say("Hello there."), stream=True) if c.choices) == "Hello there."

    def tools():
        messages = [{"role": "user", "content": say(PARIS)}]
        m = chat(model, messages, tools=[WEATHER]).choices[0].message
        [t] = m.tool_calls
        assert json.loads(t.function.arguments) == {"city": "Paris", "days": 2}
        messages += [m, {"role": "tool", "tool_call_id": t.id, "content": SUNNY}]
        assert chat(model, messages, tools=[WEATHER]).choices[0].message.content == "Sunny it is."

    for fn in (plain, stream, tools):
        fn.__name__ = f"{model}_{fn.__name__}"
        check(fn)


for name in MODELS:
    make(name)


@check
def schema():
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    for model in ("script", "vllm"):
        assert json.loads(chat(model, say(ROME), response_format=form).choices[0].message.content) == json.loads(ROME), model


@check
def tools_or_schema():
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    for text, called in ((ROME, False), (PARIS, True)):
        m = chat("script", say(text), tools=[WEATHER], response_format=form).choices[0].message
        assert bool(m.tool_calls) == called and (called or m.content == ROME)


@check
def responses():
    assert client.responses.create(model="script", input=say("Hello.")).output_text == "Hello."
    got = [e.delta for e in client.responses.create(model="script", input=say("Hello there."), stream=True) if e.type == "response.output_text.delta"]
    assert "".join(got) == "Hello there."


@check
def messages():
    c = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    for model in MODELS:
        r = c.messages.create(model=model, max_tokens=40, messages=[{"role": "user", "content": say("Hello.")}])
        assert "".join(b.text for b in r.content if b.type == "text") == "Hello.", model


@check
def completions():
    assert client.completions.create(model="script", prompt=say("Hello.")).choices[0].text == "Hello."


@check
def embeddings():
    r = client.embeddings.create(model="encoder", input=["one", "two words"], encoding_format="float")
    assert len(r.data) == 2 and len(r.data[0].embedding) == 384


@check
def a_refusal_passes():
    """A 400 of this server's is a 400 of the proxy's, and puts nothing out of service."""
    for _ in range(4):
        try:
            chat("script", say("x"), response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"not": {}}}})
        except openai.BadRequestError as e:
            assert "not" in str(e)
        else:
            raise AssertionError("it was not refused")
    assert chat("script", say("Hello.")).choices[0].message.content == "Hello."


def stop():
    proxy.kill()
    proxy.wait()
    folder.cleanup()


run(stop)
