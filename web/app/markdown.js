// Markdown to nodes, never to a string of HTML: marked's tokens become Preact nodes. A text that
// still grows is read again only from its first unfinished block on.
import {Fragment, html, Marked} from '../vendor/vendor.js';
import {Code, Formula} from './blocks.js';
import {t} from './i18n.js';

const MAX_TEXT = 2 << 20, MAX_DEPTH = 20;
// Private characters that stand around the number of a source.
const CITE_OPEN = '\ue000', CITE_CLOSE = '\ue001', CITES = /\ue000\d+\ue001/g;

const rule = (name, level, find, pattern, display) => ({
  name, level, start: (src) => { const at = src.search(find); return at < 0 ? undefined : at; },
  tokenizer(src) {
    const m = pattern.exec(src);
    return m ? {type: 'math', raw: m[0], text: (m[1] ?? m[2]).trim(), display} : undefined;
  },
});
const cite = {
  name: 'cite', level: 'inline', start: (src) => {
    const at = src.indexOf(CITE_OPEN); return at < 0 ? undefined : at;
  },
  tokenizer(src) {
    const m = /^\ue000(\d+)\ue001/.exec(src);
    return m ? {type: 'cite', raw: m[0], n: Number(m[1])} : undefined;
  },
};
// $x$ is a formula only without a space inside its ends and without a digit behind it: "$5 and $6"
// is money.
const marked = new Marked({gfm: true, extensions: null}).use({extensions: [
  rule('mathBlock', 'block', /\$\$|\\\[/,
    /^ {0,3}(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/, true),
  rule('mathDisplay', 'inline', /\$\$|\\\[/, /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/, true),
  rule('mathInline', 'inline', /\$|\\\(/,
    /^(?:\$(?![\s$])([^$\n]*?[^\s$\\])\$(?!\d)|\\\(([^\n]+?)\\\))/, false),
  cite,
]});

// The text with the numbers of its sources where their sentences end. annotations count code
// points.
export function withCites(text, sources) {
  const found = (sources?.annotations ?? []).map((a) => a.file_citation).filter(Boolean);
  if (!found.length) return text;
  const points = [...text], at = new Map(), shift = sources.shift ?
    [...text.slice(0, sources.shift)].length : 0;
  for (const c of found) {
    const end = Math.min(points.length, c.end_index + shift);
    at.set(end, [...(at.get(end) ?? []), c.passage]);
  }
  let out = '';
  for (let i = 0; i <= points.length; i++) {
    for (const n of at.get(i) ?? []) out += CITE_OPEN + n + CITE_CLOSE;
    out += points[i] ?? '';
  }
  return out;
}

const decode = (text) => text.replace(CITES, '');
const isSafe = (href) => /^(https?:|mailto:|\/(?![/\\])|#)/i.test(href);
const ENTITIES = {amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: ' '};
const entities = (text) => text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{2,6}));/gi,
  (all, dec, hex, name) => {
  const code = dec ? Number(dec) : hex ? parseInt(hex, 16) : 0;
  return name ? ENTITIES[name] ?? all : code > 0 && code <= 0x10ffff &&
    (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : all;
});

function image(token) {
  if (/^data:image\/(png|jpeg|gif|webp);base64,/i.test(token.href) ||
    /^\/(?![/\\])/.test(token.href)) return html`<img src=${token.href} alt=${token.text}/>`;
  if (!/^https?:/i.test(token.href)) return token.raw;
  let host = token.href;
  try { host = new URL(token.href).host; } catch { /* as it stands */ }
  return html`<a href=${token.href} rel="noreferrer noopener" target="_blank">
    ${t('Image at {host}', {host})}${token.text ? `: ${token.text}` : ''}</a>`;
}

function list(token, to) {
  const items = token.items.map((i) =>
    html`<li class=${i.task ? 'task' : null}>
    ${i.task ? html`<input type="checkbox" checked=${i.checked} disabled aria-label=${i.checked ?
    t('done') : t('open')}/>` : null}${to(i.tokens)}</li>`);
  return token.ordered ? html`<ol start=${token.start || 1}>${items}</ol>` :
    html`<ul>${items}</ul>`;
}

const table = (token, to) =>
  html`<div class="scroll" tabindex="0" role="region" aria-label=${t('Table')}><table>
  <thead><tr>${token.header.map((c, i) =>
    html`<th scope="col" class=${token.align[i]}>${to(c.tokens)}</th>`)}</tr></thead>
  <tbody>${token.rows.map((r) =>
    html`<tr>${r.map((c, i) => html`<td class=${token.align[i]}>${to(c.tokens)}</td>`)}</tr>`)}
    </tbody></table></div>`;

function node(token, env, depth) {
  if (depth > MAX_DEPTH) return decode(token.raw);
  const to = (tokens) => (tokens ?? []).map((x) => node(x, env, depth + 1));
  switch (token.type) {
    case 'space': case 'def': case 'checkbox': return null; // list() draws what is to be ticked
    case 'paragraph': return html`<p>${to(token.tokens)}</p>`;
    case 'heading': { // the page has h1, the turn h2
      const Tag = `h${Math.min(6, token.depth + 2)}`;
      return html`<${Tag}>${to(token.tokens)}<//>`;
    }
    case 'code': return html`<${Code} text=${decode(token.text)} lang=${token.lang ?? ''}
      isClosed=${env.isClosed(token)}/>`;
    case 'math': return html`<${Formula} tex=${decode(token.text)} display=${token.display}/>`;
    case 'blockquote': return html`<blockquote>${to(token.tokens)}</blockquote>`;
    case 'list': return list(token, to);
    case 'table': return table(token, to);
    case 'hr': return html`<hr/>`;
    case 'strong': return html`<strong>${to(token.tokens)}</strong>`;
    case 'em': return html`<em>${to(token.tokens)}</em>`;
    case 'del': return html`<del>${to(token.tokens)}</del>`;
    case 'codespan': return html`<code>${decode(entities(token.text))}</code>`;
    case 'br': return html`<br/>`;
    case 'link': return isSafe(token.href) ?
      html`<a href=${token.href} rel="noreferrer noopener" target="_blank">${to(token.tokens)}
      </a>` : decode(token.raw);
    case 'image': return image(token);
    case 'cite': return env.cite ? env.cite(token.n) : null;
    case 'text': return token.tokens ? html`<${Fragment}>${to(token.tokens)}
      <//>` : entities(token.text);
    case 'escape': return token.text;
    case 'html': return /^<br\s*\/?>$/i.test(token.raw.trim()) ? html`<br/>` : decode(token.raw);
    default: return decode(token.raw ?? '');
  }
}

// Elements that stand apart from what is before and behind them.
export const BLOCKS = new Set(['p', 'li', 'ul', 'ol', 'td', 'th', 'tr', 'table', 'blockquote',
  'pre', 'br', 'hr', 'h3', 'h4', 'h5', 'h6']);

function textIn(drawn) {
  if (drawn === null || drawn === undefined || typeof drawn === 'boolean') return '';
  if (Array.isArray(drawn)) return drawn.map(textIn).join('');
  if (typeof drawn !== 'object') return String(drawn);
  if (drawn.type === Code) return `\n${drawn.props.text}\n`;
  if (typeof drawn.type === 'function' && drawn.type !== Fragment) return ''; // formulas, sources
  const edge = BLOCKS.has(drawn.type) ? '\n' : '';
  return edge + textIn(drawn.props.children) + edge;
}

// A whole answer as it is read: without marks, addresses of links and formulas.
export const asRead = (text) => textIn(new Growing(null).show(text, true));

// One growing text. show(text, isDone) gives the nodes; those of finished blocks are the same
// objects each time.
export class Growing {
  constructor(cite) {
    this.cite = cite;
    this.at = 0;
    this.done = [];
    this.text = '';
  }

  show(given, isDone) {
    const text = given.replace(/\r\n?/g, '\n'); // as marked counts
    if (text.length > MAX_TEXT) return [html`<pre class="plain">${text}</pre>`];
    // another text, or the last look: late definitions of links count
    if (!this.text || !text.startsWith(this.text) || isDone) {
      this.at = 0;
      this.done = [];
    }
    this.text = isDone ? '' : text;
    const tokens = marked.lexer(text.slice(this.at)), whole = {cite: this.cite, isClosed: () =>
      true};
    const keep = isDone ? tokens.length : Math.max(0, tokens.length - 2);
    for (const token of tokens.slice(0, keep)) {
      this.at += token.raw.length;
      this.done.push(html`<${Fragment} key=${this.done.length}>${node(token, whole, 0)}<//>`);
    }
    const open = {cite: this.cite, isClosed: (c) => /\n {0,3}(`{3,}|~{3,})\s*$/.test(c.raw)};
    return [...this.done, ...tokens.slice(keep).map((token, i) =>
      html`<${Fragment} key=${this.done.length + i}>${node(token, open, 0)}<//>`)];
  }
}
