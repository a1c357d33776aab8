"""Expands reference marks: spans of an answer that repeat a text of the request, or the answer itself.

A request with `"sparing": {"references": true}` is answered with marks in the place of such spans. In a
stream a delta has `references` behind its `content`; a whole message has them with their place (`at`) in it:

    answer = References(messages)
    for chunk in stream:                      # dictionaries; .model_dump() of a client's objects
        for choice in chunk["choices"]:
            print(answer.add(choice["delta"]), end="")

    text = References(messages).add(message)  # a whole message

With `"references": "readable"` the marks stand in the text: expand_readable(messages, text).
Offsets and lengths are bytes of UTF-8. A span whose CRC-32 is another raises ValueError."""
import re
import zlib


class References:
    def __init__(self, messages):
        """messages: those of the request, or a list of prompts."""
        texts = [m if isinstance(m, str) else m.get("content") for m in messages]
        self._sources = [t.encode() if isinstance(t, str) else b"" for t in texts]
        self._answer = bytearray()

    def span(self, reference):
        source = self._answer if reference["source"] == "answer" else self._sources[reference["source"]]
        span = bytes(source[reference["offset"]:reference["offset"] + reference["length"]])
        if len(span) != reference["length"] or zlib.crc32(span) != reference["crc32"]:
            raise ValueError(f"reference to other bytes than those of {reference}")
        return span

    def add(self, delta):
        """The text that a delta, a message or a choice of /v1/completions stands for."""
        content, begin, at = (delta.get("content") or delta.get("text") or "").encode(), len(self._answer), 0
        for r in delta.get("references") or ():
            to = r.get("at", len(content))
            self._answer += content[at:to]
            self._answer += self.span(r)
            at = to
        self._answer += content[at:]
        return self._answer[begin:].decode()


_LINE = re.compile("- \\[§(\\d+)\\] message (\\d+), bytes (\\d+)-(\\d+), crc32 ([0-9a-f]{8}): ")


def expand_readable(messages, text):
    """The answer that a text with readable marks stands for."""
    answer, (body, *rest) = References(messages), text.split("\n\n[§] repeated:\n", 1)
    found = {}
    for line in rest[0].split("\n") if rest else ():
        number, message, first, end, crc32 = _LINE.match(line).groups()
        found[number] = {"source": int(message), "offset": int(first), "length": int(end) - int(first), "crc32": int(crc32, 16)}
    for piece in re.split("(\\[§(?:§|\\d+\\]))", body):
        mark = re.fullmatch("\\[§(\\d+)\\]", piece)
        if mark:
            answer.add({"references": [found[mark[1]]]})
        else:
            answer.add({"content": "[§" if piece == "[§§" else piece})
    return answer._answer.decode()
