// needs: @anthropic-ai/sdk@1.14.0 zod@4.6.7
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { z } from 'zod';
import { NAME, PARIS, SCRIPT_URL, SUNNY, assert, check, done, say } from './check.mjs';

const client = new Anthropic({ baseURL: SCRIPT_URL, apiKey: 'none', maxRetries: 0 });
const weather = { name: 'get_weather', description: 'Weather of a city.', input_schema: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } }, required: ['city'] } };
const ask = (messages, more = {}) => client.messages.create({ model: NAME, max_tokens: 80, messages, ...more });
const user = (content) => [{ role: 'user', content }];

check('messages', async () => {
  const r = await ask(user(say('Hello.')));
  assert.deepEqual(r.content.map((b) => b.text), ['Hello.']);
  assert.equal(r.stop_reason, 'end_turn');
});

check('stream', async () => {
  const stream = client.messages.stream({ model: NAME, max_tokens: 40, messages: user(say('Hello there.')) });
  let text = '';
  stream.on('text', (t) => { text += t; });
  const last = await stream.finalMessage();
  assert.equal(text, 'Hello there.');
  assert.ok(last.usage.output_tokens > 0);
});

for (const streams of [false, true])
  check(streams ? 'tools stream' : 'tools', async () => {
    const messages = user(say('I look. ' + PARIS));
    const first = streams ? await client.messages.stream({ model: NAME, max_tokens: 80, messages, tools: [weather] }).finalMessage() : await ask(messages, { tools: [weather] });
    assert.equal(first.stop_reason, 'tool_use');
    const use = first.content.find((b) => b.type === 'tool_use');
    assert.deepEqual(use.input, { city: 'Paris', days: 2 });
    messages.push({ role: 'assistant', content: first.content }, { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: [{ type: 'text', text: SUNNY }] }] });
    assert.equal((await ask(messages, { tools: [weather] })).content[0].text, 'Sunny it is.');
  });

check('toolRunner', async () => {
  const tool = betaZodTool({ name: 'get_weather', description: 'Weather.', inputSchema: z.object({ city: z.string(), days: z.number().int() }), run: () => SUNNY });
  const last = await client.beta.messages.toolRunner({ model: NAME, max_tokens: 80, messages: user(say(PARIS)), tools: [tool] });
  assert.equal(last.content[0].text, 'Sunny it is.');
});

check('count_tokens', async () => {
  const n = (await client.messages.countTokens({ model: NAME, messages: user('Hello.') })).input_tokens;
  assert.equal(n, (await ask(user('Hello.'), { max_tokens: 1 })).usage.input_tokens);
});

check('cached', async () => {
  const system = [{ type: 'text', text: 'Be kind and short. '.repeat(60), cache_control: { type: 'ephemeral' } }];
  await ask(user(say('One.')), { system });
  const usage = (await ask(user(say('Two.')), { system })).usage;
  assert.ok(usage.cache_read_input_tokens > 200);
});

check('errors', async () => {
  await assert.rejects(ask([]), (e) => e instanceof Anthropic.BadRequestError && e.error.error.type === 'invalid_request_error' && Boolean(e.requestID));
  await assert.rejects(ask(user('x'), { model: 'another' }), (e) => e instanceof Anthropic.NotFoundError);
});

check('models', async () => {
  const names = [];
  for await (const m of client.models.list()) names.push(m.id);
  assert.ok(names.includes(NAME));
});

await done();
