# needs: langchain==1.5.2 langchain-openai==1.7.4 langchain-anthropic langchain-ollama langgraph==1.2.24
import asyncio

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCRIPT_URL, SUNNY, check, rest, run, say

loop = asyncio.new_event_loop()  # clients keep connections, and those belong to one loop
base = {"model": NAME, "base_url": SCRIPT_URL + "/v1", "api_key": "none", "max_retries": 0}
KINDS = {"chat": ChatOpenAI(**base), "responses": ChatOpenAI(**base, use_responses_api=True),
         "anthropic": ChatAnthropic(**{**base, "base_url": SCRIPT_URL}), "ollama": ChatOllama(model=NAME, base_url=SCRIPT_URL)}


@tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return SUNNY


class Weather(BaseModel):
    """Weather of a city."""
    city: str
    days: int


def make(kind, llm):
    def invoke():
        assert llm.invoke(say("Hello.")).text == "Hello."

    def stream():
        assert "".join(c.text for c in llm.stream(say("Hello there."))) == "Hello there."

    def tools():
        bound = llm.bind_tools([get_weather])
        messages = [HumanMessage(say(PARIS))]
        first = bound.invoke(messages)
        assert [c["args"] for c in first.tool_calls] == [{"city": "Paris", "days": 2}]
        messages += [first, ToolMessage(SUNNY, tool_call_id=first.tool_calls[0]["id"])]
        assert bound.invoke(messages).text == "Sunny it is."

    def agents():
        for make_agent in (create_agent, create_react_agent):
            r = make_agent(llm, [get_weather]).invoke({"messages": [("user", say(PARIS))]})
            assert r["messages"][-1].text == "Sunny it is."

    def structured():
        methods = {"anthropic": ["function_calling"], "ollama": ["json_schema", "json_mode"]}.get(kind, ["json_schema", "function_calling", "json_mode"])
        for method in methods:
            text = rest(ROME) if method == "function_calling" else ROME
            assert llm.with_structured_output(Weather, method=method).invoke(say(text)) == Weather(city="Rome", days=3), method

    def together():
        async def all_of():
            return await asyncio.gather(*(llm.ainvoke(say(f"Number {i}.")) for i in range(4)))
        assert [m.text for m in loop.run_until_complete(all_of())] == [f"Number {i}." for i in range(4)]

    for fn in (invoke, stream, tools, agents, structured, together):
        fn.__name__ = f"{kind}_{fn.__name__}"
        check(fn)


for kind, llm in KINDS.items():
    make(kind, llm)


@check
def completions():
    assert OpenAI(**base).invoke(say("Hello.")) == "Hello."


@check
def embeddings():
    """By default it sends ids of OpenAI's tokens: they are refused by a message that says what to set."""
    e = OpenAIEmbeddings(model=ENCODER, base_url=MODEL_URL + "/v1", api_key="none", check_embedding_ctx_length=False)
    assert len(e.embed_documents(["one", "two words"])) == 2 and len(e.embed_query("one")) == 384


run()
