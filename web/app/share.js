// A chat as one file of HTML to hand on: no script in it, and nothing comes from elsewhere.
// Messages are drawn as in the page; of its style sheets the rules go along that hold for them.
import {html, render} from '../vendor/vendor.js';
import {fileName, loadTalk, loadWhole, storedTalk} from './chats.js';
import {loadLibraries} from './blocks.js';
import {Growing, withCites} from './markdown.js';
import {saveFile} from './store.js';
import {talks} from './state.js';
import {t} from './i18n.js';

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const escape = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');

// Where an answer comes from: the place of each passage, and of its text what is cited.
function Sources({sources, at}) {
  const cited = (sources.annotations ?? []).map((a) => a.file_citation).filter(Boolean);
  return html`<section class="sources"><h3>${t('Sources')}</h3><ol class="shared">
    ${sources.retrieved.map((p, i) => html`<li id=${`s${at}-${i + 1}`}>
      <b>${p.place || p.filename}</b> ${p.filename}
      ${cited.filter((c) => c.passage === i + 1).map((c) =>
        html`<blockquote>${c.quote}</blockquote>`)}</li>`)}</ol></section>`;
}

function Message({m, at}) {
  if (m.role === 'user') return html`<article class="turn user"><h2 class="sr">${t('You')}</h2>
    <div class="bubble">${m.content}</div></article>`;
  const link = (n) => html`<sup><a href=${`#s${at}-${n}`}>${n}</a></sup>`;
  return html`<article class="turn"><h2 class="sr">${m.model}</h2>
    <div class="prose">${new Growing(link).show(withCites(m.content, m.sources), true)}</div>
    ${m.sources?.retrieved?.length ? html`<${Sources} sources=${m.sources} at=${at}/>` : null}
    <p class="note">${m.model}</p></article>`;
}

// What only the page can do goes; MathML is drawn by the browser itself.
function clean(box) {
  for (const e of box.querySelectorAll('button, .katex-html')) e.remove();
  for (const e of box.querySelectorAll('img:not([src^="data:"])')) e.replaceWith(e.alt);
  for (const e of box.querySelectorAll('a[href^="/"]')) e.removeAttribute('href');
  for (const e of box.querySelectorAll('input')) e.toggleAttribute('checked', e.checked);
}

function rulesFor(box, rules) {
  const holds = (selector) => {
    try {
      return /^(:root|\*|body)/.test(selector) || !!box.querySelector(selector);
    } catch { return false; }
  };
  return [...rules].map((r) => r.media && r.cssRules ?
    `@media ${r.media.mediaText} {\n${rulesFor(box, r.cssRules)}}\n` :
    r.selectorText && holds(r.selectorText) ? `${r.cssText}\n` : '').join('');
}

export async function sharePage(id) {
  const chat = talks.get(id) ?? storedTalk(id);
  if (chat.isStored && !chat.path.value.length) await loadTalk(chat);
  if (chat.isStored && !chat.path.value.length) throw chat.trouble.value;
  await loadWhole(chat);
  await loadLibraries();
  const box = document.createElement('div'), title = chat.title.value || t('New chat');
  const sheets = [...document.styleSheets].filter((s) => /\/(base|chat)\.css$/.test(s.href ?? ''));
  box.append(document.createElement('main'));
  render(html`<h1>${title}</h1>${chat.path.value.map((s, at) =>
    html`<${Message} m=${s.value} at=${at}/>`)}`, box.firstChild);
  box.firstChild.className = 'column';
  clean(box);
  const css = sheets.map((s) => rulesFor(box, s.cssRules)).join('') +
    'body { overflow: visible; } ol.shared { display: grid; gap: .6rem; list-style: decimal; ' +
    'padding-left: 1.5rem; font-size: .875rem; }';
  saveFile(`${fileName(id)}.html`, 'text/html', `<!doctype html>
<html lang="${document.documentElement.lang}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${escape(title)}</title><style>${css}</style></head>
<body>${box.innerHTML}</body></html>
`);
}
