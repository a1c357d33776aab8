"""What the clients of Python share: where the servers are, what makes the scripted model speak, and how checks are run.

A runner decorates its checks with @check, and ends with run()."""
import asyncio
import inspect
import json
import os
import sys
import traceback

MODEL_URL = os.environ["SPARING_MODEL_URL"]    # SmolLM2, with files and conversations
SCRIPT_URL = os.environ["SPARING_SCRIPT_URL"]  # says what stands between [[say]] and [[/say]]
NAME = os.environ["SPARING_MODEL"]
ENCODER = os.environ["SPARING_ENCODER"]

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": SCHEMA}}
ROME = '{"city": "Rome", "days": 3}'


def say(text, before=""):
    return f"{before}[[say]]{text}[[/say]]"


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def rest(arguments):
    """What is left to say of a call of one tool that must be called: the prompt begins it."""
    return f"{arguments}}}\n</tool_call>"


PARIS = call("get_weather", {"city": "Paris", "days": 2})
SUNNY = say("Sunny it is.", "sunny ")

_checks = []


def check(fn):
    _checks.append(fn)
    return fn


def run(end=None):
    """Runs the checks, then end(), and leaves."""
    failed = 0
    for fn in _checks:
        name = fn.__name__
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            if inspect.iscoroutinefunction(fn):
                asyncio.run(fn())
            else:
                fn()
            print(f"ok {name}", flush=True)
        except Exception as e:  # noqa: BLE001  a client raises what it likes
            failed += 1
            print(f"FAIL {name}: {type(e).__name__}: {' '.join(str(e).split())[:300]}", flush=True)
            traceback.print_exc()
    if end:
        end()
    sys.stderr.flush()
    os._exit(1 if failed else 0)  # clients leave threads behind
