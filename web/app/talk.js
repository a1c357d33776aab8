// One conversation: a tree of messages, and the path of it that is shown. A message is a signal of
// a plain object:
//   {id, parent, role, content, reasoning, calls, status, error, model, usage, sources, feedback,
// siblings, at}
// status: running, complete, cut (at the length), stopped, failed. "" is the parent of the first
// ones.
import {signal} from '../vendor/vendor.js';

export const DEFAULTS = {model: '', system: '', collections: [], files: '', effort: 'auto',
  temperature: 0.2, top_p: 1, repetition_penalty: 1.1,
                         max_tokens: 400, epsilon: null, draft: null, seed: null, costs: false};

export class Talk {
  constructor(id, settings) {
    this.id = id;
    this.title = signal('');
    this.pinned = signal(false);
    this.path = signal([]);                // signals of messages, oldest first
    this.settings = signal({...DEFAULTS, ...settings});
    this.run = signal(null);               // what is being asked or answered, see run.js
    // why a question could not be stored: it is still in the box
    this.trouble = signal(null);
    this.hasMore = signal(false);          // older messages than the path's first one
    this.loading = signal(false);
    this.isStored = false;                 // the server knows it
    this.nodes = new Map();
    this.kids = new Map();
  }

  // Adds or renews a message; returns its signal.
  put(m) {
    const known = this.nodes.get(m.id);
    if (known) {
      known.value = {...known.value, ...m};
      return known;
    }
    const s = signal({parent: '', content: '', reasoning: '', calls: [], status: 'complete',
      error: null, model: '', usage: null, sources: null,
                      feedback: null, siblings: null, progress: null, costs: null, at: Date.now(),
                        ...m});
    this.nodes.set(m.id, s);
    const all = this.kids.get(s.value.parent) ?? [];
    for (const id of [...(m.siblings ?? []), m.id]) if (!all.includes(id)) all.push(id);
    this.kids.set(s.value.parent, all);
    return s;
  }

  // Ids of a message's versions, oldest first.
  versions(m) { return this.kids.get(m.parent) ?? [m.id]; }

  // The path to a message and on below it by the newest child. False: a part of it is not loaded.
  show(id) {
    const path = [];
    for (let at = id; at; at = this.nodes.get(at).value.parent) {
      if (!this.nodes.has(at)) { this.hasMore.value = true; break; }
      path.unshift(this.nodes.get(at));
      if (!this.nodes.has(this.nodes.get(at).value.parent) &&
        this.nodes.get(at).value.parent) { this.hasMore.value = true; break; }
    }
    for (let below = this.kids.get(id); below?.length; below =
      this.kids.get(below[below.length - 1])) {
      const next = this.nodes.get(below[below.length - 1]);
      if (!next) return false;
      path.push(next);
    }
    this.path.value = path;
    return true;
  }

  last() { return this.path.value[this.path.value.length - 1]?.value ?? null; }

  // What a server that keeps nothing is sent: questions that were answered, with their answers. up:
  // the last message of it; an answer that failed belongs to it only if it is gone on with.
  history(up, goesOn = false) {
    const out = [];
    let at = up;
    const chain = [];
    for (; at && this.nodes.has(at); at = this.nodes.get(at).value.parent) chain.unshift(
      this.nodes.get(at).value);
    for (let i = 0; i < chain.length; i++) {
      const m = chain[i], answer = chain[i + 1];
      if (m.role === 'user') {
        const isAsked = i === chain.length - 1 || goesOn && i === chain.length - 2;
        if (isAsked || (answer?.content && answer.status !== 'failed')) out.push({role: 'user',
          content: m.content});
      } else if (m.content && (m.status !== 'failed' || goesOn &&
        i === chain.length - 1)) out.push({role: 'assistant', content: m.content});
    }
    return out;
  }

  // Takes a message out; what follows it stays, below its parent. Gives what puts it back.
  takeOut(id) {
    const s = this.nodes.get(id), {parent} = s.value, path = this.path.value;
    const around = this.kids.get(parent) ?? [], below = this.kids.get(id) ?? [];
    const hang = (up) => below.map((k) => this.nodes.get(k)).filter(Boolean)
      .forEach((k) => { k.value = {...k.value, parent: up}; });
    hang(parent);
    this.kids.set(parent, around.flatMap((k) => k === id ? below : [k]));
    this.nodes.delete(id);
    this.kids.delete(id);
    this.path.value = path.filter((x) => x !== s);
    return () => {
      hang(id);
      this.nodes.set(id, s);
      this.kids.set(parent, around);
      this.kids.set(id, below);
      this.path.value = [...path, ...this.path.value.filter((x) => !path.includes(x))];
    };
  }

  remove(id) {
    const m = this.nodes.get(id)?.value;
    if (!m) return;
    this.nodes.delete(id);
    this.kids.set(m.parent, (this.kids.get(m.parent) ?? []).filter((k) => k !== id));
  }
}
