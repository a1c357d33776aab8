// What happens before the first word: the stage, how far it is, how long it will take.
import {html, useEffect, useState} from '../vendor/vendor.js';
import {model} from './state.js';
import {duration, number, t} from './i18n.js';

const STAGES = ['queue', 'load', 'search', 'read', 'write'];
const NAMES = {sending: 'Sending', waiting: 'Waiting for the first word',
  queue: 'Waiting for a free place', load: 'Loading the model', search: 'Searching your documents',
  read: 'Reading', write: 'Writing the answer', pausing: 'Waiting'};

function howFar(p) {
  if (!p || !(p.total > 0)) return '';
  const left = p.eta_ms > 0 ?
    `, ${t('about {time}', {time: duration(1000 * Math.ceil(p.eta_ms / 1000))})}` : '';
  if (p.stage === 'read') return `, ${t('{done} of {total} tokens',
    {done: number(p.done), total: number(p.total)})}${left}`;
  if (p.stage === 'queue') return `, ${t('place {n}', {n: number(p.total - p.done)})}${left}`;
  return left;
}

export function Work({run, m}) {
  const [, tick] = useState(0), stage = run.stage.value, p = m.progress,
    seconds = Math.floor((Date.now() - run.began) / 1000);
  useEffect(() => { const timer = setInterval(() => tick((n) => n + 1), 1000); return () =>
    clearInterval(timer); }, []);
  const at = STAGES.indexOf(stage), steps = run.talk.settings.value.collections.length ||
    run.talk.settings.value.files ? STAGES : STAGES.filter((s) => s !== 'search');
  return html`<div class="work"><p role="status"><b>${t(NAMES[stage] ?? 'Working')}</b>${howFar(p)}
    </p>
    ${p?.total > 0 ? html`<progress value=${p.done} max=${p.total}
      aria-label=${t(NAMES[stage] ?? 'Working')}>
      </progress>` : html`<progress aria-label=${t(NAMES[stage] ?? 'Working')}></progress>`}
    ${at < 0 ? html`<small>${seconds > 2 ? t('{n} seconds so far. The model is {model}.',
      {n: seconds, model: model.value?.id ?? ''}) : ''}</small>`
      : html`<ol>${steps.slice(1).map((s) =>
        html`<li class=${STAGES.indexOf(s) < at ? 'ok' : s === stage ? 'now' : null}>${t(NAMES[s])}
        </li>`)}</ol>`}</div>`;
}
