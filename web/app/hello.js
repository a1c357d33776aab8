// What stands where no question has been asked yet.
import {html} from '../vendor/vendor.js';
import {hasDocuments, model, modelsKnown} from './state.js';
import {Trouble} from './trouble.js';
import {loadAll} from './chats.js';
import {ApiError} from './api.js';
import {t} from './i18n.js';

const TRY = ['Explain this letter to me: ', 'Write a polite refusal to ',
  'Check this code for errors: ', 'Explain in plain words: '];

function fill(words) {
  const box = document.getElementById('ask');
  box.value = words;
  box.focus();
  box.dispatchEvent(new Event('input'));
}

export function Hello() {
  const known = modelsKnown.value;
  return html`<section class="hello"><h2>${t('What would you like to know?')}</h2>
    ${known === 'no' ? html`<${Trouble} error=${new ApiError(0, '')}
      acts=${[[t('Try again'), loadAll, true]]}/>` : null}
    <p class="lead">${model.value ? html`${t('You are talking to')} <b>${model.value.id}</b>
      ${t(', a model that runs on this server.')}` : known === 'yes' ?
      t('This server has no model that answers.') : t('The server is being asked for its model.')}
      </p>
    <ul class="why"><li><b>${t('Your words stay here')}</b>
      ${t('Nothing is sent to anybody else, and neither are your documents.')}</li>
      <li><b>${t('Ask your own documents')}</b>${hasDocuments.value ?
        t('Drop a file into this window. Every answer shows the passage that it came from.') :
        t('Start the server with --knowledge FILE, and files can be dropped here.')}</li>
      <li><b>${t('Only as much computing as needed')}</b>
        ${t('Easy questions take a short way. Each answer tells what it cost.')}</li></ul>
    <ul class="try">${TRY.map((words) =>
      html`<li><button type="button"
      onClick=${() => fill(t(words) + (t(words).endsWith(' ') ? '' : ' '))}>
      ${t(words).trim().replace(/[:：]$/, '')}</button></li>`)}</ul>
    <p class="honest">${t(
      'A small model makes mistakes. For facts, ask with documents and open the sources.')}</p>
      </section>`;
}
