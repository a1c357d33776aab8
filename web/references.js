'use strict';
// Expands reference marks: spans of an answer that repeat a text of the request, or the answer itself. A request with
// {"sparing": {"references": true}} is answered with marks in the place of such spans:
//   const answer = new References(messages);   // those of the request, or a list of prompts
//   text += answer.add(chunk.choices[0].delta) // of a stream; or answer.add(message) of a whole answer
// With "references": "readable" the marks stand in the text: expandReadable(messages, text).
// Offsets and lengths are bytes of UTF-8. A span whose CRC-32 is another throws.
class References {
  constructor(messages) {
    const texts = messages.map((m) => typeof m === 'string' ? m : m.content);
    this.sources = texts.map((t) => new TextEncoder().encode(typeof t === 'string' ? t : ''));
    this.answer = new Uint8Array(1024);
    this.length = 0;
  }

  put(bytes) {
    if (this.length + bytes.length > this.answer.length) {
      const more = new Uint8Array(2 * (this.length + bytes.length));
      more.set(this.answer.subarray(0, this.length));
      this.answer = more;
    }
    this.answer.set(bytes, this.length);
    this.length += bytes.length;
  }

  span(r) {
    const all = r.source === 'answer' ? this.answer.subarray(0, this.length) : this.sources[r.source];
    const span = all.slice(r.offset, r.offset + r.length);
    if (span.length !== r.length || References.crc32(span) !== r.crc32) throw new Error(`reference to other bytes than those of ${JSON.stringify(r)}`);
    return span;
  }

  // The text that a delta, a message or a choice of /v1/completions stands for.
  add(delta) {
    const content = new TextEncoder().encode(delta.content || delta.text || ''), begin = this.length;
    let at = 0;
    for (const r of delta.references || []) {
      const to = r.at === undefined ? content.length : r.at;
      this.put(content.subarray(at, to));
      this.put(this.span(r));
      at = to;
    }
    this.put(content.subarray(at));
    return new TextDecoder('utf-8', {ignoreBOM: true}).decode(this.answer.subarray(begin, this.length));
  }

  static crc32(bytes) {
    let c = ~0;
    for (const b of bytes) {
      c ^= b;
      for (let i = 0; i < 8; i++) c = c >>> 1 ^ (c & 1 ? 0xedb88320 : 0);
    }
    return ~c >>> 0;
  }
}

function expandReadable(messages, text) {
  const answer = new References(messages), head = '\n\n[§] repeated:\n', end = text.indexOf(head), found = {};
  const line = /^- \[§(\d+)\] message (\d+), bytes (\d+)-(\d+), crc32 ([0-9a-f]{8}): /gm;
  for (const [, n, message, first, last, crc32] of end < 0 ? [] : text.slice(end + head.length).matchAll(line))
    found[n] = {source: Number(message), offset: Number(first), length: last - first, crc32: parseInt(crc32, 16)};
  return (end < 0 ? text : text.slice(0, end)).split(/(\[§(?:§|\d+\]))/).map((piece) => {
    const mark = /^\[§(\d+)\]$/.exec(piece);
    return answer.add(mark ? {references: [found[mark[1]]]} : {content: piece === '[§§' ? '[§' : piece});
  }).join('');
}

if (typeof module !== 'undefined') module.exports = {References, expandReadable};
