// Sources of an answer: cards below it, and the panel that opens at the passage.
import {html, useEffect, useRef, useState} from '../vendor/vendor.js';
import {get} from './api.js';
import {panel} from './state.js';
import {t} from './i18n.js';

export const openSource = (sources, n, opener) => {
  panel.value = {kind: 'source', sources, n, opener};
};

export function Cite({n, sources}) {
  const p = sources?.retrieved?.[n - 1];
  return html`<button type="button" class="cite"
    aria-label=${t('Source {n}: {place}', {n, place: p ? p.place || p.filename : ''})}
    onClick=${(e) => openSource(sources, n, e.currentTarget)}>${n}</button>`;
}

export function Sources({sources}) {
  if (!sources) return null;
  const {retrieved, facts, annotations, note} = sources,
    cited = new Set((annotations ?? []).map((a) => a.file_citation?.passage));
  return html`${note || !retrieved.length && !facts?.length ?
    html`<p class="note">${t('Documents: {note}.', {note: note ?? t('nothing was found')})}
    </p>` : null}
    ${retrieved.length || facts?.length ?
      html`<section class="sources" aria-label=${t('Sources')}><h3>${t('Sources')}</h3><ol>
      ${retrieved.map((p, i) =>
        html`<li><button type="button"
        onClick=${(e) => openSource(sources, i + 1, e.currentTarget)}><i aria-hidden="true">${i + 1}
        </i><b>${p.place || p.filename}</b>
        <span>${p.filename}${cited.has(i + 1) ? '' : ` · ${t('read, not cited')}`}</span></button>
          </li>`)}</ol>
      ${facts?.length ? html`<ul class="facts">
        ${facts.map((f) => html`<li>${f.subject} – ${f.predicate} – ${f.object}${f.source ?
        ` (${f.source})` : ''}</li>`)}</ul>` : null}</section>` : null}`;
}

// The passage's text with the quoted sentences marked.
function Marked({text, quotes}) {
  const spots = quotes.map((q) => [text.indexOf(q), q]).filter(([at]) => at >= 0).sort((a, b) =>
    a[0] - b[0]), out = [];
  let at = 0;
  for (const [from, q] of spots) {
    if (from < at) continue;
    out.push(text.slice(at, from), html`<mark>${q}</mark>`);
    at = from + q.length;
  }
  return [...out, text.slice(at)];
}

export function SourcePanel({sources, n}) {
  const p = sources.retrieved[n - 1], first = useRef(), [whole, setWhole] = useState(null);
  const quotes = sources.annotations.map((a) => a.file_citation).filter((c) =>
    c?.passage === n).map((c) => c.quote);
  const missing = quotes.filter((q) => !p.text.includes(q));
  useEffect(() => { setWhole(null); }, [p]);
  useEffect(() => { first.current?.querySelector('mark, [data-here]')?.scrollIntoView?.(
    {block: 'center'}); }, [p, whole]);
  const open = async () => {
    try { setWhole((await readParts(p.file_id)).data); } catch (e) { setWhole(e); }
  };
  return html`<div ref=${first} class="panel-body" tabindex="0" role="region"
    aria-label=${t('Source')}>
    <p class="where"><b>${p.place || p.filename}</b><br/>${p.filename}</p>
    ${missing.length ? html`<p class="note">
      ${t('A quoted sentence is not in this passage word for word.')}</p>` : null}
    ${quotes.length ? null :
      html`<p class="note">${t('The answer cites no sentence of this passage.')}</p>`}
    ${Array.isArray(whole) ?
      whole.map((part) => html`<p class="passage" data-here=${part.chunk_id === p.chunk_id ?
      '' : null}>${part.chunk_id === p.chunk_id ?
      html`<${Marked} text=${part.text} quotes=${quotes}/>` : part.text}</p>`)
      : html`<p class="passage"><${Marked} text=${p.text} quotes=${quotes}/></p>`}
    ${whole instanceof Error ?
      html`<p class="note" role="alert">${t('The document is not there any more.')}</p>` : null}
    ${whole ? null : html`<p><button type="button" onClick=${open}>${t('Open the whole document')}
      </button></p>`}</div>`;
}

// The whole document as its passages, from the first collection that has it.
async function readParts(file) {
  const all = await get('/v1/vector_stores?limit=100');
  for (const s of all.data) {
    try { return await get(`/v1/vector_stores/${s.id}/files/${file}/content`); } catch (
      e) { if (e.status !== 404) throw e; }
  }
  throw new Error('no collection has it');
}
