// Dialogs of the browser: it keeps the focus inside and the rest inert.
import {html, useEffect, useRef} from '../vendor/vendor.js';
import {key, keyWanted, setKey} from './api.js';
import {changeUser, exportAll, importChats, removeAll} from './chats.js';
import {IconButton} from './icons.js';
import {read, write} from './store.js';
import {dialog, isKept, say} from './state.js';
import {inWords} from './trouble.js';
import {Answer} from './turn.js';
import {Receipt} from './receipt.js';
import {chooseLanguage, LANGUAGES, lang, t} from './i18n.js';

const close = () => { dialog.value = null; };
const guard = (work) =>
  work.catch((e) => say(e instanceof SyntaxError ?
  t('This file is no export of chats.') : inWords(e).filter(Boolean).join(' ')));

function Dialog({title, onClose = close, className, children}) {
  const box = useRef();
  useEffect(() => {
    const before = document.activeElement;
    box.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${box} class=${className} aria-label=${title} onClose=${onClose}
    onKeyDown=${(e) => e.stopPropagation()}>
    <div class="panel-head"><h2>${title}</h2>
    <${IconButton} icon="close" label=${t('Close')} onClick=${onClose}/></div>${children}</dialog>`;
}

export const SHORTCUTS = [['Enter', 'send'], ['Shift Enter', 'new line'],
  ['Escape', 'stop the answer; close what is open'], ['/', 'to the question box'],
  ['ArrowUp', 'edit the last question, in an empty box'],
                          ['Ctrl Shift O', 'new chat'], ['Ctrl K', 'search the chats'],
                            ['Ctrl F', 'find in this chat'],
                            ['Ctrl ,', 'settings of this chat'],
                            ['Ctrl Shift C', 'copy the last answer'], ['?', 'this list']];

const Keys = () => html`<${Dialog} title=${t('Keyboard')}>
  <dl class="keys">${SHORTCUTS.map(([keys, what]) =>
  html`<dt>${keys.split(' ').map((k) => html`<kbd>${k === 'ArrowUp' ? '↑' : k}</kbd>`)}</dt>
  <dd>${t(what)}</dd>`)}</dl><//>`;

function AskKey() {
  const isWrong = !!key.value;
  const save = (e) => {
    e.preventDefault();
    const form = new FormData(e.currentTarget), value = form.get('key').trim();
    if (!value) return;
    setKey(value, form.get('keep') === 'device');
    changeUser();
  };
  return html`<${Dialog} title=${t('This server wants a key')}
    onClose=${() => { keyWanted.value = false; }}><form class="keyform" onSubmit=${save}>
    <p>${isWrong ? html`<b class="bad" role="alert">${t('This key is not known here.')}
      </b> ` : null}
      ${t('You got it from the person who runs the server. What you have typed is kept.')}</p>
    <label class="field">${t('Key')} <input name="key" type="password" autocomplete="off" required
      autofocus/></label>
    <fieldset class="field"><legend>${t('Remember it')}</legend>
      <label><input type="radio" name="keep" value="session" checked/>
      <span>${t('until this window is closed')}</span></label>
      <label><input type="radio" name="keep" value="device"/><span>${t('on this device')}</span>
        </label></fieldset>
    <button class="solid">${t('Go on')}</button></form><//>`;
}

function Preferences() {
  const file = useRef();
  const theme = (e) => {
    write('theme', e.target.value || null);
    if (e.target.value) document.documentElement.dataset.theme = e.target.value;
    else delete document.documentElement.dataset.theme;
  };
  return html`<${Dialog} title=${t('Preferences')}><div class="prefs">
    <label class="field">
      ${t('Language')} <select name="language" value=${lang.value}
      onChange=${(e) => guard(chooseLanguage(e.target.value))}>
      ${Object.entries(LANGUAGES).map(([id, name]) => html`<option value=${id} lang=${id}>${name}
      </option>`)}</select></label>
    <label class="field">
      ${t('Appearance')} <select name="theme" value=${read('theme') ?? ''} onChange=${theme}>
      <option value="">${t('as the system')}</option><option value="light">${t('light')}</option>
      <option value="dark">${t('dark')}</option></select></label>
    <div class="row"><button type="button" onClick=${() => { keyWanted.value = true; close(); }}>
      ${key.value ? t('Change the key') : t('Enter a key')}</button>
      ${key.value ? html`<button type="button"
        onClick=${() => { setKey('', false); changeUser(); }}>${t('Forget the key')}
        </button>` : null}</div>
    ${isKept.value ? html`<h3>${t('All chats')}</h3>
      <div class="row"><button type="button" onClick=${() => guard(exportAll('json'))}>
      ${t('Export as JSON')}</button>
      <button type="button" onClick=${() => guard(exportAll('md'))}>${t('Export as Markdown')}
      </button>
      <button type="button" onClick=${() => file.current.click()}>${t('Import')}</button>
        <input ref=${file} type="file" accept=".json,application/json" hidden
        aria-label=${t('File to import')} onChange=${(e) => guard(importChats(e.target.files[0]))}/>
        </div>
      <div class="row"><button type="button" class="danger"
        onClick=${() => { dialog.value = {kind: 'removeAll'}; }}>${t('Delete all chats')}</button>
        </div>` : null}
    <p><a href="/vendor/LICENSES" target="_blank" rel="noreferrer">
      ${t('Licences of the libraries of this page')}</a></p></div><//>`;
}

const RemoveAll = () =>
  html`<${Dialog} title=${t('Delete all chats?')}>
  <p>${t('Every chat of this key is removed from the server at once. This cannot be undone.')}</p>
  <div class="row"><button type="button" class="danger"
    onClick=${() => guard(removeAll().then(close))}>${t('Delete all')}</button>
    <button type="button" onClick=${close}>${t('Keep them')}</button></div><//>`;

function Compare({chat, ids}) {
  const both = ids.map((id) => chat.nodes.get(id)?.value);
  return html`<${Dialog} title=${t('Side by side')} className="wide-dialog">
    <div class="compare">
    ${both.map((m) => m ?
    html`<section aria-label=${t('{n} of {all}', {n: chat.versions(m).indexOf(m.id) + 1,
    all: chat.versions(m).length})}>
    <h3>${t('{n} of {all}', {n: chat.versions(m).indexOf(m.id) + 1,
    all: chat.versions(m).length})}, ${m.model}</h3><${Answer} m=${m}/>
    <${Receipt} usage=${m.usage} sources=${m.sources} model=${m.model}/></section>`
    : html`<section><p class="note">
      ${t('This version is not loaded. Open it once with the arrows.')}</p></section>`)}</div><//>`;
}

export function Dialogs() {
  if (keyWanted.value) return html`<${AskKey}/>`;
  const d = dialog.value;
  if (d?.kind === 'keys') return html`<${Keys}/>`;
  if (d?.kind === 'preferences') return html`<${Preferences}/>`;
  if (d?.kind === 'removeAll') return html`<${RemoveAll}/>`;
  if (d?.kind === 'compare') return html`<${Compare} chat=${d.chat} ids=${d.ids}/>`;
  return null;
}
