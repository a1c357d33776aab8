// The list of chats: new one, search, pinned, by day; what can be done to each.
import {html, useEffect, useRef, useState} from '../vendor/vendor.js';
import {Icon, IconButton} from './icons.js';
import {Menu} from './menu.js';
import {exportChat, moreList, newChat, openChat, pin, remove, rename, search} from './chats.js';
import {dialog, focusSoon, found, hasDocuments, list, listMore, panel, say, sideOpen, talk,
  talks} from './state.js';
import {sharePage} from './share.js';
import {inWords} from './trouble.js';
import {lang, t} from './i18n.js';

const guard = (work) => work.catch((e) => say(inWords(e).filter(Boolean).join(' ')));

function groups(rows) {
  const day = new Date();
  day.setHours(0, 0, 0, 0);
  const today = day / 1000, week = today - 6 * 86400, out = [[t('Pinned'), []], [t('Today'), []],
    [t('Last seven days'), []], [t('Earlier'), []]];
  for (const c of rows) out[c.pinned ? 0 : c.updated_at >= today ? 1 : c.updated_at >= week ?
    2 : 3][1].push(c);
  return out.filter(([, all]) => all.length);
}

// The sentence of a hit, with the words marked. marks count code points.
function Snippet({snippet}) {
  const points = [...snippet.text], out = [];
  let at = 0;
  for (const [from, to] of snippet.marks ?? []) {
    out.push(points.slice(at, from).join(''), html`<mark>${points.slice(from, to).join('')}
      </mark>`);
    at = to;
  }
  return html`<small>${out}${points.slice(at).join('')}</small>`;
}

function Row({c}) {
  const [editing, setEditing] = useState(false), box = useRef(), isHere = talk.value.id === c.id,
    title = c.title || t('New chat');
  const isLive = talks.get(c.id)?.run.value || c.live;
  useEffect(() => { if (editing) { box.current.focus(); box.current.select(); } }, [editing]);
  const save = () => {
    if (!box.current) return; // Enter took it already
    const text = box.current.value.trim();
    setEditing(false);
    if (text && text !== c.title) guard(rename(c.id, text));
  };
  if (editing)
    return html`<li class="here">
      <input ref=${box} value=${c.title} aria-label=${t('New title')} maxlength="200" onBlur=${save}
      onKeyDown=${(e) => { if (e.key === 'Enter') save();
        if (e.key === 'Escape') { e.stopPropagation(); setEditing(false); } }}/></li>`;
  return html`<li class=${isHere ? 'here' : null}>
    <a href=${`#${c.id}`} aria-current=${isHere ? 'page' : null}
    onClick=${(e) => { e.preventDefault(); guard(openChat(c.id, c.snippet?.item)); }}>
      <span>${title}</span>${c.snippet ? html`<${Snippet} snippet=${c.snippet}/>` : null}${isLive ?
        html`<span class="sr">, ${t('an answer is being written')}</span>` : null}</a>
    ${isLive ? html`<span class="live" title=${t('an answer is being written')}></span>` : null}
    <${Menu} label=${t('Rename, pin, export or delete: {title}', {title})}
      items=${[['edit', t('Rename'), () => setEditing(true)],
      ['pin', c.pinned ? t('Unpin') : t('Pin'), () => guard(pin(c.id, !c.pinned))],
      ['save', t('Export as Markdown'), () => guard(exportChat(c.id, 'md'))],
        ['save', t('Export as JSON'), () => guard(exportChat(c.id, 'json'))],
        ['save', t('Export as a page to hand on'), () => guard(sharePage(c.id))],
        ['bin', t('Delete'), () => guard(remove(c.id))]]}/></li>`;
}

export function Sidebar() {
  const rows = found.value ?? list.value, timer = useRef(0), isOpen = sideOpen.value;
  lang.value;
  const onFind = (e) => {
    clearTimeout(timer.current);
    const words = e.target.value;
    timer.current = setTimeout(() => guard(search(words)), words ? 200 : 0);
  };
  return html`<nav id="side" class=${isOpen ? 'open' : null} aria-label=${t('Chats')}>
    <div class="brand"><b>sparing</b>
      <${IconButton} icon="close" label=${t('Close the list')} class="icon only-phone"
      onClick=${() => { sideOpen.value = false; focusSoon(() =>
      document.getElementById('open-side')); }}/></div>
    <button type="button" class="new" id="new" onClick=${newChat}><${Icon} name="plus"/>
      ${t('New chat')}<kbd>Ctrl ⇧ O</kbd></button>
    <label class="find"><${Icon} name="find"/>
      <input type="search" id="find" placeholder=${t('Search chats')}
      aria-label=${t('Search chats')} onInput=${onFind}/></label>
    <div class="list" id="list" tabindex="0" role="region" aria-label=${t('List of chats')}>
      ${found.value ? html`<h2><span role="status">${found.value.length ?
        t('Found') : t('Nothing was found.')}</span></h2>
        <ul>${rows.map((c) => html`<${Row} key=${c.id} c=${c}/>`)}</ul>`
        : groups(rows).map(([name, all]) => html`<h2>${name}</h2>
          <ul>${all.map((c) => html`<${Row} key=${c.id} c=${c}/>`)}</ul>`)}
      ${!found.value && !rows.length ? html`<p class="note">${t('Your chats will be listed here.')}
        </p>` : null}
      ${!found.value && listMore.value ?
        html`<button type="button" class="text" onClick=${() => guard(moreList())}>
        ${t('More chats')}</button>` : null}
    </div>
    <div class="foot">${hasDocuments.value ?
      html`<button type="button"
      onClick=${(e) => { panel.value = {kind: 'documents',
      opener: e.currentTarget}; sideOpen.value = false; }}><${Icon} name="doc"/>${t('Documents')}
      </button>` : null}
      <a href="/dashboard"><${Icon} name="chart"/>${t('Dashboard')}</a>
      <button type="button" onClick=${() => { dialog.value = {kind: 'preferences'}; }}>
        <${Icon} name="tune"/>${t('Preferences')}</button></div></nav>`;
}
