// A copy of the list and of the last 50 chats in this browser, to be read when the server is away.
// Wiped when the key changes.
const NAME = 'sparing', MOST = 50;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore('kept');
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function within(mode, work) {
  let db;
  try {
    db = await open();
    return await new Promise((resolve, reject) => {
      const tx = db.transaction('kept', mode), request = work(tx.objectStore('kept'));
      tx.oncomplete = () => resolve(request?.result ?? null);
      tx.onerror = tx.onabort = () => reject(tx.error);
    });
  } catch { return null; } finally { db?.close(); }
}

// value null removes it.
export async function keepMirror(id, value) {
  await within('readwrite', (all) => value === null ?
    all.delete(id) : all.put({at: Date.now(), value: JSON.parse(JSON.stringify(value))}, id));
  const keys = await within('readonly', (all) => all.getAllKeys());
  if (!keys || keys.length <= MOST + 1) return;
  const rows = await within('readonly', (all) => all.getAll());
  const old = keys.map((k, i) => [k, rows[i].at]).filter(([k]) => k !== 'list').sort((a, b) =>
    a[1] - b[1]);
  await within('readwrite', (all) => {
    old.slice(0, old.length - MOST).forEach(([k]) => all.delete(k));
  });
}

export const mirrored = async (id) => (await within('readonly', (all) => all.get(id)))?.value ??
  null;
export const wipeMirror = () => within('readwrite', (all) => all.clear());
