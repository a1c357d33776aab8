// The box of the question. It empties only when the server has the question; what stands in it is
// kept as a draft of its chat.
import {html, useEffect, useLayoutEffect, useRef, useState} from '../vendor/vendor.js';
import {askQuestion, stop} from './run.js';
import {addFiles, areBusy, limit, ofChat, reading, removeUpload} from './uploads.js';
import {Icon, IconButton} from './icons.js';
import {loadTalk} from './chats.js';
import {isKept, panel, stores, talk} from './state.js';
import {keptReady} from './start.js';
import {Trouble} from './trouble.js';
import {readDraft, writeDraft} from './store.js';
import {bytes, many, percent, t} from './i18n.js';

const draftOf = (chat) => chat.path.value.length || chat.isStored ? chat.id : '';
const isTouch = () => matchMedia('(pointer: coarse)').matches;
let timer = 0, typed = null; // {id, text}: not kept yet

function flushDraft() {
  clearTimeout(timer);
  if (typed) writeDraft(typed.id, typed.text);
  typed = null;
}
addEventListener('pagehide', flushDraft);

function keepDraft(chat, text) {
  clearTimeout(timer);
  typed = {id: draftOf(chat), text};
  timer = setTimeout(flushDraft, 300);
}

export async function submit(chat, box) {
  const text = box.value.trim();
  if (!text || chat.run.value) return;
  const before = draftOf(chat);
  typed = {id: before, text};
  flushDraft();
  if (isKept.value === null) await keptReady();
  // A question stands behind the last message, which may not be known yet.
  if (chat.isStored && !chat.path.value.length) await loadTalk(chat);
  if (chat.run.value || chat.trouble.value && !chat.path.value.length) return;
  await askQuestion(chat, text, chat.last()?.id ?? '', () => forget(chat, box, before, text));
}

// The server has the text. What was typed since stays, here or, before a chat has begun, in the
// draft that another one shows.
function forget(chat, box, before, text) {
  const isHere = talk.value === chat;
  flushDraft();
  if (isHere && box.value.trim() !== text) {
    writeDraft(before, '');
    writeDraft(draftOf(chat), box.value);
    return;
  }
  if (readDraft(before).trim() === text) writeDraft(before, '');
  if (isHere) {
    box.value = '';
    box.dispatchEvent(new Event('input'));
  }
}

function Chip({u}) {
  const what = u.state === 'sending' ? `${bytes(u.size)}, ${t('{n} sent', {n: percent(u.part)})}` :
    u.state === 'reading' ? reading(u)
    : u.state === 'ready' ? `${bytes(u.size)}, ${many(u.parts ?? 0, '1 passage', '{n} passages')}` :
      u.why;
  return html`<li class=${`chip ${u.state}`}><${Icon} name="doc"/>
    <span>${u.name}<small role="status">${what}</small></span>
    <${IconButton} icon="close" label=${t('Remove {name}', {name: u.name})}
      onClick=${() => removeUpload(u)}/>
    ${u.state === 'sending' ?
      html`<progress value=${u.part} max="1" aria-label=${t('Sending {name}', {name: u.name})}>
      </progress>` : u.state === 'reading' ?
      html`<progress value=${u.parts ? u.parts - u.waiting : null} max=${u.parts || null}
      aria-label=${t('Reading {name}', {name: u.name})}></progress>` : null}</li>`;
}

function Unsent({chat, box}) {
  const e = chat.trouble.value, run = chat.run.value;
  if (!e || !chat.path.value.length && chat.isStored) return null;
  const retry = () => { if (run) run.wake(); else submit(chat, box.current); };
  const edit = () => { if (run) stop(chat); chat.trouble.value = null; box.current.focus(); };
  return html`<div class="unsent">
    <${Trouble} error=${e} kept=${t('Your question is still in the box.')}
    retryIn=${run?.retryIn.value} acts=${[[run ? t('Try again now') : t('Try again'), retry, true],
    [t('Edit the question'), edit]]}/></div>`;
}

export function Composer() {
  const chat = talk.value, box = useRef(), dock = useRef(), picker = useRef(),
    [hasText, setHasText] = useState(false), run = chat.run.value;
  const isWaiting = run && !run.answer, chosen = stores.value.filter((s) =>
    chat.settings.value.collections.includes(s.id));
  useLayoutEffect(() => {
    flushDraft();
    box.current.value = readDraft(draftOf(chat));
    setHasText(!!box.current.value.trim());
    grow();
  }, [chat]);
  useEffect(() => { if (!isTouch()) box.current.focus(); }, [chat]);
  useEffect(() => { // what is said for a moment stands above the box, however high it is
    const watch = new ResizeObserver(([e]) => document.documentElement.style.setProperty('--dock',
      `${e.target.offsetHeight}px`));
    watch.observe(dock.current);
    return () => watch.disconnect();
  }, []);
  const grow = () => {
    if (CSS.supports('field-sizing', 'content')) return;
    box.current.style.height = 'auto';
    box.current.style.height = `${Math.min(box.current.scrollHeight, 192)}px`;
  };
  const onInput = () => {
    setHasText(!!box.current.value.trim());
    keepDraft(chat, box.current.value);
    grow();
  };
  const onKey = (e) => {
    if (e.key === 'ArrowUp' && !box.current.value && !chat.run.value) {
      const last = [...document.querySelectorAll('[data-edit]')].pop();
      if (last) { e.preventDefault(); last.click(); }
    }
    // Enter sends on a keyboard; on a touch screen it makes a new line. Not while an input method
    // composes.
    if (e.key !== 'Enter' || e.shiftKey || e.isComposing || e.keyCode === 229 || isTouch() &&
      !e.ctrlKey) return;
    e.preventDefault();
    submit(chat, box.current);
  };
  const onPaste = (e) => {
    const files = [...e.clipboardData.files];
    if (files.length) { e.preventDefault(); addFiles(files, chat); }
  };
  const chips = ofChat(chat);
  return html`<div class="dock" ref=${dock}><${Unsent} chat=${chat} box=${box}/>
    <form id="form" class="composer" aria-label=${t('Your question')}
      onSubmit=${(e) => { e.preventDefault(); submit(chat, box.current); }}>
      ${chips.length ? html`<ul class="chips" aria-label=${t('Attached')}>
        ${chips.map((u) => html`<${Chip} key=${u.id} u=${u}/>`)}</ul>` : null}
      <textarea id="ask" ref=${box} rows="1" placeholder=${t('Ask, or drop a document here')}
        aria-label=${t('Your question')} onInput=${onInput} onKeyDown=${onKey} onPaste=${onPaste}
        readonly=${!!isWaiting}></textarea>
      <div class="tools"><${IconButton} icon="clip" label=${t('Attach a file')}
        title=${[t('Attach a file'), limit()].filter(Boolean).join('. ')}
        onClick=${() => picker.current.click()}/>
        <input ref=${picker} type="file" multiple hidden aria-label=${t('Files')}
          onChange=${(e) => { addFiles([...e.target.files], chat); e.target.value = ''; }}/>
        <button type="button" class="pill"
          onClick=${(e) => { panel.value = {kind: 'settings', opener: e.currentTarget}; }}>
          <${Icon} name="doc"/>
          <span>${chosen.length === 1 ? chosen[0].name || chosen[0].id : chosen.length ?
          t('{n} collections', {n: chosen.length}) : t('No documents')}</span></button>
        ${chat.settings.value.system ?
          html`<button type="button" class="pill"
          onClick=${(e) => { panel.value = {kind: 'settings', opener: e.currentTarget}; }}>
          ${t('Instructions on')}</button>` : null}
        ${run ? html`<button type="button" id="stop" class="send" aria-label=${t('Stop')}
          title=${t('Stop')} onClick=${() => { stop(chat); box.current.focus(); }}>
          <${Icon} name="stop"/></button>`
          : html`<button id="send" class="send" aria-label=${t('Send')} title=${t('Send')}
            disabled=${!hasText}><${Icon} name="send"/></button>`}</div></form>
    <p class="hint"><span>
      ${areBusy(chat) ? t('A file is still being read; answers do not see it yet.') :
      isKept.value === false ? t('This server keeps no chats: they end with this page.') :
      t('Kept on this server alone.')}</span>
      <span class="wide"><kbd>Enter</kbd> ${t('sends')}, <kbd>Shift Enter</kbd> ${t(
        'new line')}, <kbd>?</kbd> ${t('all shortcuts')}</span></p></div>`;
}
