'use strict';
// The dashboard: twelve metrics from /metrics, their trend from /v1/metrics/history, and the last requests. Every figure is computed here from
// what /metrics says, over the last minute ("now") and since the server started.
const $ = (id) => document.getElementById(id);
const POLL_MS = 5000, NOW_MS = 60000, POINTS = 400;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const COLORS = ['accent', 'second', 'third', 'fourth', 'fifth'];

// --- reading --------------------------------------------------------------------------------------

// name{labels} without the label `model`, and that label's value; '': there is none.
function unlabel(key) {
  const model = /[{,]model="((?:[^"\\]|\\.)*)"/.exec(key)?.[1] ?? '';
  return [model ? key.replace(/([{,])model="(?:[^"\\]|\\.)*",?/, '$1').replace(',}', '}').replace('{}', '') : key, model];
}

// Is a figure of this model shown? What no model has belongs to all of them.
const isShown = (model) => !model || !$('model').value || model === $('model').value;

// Text format 0.0.4 to a map from name{labels} to a number: the sum over the models that are shown.
function parse(text) {
  const m = new Map();
  for (const line of text.split('\n')) {
    if (!line || line[0] === '#') continue;
    const at = line.lastIndexOf(' '), [key, model] = unlabel(line.slice(0, at));
    if (model) offerModel(model);
    if (isShown(model)) m.set(key, (m.get(key) ?? 0) + Number(line.slice(at + 1)));
  }
  return m;
}

// The chooser is there as soon as figures of two models are.
function offerModel(name) {
  const list = $('model');
  if ([...list.options].some((o) => o.value === name)) return;
  list.append(new Option(name, name));
  $('modelbox').hidden = list.options.length < 3;
}

// What grew between two scrapes; gauges as they are now.
function reader(now, before) {
  const get = (key) => (now.get(key) ?? 0) - (before ? before.get(key) ?? 0 : 0);
  return {
    get,
    gauge: (key) => now.get(key) ?? 0,
    // Quantile of a histogram, linear inside a bucket, as PromQL's histogram_quantile; null: nothing happened.
    quantile(name, q, labels = '') {
      const prefix = `${name}_bucket{${labels}${labels && ','}le="`;
      const b = [];
      for (const key of now.keys())
        if (key.startsWith(prefix)) b.push([key.slice(prefix.length, -2) === '+Inf' ? Infinity : Number(key.slice(prefix.length, -2)), get(key)]);
      b.sort((x, y) => x[0] - y[0]);
      const n = b.length ? b[b.length - 1][1] : 0;
      if (!n) return null;
      let lo = 0, below = 0;
      for (const [le, count] of b) {
        if (count >= q * n) return le === Infinity ? lo : lo + (le - lo) * (q * n - below) / (count - below);
        lo = le;
        below = count;
      }
      return lo;
    },
  };
}

const ratio = (a, b) => b > 0 ? a / b : null;
const SOURCES = ['computed', 'ram', 'ssd', 's3', 'spliced'];
const prompt = (r) => SOURCES.map((s) => r.get(`sparing_prompt_tokens_total{source="${s}"}`));
const PATHS = ['light', 'full', 'upstream'];
const paths = (r) => PATHS.map((p) => r.get(`sparing_path_total{path="${p}"}`));
const total = (v) => v.reduce((a, b) => a + b, 0);

// Coefficient of variation from the number, sum and sum of squares of windows.
function fluctuation(n, sum, squares) {
  return n > 1 && sum > 0 ? Math.sqrt(Math.max(0, squares / n - (sum / n) ** 2)) / (sum / n) : null;
}
const windows = (r) => ['', '_utilisation', '_utilisation_squares'].map((x) => r.get(`sparing_busy_windows${x}_total`));

const percent = (v) => `${(100 * v).toFixed(1)} %`;
const seconds = (v) => v < 1 ? `${(1000 * v).toFixed(v < 0.01 ? 2 : 0)} ms` : `${v.toFixed(2)} s`;
const count = (v) => v >= 1e6 ? `${(v / 1e6).toFixed(2)} M` : v >= 1e4 ? `${(v / 1e3).toFixed(1)} k` : String(Math.round(v * 100) / 100);
const bytes = (v) => v >= 2 ** 30 ? `${(v / 2 ** 30).toFixed(2)} GiB` : `${(v / 2 ** 20).toFixed(1)} MiB`;
const money = (v) => v.toPrecision(3);

// rows: [label, key, value of a reader, format]; gauges have no "since start". chart: [label, points of a history], format of its axis.
const latency = (name) => [['median', 'p50', (r) => r.quantile(name, 0.5), seconds], ['95th percentile', 'p95', (r) => r.quantile(name, 0.95), seconds]];
const latencyChart = (name) => [['median', (h) => h.p50(name)], ['95th', (h) => h.p95(name)]];
const DRAFTERS = ['lookup', 'prediction', 'earlier', 'model', 'head', 'mtp'];
const drafted = (r, d, result) => r.get(`sparing_drafter_tokens_total{drafter="${d}",result="${result}"}`);

const CARDS = [
  {id: 'utilisation', title: 'Token utilisation', what: 'Of all tokens that went through the layers, those that belong to answers which reached their end. The rest was cancelled, given up, guessed wrongly or computed again.',
   rows: [['useful ÷ computed', 'share', (r) => ratio(r.get('sparing_useful_tokens_total'), r.get('sparing_computed_tokens_total')), percent],
          ['computed', 'computed', (r) => r.get('sparing_computed_tokens_total'), count]],
   chart: [['computed/s', (h) => h.rate('sparing_computed_tokens_total')], ['useful/s', (h) => h.rate('sparing_useful_tokens_total')]], axis: count},
  {id: 'ttft', title: 'Time to first token', what: 'From the arrival of a request to its first text.', rows: latency('sparing_time_to_first_token_seconds'),
   chart: latencyChart('sparing_time_to_first_token_seconds'), axis: seconds},
  {id: 'itl', title: 'Time between tokens', what: 'Between two pieces of text of one answer.', rows: latency('sparing_inter_token_latency_seconds'),
   chart: latencyChart('sparing_inter_token_latency_seconds'), axis: seconds},
  {id: 'queue', title: 'Queue', what: 'From arrival to the first step; and who waits just now.',
   rows: [...latency('sparing_queue_time_seconds'), ['waiting', 'waiting', (r) => r.gauge('sparing_requests_waiting'), count, true],
          ['running', 'running', (r) => r.gauge('sparing_requests_running'), count, true], ['work ahead', 'backlog', (r) => r.gauge('sparing_backlog_seconds'), seconds, true]],
   chart: [['waiting', (h) => h.gauge('sparing_requests_waiting')], ['running', (h) => h.gauge('sparing_requests_running')]], axis: count},
  {id: 'rate', title: 'Tokens', what: 'Of prompts, wherever they came from, and of answers.',
   rows: [['prompt', 'prompt', (r) => total(prompt(r)), count], ['answers', 'answers', (r) => r.get('sparing_generated_tokens_total'), count]],
   chart: [['prompt/s', (h) => h.sum(SOURCES.map((s) => h.rate(`sparing_prompt_tokens_total{source="${s}"}`)))], ['answers/s', (h) => h.rate('sparing_generated_tokens_total')]], axis: count},
  {id: 'compute', title: 'Compute utilisation', what: 'Share of the arithmetic this machine can do, in windows of 100 ms in which something was computed, and how much it fluctuates (standard deviation ÷ mean).',
   rows: [['of the roofline', 'share', (r) => ratio(windows(r)[1], windows(r)[0]), percent], ['fluctuation', 'cv', (r) => fluctuation(...windows(r)), percent],
          ['time in steps', 'busy', (r) => r.get('sparing_busy_seconds_total'), seconds]],
   chart: [['of the roofline', (h) => h.ratio(h.rate('sparing_busy_windows_utilisation_total'), h.rate('sparing_busy_windows_total'))], ['busy', (h) => h.rate('sparing_busy_seconds_total')]], axis: percent},
  {id: 'recall', title: 'Knowledge recall', what: 'A passage of a collection is asked for by one of its own sentences, every half minute: is it among the ten that are found?',
   rows: [['found', 'share', (r) => ratio(r.get('sparing_knowledge_probes_total{result="found"}'), r.get('sparing_knowledge_probes_total{result="found"}') + r.get('sparing_knowledge_probes_total{result="missed"}')), percent],
          ['probes', 'probes', (r) => r.get('sparing_knowledge_probes_total{result="found"}') + r.get('sparing_knowledge_probes_total{result="missed"}'), count],
          ['search, 95th', 'p95', (r) => r.quantile('sparing_knowledge_search_seconds', 0.95), seconds]],
   chart: [['found', (h) => h.ratio(h.rate('sparing_knowledge_probes_total{result="found"}'), h.sum([h.rate('sparing_knowledge_probes_total{result="found"}'), h.rate('sparing_knowledge_probes_total{result="missed"}')]))]], axis: percent},
  {id: 'source', title: 'Prompt tokens by source', what: 'Computed, or known: in RAM, on disk, as objects, or passages put in place.',
   rows: SOURCES.map((s, i) => [s, s, (r) => ratio(prompt(r)[i], total(prompt(r))), percent]),
   chart: SOURCES.map((s) => [s, (h) => h.rate(`sparing_prompt_tokens_total{source="${s}"}`)]), axis: count},
  {id: 'tiers', title: 'Latency of the tiers', what: '95th percentile of finding and pinning what RAM knows, and of loading from disk and from objects; what was decided about prefixes known beyond RAM.',
   rows: [['attach, RAM', 'ram', (r) => r.quantile('sparing_kv_attach_seconds', 0.95), seconds], ['load, SSD', 'ssd', (r) => r.quantile('sparing_kv_load_seconds', 0.95, 'tier="ssd"'), seconds],
          ['load, S3', 's3', (r) => r.quantile('sparing_kv_load_seconds', 0.95, 'tier="s3"'), seconds],
          ['fetched', 'fetch', (r) => r.get('sparing_kv_choices_total{choice="fetch"}') + r.get('sparing_kv_choices_total{choice="fetch_part"}'), count],
          ['recomputed', 'recompute', (r) => r.get('sparing_kv_choices_total{choice="recompute"}'), count]],
   chart: [['attach', (h) => h.p95('sparing_kv_attach_seconds')], ['SSD', (h) => h.p95('sparing_kv_load_seconds{tier="ssd"}')], ['S3', (h) => h.p95('sparing_kv_load_seconds{tier="s3"}')]], axis: seconds},
  {id: 'bytes', title: 'Bytes of the tiers', what: 'What each tier holds, and what gave way.',
   rows: [...['ram', 'ssd', 's3'].map((t) => [t, t, (r) => r.gauge(`sparing_kv_bytes{tier="${t}"}`), bytes, true]),
          ['pages given up, RAM', 'evicted', (r) => r.gauge('sparing_kv_evicted_pages'), count, true], ['runs given up, SSD', 'runs', (r) => r.gauge('sparing_kv_evicted_runs{kind="all"}'), count, true]],
   chart: ['ram', 'ssd', 's3'].map((t) => [t, (h) => h.gauge(`sparing_kv_bytes{tier="${t}"}`)]), axis: bytes},
  {id: 'saved', title: 'Compute saved', what: 'Arithmetic against a plain decoder on the same text; keys that certified attention attended; tokens guessed ahead that the model chose as well, how much of the answers they were, and both for each drafter; tokens that left as marks of what they repeat, and the bytes that this saved; tokens that rules took back, and answers that they ended; light answers that were given up.',
   rows: [['against dense', 'flops', (r) => { const d = r.get('sparing_flops_total{kind="dense"}'); return d > 0 ? 1 - r.get('sparing_flops_total{kind="spent"}') / d : null; }, percent],
          ['per token', 'per_token', (r) => ratio(r.get('sparing_flops_total{kind="spent"}'), r.get('sparing_generated_tokens_total')), (v) => `${(v / 1e9).toFixed(2)} GFLOP`],
          ['keys attended', 'keys', (r) => ratio(r.get('sparing_attention_keys_total{kind="kept"}'), r.get('sparing_attention_keys_total{kind="seen"}')), percent],
          ['guesses right', 'guesses', (r) => ratio(r.get('sparing_draft_tokens_total{result="accepted"}'), r.get('sparing_draft_tokens_total{result="accepted"}') + r.get('sparing_draft_tokens_total{result="rejected"}')), percent],
          ['of the answers, guessed', 'guessed', (r) => ratio(r.get('sparing_draft_tokens_total{result="accepted"}'), r.get('sparing_generated_tokens_total')), percent],
          ...DRAFTERS.map((d) => [`${d}: right`, `right_${d}`, (r) => ratio(drafted(r, d, 'accepted'), drafted(r, d, 'accepted') + drafted(r, d, 'rejected')), percent]),
          ...DRAFTERS.map((d) => [`${d}: guessed`, `drafted_${d}`, (r) => drafted(r, d, 'accepted') + drafted(r, d, 'rejected'), count]),
          ['repeats sent as marks', 'marked', (r) => r.get('sparing_marked_tokens_total'), count],
          ['bytes that marks saved', 'mark_bytes', (r) => r.get('sparing_marked_bytes_total{kind="text"}') - r.get('sparing_marked_bytes_total{kind="marks"}'), count],
          ['tokens taken back', 'pruned', (r) => r.get('sparing_pruned_tokens_total'), count],
          ['ended by rules', 'ended', (r) => r.get('sparing_ended_by_rules_total'), count],
          ['escalated', 'escalated', (r) => r.get('sparing_escalations_total'), count]],
   chart: [['spent ÷ dense', (h) => h.ratio(h.rate('sparing_flops_total{kind="spent"}'), h.rate('sparing_flops_total{kind="dense"}'))]], axis: percent},
  {id: 'paths', title: 'Paths and cost', what: 'Which path requests took, what one costs by the price table, and how far light answers agree with full ones on a shadow sample (--shadow).',
   rows: [...PATHS.map((p, i) => [p, p, (r) => ratio(paths(r)[i], total(paths(r))), percent]),
          ['cost of a request', 'cost', (r) => ratio(total(PATHS.map((p) => r.get(`sparing_cost_total{path="${p}"}`))), total(paths(r))), money],
          ['light agrees with full', 'agreement', (r) => ratio(r.get('sparing_shadow_agreement_total'), r.get('sparing_shadow_samples_total')), percent]],
   chart: PATHS.map((p) => [p, (h) => h.rate(`sparing_path_total{path="${p}"}`)]), axis: count},
];

// --- history --------------------------------------------------------------------------------------

// Points so far: times, and for each series its values by time index. Counters become rates when they come in.
const past = {t: [], rate: new Map(), gauge: new Map(), p50: new Map(), p95: new Map()};

function addHistory(j) {
  const from = past.t.length;
  past.t.push(...j.t);
  for (const [group, to, scale] of [['counter', past.rate, 1 / j.interval], ['gauge', past.gauge, 1], ['p50', past.p50, 1], ['p95', past.p95, 1]]) {
    for (const [name, values] of Object.entries(j[group])) {
      if (!to.has(name)) to.set(name, new Array(from).fill(group === 'counter' ? 0 : null));
      to.get(name).push(...values.map((v) => v === null ? null : v * scale));
    }
    for (const v of to.values()) while (v.length < past.t.length) v.push(null);
  }
  const drop = past.t.length - 4 * POINTS;
  if (drop > 0) {
    past.t.splice(0, drop);
    for (const to of [past.rate, past.gauge, past.p50, past.p95]) for (const v of to.values()) v.splice(0, drop);
  }
}

function history() {
  const add = (a, b) => a === null ? b : b === null ? a : a + b, most = (a, b) => a === null ? b : b === null ? a : Math.max(a, b);
  // Quantiles cannot be added: of several models the slowest is drawn.
  const of = (m, join) => (name) => [...m].reduce((all, [key, v]) => {
    const [bare, model] = unlabel(key);
    return bare === name && isShown(model) ? all.map((x, i) => join(x, v[i] ?? null)) : all;
  }, new Array(past.t.length).fill(null));
  return {
    rate: of(past.rate, add), gauge: of(past.gauge, add), p50: of(past.p50, most), p95: of(past.p95, most),
    sum: (list) => past.t.map((_, i) => list.reduce((a, v) => a + (v[i] ?? 0), 0)),
    ratio: (a, b) => past.t.map((_, i) => b[i] > 0 ? (a[i] ?? 0) / b[i] : null),
  };
}

// --- drawing --------------------------------------------------------------------------------------

function build(card) {
  const el = document.createElement('article');
  el.className = 'card';
  el.id = card.id;
  const table = document.createElement('table');
  table.innerHTML = '<thead><tr><th></th><th>now</th><th>since start</th></tr></thead>';
  const body = document.createElement('tbody');
  card.cells = card.rows.map(([label, key, , , gauge]) => {
    const tr = document.createElement('tr'), name = document.createElement('td'), now = document.createElement('td'), all = document.createElement('td');
    name.textContent = label;
    now.dataset.now = key;
    all.dataset.all = gauge ? '' : key;
    tr.append(name, now, all);
    body.append(tr);
    return {now, all};
  });
  table.append(body);
  const title = document.createElement('h2'), what = document.createElement('p');
  title.textContent = card.title;
  what.textContent = card.what;
  card.holder = document.createElement('div');
  card.holder.className = 'chart';
  card.holder.setAttribute('role', 'img');
  card.holder.setAttribute('aria-label', `Trend of ${card.title}: ${card.chart.map((c) => c[0]).join(', ')}`);
  const keys = document.createElement('ul');
  keys.className = 'keys';
  keys.append(...card.chart.map(([label], i) => {
    const li = document.createElement('li');
    li.textContent = label;
    li.className = COLORS[i % COLORS.length];
    return li;
  }));
  el.append(title, what, table, card.holder, keys);
  $('cards').append(el);
}

function put(cell, v, format) {
  cell.textContent = v === null ? '–' : format(v);
  cell.dataset.value = v === null ? '' : String(v);
}

function fill(card, now, all) {
  card.rows.forEach(([, , value, format, gauge], i) => {
    put(card.cells[i].now, value(now), format);
    if (!gauge) put(card.cells[i].all, value(all), format);
  });
}

function draw(card) {
  const h = history(), from = Date.now() / 1000 - Number($('span').value);
  const first = past.t.findIndex((t) => t >= from), cut = (v) => first < 0 ? [] : v.slice(first);
  const data = [cut(past.t), ...card.chart.map(([, f]) => cut(f(h)))];
  const axis = {stroke: color('fifth'), grid: {stroke: color('line')}, ticks: {stroke: color('line')}, font: '11px system-ui', size: 72};
  if (card.plot) card.plot.destroy();
  card.plot = new uPlot({
    width: card.holder.clientWidth || 300, height: 120, legend: {show: false}, cursor: {show: true, y: false},
    scales: {x: {time: true}, y: {range: (u, lo, hi) => [0, hi > 0 ? hi * 1.1 : 1]}},
    axes: [{...axis, size: 28, space: 70}, {...axis, values: (u, v) => v.map(card.axis)}],
    series: [{}, ...card.chart.map(([label], i) => ({label, stroke: color(COLORS[i % COLORS.length]), width: 1.5, points: {show: data[0].length < 3}}))],
  }, data, card.holder);
}

// --- requests -------------------------------------------------------------------------------------

const STAGES = ['queue', 'intent', 'retrieval', 'prefill', 'decode'];

function drawStages(list) {
  const mean = STAGES.map((s) => list.length ? total(list.map((e) => e.receipt.ms[s])) / list.length : 0), all = total(mean);
  $('bar').replaceChildren(...mean.map((v, i) => {
    const part = document.createElement('div');
    part.style.width = all ? `${100 * v / all}%` : '0';
    part.style.background = color(COLORS[i]);
    part.title = `${STAGES[i]}: ${v.toFixed(2)} ms`;
    return part;
  }));
  $('legend').replaceChildren(...mean.map((v, i) => {
    const li = document.createElement('li'), box = document.createElement('i');
    box.style.background = color(COLORS[i]);
    li.append(box, `${STAGES[i]} ${v.toFixed(2)} ms`);
    return li;
  }));
}

const opened = new Set();

function requestRows(e) {
  const r = e.receipt, tr = document.createElement('tr');
  const known = total(SOURCES.slice(1).map((s) => r.prompt_tokens[s]));
  const cells = [new Date(1000 * e.created + e.ms).toLocaleTimeString(), r.path + (r.escalated ? ' ↑' : ''), e.error ?? r.why ?? '', r.class ?? '',
                 r.difficulty === undefined ? '' : r.difficulty.toFixed(2), `${e.prompt_tokens}${known ? ` (${known} known)` : ''}`, r.decode.tokens,
                 e.ms_first ? seconds(e.ms_first / 1000) : '–', seconds(e.ms / 1000), r.flops.dense > 0 ? percent(r.flops.spent / r.flops.dense) : '–', money(r.cost)];
  tr.className = e.error ? 'row failed' : 'row';
  tr.tabIndex = 0;
  tr.append(...cells.map((c) => Object.assign(document.createElement('td'), {textContent: c})));
  const more = document.createElement('tr'), td = document.createElement('td');
  td.colSpan = cells.length;
  td.className = 'receipt';
  td.textContent = `${e.id}\n${JSON.stringify(r, null, 1)}`;
  more.append(td);
  more.hidden = !opened.has(e.id);
  const toggle = () => {
    more.hidden = !more.hidden;
    if (more.hidden) opened.delete(e.id); else opened.add(e.id);
  };
  tr.addEventListener('click', toggle);
  tr.addEventListener('keydown', (k) => { if (k.key === 'Enter') toggle(); });
  return [tr, more];
}

function drawRequests(list) {
  $('none').hidden = list.length > 0;
  $('requests').hidden = list.length === 0;
  $('requests').tBodies[0].replaceChildren(...list.flatMap(requestRows));
  drawStages(list.filter((e) => !e.error));
}

// --- polling --------------------------------------------------------------------------------------

const scrapes = []; // [time, map], oldest first, of the last minute

async function fetchAs(kind, url) {
  const headers = $('key').value ? {Authorization: 'Bearer ' + $('key').value} : {};
  const res = await fetch(url, {headers, cache: 'no-store'});
  if (res.status === 401) $('keybox').hidden = false;
  if (res.status === 403) return null; // the server's own figures are for operators' keys
  if (!res.ok) throw new Error(res.status === 401 ? 'an API key is needed' : `${url}: ${res.status}`);
  return kind === 'text' ? res.text() : res.json();
}

function showFigures(now, rows, t) {
  const last = scrapes[scrapes.length - 1];
  if (last && (now.get('sparing_computed_tokens_total') ?? 0) < (last[1].get('sparing_computed_tokens_total') ?? 0)) scrapes.length = 0; // it was restarted
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
    const [text, rows, list] = await Promise.all([fetchAs('text', '/metrics'), fetchAs('json', `/v1/metrics/history?since=${since}&points=${POINTS}`), fetchAs('json', '/v1/requests?limit=100')]);
    const t = Date.now();
    document.body.dataset.role = rows ? 'operator' : 'user';
    drawRequests(list.data);
    if (rows) showFigures(parse(text), rows, t);
    $('state').textContent = !rows ? `requests of this key's tenant, as of ${new Date().toLocaleTimeString()}; the server's figures need an operator's key`
      : `as of ${new Date().toLocaleTimeString()}; now: ${scrapes.length > 1 ? `the last ${Math.round((t - scrapes[0][0]) / 1000)} s` : 'since start'}`;
    $('state').className = '';
    document.body.dataset.polls = String(Number(document.body.dataset.polls ?? 0) + 1);
  } catch (e) {
    $('state').textContent = `not connected: ${e.message}`;
    $('state').className = 'bad';
  }
}
CARDS.forEach(build);
const redraw = () => CARDS.forEach(draw);
$('span').addEventListener('change', redraw);
$('key').addEventListener('change', poll);
$('model').addEventListener('change', () => {
  scrapes.length = 0; // they are sums over other models
  poll();
});
window.addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
poll();
setInterval(poll, POLL_MS);
