// needs: openai@7.59.0 zod@4.6.7
import OpenAI, { toFile } from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { ENCODER, MODEL_URL, NAME, PARIS, SCRIPT_URL, SUNNY, assert, check, done, say } from './check.mjs';

const make = (url) => new OpenAI({ baseURL: url + '/v1', apiKey: 'none', maxRetries: 0 });
const script = make(SCRIPT_URL);
const model = make(MODEL_URL);
const Weather = z.object({ city: z.enum(['Paris', 'Rome']), days: z.number().int() });
const weather = zodFunction({ name: 'get_weather', parameters: Weather, description: 'Weather of a city.' });
const user = (content) => [{ role: 'user', content }];

check('chat', async () => {
  const r = await script.chat.completions.create({ model: NAME, messages: user(say('Hello.')), max_tokens: 20 });
  assert.equal(r.choices[0].message.content, 'Hello.');
  assert.equal(r.choices[0].finish_reason, 'stop');
});

check('stream', async () => {
  const stream = script.chat.completions.stream({ model: NAME, messages: user(say('Hello there.')), stream_options: { include_usage: true } });
  let text = '';
  stream.on('content', (delta) => { text += delta; });
  const last = await stream.finalChatCompletion();
  assert.equal(text, 'Hello there.');
  assert.ok(last.usage.completion_tokens > 0);
});

check('tools', async () => {
  const messages = user(say(PARIS, 'Weather? '));
  const first = await script.chat.completions.create({ model: NAME, messages, tools: [weather] });
  const [t] = first.choices[0].message.tool_calls;
  assert.deepEqual(JSON.parse(t.function.arguments), { city: 'Paris', days: 2 });
  messages.push(first.choices[0].message, { role: 'tool', tool_call_id: t.id, content: SUNNY });
  const second = await script.chat.completions.create({ model: NAME, messages, tools: [weather] });
  assert.equal(second.choices[0].message.content, 'Sunny it is.');
});

for (const stream of [false, true])
  check(stream ? 'runTools stream' : 'runTools', async () => {
    const runner = script.chat.completions.runTools({
      model: NAME, stream, messages: user(say(PARIS)),
      tools: [zodFunction({ name: 'get_weather', parameters: Weather, function: () => SUNNY })],
    });
    assert.equal(await runner.finalContent(), 'Sunny it is.');
  });

check('parse', async () => {
  const r = await script.chat.completions.parse({
    model: NAME, messages: user(say('{"city": "Rome", "days": 3}')), response_format: zodResponseFormat(Weather, 'weather'),
  });
  assert.deepEqual(r.choices[0].message.parsed, { city: 'Rome', days: 3 });
});

check('json_object', async () => {
  const r = await script.chat.completions.create({ model: NAME, messages: user(say('{"a": [1, null]}')), response_format: { type: 'json_object' } });
  assert.deepEqual(JSON.parse(r.choices[0].message.content), { a: [1, null] });
});

check('responses', async () => {
  const r = await script.responses.create({ model: NAME, input: say('Hello.'), store: false });
  assert.equal(r.output_text, 'Hello.');
  assert.equal(r.status, 'completed');
});

check('responses stream', async () => {
  const stream = script.responses.stream({ model: NAME, input: say('Hello there.'), store: false });
  let text = '';
  stream.on('response.output_text.delta', (e) => { text += e.delta; });
  const r = await stream.finalResponse();
  assert.equal(text, 'Hello there.');
  assert.equal(r.output_text, text);
});

check('responses parse', async () => {
  const r = await script.responses.parse({ model: NAME, input: say('{"city": "Rome", "days": 3}'), store: false, text: { format: zodTextFormat(Weather, 'weather') } });
  assert.deepEqual(r.output_parsed, { city: 'Rome', days: 3 });
});

check('responses tools', async () => {
  const tools = [{ type: 'function', name: 'get_weather', parameters: z.toJSONSchema(Weather), strict: true }];
  const input = user(say(PARIS));
  const first = await script.responses.create({ model: NAME, input, tools, store: false });
  const item = first.output.find((o) => o.type === 'function_call');
  assert.deepEqual(JSON.parse(item.arguments), { city: 'Paris', days: 2 });
  input.push(...first.output, { type: 'function_call_output', call_id: item.call_id, output: SUNNY });
  const second = await script.responses.create({ model: NAME, input, tools, store: false });
  assert.equal(second.output_text, 'Sunny it is.');
});

check('responses kept', async () => {
  const first = await script.responses.create({ model: NAME, input: say('Hello.') });
  assert.match(first.id, /^resp_/);
  const again = await script.responses.retrieve(first.id);
  assert.equal(again.output_text, 'Hello.');
  const next = await script.responses.create({ model: NAME, input: say('More.'), previous_response_id: first.id });
  assert.equal(next.output_text, 'More.');
  await script.responses.delete(first.id);
});

check('completions', async () => {
  const r = await script.completions.create({ model: NAME, prompt: say('Hello.'), max_tokens: 20, logprobs: 1 });
  assert.equal(r.choices[0].text, 'Hello.');
  assert.equal(r.choices[0].logprobs.tokens.length, r.choices[0].logprobs.token_logprobs.length);
});

check('embeddings', async () => {
  const r = await model.embeddings.create({ model: ENCODER, input: ['one', 'two words'] });
  assert.equal(r.data.length, 2);
  assert.ok(Math.abs(r.data[0].embedding.reduce((s, x) => s + x * x, 0) - 1) < 1e-3);
});

check('models', async () => {
  const names = [];
  for await (const m of model.models.list()) names.push(m.id);
  assert.ok(names.includes(NAME));
  assert.equal((await model.models.retrieve(NAME)).id, NAME);
});

check('files and vector stores', async () => {
  const text = 'The office in Lisbon has the door code 4711. '.repeat(4);
  const file = await model.files.create({ file: await toFile(Buffer.from(text), 'door.txt'), purpose: 'assistants' });
  const store = await model.vectorStores.create({ name: 'doors' });
  const put = await model.vectorStores.files.createAndPoll(store.id, { file_id: file.id });
  assert.equal(put.status, 'completed');
  const found = [];
  for await (const f of model.vectorStores.search(store.id, { query: 'door code in Lisbon' })) found.push(f);
  assert.match(found[0].content[0].text, /4711/);
  const r = await model.responses.create({ model: NAME, input: 'What is the door code in Lisbon?', max_output_tokens: 12, store: false,
    tools: [{ type: 'file_search', vector_store_ids: [store.id] }], include: ['file_search_call.results'] });
  const search = r.output.find((o) => o.type === 'file_search_call');
  assert.equal(search.status, 'completed');
  assert.match(search.results[0].text, /4711/);
  await model.vectorStores.delete(store.id);
  await model.files.delete(file.id);
});

check('errors', async () => {
  await assert.rejects(script.chat.completions.create({ model: 'another', messages: user('x') }), (e) => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
  await assert.rejects(script.chat.completions.create({ model: NAME, messages: [] }), (e) => e instanceof OpenAI.BadRequestError && e.param === 'messages' && Boolean(e.requestID));
});

await done();
