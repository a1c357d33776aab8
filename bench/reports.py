#!/usr/bin/env python3
"""Facts with their sources, out of letters: medical-style documents of our own making, from a seed. A letter has twelve numbered sentences in any
order, among them what was so before, what a relative has, and a second value of the same kind. Of each letter eight facts are asked for, one by
one. A fact is right if the answer holds its value in 20 words at most, and the source is the sentence in which it stands.

  plain   full path, nothing guessed ahead, free answers; the whole letter stands in the prompt, its sentences numbered, and the answer is to name
          the number. Where it names none, the first sentence that holds the answer counts for it
  known   the same, but that the letter's pages are known from the question before
  all     the letter is a collection; the sentence that a search finds stands before the question; guesses, known prefixes and the rules of
          `control` are on, and the light path is taken where intent says so. Its source is the sentence that the server cites, or else the first one
          found that holds the value

The questions are the same for all, and plain has every sentence that a search could find. Letters are asked about in turn by all settings. Of the errors
it is told how many had the wrong value and how many the wrong source alone; the cost is that of the receipts, as in bench/business.py.

usage: reports.py [--letters N] [--seed N] [--found K]
  --found K   sentences that a search finds (1)"""
import argparse
import pathlib
import random
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "test/e2e"), str(ROOT / "bench")]
from business import PRICES, THREADS, price  # noqa: E402

NAMES = ["Anna Feld", "Boris Kamm", "Clara Ruhl", "David Osten", "Erna Wick", "Felix Taube", "Greta Holm", "Hanno Seif", "Ida Brandt", "Jonas Pohl"]
DOCTORS = ["Akman", "Behrens", "Cordes", "Dahl", "Ebeling", "Fabri", "Gruner", "Hesse"]
ILLS = ["pneumonia", "atrial fibrillation", "appendicitis", "type 2 diabetes", "gallstones", "asthma", "hypertension", "migraine", "gout", "anaemia"]
DRUGS = ["ramipril", "metformin", "bisoprolol", "torasemide", "pantoprazole", "apixaban", "atorvastatin", "amlodipine"]
ALLERGENS = ["penicillin", "latex", "iodine", "peanuts", "aspirin", "nickel"]
HARMS = ["cough", "dizziness", "nausea", "a rash"]
OPERATIONS = ["a hernia repair", "a knee arthroscopy", "a removal of the gallbladder", "a removal of the appendix", "a cataract operation"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
SYSTEM = "You read letters of a hospital. Be exact: values are copied as they stand in the letter, and nothing is added."


def letter(r):
    """Sentences, and facts: question, value, sentence."""
    name, doctors = r.choice(NAMES), r.sample(DOCTORS, 2)
    ill, other = r.sample(ILLS, 2)
    drug, old = r.sample(DRUGS, 2)
    dose, old_dose = r.sample([5, 10, 20, 25, 40, 50, 80, 100], 2)
    first, last = r.sample([f"{x / 10:.1f}" for x in range(31, 59)], 2)
    days = [f"{d} {r.choice(MONTHS)} 2027" for d in r.sample(range(1, 29), 4)]
    allergen, operation = r.choice(ALLERGENS), r.choice(OPERATIONS)
    s = {"in": f"{name} was admitted on {days[0]} by Dr {doctors[0]}.", "ill": f"The main diagnosis is {ill}.", "father": f"The father of {name} had {other}.",
         "old": f"Until last year {name} took {old} {old_dose} mg, which was stopped because of {r.choice(HARMS)}.", "drug": f"Now {name} takes {drug} {dose} mg once a day.",
         "allergy": f"{name} is allergic to {allergen}.", "k1": f"On admission potassium was {first} mmol/l.", "k2": f"At discharge potassium was {last} mmol/l.",
         "scan": f"An ultrasound on {days[1]} showed nothing unusual.", "operation": f"The operation, {operation}, took place on {days[2]}.",
         "next": f"The next visit is on {days[3]} with Dr {doctors[1]}.", "diet": "No special diet is needed."}
    keys = list(s)
    r.shuffle(keys)
    facts = [("What is the main diagnosis?", ill, "ill"), (f"Which drug does {name} take now?", drug, "drug"), (f"What is the dose of {drug}?", f"{dose} mg", "drug"),
             (f"What is {name} allergic to?", allergen, "allergy"), ("What was the potassium at discharge?", last, "k2"), ("When did the operation take place?", days[2], "operation"),
             ("When is the next visit?", days[3], "next"), ("With which doctor is the next visit?", doctors[1], "next")]
    return [s[k] for k in keys], [(q, v, keys.index(k)) for q, v, k in facts]


def keep(s, sentences, i):
    """The letter as a collection, a file for each sentence."""
    from conftest import wait_until
    store = s.http.post("/v1/vector_stores", json={"name": f"letter {i}"}).json()["id"]
    ids = [s.http.post("/v1/files", files={"file": (f"{k}.txt", text)}, data={"purpose": "assistants"}).json()["id"] for k, text in enumerate(sentences)]
    for f in ids:
        s.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": f})
    for f in ids:
        wait_until(lambda: s.http.get(f"/v1/vector_stores/{store}/files/{f}").json()["status"] == "completed", f)
    return store


WORDS = 20


def body(setting, sentences, question, store, found, name):
    b = {"max_tokens": 48, "temperature": 0}
    if setting == "all":
        return {**b, "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}], "sparing": {"control": True},
                "tools": [{"type": "file_search", "vector_store_ids": [store], "max_num_results": found}], "tool_choice": "required"}
    text = "\n".join(f"[{k + 1}] {x}" for k, x in enumerate(sentences))
    start = f"Request {name}. " if setting == "plain" else ""
    return {**b, "messages": [{"role": "system", "content": start + SYSTEM},
                              {"role": "user", "content": f"{text}\n\n{question} Answer with the value, and with the number of its sentence in square brackets."}],
            "sparing": {"path": "full", "draft": 0}}


def plain(text):
    return re.sub(r"\s+", " ", text.lower())


def number(x):
    return int(re.match(r"\d+", x["filename"]).group())


def source(setting, j, sentences, value):
    """The sentence that the answer rests on; None: it says none."""
    text = j["choices"][0]["message"]["content"]
    if setting == "all":
        cited = [number(a["file_citation"]) for a in j["choices"][0]["message"].get("annotations", [])]
        return next(iter(cited + [k for k in map(number, j["retrieved"]) if plain(value) in plain(sentences[k])]), None)
    named = [int(n) - 1 for n in re.findall(r"\[(\d+)\]", text)]
    if named:
        return named[0]
    return next((k for k, x in enumerate(sentences) if plain(value) in plain(text) and plain(value) in plain(x)), None)


def ask(s, setting, sentences, fact, store, found, name):
    question, value, at = fact
    r = s.http.post("/v1/chat/completions", json=body(setting, sentences, question, store, found, name))
    assert r.status_code == 200, r.text
    j = r.json()
    got = j["usage"]["sparing"]
    text = j["choices"][0]["message"]["content"]
    has = plain(value) in plain(text) and len(text.split()) <= WORDS
    search = got["ms"]["retrieval"]
    return {"value": has, "right": has and source(setting, j, sentences, value) == at, "cost": got["cost"] + price(search), "ms": got["ms"]["machine"] + search,
            "found": setting != "all" or at in map(number, j["retrieved"])}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--letters", type=int, default=10)
    p.add_argument("--seed", type=int, default=21)
    p.add_argument("--found", type=int, default=1)
    o = p.parse_args()
    from conftest import MODEL, Server
    names = ("plain", "known", "all")
    with tempfile.TemporaryDirectory() as folder:
        prices = pathlib.Path(folder) / "prices.yaml"
        prices.write_text(PRICES)
        servers = {n: Server("-m", str(MODEL), "--prices", str(prices), "--threads", THREADS, *(("--knowledge", f"{folder}/k.db") if n == "all" else ())) for n in names}
        got, r = {n: [] for n in names}, random.Random(o.seed)
        for i in range(o.letters):
            sentences, facts = letter(r)
            store = keep(servers["all"], sentences, i)
            for k, fact in enumerate(facts):
                for n in names[k % 3:] + names[:k % 3]:
                    got[n].append(ask(servers[n], n, sentences, fact, store, o.found, f"{i}-{k}"))
        assert not any(s.stop() for s in servers.values())
    for n, rows in got.items():
        right, cost = sum(x["right"] for x in rows), sum(x["cost"] for x in rows)
        print(f"{n:6} {len(rows)} facts: {right} right, {sum(not x['value'] for x in rows)} with another value, {sum(x['value'] and not x['right'] for x in rows)} with another source; "
              f"{sum(x['ms'] for x in rows) / 1e3:.2f} s; EUR for a million right facts {1e6 * cost / right if right else float('nan'):.2f}"
              + (f"; the search found {sum(x['found'] for x in rows)}" if n == "all" else ""))
    wrong = {n: sum(not x["right"] for x in rows) for n, rows in got.items()}
    for n in names[:2]:
        print(f"errors against {n}: {wrong[n]} -> {wrong['all']} ({100 * (wrong['all'] / max(1, wrong[n]) - 1):+.0f} %)")


if __name__ == "__main__":
    main()
