// The last requests: where their time went, filters that stand in the address, and a receipt for
// each.
import {$} from './dash-read.js';
import {money, percent, seconds, SOURCES, total} from './dash-cards.js';
import {colorAt, make} from './dash-draw.js';

const STAGES = ['queue', 'intent', 'retrieval', 'prefill', 'decode'];
const opened = new Set();
let last = [];

function drawStages(list) {
  const mean = STAGES.map((s) =>
      list.length ? total(list.map((e) => e.receipt.ms[s])) / list.length : 0,
    ),
    all = total(mean);
  $('bar').replaceChildren(
    ...mean.map((v, i) => {
      const part = make('div', {title: `${STAGES[i]}: ${v.toFixed(2)} ms`});
      part.style.width = all ? `${(100 * v) / all}%` : '0';
      part.style.background = colorAt(i);
      return part;
    }),
  );
  $('legend').replaceChildren(
    ...mean.map((v, i) => {
      const box = make('i');
      box.style.background = colorAt(i);
      return make('li', {}, box, `${STAGES[i]} ${v.toFixed(2)} ms`);
    }),
  );
}

function rows(e) {
  const r = e.receipt,
    known = total(SOURCES.slice(1).map((s) => r.prompt_tokens[s]));
  const cells = [
    new Date(1000 * e.created + e.ms).toLocaleTimeString(),
    r.path + (r.escalated ? ' ↑' : ''),
    e.error ?? r.why ?? '',
    r.class ?? '',
    r.difficulty === undefined ? '' : r.difficulty.toFixed(2),
    `${e.prompt_tokens}${known ? ` (${known} known)` : ''}`,
    r.decode.tokens,
    e.ms_first ? seconds(e.ms_first / 1000) : '–',
    seconds(e.ms / 1000),
    r.flops.dense > 0 ? percent(r.flops.spent / r.flops.dense) : '–',
    money(r.cost),
  ];
  const more = make(
    'tr',
    {hidden: !opened.has(e.id)},
    make('td', {
      colSpan: cells.length,
      className: 'receipt',
      textContent: `${e.id}${e.tenant ? `, tenant ${e.tenant}` : ''}\n${JSON.stringify(r, null,
        1)}`,
    }),
  );
  const button = make('button', {
    type: 'button',
    className: 'text',
    textContent: cells[0],
    'aria-expanded': String(!more.hidden),
    'aria-label': `Receipt of the request that ended at ${cells[0]}`,
  });
  const toggle = () => {
    more.hidden = !more.hidden;
    button.setAttribute('aria-expanded', String(!more.hidden));
    if (more.hidden) opened.delete(e.id);
    else opened.add(e.id);
  };
  const tr = make(
    'tr',
    {className: e.error ? 'row failed' : 'row'},
    make('td', {}, button),
    ...cells.slice(1).map((c) => make('td', {textContent: c})),
  );
  tr.addEventListener('click', toggle);
  return [tr, more];
}

// Filters stand in the address, behind #requests: path, status, tenant, after (minutes), words.
const FILTERS = ['path', 'status', 'tenant', 'minutes', 'words'];
export const readFilters = () => {
  const given = new URLSearchParams(location.hash.split('?')[1] ?? '');
  for (const name of FILTERS) $(`by-${name}`).value = given.get(name) ?? '';
};

function writeFilters() {
  const out = new URLSearchParams();
  for (const name of FILTERS)
    if ($(`by-${name}`).value.trim()) out.set(name, $(`by-${name}`).value.trim());
  history.replaceState(null, '', `#requests${out.size ? '?' + out : ''}`);
}

function fits(e) {
  const by = Object.fromEntries(FILTERS.map((name) => [name, $(`by-${name}`).value.trim()])),
    failed = !!e.error || e.status >= 400;
  return (
    (!by.path || e.receipt.path === by.path) &&
    (!by.status || (by.status === 'failed') === failed) &&
    (!by.tenant || (e.tenant ?? '') === by.tenant) &&
    (!by.minutes || 1000 * e.created + e.ms >= Date.now() - 60000 * Number(by.minutes)) &&
    (!by.words || JSON.stringify(e).toLowerCase().includes(by.words.toLowerCase()))
  );
}

function show() {
  const list = last.filter(fits);
  $('none').hidden = list.length > 0;
  $('none').textContent = last.length
    ? 'No request fits these filters.'
    : 'No request has ended yet.';
  $('requests').hidden = list.length === 0;
  const focused = document.activeElement?.closest?.('#requests')
    ? document.activeElement.getAttribute('aria-label')
    : null;
  $('requests').tBodies[0].replaceChildren(...list.flatMap(rows));
  if (focused)
    [...$('requests').querySelectorAll('button')]
      .find((b) => b.getAttribute('aria-label') === focused)
      ?.focus();
  $('shown').textContent = `${list.length} of the last ${last.length} requests`;
  drawStages(list.filter((e) => !e.error));
}

export function drawRequests(list) {
  last = list;
  const tenants = [...new Set(list.map((e) => e.tenant).filter(Boolean))],
    box = $('by-tenant'),
    before =
      box.value || new URLSearchParams(location.hash.split('?')[1] ?? '').get('tenant') || '';
  box.replaceChildren(new Option('all', ''), ...tenants.map((t) => new Option(t, t)));
  if (before && !tenants.includes(before)) box.append(new Option(before, before));
  box.value = before;
  box.parentNode.hidden = tenants.length < 2 && !before;
  show();
}

export function startFilters() {
  readFilters();
  for (const name of FILTERS)
    $(`by-${name}`).addEventListener('input', () => {
      writeFilters();
      show();
    });
}
