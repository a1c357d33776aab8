// The dashboard: twelve metrics with their trend, the last requests, models, tiers and documents.
// Every figure is computed here from /metrics, /v1/metrics/history and /v1/requests. A tenant's
// key sees its own requests; the server's figures need an operator's.
import {bytes, CARDS, count, PATHS, percent, ratio, seconds, total} from './dash-cards.js';
import {$, addHistory, parse, past, POINTS, reader} from './dash-read.js';
import {build, draw, fill, make} from './dash-draw.js';
import {showExperiments} from './dash-experiments.js';
import {drawRequests, readFilters, startFilters} from './dash-requests.js';
import {key, setKey} from './api.js';

const POLL_MS = 5000,
  NOW_MS = 60000;
const TABS = ['now', 'requests', 'models', 'tiers', 'documents', 'experiments'];
const scrapes = []; // [time, map], oldest first, of the last minute

async function fetchAs(kind, url) {
  const res = await fetch(url, {
    headers: key.value ? {Authorization: 'Bearer ' + key.value} : {},
    cache: 'no-store',
  });
  if (res.status === 401) $('keybox').hidden = false;
  if (res.status === 403) return null; // for operators' keys
  if (!res.ok)
    throw new Error(res.status === 401 ? 'an API key is needed' : `${url}: ${res.status}`);
  return kind === 'text' ? res.text() : res.json();
}

// --- four numbers --------------------------------------------------------------------------------

function four(all, list) {
  const good = list.filter((e) => !e.error),
    first = good
      .map((e) => e.ms_first)
      .filter(Boolean)
      .sort((a, b) => a - b),
    spent = total(good.map((e) => e.receipt.flops.spent)),
    dense = total(good.map((e) => e.receipt.flops.dense));
  const name = (x) => `sparing_requests_total{result="${x}"}`,
    flops = all && all.get('sparing_flops_total{kind="dense"}');
  return all
    ? [
        [
          'answers since start',
          count(total(PATHS.map((p) => all.get(`sparing_path_total{path="${p}"}`)))),
        ],
        [
          'first word, median',
          said(all.quantile('sparing_time_to_first_token_seconds', 0.5), seconds),
        ],
        [
          'computing saved',
          said(
            flops > 0 ? 1 - all.get('sparing_flops_total{kind="spent"}') / flops : null,
            percent,
          ),
        ],
        ['failed or refused', count(all.get(name('failed')) + all.get(name('refused')))],
      ]
    : [
        ['of your last answers', count(good.length)],
        [
          'first word, median',
          said(first.length ? first[Math.floor(first.length / 2)] / 1000 : null, seconds),
        ],
        ['computing saved', said(dense > 0 ? 1 - spent / dense : null, percent)],
        ['of them failed', count(list.length - good.length)],
      ];
}
const said = (v, format) => (v === null ? '–' : format(v));
const showFour = (rows) =>
  $('four').replaceChildren(
    ...rows.map(([what, value]) =>
      make('li', {}, make('b', {textContent: value}), make('span', {textContent: what})),
    ),
  );

// --- models and documents ------------------------------------------------------------------------

async function showModels(all) {
  const list = (await fetchAs('json', '/v1/models'))?.data.filter((m) => m.id === m.root) ?? [];
  const ram = all ? (m) => said(ratio(all.get(`sparing_kv_bytes{tier="ram"}`), 1), bytes) : null;
  $('models').tBodies[0].replaceChildren(
    ...list.map((m) =>
      make(
        'tr',
        {},
        make('th', {scope: 'row', textContent: m.id}),
        ...[
          m.capabilities.join(', '),
          m.fits ? m.status?.value ?? 'loaded' : 'too large for this computer',
          bytes(m.size),
          m.context_length ?? '–',
        ].map((c) => make('td', {textContent: c})),
      ),
    ),
  );
  $('memory').textContent = ram ? `KV pages in RAM, all models: ${ram()}` : '';
}

async function showDocuments() {
  const res = await fetch('/v1/vector_stores?limit=100', {
      headers: key.value ? {Authorization: 'Bearer ' + key.value} : {},
    }),
    list = res.ok ? (await res.json()).data : [];
  $('no-documents').hidden = list.length > 0;
  $('stores').hidden = !list.length;
  $('stores').tBodies[0].replaceChildren(
    ...list.map((s) =>
      make(
        'tr',
        {},
        make('th', {scope: 'row', textContent: s.name || s.id}),
        ...[
          s.file_counts.completed,
          s.file_counts.in_progress ?? 0,
          s.file_counts.failed ?? 0,
          s.chunk_count ?? '–',
          bytes(s.usage_bytes ?? 0),
        ].map((c) => make('td', {textContent: c})),
      ),
    ),
  );
}

// A server without --feedback has no report, and a tenant's key may not see it.
async function fetchReport() {
  const res = await fetch('/v1/experiments', {
    headers: key.value ? {Authorization: 'Bearer ' + key.value} : {},
    cache: 'no-store',
  });
  return res.ok ? res.json() : null;
}

// --- polling -------------------------------------------------------------------------------------

function showFigures(now, rows, t) {
  const last = scrapes[scrapes.length - 1];
  if (
    last &&
    (now.get('sparing_computed_tokens_total') ?? 0) <
      (last[1].get('sparing_computed_tokens_total') ?? 0)
  )
    scrapes.length = 0; // it was restarted
  scrapes.push([t, now]);
  while (scrapes.length > 1 && scrapes[1][0] <= t - NOW_MS) scrapes.shift();
  addHistory(rows);
  const before = scrapes.length > 1 ? scrapes[0][1] : null; // opened just now: since start
  for (const card of CARDS) {
    fill(card, reader(now, before), reader(now, null));
    draw(card);
  }
}

async function poll() {
  try {
    const since = past.t.length ? past.t[past.t.length - 1] : 0;
    const [text, rows, list] = await Promise.all([
      fetchAs('text', '/metrics'),
      fetchAs('json', `/v1/metrics/history?since=${since}&points=${POINTS}`),
      fetchAs('json', '/v1/requests?limit=100'),
    ]);
    const t = Date.now(),
      now = rows ? parse(text) : null;
    document.body.dataset.role = rows ? 'operator' : 'user';
    drawRequests(list.data);
    if (rows) showFigures(now, rows, t);
    showFour(four(now && reader(now, null), list.data));
    if (shown() === 'models') await showModels(now && reader(now, null));
    if (shown() === 'documents') await showDocuments();
    if (shown() === 'experiments') showExperiments(await fetchReport());
    $('state').textContent = !rows
      ? `requests of this key's tenant, as of ${new Date().toLocaleTimeString(
        )}; the server's figures need an operator's key`
      : `as of ${new Date().toLocaleTimeString()}; now: ${scrapes.length > 1 ?
        `the last ${Math.round((t - scrapes[0][0]) / 1000)} s` : 'since start'}`;
    $('state').className = '';
    document.body.dataset.polls = String(Number(document.body.dataset.polls ?? 0) + 1);
  } catch (e) {
    $('state').textContent = `not connected: ${e.message}`;
    $('state').className = 'bad';
  }
}

// --- tabs ----------------------------------------------------------------------------------------

const shown = () => TABS.find((t) => location.hash.slice(1).split('?')[0] === t) ?? 'now';
const redraw = () => CARDS.forEach(draw);

function showTab() {
  const now = shown();
  for (const t of TABS) {
    $(`tab-${t}`).toggleAttribute('aria-current', t === now);
    if (t === now) $(`tab-${t}`).setAttribute('aria-current', 'page');
    $(`view-${t}`).hidden = t !== now;
  }
  readFilters();
  redraw();
}

CARDS.forEach(build);
startFilters();
showTab();
addEventListener('hashchange', () => {
  showTab();
  poll();
});
$('span').addEventListener('change', redraw);
$('key').addEventListener('change', () => {
  setKey($('key').value.trim(), false);
  poll();
});
$('model').addEventListener('change', () => {
  scrapes.length = 0; // they are sums over other models
  poll();
});
addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
export {poll, past, addHistory, CARDS, draw};
poll();
setInterval(poll, POLL_MS);
