# needs: dspy==3.4.1 numpy
import dspy

from check import ENCODER, MODEL_URL, NAME, SCRIPT_URL, check, run, say

lm = dspy.LM(f"openai/{NAME}", api_base=SCRIPT_URL + "/v1", api_key="none", num_retries=0, cache=False)


@check
def plain():
    [r] = lm(say("Hello."))
    assert (r if isinstance(r, str) else r["text"]) == "Hello."


@check
def predict():
    with dspy.context(lm=lm):
        r = dspy.Predict("question -> answer")(question=say("[[ ## answer ## ]]\nRome\n\n[[ ## completed ## ]]"))
    assert r.answer == "Rome"


@check
def chain_of_thought():
    with dspy.context(lm=lm):
        r = dspy.ChainOfThought("question -> answer")(question=say("[[ ## reasoning ## ]]\nIt is.\n\n[[ ## answer ## ]]\nRome\n\n[[ ## completed ## ]]"))
    assert (r.reasoning, r.answer) == ("It is.", "Rome")


@check
def json_adapter():
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        r = dspy.Predict("question -> city: str, days: int")(question=say('{"city": "Rome", "days": 3}'))
    assert (r.city, r.days) == ("Rome", 3)


@check
def react():
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return "sunny"
    step = "[[ ## next_thought ## ]]\nDone.\n\n[[ ## next_tool_name ## ]]\nfinish\n\n[[ ## next_tool_args ## ]]\n{}\n\n[[ ## completed ## ]]"
    with dspy.context(lm=lm):
        agent = dspy.ReAct("question -> answer", tools=[get_weather], max_iters=1)
        r = agent.react(question=say(step), trajectory="")
    assert r.next_tool_name == "finish"


@check
def embedder():
    e = dspy.Embedder(f"openai/{ENCODER}", api_base=MODEL_URL + "/v1", api_key="none", caching=False)
    assert len(e(["one", "two words"])) == 2


run()
