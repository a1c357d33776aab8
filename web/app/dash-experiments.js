// Experiments on the dashboard: what is known of each, how the evidence came about, and which
// version of the settings is in force. All of it is the report of /v1/experiments.
import uPlot from '../vendor/uplot.js';
import {$} from './dash-read.js';
import {color, colorAt, COLORS, make} from './dash-draw.js';

const number = (v) => (v === null || v === undefined ? '–' : String(Number(v.toPrecision(3))));
const range = (m, name) =>
  m[name] === null
    ? 'no samples'
    : m.low === null || m.high === null
      ? `${number(m[name])}, too few for an interval`
      : `${number(m[name])} (${number(m.low)} to ${number(m.high)})`;
const share = (v) => `${(100 * v).toFixed(0)} %`;

function state(e) {
  const last = e.adapt?.epochs.at(-1);
  const words = [
    e.assignment_broken
      ? 'Conversations are not shared out as the file says: nothing below means anything.'
      : '',
    e.stopped ? 'Stopped: no conversation gets a variant any more.' : '',
    e.metric ? `Decided by ${e.metric}.` : '',
    last && e.adapt.decided ? `${last.best} is proven to be the best.` : '',
    last && !e.adapt.decided
      ? `Epoch ${last.epoch}; evidence ${number(last.log_evidence)} of ${number(e.adapt.needed)}.`
      : '',
  ];
  if (e.interleaved) {
    const i = e.interleaved;
    words.push(
      `${i.second} is preferred to ${i.first} in ${range(i, 'second_preferred')} of ${i.n} ` +
        `conversations: ${i.decided ? 'decided' : 'not decided'}.`,
    );
  }
  return words.filter(Boolean).join(' ');
}

// The metric that decides, and those that were given; else what the server measures itself.
function shownMetrics(e) {
  const all = Object.keys(e.variants[0].metrics).filter((m) =>
    e.variants.some((v) => v.metrics[m].n),
  );
  return all.sort((a, b) => (b === e.metric) - (a === e.metric));
}

function table(e) {
  const metrics = shownMetrics(e),
    last = e.adapt?.epochs.at(-1);
  const cell = (m, control) => {
    const against = !control && m.against_control;
    return (
      range(m, 'mean') + (against ? `; ${against.decided ? 'decided' : 'not decided'}` : '')
    );
  };
  const head = ['variant', 'conversations', ...(last ? ['share now'] : []), ...metrics];
  return make(
    'div',
    {className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': `Table of ${e.name}`},
    make(
      'table',
      {},
      make('caption', {className: 'sr', textContent: `What is known of ${e.name}`}),
      make(
        'thead',
        {},
        make('tr', {}, ...head.map((h) => make('th', {scope: 'col', textContent: h}))),
      ),
      make(
        'tbody',
        {},
        ...e.variants.map((v, i) =>
          make(
            'tr',
            {},
            make('th', {scope: 'row', textContent: v.name + (i ? '' : ' (control)')}),
            ...[
              v.conversations,
              ...(last ? [share(last.shares[i])] : []),
              ...metrics.map((m) => cell(v.metrics[m], i === 0)),
            ].map((c) => make('td', {textContent: c})),
          ),
        ),
      ),
    ),
  );
}

// What is drawn: [titles of the lines, x, lines, name of x]; null: there is nothing yet.
function lines(e) {
  if (e.adapt)
    return e.adapt.epochs.length > 1
      ? {
          names: ['evidence', 'needed'],
          x: e.adapt.epochs.map((r) => r.epoch),
          y: [e.adapt.epochs.map((r) => r.log_evidence), e.adapt.epochs.map(() => e.adapt.needed)],
          of: 'epoch',
        }
      : null;
  const with_time = (e.variants ?? []).filter((v) => v.over_time?.length);
  if (!with_time.length) return null;
  const n = Math.max(...with_time.map((v) => v.over_time.length));
  const line = (v, key) => Array.from({length: n}, (_, i) => v.over_time[i]?.[key] ?? null);
  return {
    names: with_time.map((v) => v.name),
    x: Array.from({length: n}, (_, i) => (i + 1) / n),
    y: with_time.map((v) => line(v, 'mean')),
    bands: with_time.map((v) => [line(v, 'high'), line(v, 'low')]),
    of: 'part of its conversations',
  };
}

function draw(holder, l) {
  const axis = {
    stroke: color('muted'),
    grid: {stroke: color('line'), width: 1},
    ticks: {stroke: color('line'), width: 1},
    font: '12px system-ui',
  };
  const edges = (l.bands ?? []).flat();
  new uPlot(
    {
      width: holder.clientWidth,
      height: 150,
      legend: {show: false},
      scales: {x: {time: false}},
      axes: [
        {...axis, size: 30, values: (u, v) => v.map(number)},
        {...axis, size: 60, values: (u, v) => v.map(number)},
      ],
      series: [
        {},
        ...l.names.map((label, i) => ({label, stroke: colorAt(i), width: 1.5})),
        ...edges.map((_, i) => ({stroke: colorAt(i >> 1), width: 0.5, points: {show: false}})),
      ],
      bands: (l.bands ?? []).map((_, i) => ({
        series: [l.names.length + 1 + 2 * i, l.names.length + 2 + 2 * i],
        fill: colorAt(i) + '22',
      })),
    },
    [l.x, ...l.y, ...edges],
    holder,
  );
}

function card(e) {
  const l = lines(e),
    holder = make('div', {className: 'chart'});
  if (l) {
    holder.setAttribute('role', 'img');
    holder.setAttribute('aria-label', `${l.names.join(', ')} of ${e.name} by ${l.of}`);
  }
  const keys = (l?.names ?? []).map((name, i) =>
    make('li', {textContent: name, className: COLORS[i % COLORS.length]}),
  );
  const el = make(
    'article',
    {className: 'trial', id: `trial-${e.name}`},
    make('h2', {textContent: e.name}),
    make('p', {textContent: state(e) || 'No metric is named that decides.'}),
    ...(e.variants ? [table(e)] : []),
    ...(l ? [holder, make('ul', {className: 'keys'}, ...keys)] : []),
  );
  $('trials').append(el);
  if (l && holder.clientWidth) draw(holder, l);
}

export function showExperiments(report) {
  const v = report?.version;
  $('no-trials').hidden = !!report?.experiments.length;
  $('version').textContent = !report
    ? ''
    : v
      ? `Version ${v.number} of the settings is in force, made on ` +
        `${new Date(1000 * v.made).toLocaleString()} on top of version ${v.from}` +
        `${v.why ? `: ${v.why}` : ''}.`
      : 'The options alone are in force; no version of the settings is.';
  $('trials').replaceChildren();
  for (const e of report?.experiments ?? []) card(e);
}
