"""Reference marks: what an answer repeats leaves as marks, and whoever expands them has the answer, byte for byte."""
import json
import shutil
import subprocess
import sys

import pytest

from conftest import MODEL, ROOT, Server, tool

sys.path.insert(0, str(ROOT / "clients"))
from references import References, expand_readable  # noqa: E402

CASES = 10000
TEXT = " ".join((ROOT / "test/data/licences.txt").read_text().split()[:90])
EXPAND = """
const {References, expandReadable} = require(process.argv[2]);
const lines = require('fs').readFileSync(process.argv[3], 'utf8').split('\\n').filter(Boolean);
for (const line of lines) {
  const c = JSON.parse(line), stream = new References(c.sources);
  const said = [c.deltas.map((d) => stream.add(d)).join(''), new References(c.sources).add(c), expandReadable(c.sources, c.readable)];
  if (said.some((s) => s !== c.answer)) throw new Error(line);
}
console.log(lines.length);
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    path = tmp_path_factory.mktemp("references") / "cases"
    with open(path, "w") as out:
        subprocess.run([tool("refer"), str(MODEL), str(CASES)], stdout=out, check=True)
    return path


def test_python_expands(cases):
    n_mark = n_readable = n = 0
    for line in cases.read_text().split("\n")[:-1]:
        c = json.loads(line)
        stream = References(c["sources"])
        assert "".join(stream.add(d) for d in c["deltas"]) == c["answer"], line
        assert References([{"role": "user", "content": s} for s in c["sources"]]).add(c) == c["answer"], line
        assert expand_readable(c["sources"], c["readable"]) == c["answer"], line
        n += 1
        n_mark += len(c["references"])
        n_readable += "[§] repeated:" in c["readable"]
    assert n == CASES and n_mark > CASES and n_readable > CASES / 4
    with pytest.raises(ValueError, match="other bytes"):
        References(["abcdefgh"]).add({"references": [{"source": 0, "offset": 0, "length": 8, "crc32": 1}]})


def test_javascript_expands(cases, tmp_path):
    node = shutil.which("node")
    assert node, "node is needed"
    (tmp_path / "expand.js").write_text(EXPAND)
    done = subprocess.run([node, str(tmp_path / "expand.js"), str(ROOT / "web/references.js"), str(cases)], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) == CASES, done.stderr[-2000:]


def messages(said):
    """What is to be said is a text part, which is no source."""
    return [{"role": "system", "content": TEXT}, {"role": "user", "content": [{"type": "text", "text": f"[[say]]{said}[[/say]]"}]}]


def stream(s, path="/v1/chat/completions", **body):
    """Deltas, the receipt, and the bytes of the whole stream."""
    deltas, receipt, n = [], None, 0
    with s.http.stream("POST", path, json={"temperature": 0, "max_tokens": 400, "stream": True, "stream_options": {"include_usage": True}, **body}) as r:
        assert r.status_code == 200, r.read()
        for line in r.iter_lines():
            n += len(line) + 1
            if line.startswith("data: {"):
                j = json.loads(line[6:])
                assert "error" not in j, j
                deltas += [c.get("delta", c) for c in j["choices"]]
                receipt = j["usage"]["sparing"] if j.get("usage") else receipt
    return deltas, receipt, n


@pytest.fixture(scope="module")
def scripted(quick_model):
    s = Server("--path", "full", "--model", quick_model, binary=tool("script"))
    yield s
    assert s.stop() == 0


SAID = f"It says: {TEXT[40:300]}. And again [§]: {TEXT[40:300]}! The end."


def test_marks_in_streams_and_whole_answers(scripted):
    s, asked = scripted, messages(SAID)
    plain, receipt, wide = stream(s, messages=asked)
    assert "".join(d.get("content", "") for d in plain) == SAID and "references" not in receipt
    got, receipt, narrow = stream(s, messages=asked, sparing={"references": True})
    answer = References(asked)
    assert "".join(answer.add(d) for d in got) == SAID
    marks = [r for d in got for r in d.get("references", ())]
    assert marks and all(r["length"] <= 256 and "at" not in r for r in marks)
    saved = receipt["references"]
    assert saved["marks"] == len(marks) and saved["bytes"] == sum(r["length"] for r in marks) >= 500
    assert saved["tokens"] > 100 and 0 < saved["mark_bytes"] < saved["bytes"] and saved["guessed"] <= saved["tokens"]
    assert narrow < wide / 2, "a mark stands for many chunks"
    whole = s.http.post("/v1/chat/completions", json={"messages": asked, "temperature": 0, "max_tokens": 400, "sparing": {"references": True}}).json()
    message = whole["choices"][0]["message"]
    assert References(asked).add(message) == SAID and len(message["references"]) in (2, 3)
    assert len(message["content"]) < len(SAID) / 2 and whole["usage"]["sparing"]["references"]["marks"] == len(message["references"])
    drafted = s.http.post("/v1/chat/completions", json={"messages": asked, "temperature": 0, "max_tokens": 400,
                                                        "sparing": {"references": True, "draft": 6, "draft_fixed": True, "drafters": ["lookup"]}}).json()
    assert drafted["choices"][0]["message"] == message, "guessing changes nothing"
    assert drafted["usage"]["sparing"]["references"]["guessed"] > 40


def test_readable_marks(scripted):
    asked = messages(SAID)
    for streams in (False, True):
        if streams:
            text = "".join(d.get("content", "") for d in stream(scripted, messages=asked, sparing={"references": "readable"})[0])
        else:
            text = scripted.http.post("/v1/chat/completions", json={"messages": asked, "temperature": 0, "max_tokens": 400,
                                                                    "sparing": {"references": "readable"}}).json()["choices"][0]["message"]["content"]
        assert text.count("[§1]") == 3 and "[§§]:" in text and expand_readable(asked, text) == SAID


def test_prompts_are_sources(make_server):
    """The whole model goes on with a text that it has read twice."""
    server = make_server("-m", str(MODEL))
    for streams in (False, True):
        body = {"prompt": f"{TEXT}\n\n{TEXT}\n\n{TEXT[:200]}", "max_tokens": 60, "temperature": 0, "sparing": {"references": True}}
        plain = server.http.post("/v1/completions", json={**body, "sparing": {}}).json()["choices"][0]["text"]
        got = stream(server, "/v1/completions", **body)[0] if streams else server.http.post("/v1/completions", json=body).json()["choices"]
        answer = References([body["prompt"]])
        assert "".join(answer.add(c) for c in got) == plain
        assert any(c.get("references") for c in got)


def test_calls_have_no_marks(scripted):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}}]
    quote = TEXT[:160].replace('"', "")
    said = f'{quote}\n<tool_call>\n{json.dumps({"name": "look", "arguments": {"text": quote}})}\n</tool_call>'
    asked = [{"role": "user", "content": quote}, *messages(said)[1:]]
    deltas, receipt, _ = stream(scripted, messages=asked, tools=tools, sparing={"references": True})
    answer = References(asked)
    assert "".join(answer.add(d) for d in deltas).strip() == quote and receipt["references"]["bytes"] <= len(quote)
    args = "".join(c["function"].get("arguments", "") for d in deltas for c in d.get("tool_calls", ()))
    assert json.loads(args) == {"text": quote}


def test_costs_name_each_token(scripted, server):
    asked = messages(SAID)
    deltas, receipt, _ = stream(scripted, messages=asked, sparing={"costs": True, "draft": 6, "draft_fixed": True, "drafters": ["lookup"]})
    for d in deltas:
        assert sum(n for n, _ in d.get("costs", ())) == (len(d["content"].encode()) if d.get("costs") else 0)
    words = [w for d in deltas for _, w in d.get("costs", ())]
    assert words.count("guessed") == receipt["decode"]["accepted"] > 40 and set(words) == {"guessed", "computed"}
    j = server.chat(max_tokens=20, sparing={"costs": True}, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "a long constant"}}}).json()
    costs = j["choices"][0]["message"]["costs"]
    assert "forced" in [w for _, w in costs] and sum(n for n, _ in costs) == len(j["choices"][0]["message"]["content"])


@pytest.mark.parametrize("body,word", [({"sparing": {"references": "yes"}}, "readable"), ({"sparing": {"references": 1}}, "readable"), ({"sparing": {"costs": 1}}, "costs"),
                                       ({"sparing": {"references": True}, "logprobs": True}, "log-probabilities")])
def test_requests_are_checked(server, body, word):
    e = server.chat(max_tokens=1, **body)
    assert e.status_code == 400 and word in e.json()["error"]["message"], e.text
    t = server.http.post("/inference/v1/generate", json={"token_ids": [1, 2], "sampling_params": {"max_tokens": 1, "sparing": {"references": True}}})
    assert t.status_code == 400 and "references" in t.text
