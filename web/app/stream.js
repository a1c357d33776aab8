// Server-sent events of one response. Returns when it ends; throws ApiError(0) if it is cut.
import {ApiError} from './api.js';

const SILENCE_MS = 60000; // a server that keeps the stream says something every 5 s
const MAX_LINE = 8 << 20;

// onEvent({id, event, data}); data is parsed. silent: a silence is no error (the server promises no
// pings).
export async function readEvents(response, onEvent, silent) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let buffer = '', one = {id: null, event: 'message', data: []}, ended = false, timer = 0;
  const wake = () => {
    clearTimeout(timer);
    if (!silent) timer = setTimeout(() => reader.cancel('silence'), SILENCE_MS);
  };
  const line = (text) => {
    if (text === '') {
      const data = one.data.join('\n');
      if (data === '[DONE]') ended = true;
      else if (data) onEvent({id: one.id, event: one.event, data: JSON.parse(data)});
      one = {id: one.id, event: 'message', data: []};
      return;
    }
    const at = text.indexOf(':'), name = at < 0 ? text : text.slice(0, at), value = at < 0 ?
      '' : text.slice(at + 1).replace(/^ /, '');
    if (name === 'data') one.data.push(value);
    else if (name === 'id') one.id = value;
    else if (name === 'event') one.event = value;
  };
  try {
    wake();
    for (;;) {
      const {value, done} = await reader.read();
      if (done) break;
      wake();
      buffer += decoder.decode(value, {stream: true});
      if (buffer.length > MAX_LINE) throw new ApiError(0, 'an event is too long');
      const lines = buffer.split(/\r?\n/);
      buffer = lines.pop();
      lines.forEach(line);
    }
  } catch (e) {
    if (e.name === 'AbortError' || e instanceof ApiError) throw e;
    throw new ApiError(0, e.message);
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
  if (!ended) throw new ApiError(0, 'the stream ended before the answer did');
}
