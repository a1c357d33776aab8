"""A judge model compares answers where no check can tell: twice, with their places swapped, by rules of placement, and within a budget."""
import json
import re
import subprocess

import pytest

from conftest import quick_file
from test_improve import LONG, SCRIPT, improve
from test_placement import place, rule, write
from test_serving import Collector, stream

N = 40


class Judge(Collector):
    """A server that says what `says(a, b)` makes of the two answers it is shown."""

    def __init__(self, says):
        super().__init__(lambda h: stream(h, [says(*self.shown(-1))]))

    def shown(self, i):
        text = self.got[i][2]["messages"][0]["content"]
        return [re.search(rf"\[answer {x}\]\n(.*?)\n\[end of answer {x}\]", text, re.S).group(1) for x in "AB"]


def shorter(a, b):
    return "A" if len(a) < len(b) else "B"


@pytest.fixture
def judge(tmp_path):
    made = []

    def make(says, **of):
        made.append(Judge(says))
        file = write(tmp_path / "placement.yaml", [place("bench", address=made[-1].url + "/v1", price_in=2.0)],
                     [rule("judging", to=["bench"], **{"tenants": ["local"], "classes": ["unlabelled"], "parts": ["messages"], **of})])
        return made[-1], ("--placement", file)

    yield make
    for m in made:
        m.stop()


def lines(path, **more):
    rows = [{"at": f"2026-12-{1 + i * 5 // N:02d}", "prompt": f"[[say]]{LONG} Paris {i}.[[/say]] Question {i}?", **more} for i in range(N)]
    path.write_text("".join(json.dumps(x) + "\n" for x in rows))
    return path


def tried(tmp_path, *args, **more):
    """A round whose settings may become half as many tokens of a light answer; long answers become short by that."""
    args = ("--prompts", lines(tmp_path / "p.jsonl", **more), "--light-tokens", "64", "--tries", "6", "--slower", "100", "--search-most", "20", "--json", *args)
    p = improve(tmp_path / "v", *args)
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    return got, next(t["search"] for t in got["tried"] if t["name"] == "light_tokens 64 to 32")


def test_a_judge_with_a_preference_finds_the_better_setting(tmp_path, judge):
    j, args = judge(shorter)
    got, half = tried(tmp_path, *args, "--judge", "bench", "--gain", "0.9")
    assert half["judged"] == [20, 20, 0] and half["quality"] == [0, 0] and half["difference"]["low"] > 0
    assert got["held"]["wins"] and got["held"]["judged"] == [16, 16, 0] and got["after"] == 1
    about = got["judge"]
    assert about["name"] == "bench" and about["disagreed"] == about["unclear"] == 0 and about["pairs"] > about["same"]
    assert about["tokens"] == 14 * len(j.got) and about["cost"] == pytest.approx(11 * 2e-6 * len(j.got))
    assert len(j.got) == 2 * (about["pairs"] - about["same"]), "equal answers are shown to nobody"
    for i in range(0, len(j.got), 2):
        assert j.shown(i) == j.shown(i + 1)[::-1]
    assert all(x["max_tokens"] <= 16 and x["temperature"] == 0 for _, _, x in j.got)
    report = (tmp_path / "v/report-1.md").read_text()
    assert "`bench` (big) compared" in report and "| judged, of 16 | 0 better | 16 better |" in report
    assert "light_tokens 64 to 32, judged by bench" in (tmp_path / "v/v1.yaml").read_text()


def test_a_worse_setting_loses_by_the_judge(tmp_path, judge):
    _, args = judge(lambda a, b: "B" if len(a) < len(b) else "A")
    got, half = tried(tmp_path, *args, "--judge", "bench")
    assert half["judged"][1:] == [0, half["judged"][0]] and half["guard"] == "class" and got["after"] == 0


@pytest.mark.parametrize("says, what", [(lambda a, b: "A", "disagreed"), (lambda a, b: " B.\n", "disagreed"), (lambda a, b: "The first one is better.", "unclear")])
def test_a_judge_that_looks_at_places_decides_nothing(tmp_path, judge, says, what):
    _, args = judge(says)
    got, half = tried(tmp_path, *args, "--judge", "bench", "--gain", "0.9")
    assert half["judged"] == [20, 0, 0] and (half["won"], half["lost"]) == (0, 0) and got["after"] == 0
    assert got["judge"][what] == got["judge"]["pairs"] - got["judge"]["same"] > 0


def test_a_judge_that_stands_here_is_bound_to_the_form(tmp_path):
    """The model says A to all, as the prompt's script has it; whatever else it would say, the form forbids."""
    p = lines(tmp_path / "p.jsonl")
    p.write_text(p.read_text().replace("[[say]]and", "[[say]]A"))
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: e, judge: here, variants: [{name: x}, {name: y, set: {light_tokens: 32}}]}\n")
    cmd = [SCRIPT, "experiment", "run", p, "--experiments", tmp_path / "e.yaml", "-m", quick_file(), "--path", "light", "--threads", "1", "--light-tokens", "64", "--json"]
    p = subprocess.run([str(c) for c in cmd], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    assert got["judge"]["name"] == "here" and got["judge"]["disagreed"] == got["judge"]["pairs"] == N and got["judge"]["unclear"] == 0
    assert got["variants"][1]["judged"] == [N, 0, 0] and got["variants"][1]["verdict"] == "not decided"


def test_side_by_side_by_a_judge(tmp_path, judge):
    """Of the first half, checks are exact, and nobody is asked."""
    j, args = judge(shorter)
    p = lines(tmp_path / "p.jsonl")
    rows = [json.loads(x) for x in p.read_text().splitlines()]
    for r in rows[:N // 2]:
        r["check"] = {"contains": ["Paris"]}
    rows[0]["private"] = True
    p.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: e, judge: bench, variants: [{name: x}, {name: y, set: {light_tokens: 32}}]}\n")
    cmd = [SCRIPT, "experiment", "run", p, "--experiments", tmp_path / "e.yaml", "-m", quick_file(), "--path", "light", "--threads", "1", "--light-tokens", "64", *args]
    got = subprocess.run([str(c) for c in (*cmd, "--json")], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    x, y = json.loads(got.stdout)["variants"]
    assert (x["right"], y["right"], y["won"], y["lost"], y["judged"]) == (20, 0, 20, 20, [20, 20, 0]) and len(j.got) == 40
    few = subprocess.run([str(c) for c in (*cmd, "--judge-tokens", "100")], capture_output=True, text=True)
    assert "judged by bench (big): 20 pairs, 0 equal, 0 with verdicts that do not agree, 16 without one; 112 tokens" in few.stdout, few.stdout + few.stderr
    assert "0 of 20 right" in few.stdout and "judged better in 4 of 20, worse in 0" in few.stdout


@pytest.mark.parametrize("line, of, word", [({"private": True}, {}, "line 1: it has no exact check, and may not go to the judge bench: the request is private"),
                                            ({"class": "secret"}, {}, "no rule names the class of its data"),
                                            ({"tenant": "bob"}, {}, "no rule names its tenant"),
                                            ({"check": {"like": "Paris"}, "private": True}, {}, "is private")])
def test_what_may_not_leave_is_shown_to_no_place(tmp_path, judge, line, of, word):
    j, args = judge(shorter, **of)
    p = improve(tmp_path / "v", "--prompts", lines(tmp_path / "p.jsonl", **line), "--judge", "bench", *args)
    assert p.returncode == 3 and word in p.stderr, p.stderr
    assert j.got == []


@pytest.mark.parametrize("args, code, word", [(("--judge", "bench"), 2, "--placement says which place"), (("--judge", "desk", "P"), 2, "no place 'desk' that generates"), ((), 3, "its check is none")])
def test_judges_that_are_not_there(tmp_path, judge, args, code, word):
    _, where = judge(shorter)
    args = [x for a in args for x in (where if a == "P" else [a])]
    p = improve(tmp_path / "v", "--prompts", lines(tmp_path / "p.jsonl"), *args)
    assert p.returncode == code and word in p.stderr, p.stderr


def test_a_judge_that_cannot_be_reached_ends_the_round(tmp_path, judge):
    j, args = judge(shorter)
    j.stop()
    p = improve(tmp_path / "v", "--prompts", lines(tmp_path / "p.jsonl"), "--light-tokens", "64", "--tries", "6", *args, "--judge", "bench")
    assert p.returncode != 0 and "judge bench" in p.stderr and not list((tmp_path / "v").glob("v*.yaml")), p.stderr
