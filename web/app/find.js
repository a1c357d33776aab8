// Find in this chat: over the text as it is read, in all messages of the path that is shown. Those
// that the browser has not got yet are read first; most of them are not in the document.
import {html, useEffect, useRef, useState} from '../vendor/vendor.js';
import {finder, focusSoon, reveal, talk} from './state.js';
import {loadWhole} from './chats.js';
import {IconButton} from './icons.js';
import {asRead, BLOCKS} from './markdown.js';
import {inWords} from './trouble.js';
import {number, t} from './i18n.js';

const MOST = 10000;
const READ = '.bubble, .prose', UNREAD = 'figcaption, .formula, .formula-inline, .cite';
const known = new WeakMap(); // text as it is read, by message: lexing is the slow part

function textOf(m) {
  if (!known.has(m)) known.set(m, m.role === 'user' ? m.content : asRead(m.content));
  return known.get(m);
}

// Any case; one space is any white space.
const pattern = (words) => words && new RegExp(words.split(/\s+/)
  .map((w) => w.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('\\s+'), 'giu');

// [{id, n}]: the n-th one in message id; at most MOST.
export function hitsIn(messages, words) {
  const out = [], p = pattern(words);
  if (!p) return out;
  for (const m of messages) {
    const n = [...textOf(m).matchAll(p)].length;
    for (let i = 0; i < n && out.length < MOST; i++) out.push({id: m.id, n: i});
  }
  return out;
}

// The same in the document, as ranges.
function rangesIn(element, words) {
  const nodes = [], starts = [];
  let text = '';
  const walk = (e) => {
    for (const c of e.childNodes) {
      if (c.nodeType === Node.TEXT_NODE) {
        nodes.push(c);
        starts.push(text.length);
        text += c.data;
      } else if (c.nodeType === Node.ELEMENT_NODE && !c.matches(UNREAD)) {
        const edge = BLOCKS.has(c.localName) ? '\n' : '';
        text += edge;
        walk(c);
        text += edge;
      }
    }
  };
  walk(element);
  const place = (range, at, end) => {
    let i = starts.length - 1;
    while (i > 0 && (end ? starts[i] >= at : starts[i] > at)) i--;
    range[end ? 'setEnd' : 'setStart'](nodes[i], Math.min(at - starts[i], nodes[i].length));
  };
  return [...text.matchAll(pattern(words))].map((m) => {
    const range = document.createRange();
    place(range, m.index, false);
    place(range, m.index + m[0].length, true);
    return range;
  });
}

const paint = (name, ranges) => {
  if (ranges.length) globalThis.CSS?.highlights?.set(name, new Highlight(...ranges));
  else globalThis.CSS?.highlights?.delete(name);
};

// Marks what is mounted. Returns where the hit is: a range, its message, or null: not mounted yet.
function markAll(log, words, here) {
  const all = [], found = {spot: null};
  for (const turn of log.querySelectorAll('article[data-id]')) {
    const read = turn.querySelector(READ), ranges = read && words ? rangesIn(read, words) : [];
    all.push(...ranges);
    if (turn.dataset.id === here?.id) found.spot = ranges[here.n] ?? turn;
  }
  paint('find', all);
  paint('find-here', found.spot instanceof Range ? [found.spot] : []);
  return found.spot;
}

// The first message that is in sight.
function firstSeen(log) {
  const top = log.getBoundingClientRect().top;
  return [...log.querySelectorAll('article[data-id]')]
    .find((a) => a.getBoundingClientRect().bottom > top)?.dataset.id;
}

export function openFind() {
  const opener = document.activeElement;
  if (talk.value.path.value.length) finder.value = {chat: talk.value, opener};
}

export function closeFind() {
  const {opener} = finder.value ?? {};
  finder.value = null;
  focusSoon(() => opener?.isConnected && opener !== document.body ? opener :
    document.getElementById('ask'));
}

function Bar({chat}) {
  const box = useRef(), goes = useRef(false), [words, setWords] = useState(''),
    [here, setHere] = useState(null), [trouble, setTrouble] = useState('');
  const messages = chat.path.value.map((s) => s.value), isWhole = !chat.hasMore.value;
  const hits = hitsIn(messages, words),
    at = hits.findIndex((h) => h.id === here?.id && h.n === here.n);
  const log = () => document.getElementById('log');

  const show = (hit) => {
    goes.current = !!hit;
    setHere(hit ?? null);
    if (hit) reveal.value = {chat, id: hit.id};
  };
  const step = (by) => { if (hits.length) show(hits[(at + by + hits.length) % hits.length]); };
  const type = (e) => {
    const now = e.target.value.trim(), all = hitsIn(messages, now),
      from = messages.findIndex((m) => m.id === firstSeen(log()));
    const seen = new Set(messages.slice(Math.max(0, from)).map((m) => m.id));
    setWords(now);
    show(all.find((h) => seen.has(h.id)) ?? all[0]);
  };
  const draw = () => {
    const spot = markAll(log(), words, here);
    if (!spot || !goes.current) return;
    goes.current = false;
    const around = log().getBoundingClientRect(), mine = spot.getBoundingClientRect();
    if (mine.top < around.top + 32 || mine.bottom > around.bottom - 32)
      log().scrollTop += mine.top - around.top - around.height / 3;
  };

  useEffect(() => { box.current?.focus(); }, []); // closed again before the first frame: no box
  useEffect(() => {
    if (isWhole) return;
    setTrouble('');
    loadWhole(chat).catch((e) => setTrouble(inWords(e)[0]));
  }, [isWhole]);
  // What was not found in the part that was there may stand in what has come since.
  useEffect(() => { if (words && at < 0 && hits.length) show(hits[0]); }, [hits.length]);
  useEffect(() => {
    let timer = 0;
    const soon = () => { timer ||= requestAnimationFrame(() => { timer = 0; draw(); }); };
    const watch = new MutationObserver(soon);
    watch.observe(log(), {childList: true, subtree: true, characterData: true});
    draw();
    return () => { watch.disconnect(); cancelAnimationFrame(timer); };
  }, [words, here]);
  useEffect(() => () => { paint('find', []); paint('find-here', []); }, []);

  const count = !words ? '' : !hits.length ? t('Nothing was found.') : t('{n} of {all}',
    {n: number(at + 1), all: number(hits.length) + (hits.length === MOST ? '+' : '')});
  const state = trouble ? t('Only what is loaded is searched: {why}', {why: trouble}) :
    isWhole ? '' : t('The chat is being read.');
  return html`<form class="findbar" role="search" aria-label=${t('Find in this chat')}
    onSubmit=${(e) => { e.preventDefault(); step(1); }}
    onKeyDown=${(e) => {
      if (e.key === 'Escape') { e.preventDefault(); e.stopPropagation(); closeFind(); }
      if (e.key === 'Enter' && e.shiftKey && e.target === box.current) {
        e.preventDefault();
        step(-1);
      }
    }}>
    <input type="search" id="find-here" ref=${box} maxlength="200" onInput=${type}
      placeholder=${t('Find in this chat')} aria-label=${t('Find in this chat')}/>
    <span role="status">${[count, state].filter(Boolean).join(' · ')}</span>
    <${IconButton} icon="up1" label=${t('Previous hit')} disabled=${!hits.length}
      onClick=${() => step(-1)}/>
    <${IconButton} icon="down1" label=${t('Next hit')} disabled=${!hits.length}
      onClick=${() => step(1)}/>
    <${IconButton} icon="close" label=${t('Close the search')} onClick=${closeFind}/></form>`;
}

export function Find() {
  const chat = finder.value?.chat;
  return chat && chat === talk.value ? html`<${Bar} key=${chat.id} chat=${chat}/>` : null;
}
