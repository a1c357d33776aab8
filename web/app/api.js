// Requests to the server: the key, errors as one class, uploads with their progress.
import {signal} from '../vendor/vendor.js';
import {readKey, writeKey} from './store.js';

export const key = signal(readKey());
export const keyWanted = signal(false); // the server said 401

// status 0: there was no answer at all.
export class ApiError extends Error {
  constructor(status, message, more = {}) {
    super(message);
    this.status = status;
    Object.assign(this, {code: null, param: null, retryAfter: null, isProxy: false, ...more});
  }
}

export function setKey(value, onDevice) {
  writeKey(value, onDevice);
  key.value = value;
  keyWanted.value = false;
}

const headers = (more) => key.value ? {Authorization: `Bearer ${key.value}`, ...more} : {...more};

function fromBody(status, text, retry) {
  let e = null;
  try { e = JSON.parse(text).error; } catch { /* not ours: a proxy's page */ }
  const retryAfter = retry !== null && /^\d+$/.test(retry) ? Number(retry) : null;
  if (status === 401) keyWanted.value = true;
  return e?.message ? new ApiError(status, e.message, {code: e.code ?? null, param: e.param ?? null,
    retryAfter})
    : new ApiError(status, '', {retryAfter, isProxy: true});
}

// The response, if it is a good one. body: an object for JSON, or undefined.
export async function send(method, path, body, {signal: abort, headers: more} = {}) {
  let response;
  try {
    response = await fetch(path, {method, cache: 'no-store', signal: abort,
      headers: headers(body === undefined ? more : {'Content-Type': 'application/json', ...more}),
      body: body === undefined ? undefined : JSON.stringify(body)});
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new ApiError(0, e.message);
  }
  if (!response.ok) throw fromBody(response.status, await response.text().catch(() => ''),
    response.headers.get('Retry-After'));
  return response;
}

export async function get(path, options) {
  const response = await send('GET', path, undefined, options);
  try { return await response.json(); } catch (e) { throw new ApiError(0, e.message); }
}

export async function ask(method, path, body) {
  const response = await send(method, path, body);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

// Sends a file; fetch tells nothing of how far it is. onProgress(sent, all). Returns {promise,
// abort}.
export function upload(path, form, onProgress) {
  const request = new XMLHttpRequest();
  const promise = new Promise((resolve, reject) => {
    request.open('POST', path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (e) => onProgress(e.loaded, e.total);
    request.onerror = () => reject(new ApiError(0, ''));
    request.onabort = () => reject(new DOMException('stopped', 'AbortError'));
    request.onload = () => {
      if (request.status < 200 || request.status > 299) reject(fromBody(request.status,
        request.responseText, request.getResponseHeader('Retry-After')));
      else {
        try { resolve(JSON.parse(request.responseText)); } catch (e) { reject(new ApiError(0,
          e.message)); }
      }
    };
    request.send(form);
  });
  return {promise, abort: () => request.abort()};
}
