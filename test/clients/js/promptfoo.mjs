// needs: promptfoo@0.121.20
// Evaluations through each of promptfoo's providers that this server can be. An assertion that compares meanings asks the encoder.
import promptfoo from 'promptfoo';
import { ENCODER, MODEL_URL, NAME, PARIS, SCRIPT_URL, assert, check, done, say } from './check.mjs';

const v1 = { apiBaseUrl: SCRIPT_URL + '/v1', apiKey: 'none' };
const weather = { type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } }, required: ['city', 'days'] } } };
const providers = {
  chat: { id: `openai:chat:${NAME}`, config: v1 },
  completion: { id: `openai:completion:${NAME}`, config: v1 }, // sends best_of
  responses: { id: `openai:responses:${NAME}`, config: v1 },
  anthropic: { id: `anthropic:messages:${NAME}`, config: { apiBaseUrl: SCRIPT_URL, apiKey: 'none', max_tokens: 40 } },
  ollama: { id: `ollama:chat:${NAME}` }, // OLLAMA_BASE_URL
};
process.env.OLLAMA_BASE_URL = SCRIPT_URL;
process.env.PROMPTFOO_DISABLE_TELEMETRY = '1';
process.env.PROMPTFOO_DISABLE_UPDATE = '1';

async function evaluate(provider, said, assertions) {
  const text = say(said, 'Say this: '); // what begins with a bracket is taken for messages in JSON
  const e = await promptfoo.evaluate(
    { prompts: ['{{text}}'], providers: [provider], tests: [{ vars: { text }, assert: assertions }], writeLatestResults: false },
    { maxConcurrency: 1, cache: false },
  );
  const { results } = await (e.toEvaluateSummary?.() ?? e);
  assert.equal(results.length, 1);
  assert.ok(results[0].success, results[0].error ?? JSON.stringify(results[0].response));
  return results[0];
}

for (const [name, provider] of Object.entries(providers))
  check(name, async () => {
    const r = await evaluate(provider, 'Hello.', [{ type: 'equals', value: 'Hello.' }, { type: 'latency', threshold: 600000 }]);
    assert.equal(r.response.output, 'Hello.');
  });

check('tools', async () => {
  const r = await evaluate({ id: providers.chat.id, config: { ...v1, tools: [weather] } }, PARIS, [{ type: 'is-valid-openai-tools-call' }]);
  assert.deepEqual(JSON.parse(r.response.output[0].function.arguments), { city: 'Paris', days: 2 });
});

check('schema', async () => {
  const schema = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'], additionalProperties: false };
  const config = { ...v1, response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } } };
  const r = await evaluate({ id: providers.chat.id, config }, '{"a": 3}', [{ type: 'is-json', value: schema }]);
  assert.deepEqual(r.response.output, { a: 3 });
});

check('similar', async () => {
  const encoder = { id: `openai:embedding:${ENCODER}`, config: { apiBaseUrl: MODEL_URL + '/v1', apiKey: 'none' } };
  await evaluate(providers.chat, 'Hello there.', [{ type: 'similar', value: 'Hello there!', threshold: 0.7, provider: encoder }]);
});

await done();
