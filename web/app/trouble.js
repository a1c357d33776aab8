// Errors in words: what happened, what is kept, what can be done.
import {html} from '../vendor/vendor.js';
import {isOnline} from './state.js';
import {many, t} from './i18n.js';

// [what happened, what that means], of an error of a request.
export function inWords(e) {
  if (e.status === 0 && !isOnline.value) return [t('This device is offline.'),
    t('It goes on when the connection is back.')];
  if (e.status === 0) return [t('The server cannot be reached.'),
    t('It may be stopped or starting.')];
  if (e.status === 401) return [t('This key is not known here.'), t('Enter another one.')];
  if (e.status === 403) return [t('This key may not do that.'), e.message];
  if (e.status === 404) return [t('It is not there any more.'), e.message];
  if (e.status === 413) return [t('It is too large for this server.'), e.message];
  if (e.status === 429) return [t('Too many requests just now.'), e.message];
  if (e.isProxy) return [t('Something between this page and the server answered {status}.',
    {status: e.status}), ''];
  if (e.status === 502 || e.status === 503 ||
    e.status === 504) return [t('The server is busy or starting.'), e.message];
  if (e.status >= 500) return [t('The server could not finish this.'), e.message];
  return [t('The server did not accept this.'), e.message];
}

// A server's message as a sentence.
const sentence = (text) => /[.!?。！？]$/.test(text) ? text : `${text}.`;

const details = (e) => [e.status ? `HTTP ${e.status}` : t('no answer'), e.code, e.param,
  e.message].filter(Boolean).join('; ');

// kept: what of the reader's is safe. acts: [[label, function, isFirst]].
export function Trouble({error, headline, kept, retryIn, acts}) {
  const [what, more] = inWords(error);
  return html`<div class="oops" role="alert">
    <p><b>${headline ?? what}</b> ${headline ? what + ' ' : ''}${more && more !== what ?
      sentence(more) + ' ' : ''}${kept ?? ''}${retryIn ?
      ` ${many(retryIn, 'Trying again in 1 second.', 'Trying again in {n} seconds.')}` : ''}</p>
    <div class="row">${acts.map(([label, act, isFirst]) =>
      html`<button type="button" class=${isFirst ? 'solid' : null} onClick=${act}>${label}
      </button>`)}
      <details><summary>${t('Details')}</summary><code>${details(error)}</code></details></div>
        </div>`;
}
