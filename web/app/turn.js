// One question, or one answer with what belongs to it.
import {html, useMemo, useRef, useState} from '../vendor/vendor.js';
import {ask} from './api.js';
import {answerAgain, askQuestion, goOn} from './run.js';
import {askFromHere, removeMessage, showVersion} from './chats.js';
import {copyText, readDraft, writeDraft} from './store.js';
import {Growing, withCites} from './markdown.js';
import {IconButton} from './icons.js';
import {Receipt} from './receipt.js';
import {Cite, Sources} from './sources.js';
import {Trouble} from './trouble.js';
import {Work} from './work.js';
import {dialog, say} from './state.js';
import {duration, t} from './i18n.js';

function Pager({chat, m}) {
  const all = chat.versions(m), at = all.indexOf(m.id);
  if (all.length < 2) return null;
  const to = (k) => showVersion(chat, all[k]).catch((e) => say(e.message));
  return html`<span class="pager">
    <${IconButton} icon="before" label=${t('Version before')} disabled=${at === 0}
    onClick=${() => to(at - 1)}/>
    <span>${t('{n} of {all}', {n: at + 1, all: all.length})}</span>
      <${IconButton} icon="after" label=${t('Version after')} disabled=${at === all.length - 1}
      onClick=${() => to(at + 1)}/>
    ${m.role === 'assistant' ?
      html`<button type="button" class="text"
      onClick=${() => { dialog.value = {kind: 'compare', chat,
      ids: [all[Math.max(0, at - 1)], all[Math.max(0, at - 1) + 1]]}; }}>${t('Side by side')}
      </button>` : null}</span>`;
}

function CopyIcon({text, label}) {
  const [done, setDone] = useState(false);
  return html`<${IconButton} icon="copy" label=${done ? t('Copied') : label} onClick=${async () => {
    setDone(await copyText(text));
    setTimeout(() => setDone(false), 1500);
  }}/>`;
}

const Remove = ({chat, m, label}) => html`<${IconButton} icon="bin" label=${label}
  disabled=${!!chat.run.value}
  onClick=${() => removeMessage(chat, m.id).catch((e) => say(e.message))}/>`;

export function Question({chat, m}) {
  const [text, setText] = useState(null), box = useRef(), isBusy = !!chat.run.value;
  const draft = `edit ${m.id}`;
  const begin = () => {
    setText(readDraft(draft) || m.content);
    requestAnimationFrame(() => box.current?.focus());
  };
  const end = () => { writeDraft(draft, ''); setText(null); };
  const resend = () => {
    const words = box.current.value.trim();
    if (words && !isBusy) askQuestion(chat, words, m.parent, end);
  };
  if (text !== null)
    return html`<article class="turn user"><h2 class="sr">${t('You')}</h2>
      <form class="editing" onSubmit=${(e) => { e.preventDefault(); resend(); }}>
      <textarea ref=${box} rows="3" aria-label=${t('Edit the question')} onKeyDown=${(e) =>
        { if (e.key === 'Escape') { e.stopPropagation(); end(); } }}
      onInput=${(e) => writeDraft(draft, e.target.value)}>${text}</textarea>
      <div class="row"><button class="solid">${t('Send as a new version')}</button>
        <button type="button" onClick=${end}>${t('Cancel')}</button></div></form>
        </article>`;
  return html`<article class="turn user" data-id=${m.id}><h2 class="sr">${t('You')}</h2>
    <div class="bubble">${m.content}</div>
    <div class="acts"><${IconButton} icon="edit" label=${t('Edit the question')} disabled=${isBusy}
      onClick=${begin} data-edit/>
      <${CopyIcon} text=${m.content} label=${t('Copy the question')}/>
      <${Remove} chat=${chat} m=${m} label=${t('Delete the question')}/>
        <${Pager} chat=${chat} m=${m}/></div></article>`;
}

// Each token in the colour of what it cost; a token may end within a character.
function Costs({pieces}) {
  const out = [], decoder = new TextDecoder('utf-8', {ignoreBOM: true});
  for (const {text, parts} of pieces) {
    const raw = new TextEncoder().encode(text);
    let at = 0;
    for (const [n, cost] of [...parts, [Infinity, '']]) {
      const said = decoder.decode(raw.subarray(at, at + n), {stream: true});
      at += n;
      if (said) out.push(html`<span class="cost-${cost || 'none'}">${said}</span>`);
    }
  }
  return html`<p class="costs">${out}</p>
    <p class="note"><span class="cost-computed">${t('a step of its own')}
    </span> · <span class="cost-guessed">${t('guessed ahead')}
    </span> · <span class="cost-forced">${t('no other was possible')}
    </span> · <span class="cost-reference">${t('a repeated text')}</span></p>`;
}

export function Answer({m}) {
  const sources = m.sources, growing = useRef(null), isDone = m.status !== 'running' &&
    m.status !== 'ending';
  return useMemo(() => {
    growing.current ??= new Growing(null);
    growing.current.cite = (n) => html`<${Cite} n=${n} sources=${sources}/>`;
    return html`<div class="prose">
      ${growing.current.show(isDone ? withCites(m.content, sources) : m.content, isDone)}</div>`;
  }, [m.content, isDone, sources]);
}

function Thoughts({m}) {
  if (!m.reasoning) return null;
  const title = m.thoughtMs ? t('Thought for {time}', {time: duration(m.thoughtMs)}) :
    m.status === 'running' && !m.content ? t('Thinking') : t('Thoughts');
  return html`<details class="think"><summary>${title}</summary><p>${m.reasoning}</p></details>`;
}

const Calls = ({calls}) =>
  calls.filter(Boolean).map((c) =>
  html`<details class="call"><summary>${t('Asks for the tool {name}', {name: c.name})}</summary>
  <pre tabindex="0"><code>${c.arguments}</code></pre></details>`);

function Thumbs({chat, m}) {
  const [text, setText] = useState(null), id = m.answerId ?? m.id, given = m.feedback?.value ??
    null;
  const give = async (value) => {
    try {
      await ask('POST', '/feedback', {metric_name: 'thumbs', value, inference_id: id});
      chat.put({id: m.id, feedback: {value}});
      setText('');
    } catch (e) { say(e.status === 501 || e.status === 400 || e.status === 404 ?
      t('This server keeps no feedback: {why}', {why: e.message}) : e.message); }
  };
  const comment = async (e) => {
    e.preventDefault();
    const words = new FormData(e.currentTarget).get('why').trim();
    try {
      if (words) await ask('POST', '/feedback', {metric_name: 'comment', value: words,
        inference_id: id});
      setText(null);
      say(t('Thank you.'));
    } catch (x) { say(x.message); }
  };
  return {buttons: html`<${IconButton} icon="up" label=${t('Good answer')}
    aria-pressed=${given === true} onClick=${() => give(true)}/>
    <${IconButton} icon="down" label=${t('Bad answer')} aria-pressed=${given === false}
      onClick=${() => give(false)}/>`,
  form: text === null ?
    null : html`<form class="why" onSubmit=${comment}>
    <label>${given ? t('What was good?') : t('What was wrong?')} <input name="why"
    maxlength="1000"/></label>
    <div class="row">${(given ? [t('Correct'), t('Clear')] : [t('Wrong'), t('Not in the source'),
      t('Too long'), t('Unclear')]).map((w) =>
      html`<button type="button" class="pill"
      onClick=${(e) => { e.currentTarget.form.elements.why.value = w; }}>${w}</button>`)}
      <button class="solid">${t('Send')}</button>
        <button type="button" onClick=${() => setText(null)}>${t('Close')}</button></div>
        <small>${t('It is kept on this server, beside the answer.')}</small></form>`};
}

function Ended({chat, m, isBusy}) {
  const again = () => answerAgain(chat, m.parent), more = () => goOn(chat, m.id),
    last = chat.last()?.id === m.id;
  if (m.status === 'cut') return html`<p class="cut">
    ${t('Stopped at the length that is set.')} ${last ?
    html`<button type="button" class="text" disabled=${isBusy} onClick=${more}>${t('Continue')}
    </button>` : null}</p>`;
  if (m.status === 'stopped') return html`<p class="cut">${t('You stopped this answer.')} ${last ?
    html`${m.content ? html`<button type="button" class="text" disabled=${isBusy} onClick=${more}>
    ${t('Continue')}</button>` : null}
    <button type="button" class="text" disabled=${isBusy} onClick=${again}>${t('Answer again')}
      </button>` : null}</p>`;
  if (m.status !== 'failed') return null;
  const acts = [[t('Try again'), again, true], ...(m.content ? [[t('Continue'), more]] : [])];
  return html`<${Trouble} error=${m.error ?? {status: 0, message: t('the server was restarted')}}
    headline=${m.content ? t('The answer broke off.') : t('There is no answer.')}
    kept=${m.content ? t('Your question and the part above are kept.') :
      t('Your question is kept.')} acts=${last && !isBusy ? acts : []}/>`;
}

export function Reply({chat, m}) {
  const isBusy = !!chat.run.value, isMine = chat.run.value?.answer?.value.id === m.id,
    run = chat.run.value;
  const thumbs = Thumbs({chat, m}), isDone = m.status !== 'running' && m.status !== 'ending';
  return html`<article class="turn" data-id=${m.id} aria-busy=${isDone ? null : 'true'}>
    <h2 class="sr">${m.model || 'sparing'}</h2>
    <${Thoughts} m=${m}/>
    ${m.costs ? html`<${Costs} pieces=${m.costs}/>` : html`<${Answer} m=${m}/>`}
    <${Calls} calls=${m.calls}/>
    ${isMine && !m.content && !isDone ? html`<${Work} run=${run} m=${m}/>` : null}
    ${isMine && m.error ?
      html`<${Trouble} error=${m.error}
      headline=${t('The connection broke while the answer was written.')}
      kept=${t('Your question and the part above are kept; the server goes on.')}
      retryIn=${run.retryIn.value} acts=${[[t('Try again now'), () => run.wake(), true]]}/>` : null}
    <${Ended} chat=${chat} m=${m} isBusy=${isBusy}/>
    <${Sources} sources=${m.sources}/>
    ${isDone ? html`<div class="below">
      <div class="acts"><${CopyIcon} text=${m.content} label=${t('Copy the answer')}/>
      <${IconButton} icon="again" label=${t('Answer again; this one is kept')} disabled=${isBusy}
        onClick=${() => answerAgain(chat, m.parent)}/>
      ${chat.last()?.id === m.id ?
        null : html`<${IconButton} icon="branch"
        label=${t('Go on from here; what follows is kept')} disabled=${isBusy}
        onClick=${() => askFromHere(chat, m.id)}/>`}
      ${thumbs.buttons}<${Remove} chat=${chat} m=${m} label=${t('Delete the answer')}/>
        <${Pager} chat=${chat} m=${m}/></div>${thumbs.form}
      <${Receipt} usage=${m.usage} sources=${m.sources} model=${m.model}/></div>` : null}
        </article>`;
}

export function Turn({chat, message}) {
  const m = message.value;
  return m.role === 'user' ?
    html`<${Question} chat=${chat} m=${m}/>` : html`<${Reply} chat=${chat} m=${m}/>`;
}
