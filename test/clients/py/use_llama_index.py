# needs: llama-index-core==0.14.25 llama-index-llms-openai-like==0.8.1 llama-index-embeddings-openai-like==0.4.0
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from check import ENCODER, MODEL_URL, NAME, PARIS, ROME, SCRIPT_URL, SUNNY, check, rest, run, say


def make(**kw):
    return OpenAILike(model=NAME, api_base=SCRIPT_URL + "/v1", api_key="none", is_chat_model=True, is_function_calling_model=True, max_retries=0, **kw)


class Weather(BaseModel):
    city: str
    days: int


def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return SUNNY


@check
def complete():
    assert make().complete(say("Hello.")).text == "Hello."


@check
def chat():
    assert make().chat([ChatMessage(content=say("Hello."))]).message.content == "Hello."


@check
def stream():
    *_, last = make().stream_chat([ChatMessage(content=say("Hello there."))])
    assert last.message.content == "Hello there."


@check
def tools():
    r = make().predict_and_call([FunctionTool.from_defaults(get_weather)], user_msg=say(PARIS))
    assert r.sources[0].raw_input["kwargs"] == {"city": "Paris", "days": 2}


@check
async def agent():
    r = await FunctionAgent(tools=[get_weather], llm=make()).run(say(PARIS))
    assert str(r) == "Sunny it is."


@check
async def react():
    r = await ReActAgent(tools=[get_weather], llm=make()).run(say("Thought: I can answer.\nAnswer: Sunny it is."))
    assert str(r) == "Sunny it is."


@check
def structured():
    llm = make(should_use_structured_outputs=True)
    assert llm.as_structured_llm(Weather).complete(say(ROME)).raw == Weather(city="Rome", days=3)
    by_call = make().as_structured_llm(Weather).complete(say('Weather", "arguments": ' + rest(ROME)))
    assert by_call.raw == Weather(city="Rome", days=3)


@check
def embeddings():
    e = OpenAILikeEmbedding(model_name=ENCODER, api_base=MODEL_URL + "/v1", api_key="none")
    assert len(e.get_text_embedding_batch(["one", "two words"])) == 2


run()
