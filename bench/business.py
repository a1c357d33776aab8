#!/usr/bin/env python3
"""What a right answer costs at a risk desk: notices from which figures are extracted, events that are put into a class, and short reports
with figures that must stand in them. The same trace goes to three servers of the same engine and model, request by request in turn:

  plain   full path, nothing guessed ahead, each request computed whole (it begins with its own number, so that no page of an
          earlier one is known), free answers
  known   the same, but that the handbook's pages are known from the request before
  all     known prefixes, answers bound to their form, guesses, the rules of `control`, light path where intent says so; before an event that is to
          be classified stands the best of four passages, the sentences of the handbook that say what the risks are. All settings have these
          sentences in their prompts, so that nobody knows more than the others

With --peer llama.cpp's llama-server gets the same file, threads, prompts and limits in the same turns, with its own defaults (it keeps the
pages of the request before, as `known` does):

  peer        free answers
  peer forms  extraction bound to the same schema, classification to the same words

All get the desk's handbook before each request. A right answer is one that its check says is right; the checks are the same for all.
The cost is that of the receipts: the machine's time and its electricity, at the prices below; the time of a search counts as the machine's. That of llama-server is its own time for prompt
and answer (`timings`) at the same prices. So it is a figure of speed, and wants a machine that does nothing else. Seconds by the clock of
the client stand beside it.

usage: business.py [--cases N] [--rounds N] [--seed N] [--peer DIR]
  --peer DIR   llama.cpp build with bin/llama-server (see bench/run.py)"""
import argparse
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "test/e2e"), str(ROOT / "bench")]

HOUR, KWH, WATTS = 0.12, 0.30, 65
PRICES = f"currency: EUR\nmachine: {{hour: {HOUR}, kwh: {KWH}, watts: {WATTS}, rapl: none}}\n"
THREADS = str(len(os.sched_getaffinity(0)))
RISKS = {"credit": "A credit risk is that somebody who owes money does not pay. ", "market": "A market risk is that prices, rates or currencies move. ",
         "operational": "An operational risk is that people, systems or processes fail. ", "legal": "A legal risk is that a court or an authority decides against the bank. "}
HANDBOOK = ("You work at the risk desk of a bank. Be exact: figures, names and dates are copied as they stand, and nothing is added. "
            "Amounts are written without separators, as in 250000. Dates are written as in 14 March 2027. "
            + "".join(RISKS.values()) +
            "A report has at most two sentences, names the counterparty, the amount and the date, and says nothing else. ")
NAMES = ["Aldern Shipping", "Bortel Foods", "Cavrin Energy", "Dastow Mills", "Elmark Rail", "Fennick Paper", "Gorland Mining", "Havel Optics", "Istria Motors", "Jarrow Textiles"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
EVENTS = [("credit", "{} did not pay the instalment that was due last week."), ("credit", "{} has filed for insolvency and will not repay its loan."),
          ("market", "The dollar fell by four percent, and our bonds of {} lost value."), ("market", "Interest rates rose, so the fixed rate note of {} is worth less."),
          ("operational", "The payment system failed, and orders of {} were booked twice."), ("operational", "A clerk typed a wrong account number in the transfer to {}."),
          ("legal", "A court ruled that our contract with {} is void."), ("legal", "The supervisor opened a case about how we advised {}.")]
CLASSES = list(RISKS)
FIELDS = ("counterparty", "amount", "due")


def case(r, i):
    """kind, question, form of the answer, and what must stand in it."""
    name, amount = r.choice(NAMES), str(r.randrange(12, 990) * 1000)
    date = f"{r.randrange(1, 29)} {r.choice(MONTHS)} 2027"
    notice = f"Notice: {name} owes us {amount} euros under its loan agreement. The amount is due on {date}."
    if i % 5 in (0, 1):
        schema = {"type": "object", "properties": {f: {"type": "string", "maxLength": 40} for f in FIELDS}, "required": list(FIELDS), "additionalProperties": False}
        return "extraction", f"{notice}\nExtract counterparty, amount and due date as a JSON object with the keys counterparty, amount and due.", {"schema": schema}, [name, amount, date]
    if i % 5 in (2, 3):
        kind, text = r.choice(EVENTS)
        return "classification", f"{text.format(name)}\nWhich risk is this: credit, market, operational or legal? Answer with one word.", {"enum": CLASSES}, [kind]
    return "report", f"{notice}\nWrite the report.", None, [name, amount, date]


def is_right(kind, text, wanted):
    if kind == "classification":
        named = re.findall("|".join(CLASSES), text.lower())
        return bool(named) and named[0] == wanted[0]
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    return all(w in plain for w in wanted) and (kind != "report" or len(text.split()) <= 60)


OWN, PEER = ("plain", "known", "all"), ("peer", "peer forms")


def body(question, form, setting, name, store=None):
    b = {"messages": [{"role": "system", "content": f"Request {name}. {HANDBOOK}" if setting == "plain" else HANDBOOK}, {"role": "user", "content": question}], "max_tokens": 80, "temperature": 0}
    if setting == "peer forms" and form:
        schema = form.get("schema") or {"type": "string", "enum": form["enum"]}
        return {**b, "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    if setting in PEER:
        return b
    if setting != "all":
        return {**b, "sparing": {"path": "full", "draft": 0}}
    if form and "schema" in form:
        b["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form["schema"]}}
    elif form:
        b["structured_outputs"] = {"choice": form["enum"]}
        b |= {"tools": [{"type": "file_search", "vector_store_ids": [store], "max_num_results": 1}], "tool_choice": "required"} if store else {}
    else:
        b["sparing"] = {"control": True}
    return b


def keep_risks(s):
    """A collection of the four sentences; its id."""
    from conftest import wait_until
    store = s.http.post("/v1/vector_stores", json={"name": "risks"}).json()["id"]
    for name, text in RISKS.items():
        f = s.http.post("/v1/files", files={"file": (f"{name}.txt", text)}, data={"purpose": "assistants"}).json()["id"]
        s.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": f})
        wait_until(lambda: s.http.get(f"/v1/vector_stores/{store}/files/{f}").json()["status"] == "completed", name)
    return store


def ask(s, c, setting, name, store):
    kind, question, form, wanted = c
    began = time.perf_counter()
    r = s.http.post("/v1/chat/completions", json=body(question, form, setting, name, store))
    seconds = time.perf_counter() - began
    assert r.status_code == 200, r.text
    j = r.json()
    if setting in PEER:
        t = j["timings"]
        ms, computed = t["prompt_ms"] + t["predicted_ms"], t["prompt_n"]
        cost = price(ms)
    else:
        got = j["usage"]["sparing"]
        search = got["ms"]["retrieval"]
        ms, computed, cost = got["ms"]["machine"] + search, got["prompt_tokens"]["computed"], got["cost"] + price(search)
    return {"kind": kind, "right": is_right(kind, j["choices"][0]["message"]["content"], wanted), "cost": cost, "ms": ms, "clock": seconds,
            "tokens": computed + j["usage"]["completion_tokens"]}


def price(ms):
    return ms * 1e-3 * (HOUR / 3600 + WATTS * KWH / 3.6e6)


class Peer:
    """llama-server for one request at a time; ended by its process."""

    def __init__(self, build, model):
        import httpx
        build = pathlib.Path(build).resolve()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.proc = subprocess.Popen([str(build / "bin/llama-server"), "-m", str(model), "-c", "4096", "-t", THREADS, "-np", "1", "--host", "127.0.0.1",
                                      "--port", str(port), "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     env={**os.environ, "LD_LIBRARY_PATH": str(build / "bin")})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        for _ in range(1200):
            try:
                if self.http.get("/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if self.proc.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"{build}/bin/llama-server did not start")

    def stop(self):
        self.proc.terminate()
        self.proc.wait()
        return 0


def line(name, rows):
    n, right = len(rows), sum(x["right"] for x in rows)
    cost = sum(x["cost"] for x in rows)
    each = f"{1e6 * cost / right:.2f}" if right else "none is right"
    return f"{name:24} {n:4} {right:4} right {sum(x['tokens'] for x in rows):7} tokens {sum(x['ms'] for x in rows) / 1e3:8.2f} s ({sum(x['clock'] for x in rows):.2f} by the clock)  EUR per million right answers {each}"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--cases", type=int, default=60)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--seed", type=int, default=11)
    p.add_argument("--peer", help="llama.cpp build with bin/llama-server")
    o = p.parse_args()
    from conftest import MODEL, Server  # noqa: E402
    with tempfile.TemporaryDirectory() as folder:
        prices = pathlib.Path(folder) / "prices.yaml"
        prices.write_text(PRICES)
        servers = {name: Server("-m", str(MODEL), "--prices", str(prices), "--threads", THREADS, *(("--knowledge", f"{folder}/risks.db") if name == "all" else ())) for name in OWN}
        store = keep_risks(servers["all"])
        if o.peer:
            servers |= {name: Peer(o.peer, MODEL) for name in PEER}
        names = tuple(servers)
        got = {name: [] for name in names}
        for k in range(o.rounds):
            r = random.Random(o.seed + k)
            for i in range(o.cases):
                c = case(r, i)
                for setting in names[i % len(names):] + names[:i % len(names)]:
                    got[setting].append(ask(servers[setting], c, setting, f"{k}-{i}", store))
        assert not any(s.stop() for s in servers.values())
    for name, rows in got.items():
        for kind in ("extraction", "classification", "report"):
            print(line(f"{name}, {kind}", [x for x in rows if x["kind"] == kind]))
        print(line(name, rows))
    for than in names:
        if than != "all":
            compare(got, than, o.cases, o.rounds)


def compare(got, than, n, rounds):
    """What `all` costs, and how often it is wrong, against another setting; the median of the rounds, and their spread."""
    def each(rows):
        return sum(x["cost"] for x in rows) / sum(x["right"] for x in rows)
    if not all(any(x["right"] for x in got[name][k * n:(k + 1) * n]) for name in ("all", than) for k in range(rounds)):
        print(f"against {than}: a round has no right answer, so it has no price: ask for more --cases")
        return
    ratio = sorted(each(got["all"][k * n:(k + 1) * n]) / each(got[than][k * n:(k + 1) * n]) for k in range(rounds))
    wrong = {name: sum(not x["right"] for x in rows) for name, rows in got.items()}
    print(f"against {than}: cost of a right answer {100 * (ratio[rounds // 2] - 1):+.0f} % ({100 * (ratio[0] - 1):+.0f} to {100 * (ratio[-1] - 1):+.0f}); "
          f"errors {wrong[than]} -> {wrong['all']} ({100 * (wrong['all'] / max(1, wrong[than]) - 1):+.0f} %)")


if __name__ == "__main__":
    main()
