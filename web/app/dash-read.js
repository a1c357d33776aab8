// What /metrics and /v1/metrics/history say, as the dashboard reads it.
export const $ = (id) => document.getElementById(id);

// name{labels} without the label `model`, and that label's value; '': there is none.
function unlabel(key) {
  const model = /[{,]model="((?:[^"\\]|\\.)*)"/.exec(key)?.[1] ?? '';
  return [
    model
      ? key
          .replace(/([{,])model="(?:[^"\\]|\\.)*",?/, '$1')
          .replace(',}', '}')
          .replace('{}', '')
      : key,
    model,
  ];
}

// Is a figure of this model shown? What no model has belongs to all of them.
const isShown = (model) => !model || !$('model').value || model === $('model').value;

// Text format 0.0.4 to a map from name{labels} to a number: the sum over the models that are shown.
export function parse(text) {
  const m = new Map();
  for (const line of text.split('\n')) {
    if (!line || line[0] === '#') continue;
    const at = line.lastIndexOf(' '),
      [key, model] = unlabel(line.slice(0, at));
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
export function reader(now, before) {
  const get = (key) => (now.get(key) ?? 0) - (before ? (before.get(key) ?? 0) : 0);
  return {
    get,
    gauge: (key) => now.get(key) ?? 0,
    // Quantile of a histogram, linear inside a bucket, as PromQL's histogram_quantile; null:
    // nothing happened.
    quantile(name, q, labels = '') {
      const prefix = `${name}_bucket{${labels}${labels && ','}le="`;
      const b = [];
      for (const key of now.keys())
        if (key.startsWith(prefix))
          b.push([
            key.slice(prefix.length, -2) === '+Inf'
              ? Infinity
              : Number(key.slice(prefix.length, -2)),
            get(key),
          ]);
      b.sort((x, y) => x[0] - y[0]);
      const n = b.length ? b[b.length - 1][1] : 0;
      if (!n) return null;
      let lo = 0,
        below = 0;
      for (const [le, count] of b) {
        if (count >= q * n)
          return le === Infinity ? lo : lo + ((le - lo) * (q * n - below)) / (count - below);
        lo = le;
        below = count;
      }
      return lo;
    },
  };
}

export const POINTS = 400;

// Points so far: times, and for each series its values by time index. Counters become rates when
// they come in.
export const past = {t: [], rate: new Map(), gauge: new Map(), p50: new Map(), p95: new Map()};

export function addHistory(j) {
  const from = past.t.length;
  past.t.push(...j.t);
  for (const [group, to, scale] of [
    ['counter', past.rate, 1 / j.interval],
    ['gauge', past.gauge, 1],
    ['p50', past.p50, 1],
    ['p95', past.p95, 1],
  ]) {
    for (const [name, values] of Object.entries(j[group])) {
      if (!to.has(name)) to.set(name, new Array(from).fill(group === 'counter' ? 0 : null));
      to.get(name).push(...values.map((v) => (v === null ? null : v * scale)));
    }
    for (const v of to.values()) while (v.length < past.t.length) v.push(null);
  }
  const drop = past.t.length - 4 * POINTS;
  if (drop > 0) {
    past.t.splice(0, drop);
    for (const to of [past.rate, past.gauge, past.p50, past.p95])
      for (const v of to.values()) v.splice(0, drop);
  }
}

export function history() {
  const add = (a, b) => (a === null ? b : b === null ? a : a + b),
    most = (a, b) => (a === null ? b : b === null ? a : Math.max(a, b));
  // Quantiles cannot be added: of several models the slowest is drawn.
  const of = (m, join) => (name) =>
    [...m].reduce((all, [key, v]) => {
      const [bare, model] = unlabel(key);
      return bare === name && isShown(model) ? all.map((x, i) => join(x, v[i] ?? null)) : all;
    }, new Array(past.t.length).fill(null));
  return {
    rate: of(past.rate, add),
    gauge: of(past.gauge, add),
    p50: of(past.p50, most),
    p95: of(past.p95, most),
    sum: (list) => past.t.map((_, i) => list.reduce((a, v) => a + (v[i] ?? 0), 0)),
    ratio: (a, b) => past.t.map((_, i) => (b[i] > 0 ? (a[i] ?? 0) / b[i] : null)),
  };
}
