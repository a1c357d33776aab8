# needs: mem0ai==2.2.1 qdrant-client
import os
import tempfile

from mem0 import Memory

from check import ENCODER, MODEL_URL, NAME, SCRIPT_URL, check, run, say

os.environ["MEM0_TELEMETRY"] = "False"


def memory(d):
    return Memory.from_config({
        "llm": {"provider": "openai", "config": {"model": NAME, "openai_base_url": SCRIPT_URL + "/v1", "api_key": "none"}},
        "embedder": {"provider": "openai", "config": {"model": ENCODER, "openai_base_url": MODEL_URL + "/v1", "api_key": "none", "embedding_dims": 384}},
        "vector_store": {"provider": "qdrant", "config": {"path": d + "/q", "embedding_model_dims": 384, "on_disk": False}}, "history_db_path": d + "/h.db"})


@check
def plain():
    with tempfile.TemporaryDirectory() as d:
        m = memory(d)
        m.add("The user lives in Lisbon.", user_id="a", infer=False)
        assert "Lisbon" in m.search("Where does the user live?", filters={"user_id": "a"})["results"][0]["memory"]


@check
def inferred():
    """A fact that the model draws out of a message is a memory."""
    with tempfile.TemporaryDirectory() as d:
        m = memory(d)
        r = m.add([{"role": "user", "content": say('{"facts": ["Lives in Lisbon"], "memory": [{"id": "0", "text": "Lives in Lisbon", "event": "ADD"}]}')}], user_id="a")
        assert "results" in r


run()
