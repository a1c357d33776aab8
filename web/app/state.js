// What all parts of the page share.
import {computed, signal} from '../vendor/vendor.js';
import {Talk} from './talk.js';
import {newId, read} from './store.js';

export const models = signal([]);            // those that answer
export const modelsKnown = signal('');       // '', 'yes', or why not
// does the server keep conversations? null: not known yet
export const isKept = signal(null);
export const hasDocuments = signal(false);
export const maxFile = signal(Infinity);     // bytes of a file that the server takes
export const stores = signal([]);            // collections
export const list = signal([]);              // rows of conversations
export const listMore = signal(null);        // id after which there are more
export const found = signal(null);           // rows of a search, or null
// open ones by id, so that an answer goes on in its own
export const talks = new Map();
export const talk = signal(new Talk(newId('conv'), read('settings') ?? {}));
export const panel = signal(null);           // {kind, …} of the side panel
export const sideOpen = signal(false);
export const dialog = signal(null);          // {kind, …}
// search in a chat: {chat, opener}
export const finder = signal(null);
// a message that the log is to show: {chat, id}
export const reveal = signal(null);
export const toast = signal(null);           // {text, undo}
export const isOnline = signal(navigator.onLine);
addEventListener('online', () => { isOnline.value = true; });
addEventListener('offline', () => { isOnline.value = false; });

export const model = computed(() => {
  const want = talk.value.settings.value.model;
  return models.value.find((m) => m.id === want) ?? models.value[0] ?? null;
});

// Gives the focus when the page was drawn again: what lay under a sheet was out of reach until
// then.
export const focusSoon = (find) =>
  requestAnimationFrame(() => requestAnimationFrame(() => find()?.focus()));

let toastTimer = 0;
export function say(text, undo = null) {
  clearTimeout(toastTimer);
  const mine = {text, undo};
  toast.value = mine;
  toastTimer = setTimeout(() => { if (toast.value === mine) toast.value = null; }, undo ?
    10000 : 4000);
}
