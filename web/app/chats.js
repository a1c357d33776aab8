// The conversations of the server: list, search, one's messages, and what is done to them. Where
// the server keeps none, the page holds the chats until it is closed.
import {ask, get, send} from './api.js';
import {dialog, found, hasDocuments, isKept, list, listMore, maxFile, models,
  modelsKnown, panel, reveal,
  say, sideOpen, stores, talk, talks} from './state.js';
import {newId, read, saveFile, write, writeDraft} from './store.js';
import {DEFAULTS, Talk} from './talk.js';
import {t} from './i18n.js';
import {attachTo} from './run.js';
import {keepMirror, mirrored, wipeMirror} from './mirror.js';

const PAGE = 60, WHOLE = 1000;
const q = encodeURIComponent;
const textOf = (content) => typeof content === 'string' ? content : (content ?? []).map((p) =>
  p.text ?? '').join('');
const STATES = {in_progress: 'running', completed: 'complete', incomplete: 'cut'};

// A message as the server has it, as the page has it.
export function fromItem(item) {
  const sources = item.sources && Object.keys(item.sources).length ?
    {retrieved: [], facts: [], annotations: [], shift: 0, note: item.sources.search?.note ?? null,
    ...item.sources} : null;
  const receipt = item.receipt && Object.keys(item.receipt).length ? item.receipt : null;
  return {id: item.id, parent: item.parent ?? '', role: item.role, content: textOf(item.content),
    reasoning: item.reasoning ?? '', calls: (item.tool_calls ?? []).map((c) => c.function ?? c),
    status: item.state ?? STATES[item.status] ?? 'complete',
          model: item.model ?? '', usage: item.usage ?? (receipt ? {sparing: receipt} : null),
            sources, feedback: item.feedback ?? null, siblings: item.siblings ?? null,
          error: item.error ?? null, answerId: item.id, at: 1000 * (item.created_at ?? 0) ||
            Date.now()};
}

// --- the list
// -------------------------------------------------------------------------------------

export async function loadList() {
  try {
    const page = await get('/v1/conversations?limit=50');
    isKept.value = true;
    list.value = page.data;
    listMore.value = page.has_more ? page.last_id : null;
    keepMirror('list', page.data);
  } catch (e) {
    if ([404, 405, 501].includes(e.status) || (e.status === 400 && !e.isProxy)) isKept.value =
      false;
    else {
      const old = await mirrored('list');
      if (old && !list.value.length) list.value = old;
      throw e;
    }
  }
}

export async function moreList() {
  const page = await get(`/v1/conversations?limit=50&after=${q(listMore.value)}`);
  list.value = [...list.value, ...page.data];
  listMore.value = page.has_more ? page.last_id : null;
}

let searched = '';
export async function search(words) {
  searched = words;
  if (!words.trim()) {
    found.value = null;
    return;
  }
  if (!isKept.value) {
    found.value = list.value.filter((c) => c.title.toLowerCase().includes(words.toLowerCase()));
    return;
  }
  const page = await get(`/v1/conversations?limit=50&query=${q(words)}`);
  if (searched === words) found.value = page.data;
}

const firstWords = (text) => text.length > 40 ? [...text].slice(0, 40).join('') + '…' : text;

function setRow(id, row) {
  const known = list.value.find((c) => c.id === id);
  list.value = known ? list.value.map((c) => c.id === id ? {...c, ...row} : c) :
    [{id, title: '', pinned: false, updated_at: Date.now() / 1000, ...row}, ...list.value];
}

// A question is accepted: the chat is in the list now, first of those that are not pinned.
export function noteAsked(chat) {
  if (!chat.title.value) chat.title.value =
    firstWords(chat.path.value[0]?.value.content.replace(/\s+/g, ' ') ?? '');
  talks.set(chat.id, chat);
  setRow(chat.id, {title: chat.title.value, updated_at: Date.now() / 1000, live: true});
  if (talk.value === chat && location.hash !== `#${chat.id}`) history.replaceState(null, '',
    `#${chat.id}`);
  if (chat.isStored && !chat.hasSettings &&
    JSON.stringify(chat.settings.value) !== JSON.stringify(DEFAULTS)) saveSettings(chat);
  chat.hasSettings = true;
}

export function noteEnded(chat) {
  if (list.value.some((c) => c.id === chat.id)) setRow(chat.id, {live: false});
  keepMirror(chat.id, {title: chat.title.value,
    items: chat.path.value.map((s) => ({...s.value, error: null}))});
}

// --- one
// ------------------------------------------------------------------------------------------

export function newChat() {
  talk.value = new Talk(newId('conv'), read('settings') ?? {});
  history.replaceState(null, '', location.pathname);
  sideOpen.value = false;
  if (panel.value?.kind === 'source') panel.value = null;
  document.getElementById('ask')?.focus();
}

// One that the server has; nothing of it is read yet.
export function storedTalk(id) {
  const chat = new Talk(id);
  chat.title.value = list.value.find((c) => c.id === id)?.title ?? '';
  chat.isStored = true;
  chat.hasSettings = true;
  return chat;
}

export async function openChat(id, leaf) {
  const chat = talks.get(id) ?? (talk.value.id === id ? talk.value : storedTalk(id));
  sideOpen.value = false;
  if (panel.value?.kind === 'source') panel.value = null;
  if (location.hash !== `#${id}`) history.pushState(null, '', `#${id}`);
  talk.value = chat;
  if (chat.isStored && !chat.run.value && (leaf || !chat.path.value.length)) await loadTalk(chat,
    leaf);
  if (leaf) await showMessage(chat, leaf);
}

// Brings a message of the path into sight, with those between it and what is loaded.
async function showMessage(chat, id) {
  const isThere = () => chat.path.value.some((m) => m.value.id === id);
  for (let first = null; !isThere() && chat.hasMore.value && first !== chat.path.value[0];) {
    first = chat.path.value[0];
    await loadOlder(chat, WHOLE);
  }
  if (isThere() && talk.value === chat) reveal.value = {chat, id};
}

// Reads the end of the path to a leaf (undefined: the active one, or what is being read already).
export function loadTalk(chat, leaf) {
  if (!leaf && chat.reading) return chat.reading;
  const mine = readTalk(chat, leaf).finally(() => {
    if (chat.reading === mine) chat.reading = null;
  });
  chat.reading = mine;
  return mine;
}

async function readTalk(chat, leaf) {
  chat.loading.value = true;
  chat.trouble.value = null;
  try {
    const [one, page] = await Promise.all([get(`/v1/conversations/${q(chat.id)}`),
      get(`/v1/conversations/${q(chat.id)}/items?${leaf ?
        `leaf=${q(leaf)}&` : ''}before=end&limit=${PAGE}`)]);
    chat.title.value = one.title ?? '';
    chat.pinned.value = !!one.pinned;
    chat.settings.value = {...DEFAULTS, ...one.settings};
    showItems(chat, page);
    talks.set(chat.id, chat);
    noteEnded(chat);
  } catch (e) {
    const old = await mirrored(chat.id);
    if (old && !chat.path.value.length && e.status !== 404) {
      chat.title.value = old.title;
      chat.path.value = old.items.map((m) => chat.put(m));
    }
    chat.trouble.value = e;
  } finally {
    chat.loading.value = false;
  }
  const last = chat.path.value[chat.path.value.length - 1];
  if (last?.value.status === 'running' && !chat.run.value && !chat.trouble.value) attachLast(chat,
    last);
}

function showItems(chat, page) {
  const items = page.data.filter((i) => i.role === 'user' || i.role === 'assistant').map((i) =>
    chat.put(fromItem(i)));
  chat.path.value = items;
  chat.hasMore.value = !!page.has_more;
}

async function attachLast(chat, answer) {
  const streams = await get('/v1/streams').catch(() => ({data: []}));
  const mine = streams.data.find((s) => s.answer === answer.value.id);
  if (mine) attachTo(chat, answer, mine.id);
  else answer.value = {...answer.value, status: 'failed', error: null};
}

// Messages before the first one of the path. Two wishes at once are one request.
export function loadOlder(chat, limit = PAGE) {
  chat.older ??= readOlder(chat, limit).finally(() => { chat.older = null; });
  return chat.older;
}

// The path from its beginning. Errors: what came before them stays.
export async function loadWhole(chat) {
  for (let first = null; chat.hasMore.value && first !== chat.path.value[0];) {
    first = chat.path.value[0];
    await loadOlder(chat, WHOLE);
  }
}

async function readOlder(chat, limit) {
  const first = chat.path.value[0];
  if (!first || !chat.hasMore.value || chat.loading.value) return;
  chat.loading.value = true;
  try {
    const last = chat.last().id;
    const page = await get(
      `/v1/conversations/${q(chat.id)}/items?leaf=${q(last)}&before=${q(
      first.value.id)}&limit=${limit}`);
    if (chat.path.value[0] !== first) return; // another version is shown by now
    chat.path.value = [...page.data.filter((i) => i.role === 'user' ||
      i.role === 'assistant').map((i) => chat.put(fromItem(i))), ...chat.path.value];
    chat.hasMore.value = !!page.has_more;
  } finally {
    chat.loading.value = false;
  }
}

// Another version of a message, with what follows it.
export async function showVersion(chat, id) {
  if (chat.nodes.has(id) && chat.show(id)) {
    if (chat.isStored) send('PATCH', `/v1/conversations/${q(chat.id)}`,
      {leaf: chat.last().id}).catch(() => say(t('This choice could not be kept.')));
    return;
  }
  await loadTalk(chat, id);
  if (chat.isStored && chat.last()) await send('PATCH', `/v1/conversations/${q(chat.id)}`,
    {leaf: chat.last().id});
}

// --- what is done to one
// --------------------------------------------------------------------------

export async function rename(id, title) {
  if (isKept.value) await ask('PATCH', `/v1/conversations/${q(id)}`, {title});
  if (talks.has(id)) talks.get(id).title.value = title;
  setRow(id, {title});
}

export async function pin(id, pinned) {
  if (isKept.value) await ask('PATCH', `/v1/conversations/${q(id)}`, {pinned});
  if (talks.has(id)) talks.get(id).pinned.value = pinned;
  setRow(id, {pinned});
}

export async function remove(id) {
  const row = list.value.find((c) => c.id === id), at = list.value.indexOf(row),
    chat = talks.get(id);
  if (isKept.value) await send('DELETE', `/v1/conversations/${q(id)}?grace=10`);
  list.value = list.value.filter((c) => c.id !== id);
  if (found.value) found.value = found.value.filter((c) => c.id !== id);
  talks.delete(id);
  keepMirror(id, null);
  if (talk.value.id === id) newChat();
  say(t('“{title}” was deleted.', {title: row?.title || t('New chat')}), async () => {
    if (isKept.value) await send('POST', `/v1/conversations/${q(id)}/restore`);
    if (chat) talks.set(id, chat);
    list.value = [...list.value.slice(0, at), row, ...list.value.slice(at)];
  });
}

// One message: what follows it stays. It comes back by Undo until something else was asked.
export async function removeMessage(chat, id) {
  const at = `/v1/conversations/${q(chat.id)}/items/${q(id)}`;
  if (chat.isStored) await send('DELETE', `${at}?grace=10`);
  const putBack = chat.takeOut(id);
  noteEnded(chat);
  say(t('The message was deleted.'), async () => {
    if (chat.isStored) await send('POST', `${at}/restore`);
    putBack();
    noteEnded(chat);
  });
}

export const fileName = (id) => (list.value.find((c) => c.id === id)?.title || 'chat')
  .replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 40);

export async function exportChat(id, format) {
  const text = isKept.value ?
    await (await send('GET', `/v1/conversations/export?format=${format}&id=${q(id)}`)).text() :
    localExport(talks.get(id), format);
  saveFile(`${fileName(id)}.${format}`, format === 'md' ? 'text/markdown' : 'application/json',
    text);
}

export async function exportAll(format) {
  saveFile(`chats.${format}`, format === 'md' ? 'text/markdown' : 'application/json',
    await (await send('GET', `/v1/conversations/export?format=${format}`)).text());
}

export async function importChats(file) {
  const made = await ask('POST', '/v1/conversations/import', JSON.parse(await file.text()));
  await loadList();
  say(t('{n} chats came in.', {n: made.conversations}));
}

function localExport(chat, format) {
  const all = [...chat.nodes.values()].map((s) => s.value);
  if (format === 'json') return JSON.stringify({title: chat.title.value,
    items: all.map(({id, parent, role, content, status, model, usage}) =>
    ({id, parent, role, content, status, model, usage}))}, null, 1);
  return `# ${chat.title.value}\n\n` + chat.path.value.map(({value: m}) =>
    `## ${m.role === 'user' ? t('You') : m.model}\n\n${m.content}\n`).join('\n');
}

export async function removeAll() {
  for (;;) {
    const page = await get('/v1/conversations?limit=50');
    if (!page.data.length) break;
    for (const c of page.data) await send('DELETE', `/v1/conversations/${q(c.id)}`);
  }
  talks.clear();
  list.value = [];
  wipeMirror();
  newChat();
}

let settingsTimer = 0;
export function setSettings(chat, change) {
  chat.settings.value = {...chat.settings.value, ...change};
  const {system, collections, files, ...lasting} = chat.settings.value; // these are of one chat
  write('settings', lasting);
  if (!chat.isStored) return;
  clearTimeout(settingsTimer);
  settingsTimer = setTimeout(() => saveSettings(chat), 500);
}
const saveSettings = (chat) => send('PATCH', `/v1/conversations/${q(chat.id)}`,
  {settings: chat.settings.value}).catch(() =>
  say(t('The settings of this chat could not be kept.')));

// The next question follows this answer: what followed so far becomes another version.
export function askFromHere(chat, id) {
  chat.path.value = chat.path.value.slice(0,
    chat.path.value.findIndex((s) => s.value.id === id) + 1);
  document.getElementById('ask')?.focus();
}

// --- at the start, and with another key
// -----------------------------------------------------------

// The models that answer, each under its own name.
const answering = (all) => all.data.filter((m) => m.id === m.root &&
  m.capabilities.includes('completion'));

export async function loadModels() {
  try {
    models.value = answering(await get('/v1/models'));
    modelsKnown.value = 'yes';
    hasDocuments.value = models.value.some((m) => m.file_search);
    maxFile.value = Math.min(...models.value.map((m) => m.max_file_bytes ?? Infinity));
  } catch (e) {
    modelsKnown.value = e.status === 401 ? 'key' : 'no';
    throw e;
  }
  if (hasDocuments.value) await loadStores();
}

export async function loadStores() {
  stores.value = (await get('/v1/vector_stores?limit=100&order=asc')).data;
}

export async function loadAll() {
  await Promise.all([loadModels(), loadList()]).catch(() => {});
}

// Another key is another person: nothing of the one before stays on the page.
export async function changeUser() {
  await wipeMirror();
  talks.clear();
  list.value = [];
  found.value = null;
  stores.value = [];
  isKept.value = null;
  dialog.value = null;
  const chat = talk.value;
  if (chat.path.value.length) newChat();
  else chat.settings.value = {...chat.settings.value, collections: [], files: ''};
  writeDraft('', document.getElementById('ask')?.value ?? '');
  await loadAll();
}
