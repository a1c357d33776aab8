// What an answer cost: a line for a person, a paragraph, and the figures for an engineer.
import {html} from '../vendor/vendor.js';
import {bytes, duration, many, number, percent, t} from './i18n.js';

const total = (r) => ['queue', 'intent', 'retrieval', 'prefill', 'decode'].reduce((sum, k) =>
  sum + (r.ms?.[k] ?? 0), 0);
const share = (r) => r.flops?.dense > 0 ? 1 - r.flops.spent / r.flops.dense : 0;

export function saving(x) {
  for (const [least, words] of [[0.85, 'nine tenths less computing than usual'],
    [0.7, 'three quarters less computing than usual'],
    [0.58, 'two thirds less computing than usual'],
                                [0.42, 'half the usual computing'],
                                  [0.29, 'a third less computing than usual'],
                                  [0.18, 'a quarter less computing than usual'],
                                [0.07, 'a tenth less computing than usual'],
                                  [-0.03, 'as much computing as usual']])
    if (x >= least) return t(words);
  return t('{n} more computing than usual', {n: percent(-x)});
}

export const personLine = (r, sources) => [duration(total(r)), saving(share(r)),
  ...(sources?.retrieved?.length ?
  [many(sources.retrieved.length, '1 passage read', '{n} passages read')] : [])].join(' · ');

const big = (x) => x >= 1e12 ? `${number(x / 1e12, 2)} T` : x >= 1e9 ?
  `${number(x / 1e9, 2)} G` : x >= 1e6 ? `${number(x / 1e6, 2)} M` : number(x, 2);

// Kept share and certificate; see docs/ATTENTION.md.
function attention(a) {
  if (!(a.epsilon > 0) && !(a.prefill.keep > 0)) return t('dense: nothing left out');
  const read = a.kv_bytes.dense > 0 ?
    `, ${percent(a.kv_bytes.read / a.kv_bytes.dense, 1)} ${t('of the bytes')}` : '';
  const prompt = a.prefill.keep > 0 ?
    `; ${t('prompt')}: ${percent(a.prefill.pages_kept,
    1)} ${t('of the pages, missed by a sample')} ${percent(a.prefill.sampled_miss_mean, 1)}`
    : a.prefill.values_read < 1 ?
      `; ${t('prompt')}: ${percent(a.prefill.values_read, 1)} ${t('of the values')}` : '';
  return `${percent(a.kept,
    1)} ${t('of the keys kept')}${read}; ${t('certified loss at most')} ${percent(a.max_bound,
    1)} (${t('allowed')} ${percent(a.epsilon, 1)})${prompt}`;
}

function figures(r) {
  const p = r.prompt_tokens, s = r.ms.decode / 1000, rows = [];
  rows.push([t('path'), [r.path, r.why, r.class].filter(Boolean).join(', ')]);
  rows.push([t('prompt'), [`${p.computed} ${t('computed')}`, ...['ram', 'ssd', 's3'].filter((k) =>
    p[k]).map((k) => `${p[k]} ${k.toUpperCase()}`)].join(', ')]);
  rows.push([t('memory'), `${t('looked up in')} ${number(r.ms.attach, 2)} ms${r.ms.load ?
    `, ${t('loaded in')} ${number(r.ms.load, 1)} ms` : ''}`]);
  rows.push([t('answer'), `${many(r.decode.tokens, '1 token', '{n} tokens')}, ${many(r.decode.steps,
    '1 step', '{n} steps')}${r.decode.drafted ?
    `, ${t('{right} of {all} guessed right', {right: r.decode.accepted, all: r.decode.drafted})}` :
    ''}`]);
  if (r.references) rows.push([t('repeated'),
    t('{tokens} tokens came as {marks} marks: {bytes} as {mark_bytes}',
    {...r.references, bytes: bytes(r.references.bytes),
    mark_bytes: bytes(r.references.mark_bytes)})]);
  rows.push([t('speed'), s > 0 ? `${number(r.decode.tokens / s, 1)} ${t('tokens/s')}` : '–']);
  rows.push([t('time'),
    `${t('queue')} ${number(r.ms.queue, 1)} ms, ${t('reading')} ${number(r.ms.prefill,
    1)} ms, ${t('writing')} ${number(r.ms.decode, 1)} ms`]);
  rows.push([t('arithmetic'), `${big(r.flops.spent)}FLOP, ${share(r) < 0 ?
    t('{n} more than dense', {n: percent(-share(r), 1)}) : t('{n} less than dense',
    {n: percent(share(r), 1)})}`]);
  if (r.attention) rows.push([t('attention'), attention(r.attention)]);
  return rows;
}

function story(r, usage) {
  const p = r.prompt_tokens, known = (p.ram ?? 0) + (p.ssd ?? 0) + (p.s3 ?? 0) + (p.spliced ?? 0),
    all = usage.prompt_tokens ?? known + p.computed;
  const where = r.path === 'upstream' ?
    t('This answer came from another server.') : t('Nothing left this server.');
  const figures = {known: number(known), all: number(all), new: number(p.computed)};
  return known ? `${
    t('{known} of {all} tokens of the prompt were in memory already, so {new} had to be read.',
      figures)} ${where}`
    : `${t('All {all} tokens of the prompt had to be read.', {all: number(all)})} ${where}`;
}

export function Receipt({usage, sources, model}) {
  const r = usage?.sparing;
  if (!r?.ms || !r.prompt_tokens || !r.decode) return null;
  return html`<details class="receipt"><summary>${personLine(r, sources)}</summary>
    <p>${story(r, usage)} ${model ? t('Written by {model}.', {model}) : ''}</p>
    <details><summary>${t('For engineers')}</summary>
      <dl class="nums">${figures(r).map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}</dl>
      </details></details>`;
}
