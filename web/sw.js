// Keeps the shell of the chat page, so that it opens without the server; chats come from the page's own copy. Nothing of the API is
// kept or answered here.
'use strict';
const NAME = 'shell-1';
const isShell = (path) => /^\/(a\/|app\/|vendor\/|i18n\/)/.test(path) || ['/', '/references.js', '/icon.svg', '/manifest.webmanifest'].includes(path);

addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name !== NAME) await caches.delete(name);
  await clients.claim();
})()));

// A file under /a/HASH/ never changes: what is kept is good. When the page itself is another, files of older ones go.
async function answer(request, path) {
  const kept = await caches.open(NAME), old = await kept.match(request);
  if (old && path.startsWith('/a/')) return old;
  try {
    const response = await fetch(request);
    if (response.ok) {
      if (path === '/') await forget(kept, await response.clone().text());
      await kept.put(request, response.clone());
    }
    return response;
  } catch (e) {
    if (old) return old;
    throw e;
  }
}

async function forget(kept, page) {
  const now = /\/a\/([^/]+)\//.exec(page)?.[1];
  for (const r of now ? await kept.keys() : []) {
    const hash = /^\/a\/([^/]+)\//.exec(new URL(r.url).pathname)?.[1];
    if (hash && hash !== now) await kept.delete(r);
  }
}

// The first visit came without this worker: the page says what it is made of.
addEventListener('message', (event) => event.waitUntil(Promise.all(event.data.filter(isShell).map(async (path) => {
  const kept = await caches.open(NAME);
  if (!await kept.match(path)) await kept.add(path);
}))));

addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === 'GET' && url.origin === location.origin && isShell(url.pathname)) event.respondWith(answer(event.request, url.pathname));
});
