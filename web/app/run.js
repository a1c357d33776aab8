// One answer from question to end: what is sent, what comes, what is tried again. The question
// stays in the box until the server has said that it is stored (or, where the server keeps nothing,
// that it answers).
import {batch, signal} from '../vendor/vendor.js';
import {ApiError, get, send} from './api.js';
import {readEvents} from './stream.js';
import {isKept, model} from './state.js';
import {keptReady} from './start.js';
import {newId} from './store.js';
import {fromItem, noteAsked, noteEnded} from './chats.js';

const PAUSES_S = [5, 10, 20, 40, 60];
const passes = (e) => e instanceof ApiError && (e.status === 0 || e.status === 429 ||
  e.status === 502 || e.status === 503 || e.status === 504);

function requestBody(talk, messages, place) {
  const s = talk.settings.value, own = {references: !place, costs: s.costs};
  if (s.effort === 'quick') own.path = 'light';
  if (s.effort === 'thorough') own.path = 'full';
  if (s.epsilon !== null) own.epsilon = s.epsilon;
  if (s.draft !== null) own.draft = s.draft;
  const stores = [...new Set([...s.collections, s.files].filter(Boolean))];
  const body = {
    model: model.value?.id,
    messages: s.system ? [{role: 'system', content: s.system}, ...messages] : messages,
    stream: true, stream_options: {include_usage: true},
    tools: stores.length ? [{type: 'file_search', vector_store_ids: stores}] : [],
    temperature: s.temperature, max_tokens: s.max_tokens,
    repetition_penalty: s.repetition_penalty, sparing: own,
  };
  if (s.top_p !== 1) body.top_p = s.top_p;
  if (s.seed !== null) body.seed = s.seed;
  if (s.effort === 'thorough') body.reasoning_effort = 'high';
  return {...body, ...place};
}

// A pause that "Try again now" ends, with the seconds left for the page.
function pause(run, seconds) {
  return new Promise((resolve) => {
    const end = Date.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((end - Date.now()) / 1000);
      run.retryIn.value = Math.max(0, left);
      if (left <= 0) run.wake();
    };
    const timer = setInterval(tick, 250);
    run.wake = () => {
      clearInterval(timer);
      run.retryIn.value = null;
      run.wake = () => {};
      resolve();
    };
    tick();
  });
}

export function begin(talk) {
  const run = {talk, abort: new AbortController(), stage: signal('sending'), retryIn: signal(null),
               wake: () => {}, streamId: null, lastEvent: null, answer: null, isStopped: false,
               began: Date.now()};
  talk.run.value = run;
  talk.trouble.value = null;
  return run;
}

// The question goes out: until it is accepted, nothing of it is in the conversation. accepted()
// empties the box.
export async function askQuestion(talk, text, parent, accepted) {
  const run = begin(talk), id = newId('msg');
  const make = () => {
    talk.put({id, parent, role: 'user', content: text});
    talk.show(id);
  };
  const messages = () => isKept.value ? [{role: 'user', content: text}] : [...talk.history(parent),
    {role: 'user', content: text}];
  const place = () => !isKept.value ? null : talk.isStored ?
    {conversation: talk.id, parent: parent || null, message_id: id} : {conversation: talk.id,
    message_id: id};
  await post(run, () => requestBody(talk, messages(), place()), () => {
    make(); accepted(); return {parent: id};
  });
}

// Another answer to a question that is there.
export async function answerAgain(talk, question) {
  const run = begin(talk), id = newId('msg');
  const place = isKept.value ? {conversation: talk.id, parent: question, message_id: id} : null;
  await post(run, () => requestBody(talk, isKept.value ? [] : talk.history(question), place), () =>
    ({parent: question, id: isKept.value ? id : undefined}));
}

// More of an answer that was cut: where the server keeps it, a new version that begins with the old
// one's text.
export async function goOn(talk, answer) {
  const run = begin(talk), m = talk.nodes.get(answer).value, id = newId('msg');
  const place = isKept.value ? {conversation: talk.id, parent: answer, message_id: id} :
    {continue_final_message: true, add_generation_prompt: false};
  const make = () => {
    const body = requestBody(talk, isKept.value ? [] : talk.history(answer, true), place);
    return isKept.value ?
      body : {...body, tools: [], sparing: {...body.sparing, references: false}};
  };
  const begun = {parent: m.parent, content: m.content, reasoning: m.reasoning, sources: m.sources};
  await post(run, make, () => isKept.value ? {...begun, id} : {parent: m.parent, id: answer});
}

async function post(run, body, onAccepted) {
  const {talk} = run;
  for (let tries = 0; ; tries++) {
    try {
      run.stage.value = 'sending';
      if (isKept.value === null) await keptReady();
      const sent = body(), kept = !!sent.conversation;
      const response = await send('POST', '/v1/chat/completions', sent,
        {signal: run.abort.signal, headers: kept ? {'X-Sparing-Stream': 'keep'} : {}});
      run.streamId = response.headers.get('X-Sparing-Stream-Id');
      batch(() => {
        talk.trouble.value = null;
        talk.isStored = kept;
        const made = onAccepted(), id = made.id ?? (kept ? sent.message_id + '-a' : newId('msg'));
        run.answer = talk.put({...made, id, role: 'assistant', status: 'running', error: null,
          model: sent.model});
        talk.show(id);
        run.stage.value = 'waiting';
      });
      noteAsked(talk);
      await follow(run, response, sent.messages);
      return;
    } catch (e) {
      if (run.answer || e.name === 'AbortError') {
        finish(run, e);
        return;
      }
      // a server that keeps chats, but no messages of pages
      if (e.param === 'message_id' && e.status === 400 && isKept.value) {
        isKept.value = false;
        continue;
      }
      talk.trouble.value = e;
      if (!passes(e) || tries >= PAUSES_S.length) {
        talk.run.value = null;
        return;
      }
      run.stage.value = 'pausing';
      await pause(run, e.retryAfter ?? PAUSES_S[tries]);
      if (run.isStopped) {
        talk.run.value = null;
        return;
      }
    }
  }
}

// Reads a stream to its end; one that the server keeps is taken up again where it broke.
export async function follow(run, first, messages) {
  let response = first;
  const state = {whole: new References(messages), before: run.answer.value.content};
  for (let tries = 0; ; ) {
    try {
      await readEvents(response, (e) => {
        if (e.id !== null) run.lastEvent = e.id;
        tries = 0;
        take(run, e, state);
      }, !run.streamId);
      finish(run, null);
      return;
    } catch (e) {
      if (!run.streamId || run.isStopped || e.name === 'AbortError' ||
        (e instanceof ApiError && e.status !== 0)) throw e;
      for (;;) {
        run.answer.value = {...run.answer.value, error: e};
        if (tries >= PAUSES_S.length) throw e;
        await pause(run, PAUSES_S[tries++]);
        if (run.isStopped) throw new DOMException('stopped', 'AbortError');
        const again = await attach(run).catch((x) => x);
        if (again instanceof Response) {
          response = again;
          run.answer.value = {...run.answer.value, error: null};
          break;
        }
        if (again instanceof ApiError && (again.status === 404 || again.status === 410)) {
          await reread(run);
          return;
        }
      }
    }
  }
}

const attach = (run) => send('GET', `/v1/streams/${run.streamId}`, undefined,
  {signal: run.abort.signal, headers: run.lastEvent === null ?
    {} : {'Last-Event-ID': run.lastEvent}});

// The stream is gone, or too old: the message has what there is.
async function reread(run) {
  const items = await get(
    `/v1/conversations/${run.talk.id}/items?leaf=${run.answer.value.id}&limit=1`);
  const m = items.data.find((x) => x.id === run.answer.value.id);
  const now = m ? fromItem(m) : {status: 'failed'};
  batch(() => {
    run.answer.value = {...run.answer.value, ...now, error: now.status === 'failed' ?
      new ApiError(0, 'the server was restarted') : null, progress: null};
    run.talk.run.value = null;
  });
  noteEnded(run.talk);
}

// A stream that runs on the server already: after a reload, or from another device.
export async function attachTo(talk, answer, streamId) {
  if (talk.run.value) return;
  const run = begin(talk);
  Object.assign(run, {answer, streamId});
  run.stage.value = 'waiting';
  // replayed from its first event
  answer.value = {...answer.value, content: '', reasoning: '', status: 'running'};
  try {
    await follow(run, await attach(run), []);
    if (answer.value.status !== 'stopped') await reread(run);
      // one that goes on with another has that one's text as well
  } catch (e) {
    if (e instanceof ApiError &&
      (e.status === 404 || e.status === 410)) await reread(run).catch((x) => finish(run, x));
    else finish(run, e);
  }
}

function take(run, {event, data}, state) {
  if (event === 'sparing.progress') {
    run.stage.value = data.stage;
    run.answer.value = {...run.answer.value, progress: data};
    return;
  }
  if (data.error) throw new ApiError(data.error.status ?? 500, data.error.message ?? '',
    {code: data.error.code ?? null});
  const m = {...run.answer.value}, choice = data.choices?.[0], delta = choice?.delta ?? {};
  if (data.id) m.answerId = data.id;
  if (data.model) m.model = data.model;
  if (delta.reasoning_content) {
    m.reasoning += delta.reasoning_content;
    m.thoughtSince ??= Date.now();
  }
  const more = state.whole.add(delta);
  if (more) {
    if (m.thoughtSince && !m.thoughtMs) m.thoughtMs = Date.now() - m.thoughtSince;
    m.content += more;
    m.progress = null;
    run.stage.value = 'write';
    if (run.talk.settings.value.costs)
      m.costs = [...(m.costs ?? []), {text: more, parts: delta.references ?
        [[new TextEncoder().encode(more).length, 'reference']] : delta.costs ?? []}];
  }
  for (const c of delta.tool_calls ?? []) {
    const calls = [...m.calls], old = calls[c.index] ?? {name: '', arguments: ''};
    calls[c.index] = {name: old.name + (c.function?.name ?? ''),
      arguments: old.arguments + (c.function?.arguments ?? '')};
    m.calls = calls;
  }
  if (data.retrieved) m.sources = {retrieved: data.retrieved, facts: data.facts ?? [],
    annotations: delta.annotations ?? [], note: data.search?.note ?? null,
    shift: state.before.length};
  else if (data.search?.note) m.sources = {retrieved: [], facts: [], annotations: [],
    note: data.search.note};
  if (choice?.finish_reason) m.status = choice.finish_reason === 'length' ? 'cut' : 'ending';
  if (data.usage) m.usage = data.usage;
  run.answer.value = m;
}

// The end of an answer, good or bad.
function finish(run, e) {
  const m = run.answer?.value, {talk} = run;
  batch(() => {
    if (m) {
      const status = run.isStopped || e?.name === 'AbortError' ? 'stopped' : e ?
        'failed' : m.status === 'cut' ? 'cut' : 'complete';
      run.answer.value = {...m, status, error: status === 'failed' ? e : null, progress: null};
    }
    if (talk.run.value === run) talk.run.value = null;
  });
  noteEnded(talk);
}

// Computing ends at once; what was written stays.
export function stop(talk) {
  const run = talk.run.value;
  if (!run || run.isStopped) return;
  run.isStopped = true;
  if (run.streamId) send('DELETE', `/v1/streams/${run.streamId}`).catch(() => {});
  run.abort.abort();
  run.wake();
}
