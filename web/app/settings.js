// The settings of a chat, in plain words; the numbers for engineers behind a fold. Presets are kept
// in this browser.
import {html, useState} from '../vendor/vendor.js';
import {isKept, model, models, say, stores, talk} from './state.js';
import {setSettings} from './chats.js';
import {DEFAULTS} from './talk.js';
import {read, write} from './store.js';
import {bytes, many, number, t} from './i18n.js';

const LENGTHS = [[150, 'a few sentences'], [400, 'about a page'], [1200, 'three pages'],
  [4000, 'ten pages'], [-1, 'as long as it takes']];

const STATUS = ['loaded', 'unloaded', 'loading'];

function nameOf(m) {
  const state = m.status && m.status.value !== 'loaded' ? STATUS.includes(m.status.value) ?
    t(m.status.value) : m.status.value : '';
  return [m.id, m.size ? bytes(m.size) : '', m.context_length ?
    t('{n} tokens of memory', {n: number(m.context_length)}) : '', state,
  m.fits === false ? t('too large for this computer') : ''].filter(Boolean).join(', ');
}

function Presets({chat}) {
  const [all, setAll] = useState(read('presets') ?? {}), [naming, setNaming] = useState(false),
    names = Object.keys(all);
  const keep = (next) => { write('presets', next); setAll(next); };
  const save = (e) => {
    e.preventDefault();
    const name = new FormData(e.currentTarget).get('name').trim();
    if (!name) return;
    const {files, ...lasting} = chat.settings.value;
    keep({...all, [name]: lasting});
    setNaming(false);
    say(t('The preset “{name}” was kept in this browser.', {name}));
  };
  return html`<div class="field"><label for="preset">${t('Preset')}</label>
    <select id="preset" value=""
    onChange=${(e) => { const name = e.target.value; e.target.value =
    ''; if (name) setSettings(chat,
    {...DEFAULTS, ...all[name], files: chat.settings.value.files}); }}>
      <option value="">${names.length ? t('Choose one') : t('None yet')}</option>
        ${names.map((n) => html`<option value=${n}>${n}</option>`)}</select>
    <div class="row">${naming ?
      html`<form class="row" onSubmit=${save}>
      <input name="name" required maxlength="60" aria-label=${t('Name of the preset')}
      placeholder=${t('Name')}/><button class="solid">${t('Keep')}</button></form>`
      : html`<button type="button" class="text" onClick=${() => setNaming(true)}>
        ${t('Keep these settings')}</button>`}
      ${names.length ? html`<select aria-label=${t('Delete a preset')} value=""
        onChange=${(e) => { const {[e.target.value]: gone, ...rest} = all; e.target.value =
        ''; if (gone) keep(rest); }}><option value="">${t('Delete …')}</option>
        ${names.map((n) => html`<option value=${n}>${n}</option>`)}</select>` : null}</div></div>`;
}

function Documents({chat}) {
  const s = chat.settings.value, shown = stores.value.filter((x) => x.id !== s.files);
  if (!shown.length) return null;
  const toggle = (id) =>
    setSettings(chat, {collections: s.collections.includes(id) ?
    s.collections.filter((x) => x !== id) : [...s.collections, id]});
  return html`<fieldset class="field"><legend>${t('Documents')}</legend>
    ${shown.map((x) => html`<label>
    <input type="checkbox" checked=${s.collections.includes(x.id)} onChange=${() => toggle(x.id)}/>
    <span>${x.name || x.id}</span><small>${many(x.file_counts.completed, '1 file', '{n} files')}
    </small></label>`)}
    <small>${t('A chosen collection is asked at every question.')}</small></fieldset>`;
}

const FIELDS = [['temperature', 0, 2, 0.05, 'how much chance there is in the choice of words'],
  ['top_p', 0, 1, 0.01, 'only the likeliest words, up to this share'],
  ['repetition_penalty', 0.5, 2, 0.05, 'above 1: fewer repetitions'],
                ['max_tokens', -1, 100000, 1, 'the longest answer; -1: no limit'],
                  ['epsilon', 0, 0.5, 0.005, 'how much attention may leave out; 0: nothing'],
                  ['draft', 0, 64, 1, 'tokens guessed ahead at most'],
                  ['seed', 0, 2147483647, 1, 'the same seed, the same answer']];

function Numbers({chat}) {
  const s = chat.settings.value;
  const change = (name, min, max) => (e) => {
    const text = e.target.value.trim(), x = Number(text), isOptional = DEFAULTS[name] === null;
    const isGood = text === '' ? isOptional : Number.isFinite(x) && x >= min && x <= max &&
      (name !== 'max_tokens' || x !== 0);
    e.target.setCustomValidity(isGood ? '' : t('from {min} to {max}', {min, max}));
    if (isGood) setSettings(chat, {[name]: text === '' ? null : x});
    else e.target.reportValidity();
  };
  return html`<details class="field"><summary>${t('Numbers for engineers')}</summary>
    <div class="numbers">
    ${FIELDS.map(([name, min, max, step, what]) => html`<label><code>${name}</code>
      <input type="number" name=${name} min=${min} max=${max} step=${step} value=${s[name] ?? ''}
        placeholder=${t('the server decides')} onChange=${change(name, min, max)}/>
        <small>${t(what)}</small></label>`)}</div>
    <label class="check">
      <input type="checkbox" name="costs" checked=${s.costs}
      onChange=${(e) => setSettings(chat, {costs: e.target.checked})}/>
      <span>${t('Colour each token by what it cost')}</span></label></details>`;
}

export function Settings() {
  const chat = talk.value, s = chat.settings.value, set = (change) => setSettings(chat, change);
  return html`<div class="panel-body" tabindex="0" role="region" aria-label=${t('Settings')}>
    <label class="field">
      ${t('Model')} <select name="model" value=${model.value?.id ?? ''}
      onChange=${(e) => set({model: e.target.value})}>
      ${models.value.map((m) => html`<option value=${m.id}>${nameOf(m)}</option>`)}</select></label>
    <${Presets} chat=${chat}/>
    <label class="field">${t('Instructions for every answer of this chat')} <textarea name="system"
      rows="3" value=${s.system} onChange=${(e) => set({system: e.target.value.trim()})}></textarea>
      </label>
    <${Documents} chat=${chat}/>
    <fieldset class="field"><legend>${t('Effort')}</legend>
      ${[['auto', 'Automatic', 'easy questions take the short way'],
      ['quick', 'Quick', 'always the short way'],
      ['thorough', 'Thorough', 'always the full way, slower']].map(([value, name, what]) => html`
      <label><input type="radio" name="effort" value=${value} checked=${s.effort === value}
        onChange=${() => set({effort: value})}/><span>${t(name)}</span><small>${t(what)}</small>
        </label>`)}</fieldset>
    <label class="field">
      ${t('Style')} <input type="range" name="style" min="0" max="1.2" step="0.05"
      value=${s.temperature} onInput=${(e) => set({temperature: Number(e.target.value)})}/>
      <span class="ends"><small>${t('exact')}</small><small>${t('inventive')}</small></span></label>
    <label class="field">${t('Longest answer')} <select name="length" value=${String(s.max_tokens)}
      onChange=${(e) => set({max_tokens: Number(e.target.value)})}>
      ${LENGTHS.map(([n, words]) =>
        html`<option value=${String(n)}>${t(words)}${n > 0 ?
        ` (${t('{n} tokens', {n: number(n)})})` : ''}</option>`)}
      ${LENGTHS.some(([n]) => n === s.max_tokens) ?
        null : html`<option value=${String(s.max_tokens)}>
        ${t('{n} tokens', {n: number(s.max_tokens)})}</option>`}</select></label>
    <${Numbers} chat=${chat}/>
    ${isKept.value === false ?
      html`<p class="note">
      ${t('This server keeps no chats. Start it with --history FILE to keep them.')}</p>` : null}
      </div>`;
}
