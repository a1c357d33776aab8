// The twelve cards of the dashboard: what each figure is, computed from what /metrics says, over
// the last minute ("now") and since the server started.
export const ratio = (a, b) => (b > 0 ? a / b : null);
export const SOURCES = ['computed', 'ram', 'ssd', 's3', 'spliced'];
const prompt = (r) => SOURCES.map((s) => r.get(`sparing_prompt_tokens_total{source="${s}"}`));
export const PATHS = ['light', 'full', 'upstream'];
const paths = (r) => PATHS.map((p) => r.get(`sparing_path_total{path="${p}"}`));
export const total = (v) => v.reduce((a, b) => a + b, 0);

// Coefficient of variation from the number, sum and sum of squares of windows.
function fluctuation(n, sum, squares) {
  return n > 1 && sum > 0 ? Math.sqrt(Math.max(0, squares / n - (sum / n) ** 2)) / (sum / n) : null;
}
const windows = (r) =>
  ['', '_utilisation', '_utilisation_squares'].map((x) => r.get(`sparing_busy_windows${x}_total`));

export const percent = (v) => `${(100 * v).toFixed(1)} %`;
export const seconds = (v) =>
  v < 1 ? `${(1000 * v).toFixed(v < 0.01 ? 2 : 0)} ms` : `${v.toFixed(2)} s`;
export const count = (v) =>
  v >= 1e6
    ? `${(v / 1e6).toFixed(2)} M`
    : v >= 1e4
      ? `${(v / 1e3).toFixed(1)} k`
      : String(Math.round(v * 100) / 100);
export const bytes = (v) =>
  v >= 2 ** 30 ? `${(v / 2 ** 30).toFixed(2)} GiB` : `${(v / 2 ** 20).toFixed(1)} MiB`;
export const money = (v) => v.toPrecision(3);
export const joules = (v) => (v >= 3.6e5 ? `${(v / 3.6e6).toFixed(2)} kWh` : `${count(v)} J`);

// rows: [label, key, value of a reader, format]; gauges have no "since start". chart: [label,
// points of a history], format of its axis.
const latency = (name) => [
  ['median', 'p50', (r) => r.quantile(name, 0.5), seconds],
  ['95th percentile', 'p95', (r) => r.quantile(name, 0.95), seconds],
];
const latencyChart = (name) => [
  ['median', (h) => h.p50(name)],
  ['95th', (h) => h.p95(name)],
];
const DRAFTERS = ['lookup', 'prediction', 'earlier', 'model', 'head', 'mtp'];
const drafted = (r, d, result) =>
  r.get(`sparing_drafter_tokens_total{drafter="${d}",result="${result}"}`);

export const CARDS = [
  {
    id: 'utilisation',
    title: 'Token utilisation',
    what:
      'Of all tokens that went through the layers, those that belong to answers which ' +
      'reached their end. The rest was cancelled, given up, guessed wrongly or computed ' +
      'again.',
    rows: [
      [
        'useful ÷ computed',
        'share',
        (r) => ratio(r.get('sparing_useful_tokens_total'), r.get('sparing_computed_tokens_total')),
        percent,
      ],
      ['computed', 'computed', (r) => r.get('sparing_computed_tokens_total'), count],
    ],
    chart: [
      ['computed/s', (h) => h.rate('sparing_computed_tokens_total')],
      ['useful/s', (h) => h.rate('sparing_useful_tokens_total')],
    ],
    axis: count,
  },
  {
    id: 'ttft',
    title: 'Time to first token',
    what: 'From the arrival of a request to its first text.',
    rows: latency('sparing_time_to_first_token_seconds'),
    chart: latencyChart('sparing_time_to_first_token_seconds'),
    axis: seconds,
  },
  {
    id: 'itl',
    title: 'Time between tokens',
    what: 'Between two pieces of text of one answer.',
    rows: latency('sparing_inter_token_latency_seconds'),
    chart: latencyChart('sparing_inter_token_latency_seconds'),
    axis: seconds,
  },
  {
    id: 'queue',
    title: 'Queue',
    what: 'From arrival to the first step; and who waits just now.',
    rows: [
      ...latency('sparing_queue_time_seconds'),
      ['waiting', 'waiting', (r) => r.gauge('sparing_requests_waiting'), count, true],
      ['running', 'running', (r) => r.gauge('sparing_requests_running'), count, true],
      ['work ahead', 'backlog', (r) => r.gauge('sparing_backlog_seconds'), seconds, true],
    ],
    chart: [
      ['waiting', (h) => h.gauge('sparing_requests_waiting')],
      ['running', (h) => h.gauge('sparing_requests_running')],
    ],
    axis: count,
  },
  {
    id: 'rate',
    title: 'Tokens',
    what: 'Of prompts, wherever they came from, and of answers.',
    rows: [
      ['prompt', 'prompt', (r) => total(prompt(r)), count],
      ['answers', 'answers', (r) => r.get('sparing_generated_tokens_total'), count],
    ],
    chart: [
      [
        'prompt/s',
        (h) => h.sum(SOURCES.map((s) => h.rate(`sparing_prompt_tokens_total{source="${s}"}`))),
      ],
      ['answers/s', (h) => h.rate('sparing_generated_tokens_total')],
    ],
    axis: count,
  },
  {
    id: 'compute',
    title: 'Compute utilisation',
    what:
      'Share of the arithmetic this machine can do, in windows of 100 ms in which something ' +
      'was computed, and how much it fluctuates (standard deviation ÷ mean).',
    rows: [
      ['of the roofline', 'share', (r) => ratio(windows(r)[1], windows(r)[0]), percent],
      ['fluctuation', 'cv', (r) => fluctuation(...windows(r)), percent],
      ['time in steps', 'busy', (r) => r.get('sparing_busy_seconds_total'), seconds],
    ],
    chart: [
      [
        'of the roofline',
        (h) =>
          h.ratio(
            h.rate('sparing_busy_windows_utilisation_total'),
            h.rate('sparing_busy_windows_total'),
          ),
      ],
      ['busy', (h) => h.rate('sparing_busy_seconds_total')],
    ],
    axis: percent,
  },
  {
    id: 'recall',
    tab: 'documents',
    title: 'Knowledge recall',
    what:
      'A passage of a collection is asked for by one of its own sentences, every half ' +
      'minute: is it among the ten that are found?',
    rows: [
      [
        'found',
        'share',
        (r) =>
          ratio(
            r.get('sparing_knowledge_probes_total{result="found"}'),
            r.get('sparing_knowledge_probes_total{result="found"}') +
              r.get('sparing_knowledge_probes_total{result="missed"}'),
          ),
        percent,
      ],
      [
        'probes',
        'probes',
        (r) =>
          r.get('sparing_knowledge_probes_total{result="found"}') +
          r.get('sparing_knowledge_probes_total{result="missed"}'),
        count,
      ],
      ['search, 95th', 'p95', (r) => r.quantile('sparing_knowledge_search_seconds', 0.95), seconds],
    ],
    chart: [
      [
        'found',
        (h) =>
          h.ratio(
            h.rate('sparing_knowledge_probes_total{result="found"}'),
            h.sum([
              h.rate('sparing_knowledge_probes_total{result="found"}'),
              h.rate('sparing_knowledge_probes_total{result="missed"}'),
            ]),
          ),
      ],
    ],
    axis: percent,
  },
  {
    id: 'source',
    tab: 'tiers',
    title: 'Prompt tokens by source',
    what: 'Computed, or known: in RAM, on disk, as objects, or passages put in place.',
    rows: SOURCES.map((s, i) => [s, s, (r) => ratio(prompt(r)[i], total(prompt(r))), percent]),
    chart: SOURCES.map((s) => [s, (h) => h.rate(`sparing_prompt_tokens_total{source="${s}"}`)]),
    axis: count,
  },
  {
    id: 'tiers',
    tab: 'tiers',
    title: 'Latency of the tiers',
    what:
      '95th percentile of finding and pinning what RAM knows, and of loading from disk and ' +
      'from objects; what was decided about prefixes known beyond RAM.',
    rows: [
      ['attach, RAM', 'ram', (r) => r.quantile('sparing_kv_attach_seconds', 0.95), seconds],
      [
        'load, SSD',
        'ssd',
        (r) => r.quantile('sparing_kv_load_seconds', 0.95, 'tier="ssd"'),
        seconds,
      ],
      ['load, S3', 's3', (r) => r.quantile('sparing_kv_load_seconds', 0.95, 'tier="s3"'), seconds],
      [
        'fetched',
        'fetch',
        (r) =>
          r.get('sparing_kv_choices_total{choice="fetch"}') +
          r.get('sparing_kv_choices_total{choice="fetch_part"}'),
        count,
      ],
      [
        'recomputed',
        'recompute',
        (r) => r.get('sparing_kv_choices_total{choice="recompute"}'),
        count,
      ],
    ],
    chart: [
      ['attach', (h) => h.p95('sparing_kv_attach_seconds')],
      ['SSD', (h) => h.p95('sparing_kv_load_seconds{tier="ssd"}')],
      ['S3', (h) => h.p95('sparing_kv_load_seconds{tier="s3"}')],
    ],
    axis: seconds,
  },
  {
    id: 'bytes',
    tab: 'tiers',
    title: 'Bytes of the tiers',
    what: 'What each tier holds, and what gave way.',
    rows: [
      ...['ram', 'ssd', 's3'].map((t) => [
        t,
        t,
        (r) => r.gauge(`sparing_kv_bytes{tier="${t}"}`),
        bytes,
        true,
      ]),
      ['pages given up, RAM', 'evicted', (r) => r.gauge('sparing_kv_evicted_pages'), count, true],
      [
        'runs given up, SSD',
        'runs',
        (r) => r.gauge('sparing_kv_evicted_runs{kind="all"}'),
        count,
        true,
      ],
    ],
    chart: ['ram', 'ssd', 's3'].map((t) => [t, (h) => h.gauge(`sparing_kv_bytes{tier="${t}"}`)]),
    axis: bytes,
  },
  {
    id: 'saved',
    title: 'Compute saved',
    what:
      'Arithmetic against a plain decoder on the same text; keys that certified attention ' +
      'attended; tokens guessed ahead that the model chose as well, how much of the answers ' +
      'they were, and both for each drafter; tokens that left as marks of what they repeat, ' +
      'and the bytes that this saved; tokens that rules took back, and answers that they ' +
      'ended; light answers that were given up.',
    rows: [
      [
        'against dense',
        'flops',
        (r) => {
          const d = r.get('sparing_flops_total{kind="dense"}');
          return d > 0 ? 1 - r.get('sparing_flops_total{kind="spent"}') / d : null;
        },
        percent,
      ],
      [
        'per token',
        'per_token',
        (r) =>
          ratio(
            r.get('sparing_flops_total{kind="spent"}'),
            r.get('sparing_generated_tokens_total'),
          ),
        (v) => `${(v / 1e9).toFixed(2)} GFLOP`,
      ],
      [
        'keys attended',
        'keys',
        (r) =>
          ratio(
            r.get('sparing_attention_keys_total{kind="kept"}'),
            r.get('sparing_attention_keys_total{kind="seen"}'),
          ),
        percent,
      ],
      [
        'guesses right',
        'guesses',
        (r) =>
          ratio(
            r.get('sparing_draft_tokens_total{result="accepted"}'),
            r.get('sparing_draft_tokens_total{result="accepted"}') +
              r.get('sparing_draft_tokens_total{result="rejected"}'),
          ),
        percent,
      ],
      [
        'of the answers, guessed',
        'guessed',
        (r) =>
          ratio(
            r.get('sparing_draft_tokens_total{result="accepted"}'),
            r.get('sparing_generated_tokens_total'),
          ),
        percent,
      ],
      ...DRAFTERS.map((d) => [
        `${d}: right`,
        `right_${d}`,
        (r) =>
          ratio(drafted(r, d, 'accepted'), drafted(r, d, 'accepted') + drafted(r, d, 'rejected')),
        percent,
      ]),
      ...DRAFTERS.map((d) => [
        `${d}: guessed`,
        `drafted_${d}`,
        (r) => drafted(r, d, 'accepted') + drafted(r, d, 'rejected'),
        count,
      ]),
      ['repeats sent as marks', 'marked', (r) => r.get('sparing_marked_tokens_total'), count],
      [
        'bytes that marks saved',
        'mark_bytes',
        (r) =>
          r.get('sparing_marked_bytes_total{kind="text"}') -
          r.get('sparing_marked_bytes_total{kind="marks"}'),
        count,
      ],
      ['tokens taken back', 'pruned', (r) => r.get('sparing_pruned_tokens_total'), count],
      ['ended by rules', 'ended', (r) => r.get('sparing_ended_by_rules_total'), count],
      ['escalated', 'escalated', (r) => r.get('sparing_escalations_total'), count],
    ],
    chart: [
      [
        'spent ÷ dense',
        (h) =>
          h.ratio(
            h.rate('sparing_flops_total{kind="spent"}'),
            h.rate('sparing_flops_total{kind="dense"}'),
          ),
      ],
    ],
    axis: percent,
  },
  {
    id: 'paths',
    title: 'Paths and cost',
    what:
      'Which path requests took, what one costs by the prices, and how far light ' +
      'answers agree with full ones on a shadow sample (--shadow).',
    rows: [
      ...PATHS.map((p, i) => [p, p, (r) => ratio(paths(r)[i], total(paths(r))), percent]),
      [
        'cost of a request',
        'cost',
        (r) =>
          ratio(total(PATHS.map((p) => r.get(`sparing_cost_total{path="${p}"}`))), total(paths(r))),
        money,
      ],
      [
        'cost of a right answer',
        'right',
        (r) =>
          ratio(
            r.get('sparing_rated_cost_total'),
            r.get('sparing_rated_answers_total{right="true"}'),
          ),
        money,
      ],
      ['electricity', 'joules', (r) => r.get('sparing_electricity_joules_total'), joules],
      [
        'light agrees with full',
        'agreement',
        (r) =>
          ratio(r.get('sparing_shadow_agreement_total'), r.get('sparing_shadow_samples_total')),
        percent,
      ],
    ],
    chart: PATHS.map((p) => [p, (h) => h.rate(`sparing_path_total{path="${p}"}`)]),
    axis: count,
  },
];
