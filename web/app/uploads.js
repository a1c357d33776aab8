// Files that go to the server: into the collection of a chat, or into one that was chosen. Each has
// a chip that says how far it is.
import {signal} from '../vendor/vendor.js';
import {ask, get, upload} from './api.js';
import {hasDocuments, maxFile, say} from './state.js';
import {loadStores, setSettings} from './chats.js';
import {inWords} from './trouble.js';
import {newId} from './store.js';
import {bytes, number, t} from './i18n.js';

// {id, chat (of a Talk, or ''), store, name, size, state: sending|reading|ready|failed, part, why,
//  fileId, parts, waiting}: passages, and those of them that cannot be found yet
export const uploads = signal([]);
const jobs = new Map();

const set = (id, change) => {
  uploads.value = uploads.value.map((u) => u.id === id ? {...u, ...change} : u);
};
export const ofChat = (chat) => uploads.value.filter((u) => u.chat === chat.id);
export const areBusy = (chat) => ofChat(chat).some((u) => u.state === 'sending' ||
  u.state === 'reading');

const making = new Map(); // a store that is being made, by chat
async function storeOf(chat) {
  const id = chat.settings.value.files;
  if (id) return id;
  if (!making.has(chat.id))
    making.set(chat.id, ask('POST', '/v1/vector_stores', {name: t('Files of a chat')}).then((s) => {
      setSettings(chat, {files: s.id});
      return s.id;
    }).finally(() => making.delete(chat.id)));
  return making.get(chat.id);
}

// chat: a Talk, or null with the id of a collection.
export function addFiles(files, chat, store) {
  if (!hasDocuments.value) {
    say(t('This server takes no documents: it was started without --knowledge.'));
    return;
  }
  for (const file of files) addOne(file, chat, store);
}

export const limit = () => Number.isFinite(maxFile.value) ?
  t('Files of up to {size}.', {size: bytes(maxFile.value)}) : '';

// What becomes of a file that was sent.
export const reading = (u) => u.parts ? t('{n} of {all} passages are ready',
  {n: number(u.parts - u.waiting), all: number(u.parts)}) : t('is being read');

async function addOne(file, chat, toStore) {
  const id = newId('up');
  uploads.value = [...uploads.value, {id, chat: chat?.id ?? '', store: toStore ?? '',
    name: file.name || t('pasted text'), size: file.size, state: 'sending', part: 0, why: ''}];
  if (file.size > maxFile.value) {
    set(id, {state: 'failed', why: `${bytes(file.size)}. ${limit()}`});
    return;
  }
  try {
    const store = toStore ?? await storeOf(chat), form = new FormData();
    form.append('purpose', 'assistants');
    form.append('file', file);
    const job = upload('/v1/files', form, (done, all) => set(id, {part: all ? done / all : 0}));
    jobs.set(id, job);
    const made = await job.promise;
    set(id, {state: 'reading', fileId: made.id, store});
    await ask('POST', `/v1/vector_stores/${store}/files`, {file_id: made.id});
    for (let wait = 300; uploads.value.some((u) => u.id === id); wait = Math.min(3000,
      wait * 1.5)) {
      const now = await get(`/v1/vector_stores/${store}/files/${made.id}`);
      if (now.status === 'completed') {
        set(id, {state: 'ready', parts: now.chunk_count});
        break;
      }
      if (now.status === 'failed' || now.status === 'cancelled') {
        set(id, {state: 'failed', why: now.last_error?.message ?? t('it could not be read')});
        break;
      }
      set(id, {parts: now.chunk_count, waiting: now.waiting_chunks ?? 0});
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    await loadStores();
  } catch (e) {
    if (e.name !== 'AbortError') set(id,
      {state: 'failed', why: inWords(e).filter(Boolean).join(' ')});
  } finally {
    jobs.delete(id);
  }
}

// Takes a file back: sending ends, and the server forgets what it had of it.
export async function removeUpload(u) {
  uploads.value = uploads.value.filter((x) => x.id !== u.id);
  jobs.get(u.id)?.abort();
  if (u.fileId) await ask('DELETE', `/v1/files/${u.fileId}`).catch((e) => say(e.message));
}

export async function removeFile(id) {
  await ask('DELETE', `/v1/files/${id}`);
  await loadStores();
}
