// What the browser keeps: theme, language, drafts, presets and, if asked, the key. It may refuse to
// keep anything.
const PREFIX = 'sparing.';

export function read(name, area = localStorage) {
  try {
    const text = area.getItem(PREFIX + name);
    return text === null ? null : JSON.parse(text);
  } catch { return null; }
}

// null removes it.
export function write(name, value, area = localStorage) {
  try {
    if (value === null || value === '') area.removeItem(PREFIX + name);
    else area.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch { return false; }
}

export function readKey() {
  return read('key', sessionStorage) ?? read('key') ?? '';
}

export function writeKey(key, onDevice) {
  write('key', key || null, sessionStorage);
  write('key', onDevice && key ? key : null);
}

// Drafts by conversation; '' is the chat that has not begun. At most 100: the oldest goes.
export const readDraft = (id) => (read('drafts') ?? {})[id] ?? '';

export function writeDraft(id, text) {
  const all = read('drafts') ?? {};
  delete all[id];
  if (text) all[id] = text;
  const names = Object.keys(all);
  for (const old of names.slice(0, Math.max(0, names.length - 100))) delete all[old];
  write('drafts', names.length ? all : null);
}

// Ids that the client makes: crypto.randomUUID is missing on plain http.
export function newId(kind) {
  const raw = crypto.getRandomValues(new Uint8Array(12));
  return `${kind}_${[...raw].map((b) => b.toString(16).padStart(2, '0')).join('')}`;
}

// The clipboard is there on https and on this computer only; a LAN address needs the old way.
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* not allowed: the old way */ }
  }
  const box = document.createElement('textarea'), before = document.activeElement;
  box.value = text;
  box.className = 'sr';
  (document.querySelector('dialog[open]') ?? document.body).append(box);
  box.select();
  const done = document.execCommand('copy');
  box.remove();
  before?.focus();
  return done;
}

export function saveFile(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
