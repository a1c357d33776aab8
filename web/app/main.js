// The chat page: puts its parts together, and owns the keyboard, files that are dropped, and the
// address.
import {html, options, render, useEffect, useState} from '../vendor/vendor.js';
import {languageReady, lang, percent, t} from './i18n.js';
import {Composer} from './composer.js';
import {Dialogs} from './dialogs.js';
import {IconButton} from './icons.js';
import {closeFind, Find, openFind} from './find.js';
import {Log} from './log.js';
import {closePanel, Panel} from './panel.js';
import {Sidebar} from './sidebar.js';
import {dialog, finder, focusSoon, isOnline, model, panel, say, sideOpen, talk,
  toast} from './state.js';
import {addFiles, limit} from './uploads.js';
import {newChat, openChat, storedTalk} from './chats.js';
import {start} from './start.js';
import {stop} from './run.js';
import {copyText} from './store.js';

// Many events of a stream come within one frame: the page is drawn once.
options.debounceRendering = (draw) => {
  if (document.hidden) setTimeout(draw, 100); else requestAnimationFrame(draw);
};

function Context() {
  const last = [...talk.value.path.value].reverse().find((s) => s.value.usage?.total_tokens)?.value,
    all = model.value?.context_length ?? model.value?.max_model_len;
  const used = last && all ? Math.min(1, last.usage.total_tokens / all) : 0, isFull = used >= 0.8,
    chat = talk.value;
  useEffect(() => {
    if (!isFull || chat.isWarned) return;
    chat.isWarned = true;
    say(t('The memory of this chat is nearly full. What is older may no longer be seen.'));
  }, [isFull, chat]);
  if (!used) return null;
  return html`<span class=${isFull ? 'context full' : 'context'} role="img"
    aria-label=${t('Memory of this chat: {n} used', {n: percent(used)})}
    title=${isFull
      ? t('The memory of this chat is nearly full. What is older may no longer be seen.')
      : t('Memory of this chat: {n} used', {n: percent(used)})}>
    <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7"/>
      <circle class="used" cx="10" cy="10" r="7" pathLength="100"
      stroke-dasharray=${`${100 * used} 100`}/></svg><span aria-hidden="true">${percent(used)}
      </span></span>`;
}

function Header() {
  const title = talk.value.title.value || t('New chat'), open = (e) => {
    panel.value = {kind: 'settings', opener: e.currentTarget};
  };
  useEffect(() => { document.title = `${title} – sparing`; }, [title]);
  return html`<header><${IconButton} id="open-side" icon="menu"
    label=${t('Open the list of chats')} class="icon only-phone"
    onClick=${() => { sideOpen.value = true; requestAnimationFrame(() =>
    document.getElementById('find')?.focus()); }}/>
    <h1 id="title">${title}</h1>
      <button type="button" class="model" id="model" onClick=${open}>
      <span class="dot" data-on=${model.value ? '' : null}></span>
      <span>${model.value?.id ?? t('no model')}</span><span class="sr">. ${t('Change the model')}
      </span></button>
    <${Context}/>
    ${talk.value.path.value.length ? html`<${IconButton} icon="find"
      label=${t('Find in this chat')} onClick=${openFind}/>` : null}
    <${IconButton} icon="tune" label=${t('Settings of this chat')} onClick=${open}/>
      </header>`;
}

function Toast() {
  const it = toast.value;
  return html`<div class="toast" role="status">
    ${it ? html`<span>${it.text}</span>
    ${it.undo ? html`<button type="button" class="text"
    onClick=${() => { toast.value = null; it.undo().catch((e) => say(e.message)); }}>${t('Undo')}
    </button>` : null}` : null}</div>`;
}

function useDrop() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const has = (e) => [...(e.dataTransfer?.types ?? [])].includes('Files');
    const enter = (e) => { if (has(e)) { e.preventDefault(); setOver(true); } };
    const leave = (e) => { if (!e.relatedTarget) setOver(false); };
    const drop = (e) => {
      if (!has(e)) return;
      e.preventDefault();
      setOver(false);
      addFiles([...e.dataTransfer.files], talk.value);
    };
    const all = [['dragenter', enter], ['dragover', enter], ['dragleave', leave], ['drop', drop]];
    all.forEach(([name, f]) => addEventListener(name, f));
    return () => all.forEach(([name, f]) => removeEventListener(name, f));
  }, []);
  return over;
}

function onKey(e) {
  const box = document.getElementById('ask'),
    isTyping = e.target.matches?.('input, textarea, select'), isCtrl = e.ctrlKey || e.metaKey;
  const act = (work) => { e.preventDefault(); work(); };
  if (document.querySelector('dialog[open]')) return;
  if (e.key === 'Escape') {
    if (panel.value) act(closePanel);
    else if (sideOpen.value) act(() => {
      sideOpen.value = false; focusSoon(() => document.getElementById('open-side'));
    });
    else if (finder.value) act(closeFind);
    else if (talk.value.run.value) act(() => { stop(talk.value); box?.focus(); });
    else if (e.shiftKey) act(() => box?.focus());
  } else if (isCtrl && e.shiftKey && e.key.toLowerCase() === 'o') act(newChat);
  else if (isCtrl && e.key.toLowerCase() === 'k') act(() =>
    { sideOpen.value = true; requestAnimationFrame(() =>
    document.getElementById('find')?.focus()); });
  // The browser's own search knows what is mounted; it comes with the same keys once more.
  else if (isCtrl && !e.shiftKey && e.key.toLowerCase() === 'f' && e.target.id !== 'find-here' &&
    talk.value.path.value.length) act(() => {
    if (finder.value) document.getElementById('find-here')?.focus(); else openFind();
  });
  else if (isCtrl && e.key === ',') act(() => {
    panel.value = {kind: 'settings', opener: document.activeElement};
  });
  else if (isCtrl && e.shiftKey && e.key.toLowerCase() === 'c') act(async () => {
    const last = [...talk.value.path.value].reverse().find((s) => s.value.role === 'assistant');
    if (last && await copyText(last.value.content)) say(t('The last answer was copied.'));
  });
  else if (e.key === '/' && !isTyping && !isCtrl) act(() => box?.focus());
  else if (e.key === '?' && (!isTyping || e.target === box && !box.value)) act(() => {
    dialog.value = {kind: 'keys'};
  });
}

// On a phone the list and the panel lie over the page, which is out of reach while they do.
function usePhone() {
  const media = matchMedia('(max-width: 48rem)'), [is, setIs] = useState(media.matches);
  useEffect(() => {
    const change = () => setIs(media.matches);
    media.addEventListener('change', change);
    return () => media.removeEventListener('change', change);
  }, []);
  return is;
}

function App() {
  lang.value;
  const over = useDrop(), isOver = usePhone() && (sideOpen.value || !!panel.value);
  const leave = () => { if (panel.value) closePanel(); sideOpen.value = false; };
  return html`<a class="skip" href="#ask"
    onClick=${(e) => { e.preventDefault(); document.getElementById('ask').focus(); }}>
    ${t('Skip to the question box')}</a>
    <${Sidebar}/>${isOver ? html`<div class="shade" onClick=${leave}></div>` : null}
    <main id="main" inert=${isOver}><${Header}/><${Find}/>
      <${Log}/>${isOnline.value ?
      null : html`<p class="offline" role="status">
      ${t('This device is offline. Chats that were read before can still be read.')}</p>`}
      <${Composer}/></main>
    <${Panel}/><${Dialogs}/>
      <${Toast}/>${over ? html`<div class="drop" aria-hidden="true">
      <b>${t('Drop the file: this chat can then be asked about it')}<br/>
      <small>${limit()}</small></b></div>` : null}`;
}

const fromAddress = () => {
  const id = location.hash.slice(1);
  if (id && (id !== talk.value.id || !talk.value.path.value.length))
    openChat(id).catch((e) => say(e.message));
  else if (!id && talk.value.isStored) newChat();
};

await languageReady;
// What is typed before the chat of the address is read is for that chat.
if (location.hash.length > 1) talk.value = storedTalk(location.hash.slice(1));
render(html`<${App}/>`, document.getElementById('app'));
addEventListener('keydown', onKey);
addEventListener('popstate', fromAddress);
start().then(fromAddress);
if ('serviceWorker' in navigator && window.isSecureContext) {
  const shell = window.trustedTypes?.createPolicy('shell', {createScriptURL: () => '/sw.js'});
  navigator.serviceWorker.register(shell ? shell.createScriptURL('') : '/sw.js').then(() =>
    navigator.serviceWorker.ready).then((worker) => {
    // what this page is made of
    worker.active.postMessage(['/', ...performance.getEntriesByType('resource').map((r) =>
      new URL(r.name).pathname)]);
  }).catch(() => {});
}
