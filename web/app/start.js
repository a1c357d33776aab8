// What the page asks when it opens. keptReady() is there when it is known whether the server keeps
// conversations.
import {loadAll} from './chats.js';
import {isKept} from './state.js';

let started = null;
export const start = () => (started ??= loadAll());

export async function keptReady() {
  await start();
  if (isKept.value === null) { // not reached so far
    started = null;
    await start();
  }
}
