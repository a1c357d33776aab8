'use strict';
// The chat page: streams one answer at a time and shows its receipt. No dependencies.
const $ = (id) => document.getElementById(id);
// The conversation on the page. "New chat" puts another in its place, so that what still comes of an old answer stays with the old one.
let talk = {messages: [], running: null};

function headers() {
  const h = {'Content-Type': 'application/json'};
  if ($('key').value) h.Authorization = 'Bearer ' + $('key').value;
  return h;
}

function addTurn(role, text) {
  const turn = document.createElement('div');
  turn.className = 'turn ' + role;
  const body = document.createElement('div');
  body.className = 'text';
  body.textContent = text;
  turn.append(body);
  $('log').append(turn);
  $('log').scrollTop = $('log').scrollHeight;
  return turn;
}

function number(x) {
  if (x >= 1e12) return (x / 1e12).toFixed(2) + ' T';
  if (x >= 1e9) return (x / 1e9).toFixed(2) + ' G';
  return String(Math.round(x * 100) / 100);
}

// Kept share and certificate; see docs/ATTENTION.md.
function attention(a) {
  if (!(a.epsilon > 0) && !(a.prefill.keep > 0))
    return 'dense: nothing left out';
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const bytes = a.kv_bytes.dense > 0 ? `, ${percent(a.kv_bytes.read / a.kv_bytes.dense)} of the bytes` : '';
  const prompt = a.prefill.keep > 0 ? `; prompt: ${percent(a.prefill.pages_kept)} of the pages, missed by a sample ${percent(a.prefill.sampled_miss_mean)}`
    : a.prefill.values_read < 1 ? `; prompt: ${percent(a.prefill.values_read)} of the values` : '';
  return `${percent(a.kept)} of the keys kept${bytes}; certified loss at most ${percent(a.max_bound)} (allowed ${percent(a.epsilon)})${prompt}`;
}

function showReceipt(turn, usage) {
  const r = usage.sparing;
  const saved = r.flops.dense > 0 ? 100 * (1 - r.flops.spent / r.flops.dense) : 0;
  const seconds = r.ms.decode / 1000;
  const known = r.prompt_tokens.ram + r.prompt_tokens.ssd + r.prompt_tokens.s3;
  const rows = [
    ['Path', [r.path, r.why, r.class].filter(Boolean).join(', ')],
    ['Prompt', `${r.prompt_tokens.computed} computed` + ['ram', 'ssd', 's3'].filter((t) => r.prompt_tokens[t])
      .map((t) => `, ${r.prompt_tokens[t]} from ${t.toUpperCase()}`).join('')],
    ['Memory', `looked up in ${r.ms.attach.toFixed(2)} ms` + (r.ms.load ? `, loaded in ${r.ms.load.toFixed(1)} ms, first layer after ${r.ms.first_layer.toFixed(1)}` : '')],
    ['Answer', `${r.decode.tokens} tokens in ${r.decode.steps} steps` + (r.decode.drafted ? `; ${r.decode.accepted} of ${r.decode.drafted} guessed ahead were right` : '')],
    ...(r.references ? [['Repeated', `${r.references.tokens} tokens came as ${r.references.marks} marks: ${r.references.bytes} bytes as ${r.references.mark_bytes}; ${r.references.guessed} of the tokens were guessed ahead`]] : []),
    ['Speed', seconds > 0 ? `${(r.decode.tokens / seconds).toFixed(1)} tokens/s` : '–'],
    ['Time', `queue ${r.ms.queue.toFixed(1)}, prefill ${r.ms.prefill.toFixed(1)}, decode ${r.ms.decode.toFixed(1)} ms`],
    ['Arithmetic', `${number(r.flops.spent)}FLOP, ${saved.toFixed(1)} % less than dense`],
    ['Attention', attention(r.attention)],
  ];
  const box = document.createElement('details');
  const head = document.createElement('summary');
  head.textContent = `Receipt: ${r.decode.tokens} tokens, ${number(r.flops.spent)}FLOP, ${known} of ` +
    `${usage.prompt_tokens} prompt tokens reused, ${(100 * r.attention.kept).toFixed(0)} % of the keys attended`;
  const table = document.createElement('table');
  for (const [name, value] of rows) {
    const tr = table.insertRow();
    tr.insertCell().textContent = name;
    tr.insertCell().textContent = value;
  }
  box.append(head, table);
  turn.append(box);
}

// What the search in the documents did not give: nothing was found, or something had no room.
function showNote(turn, text) {
  const note = document.createElement('p');
  note.className = 'note';
  note.textContent = `Documents: ${text}.`;
  turn.append(note);
}

// Where an answer says what a passage says: its number, document, place and the passage's own words.
function showSources(turn, annotations, retrieved, facts) {
  const box = document.createElement('details');
  const head = document.createElement('summary');
  head.textContent = `Documents: ${retrieved.length} passages read, ${annotations.length} sentences cited` + (facts.length ? `, ${facts.length} facts` : '');
  const list = document.createElement('ol');
  list.className = 'sources';
  retrieved.forEach((p, i) => {
    const item = document.createElement('li');
    const name = document.createElement('b');
    name.textContent = p.place || p.filename;
    const file = document.createElement('span');
    file.textContent = ` (${p.filename}, cosine ${p.cosine.toFixed(2)})`;
    const text = document.createElement('div');
    text.className = 'passage';
    const quotes = annotations.map((a) => a.file_citation).filter((c) => c.passage === i + 1).map((c) => c.quote);
    let at = 0;
    for (const [from, quote] of quotes.map((q) => [p.text.indexOf(q), q]).filter((x) => x[0] >= 0).sort((a, b) => a[0] - b[0])) {
      if (from < at) continue;
      const mark = document.createElement('mark');
      mark.textContent = quote;
      text.append(p.text.slice(at, from), mark);
      at = from + quote.length;
    }
    text.append(p.text.slice(at));
    item.append(name, file, text);
    list.append(item);
  });
  for (const f of facts) {
    const item = document.createElement('li');
    item.textContent = `${f.subject} – ${f.predicate} – ${f.object}${f.source ? ` (${f.source})` : ''}`;
    list.append(item);
  }
  box.append(head, list);
  turn.append(box);
}

// Calls onData for each `data:` line of a server-sent stream.
async function readStream(response, onData) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let buffer = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    buffer += decoder.decode(value, {stream: true});
    const lines = buffer.split('\n');
    buffer = lines.pop();
    for (const line of lines)
      if (line.startsWith('data: ') && line !== 'data: [DONE]') onData(JSON.parse(line.slice(6)));
  }
}

// Puts more of an answer on the page: as text, or each token in the colour of what it cost. new: the text that the delta stands for.
function showMore(body, delta, text, decoder) {
  const bytes = new TextEncoder().encode(text), costs = delta.references ? [[bytes.length, 'reference']] : delta.costs || [];
  let at = 0;
  for (const [n, cost] of [...costs, [Infinity, '']]) {
    const piece = document.createElement('span');
    piece.className = cost;
    piece.textContent = decoder.decode(bytes.subarray(at, at + n), {stream: true}); // a token may end within a character
    at += n;
    if (piece.textContent) body.append(piece);
  }
}

function showRunning() {
  $('send').hidden = !!talk.running;
  $('stop').hidden = !talk.running;
}

async function ask(text) {
  const mine = talk, question = {role: 'user', content: text};
  mine.messages.push(question);
  addTurn('user', text);
  const turn = addTurn('assistant', '');
  const body = turn.firstChild;
  const coloured = $('costs').checked, whole = new References(mine.messages), decoder = new TextDecoder('utf-8', {ignoreBOM: true});
  let answer = '', failed = false;
  mine.running = new AbortController();
  showRunning();
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST', headers: headers(), signal: mine.running.signal,
      body: JSON.stringify({model: $('pick').value || undefined, messages: mine.messages, stream: true, tools: $('coll').value ? [{type: 'file_search', vector_store_ids: [$('coll').value]}] : [], stream_options: {include_usage: true},
        temperature: Number($('temperature').value), max_tokens: Number($('tokens').value), repetition_penalty: 1.1,
        sparing: {references: true, costs: coloured}}),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await readStream(response, (chunk) => {
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices.length ? chunk.choices[0].delta : {}, more = whole.add(delta);
      if (more) {
        answer += more;
        if (coloured) showMore(body, delta, more, decoder);
        else body.textContent = answer;
        if (mine === talk) $('log').scrollTop = $('log').scrollHeight;
      }
      if (chunk.retrieved && chunk.retrieved.length + chunk.facts.length) showSources(turn, chunk.choices[0].delta.annotations, chunk.retrieved, chunk.facts);
      if (chunk.search && chunk.search.note) showNote(turn, chunk.search.note);
      if (chunk.usage) showReceipt(turn, chunk.usage);
    });
  } catch (error) {
    failed = error.name !== 'AbortError';
    if (failed) {
      turn.classList.add('error');
      body.textContent = answer + (answer ? '\n' : '') + error.message;
    }
  }
  if (answer && !failed)
    mine.messages.push({role: 'assistant', content: answer});
  else
    mine.messages.splice(mine.messages.indexOf(question), 1);
  mine.running = null;
  if (mine !== talk) return;
  showRunning();
  if (!$('pickbox').hidden) refreshChooser(); // which ones are loaded now
  $('text').focus();
}

async function showModel() {
  $('coll').replaceChildren(new Option('none', '')); // those of another key are not this one's
  $('collbox').hidden = true;
  const response = await fetch('/v1/models', {headers: headers()});
  $('keybox').hidden = response.status !== 401 && !$('key').value;
  if (!response.ok) return;
  const models = answering(await response.json());
  showChooser(models);
  if (models.some((m) => m.file_search)) showCollections();
}

// The models that answer, each under its own name.
const answering = (list) => list.data.filter((m) => m.id === m.root && m.capabilities.includes('completion'));

async function refreshChooser() {
  const response = await fetch('/v1/models', {headers: headers()});
  if (response.ok) showChooser(answering(await response.json()));
}

// With several models one is chosen for the next answers; what was chosen before stays chosen.
function showChooser(models) {
  const before = $('pick').value;
  $('pick').replaceChildren(...models.map((m) => new Option(m.status && m.status.value !== 'loaded' ? `${m.id} (${m.status.value})` : m.id, m.id)));
  if (models.some((m) => m.id === before)) $('pick').value = before;
  $('pickbox').hidden = models.length < 2;
  $('model').hidden = models.length > 1;
  $('model').textContent = $('pick').value;
}

async function showCollections() {
  const response = await fetch('/v1/vector_stores?limit=100&order=asc', {headers: headers()});
  if (!response.ok) return;
  const stores = (await response.json()).data;
  $('collbox').hidden = stores.length === 0;
  $('coll').replaceChildren(new Option('none', ''), ...stores.map((s) => new Option(`${s.name || s.id} (${s.file_counts.completed})`, s.id)));
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text || talk.running) return;
  $('text').value = '';
  ask(text);
});
$('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $('form').requestSubmit();
  }
});
$('stop').addEventListener('click', () => talk.running?.abort());
$('clear').addEventListener('click', () => {
  talk.running?.abort();
  talk = {messages: [], running: null};
  $('log').replaceChildren();
  showRunning();
});
$('key').addEventListener('change', showModel);
$('pick').addEventListener('change', () => { $('model').textContent = $('pick').value; });
showModel();
