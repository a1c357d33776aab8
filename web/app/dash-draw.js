// Cards on the page: their tables and the trend of each.
import uPlot from '../vendor/uplot.js';
import {$, history, past} from './dash-read.js';

export const COLORS = ['accent', 'second', 'third', 'fourth', 'fifth'];
export const color = (name) =>
  getComputedStyle(document.documentElement)
    .getPropertyValue('--' + name)
    .trim();
export const colorAt = (i) => color(COLORS[i % COLORS.length]);

export function make(name, props = {}, ...children) {
  const el = document.createElement(name);
  for (const [k, v] of Object.entries(props)) {
    if (k in el) el[k] = v;
    else el.setAttribute(k, v);
  }
  el.append(...children);
  return el;
}

export function build(card) {
  const body = make('tbody');
  card.cells = card.rows.map(([label, key, , , gauge]) => {
    const now = make('td'),
      all = make('td');
    now.dataset.now = key;
    all.dataset.all = gauge ? '' : key;
    body.append(make('tr', {}, make('th', {scope: 'row', textContent: label}), now, all));
    return {now, all};
  });
  const head = make(
    'tr',
    {},
    ...['figure', 'now', 'since start'].map((text) =>
      make('th', {scope: 'col', textContent: text}),
    ),
  );
  const table = make(
    'table',
    {},
    make('caption', {
      className: 'sr',
      textContent: `${card.title}, now and since the server started`,
    }),
    make('thead', {}, head),
    body,
  );
  card.holder = make('div', {
    className: 'chart',
    role: 'img',
    'aria-label': `Trend of ${card.title}: ${card.chart.map((c) => c[0]).join(', ')}`,
  });
  const keys = make(
    'ul',
    {className: 'keys'},
    ...card.chart.map(([label], i) =>
      make('li', {textContent: label, className: COLORS[i % COLORS.length]}),
    ),
  );
  const el = make(
    'article',
    {className: 'card', id: card.id},
    make('h2', {textContent: card.title}),
    make('p', {textContent: card.what}),
    table,
    card.holder,
    keys,
  );
  $(`cards-${card.tab ?? 'now'}`).append(el);
}

// A figure without a neighbour makes no line: a point is drawn.
const alone = (u, series) => {
  const v = u.data[series], no = (x) => x === null || x === undefined;
  return [...v.keys()].filter((i) => !no(v[i]) && no(v[i - 1]) && no(v[i + 1]));
};

function put(cell, v, format) {
  cell.textContent = v === null ? '–' : format(v);
  cell.dataset.value = v === null ? '' : String(v);
}

export function fill(card, now, all) {
  card.rows.forEach(([, , value, format, gauge], i) => {
    put(card.cells[i].now, value(now), format);
    if (!gauge) put(card.cells[i].all, value(all), format);
  });
}

// The axis of time spans what was chosen, however few points there are, and ends now.
export function draw(card) {
  if (!card.holder.clientWidth) return; // in a tab that is not shown
  const h = history(),
    now = Date.now() / 1000,
    from = now - Number($('span').value);
  const first = past.t.findIndex((t) => t >= from),
    cut = (v) => (first < 0 ? [] : v.slice(first));
  const data = [cut(past.t), ...card.chart.map(([, f]) => cut(f(h)))];
  const axis = {
    stroke: color('muted'),
    grid: {stroke: color('line'), width: 1},
    ticks: {stroke: color('line'), width: 1},
    font: '12px system-ui',
    size: 74,
  };
  if (card.plot) card.plot.destroy();
  card.plot = new uPlot(
    {
      width: card.holder.clientWidth,
      height: 130,
      legend: {show: false},
      cursor: {show: true, y: false},
      padding: [8, 28, 0, 0],
      scales: {
        x: {time: true, range: [from, now]},
        y: {range: (u, lo, hi) => [0, hi > 0 ? hi * 1.1 : 1]},
      },
      axes: [
        {
          ...axis,
          size: 30,
          space: 80,
          values: (u, v) =>
            v.map((t) =>
              new Date(1000 * t).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'}),
            ),
        },
        {...axis, values: (u, v) => v.map(card.axis)},
      ],
      series: [
        {},
        ...card.chart.map(([label], i) => ({
          label,
          stroke: colorAt(i),
          width: 1.5,
          points: {show: true, filter: alone},
        })),
      ],
    },
    data,
    card.holder,
  );
}
