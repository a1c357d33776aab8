// needs: ollama@0.6.4
import { Ollama } from 'ollama';
import { ENCODER, MODEL_URL, NAME, PARIS, SCRIPT_URL, SUNNY, assert, check, done, say } from './check.mjs';

const client = new Ollama({ host: SCRIPT_URL });
const model = new Ollama({ host: MODEL_URL });
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Weather of a city.', parameters: { type: 'object', required: ['city'], properties: { city: { type: 'string', description: 'its name' }, days: { type: 'integer', description: 'how many' } } } } }];
const user = (content) => [{ role: 'user', content }];

check('chat', async () => {
  const r = await client.chat({ model: NAME, messages: user(say('Hello.')) });
  assert.equal(r.message.content, 'Hello.');
  assert.equal(r.done_reason, 'stop');
});

check('stream', async () => {
  let text = '';
  for await (const part of await client.chat({ model: NAME, messages: user(say('Hello there.')), stream: true })) text += part.message.content;
  assert.equal(text, 'Hello there.');
});

for (const stream of [false, true])
  check(stream ? 'tools stream' : 'tools', async () => {
    const messages = user(say(PARIS));
    const calls = [];
    if (stream) for await (const p of await client.chat({ model: NAME, messages, tools, stream })) calls.push(...(p.message.tool_calls ?? []));
    else calls.push(...(await client.chat({ model: NAME, messages, tools })).message.tool_calls);
    assert.deepEqual(calls.map((c) => c.function.arguments), [{ city: 'Paris', days: 2 }]);
    messages.push({ role: 'assistant', content: '', tool_calls: calls }, { role: 'tool', tool_name: 'get_weather', content: SUNNY });
    assert.equal((await client.chat({ model: NAME, messages, tools })).message.content, 'Sunny it is.');
  });

check('format', async () => {
  const format = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
  const r = await client.chat({ model: NAME, messages: user(say('{"city": "Rome"}')), format });
  assert.deepEqual(JSON.parse(r.message.content), { city: 'Rome' });
});

check('generate', async () => {
  assert.equal((await client.generate({ model: NAME, prompt: say('Hello.') })).response, 'Hello.');
});

check('embed', async () => {
  assert.equal((await model.embed({ model: ENCODER, input: ['one', 'two'] })).embeddings.length, 2);
});

check('models', async () => {
  assert.ok((await client.list()).models.some((m) => m.name === NAME));
  assert.ok((await client.show({ model: NAME })).capabilities.includes('tools'));
  assert.ok((await client.ps()).models.length > 0);
  assert.ok((await client.version()).version);
});

check('errors', async () => {
  await assert.rejects(client.chat({ model: 'another', messages: user('x') }), (e) => e.status_code === 404 && /not found/.test(e.message));
});

await done();
