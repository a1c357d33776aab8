// needs: ai@7.0.173 @ai-sdk/openai@4.0.118 @ai-sdk/openai-compatible@3.0.92 @ai-sdk/anthropic@4.0.105 zod@4.6.7
// Vercel's AI SDK through each of its providers.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import * as ai from 'ai';
import { z } from 'zod';
import { ENCODER, MODEL_URL, NAME, PARIS, SCRIPT_URL, SUNNY, assert, check, done, say } from './check.mjs';

const config = { baseURL: SCRIPT_URL + '/v1', apiKey: 'none' };
const openai = createOpenAI(config);
const providers = {
  compatible: createOpenAICompatible({ name: 'sparing', supportsStructuredOutputs: true, ...config }).chatModel(NAME),
  chat: openai.chat(NAME),
  responses: openai.responses(NAME),
  anthropic: createAnthropic(config)(NAME),
};
const weather = ai.tool({ description: 'Weather of a city.', inputSchema: z.object({ city: z.string(), days: z.number().int() }), execute: async () => SUNNY });
const schema = z.object({ city: z.string(), days: z.number().int().min(0).max(9) });

for (const [name, model] of Object.entries(providers)) {
  const base = { model, maxRetries: 0 };
  check(`${name} generateText`, async () => {
    const r = await ai.generateText({ ...base, prompt: say('Hello.') });
    assert.equal(r.text, 'Hello.');
    assert.equal(r.finishReason, 'stop');
    assert.ok(r.usage.outputTokens > 0);
  });

  check(`${name} streamText`, async () => {
    const r = ai.streamText({ ...base, prompt: say('Hello there.'), onError: () => {} });
    let text = '';
    for await (const t of r.textStream) text += t;
    assert.equal(text, 'Hello there.');
  });

  for (const streams of [false, true])
    check(`${name} tools${streams ? ' stream' : ''}`, async () => {
      const ask = { ...base, prompt: say(PARIS), tools: { get_weather: weather }, stopWhen: ai.isStepCount ? ai.isStepCount(3) : ai.stepCountIs(3) };
      const r = streams ? ai.streamText({ ...ask, onError: () => {} }) : await ai.generateText(ask);
      const steps = await r.steps;
      assert.deepEqual(steps[0].toolCalls.map((c) => c.input), [{ city: 'Paris', days: 2 }]);
      assert.equal(await r.text, 'Sunny it is.');
    });

  check(`${name} object`, async () => {
    // Anthropic's provider asks for objects through a tool, so that what is said is the rest of a call.
    const text = name === 'anthropic' ? 'json", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>' : '{"city": "Rome", "days": 3}';
    const r = await ai.generateText({ ...base, prompt: say(text), output: ai.Output.object({ schema }) });
    assert.deepEqual(r.output, { city: 'Rome', days: 3 });
  });
}

check('tools and an object', async () => { // the second step answers in the form
  const tool = { ...weather, execute: async () => say('{"city": "Rome", "days": 3}') };
  const r = await ai.generateText({ model: providers.chat, maxRetries: 0, prompt: say(PARIS), tools: { get_weather: tool }, output: ai.Output.object({ schema }), stopWhen: ai.isStepCount ? ai.isStepCount(3) : ai.stepCountIs(3) });
  assert.equal(r.steps[0].toolCalls.length, 1);
  assert.deepEqual(r.output, { city: 'Rome', days: 3 });
});

check('generateObject without a schema', async () => {
  const r = await ai.generateObject({ model: providers.compatible, maxRetries: 0, output: 'no-schema', prompt: say('{"a": 1}') });
  assert.deepEqual(r.object, { a: 1 });
});

check('generateObject', async () => {
  const r = await ai.generateObject({ model: providers.compatible, maxRetries: 0, schema, prompt: say('{"city": "Rome", "days": 3}') });
  assert.deepEqual(r.object, { city: 'Rome', days: 3 });
});

check('streamObject', async () => {
  const r = ai.streamObject({ model: providers.chat, maxRetries: 0, schema, prompt: say('{"city": "Rome", "days": 3}'), onError: () => {} });
  for await (const part of r.partialObjectStream) assert.equal(typeof part, 'object');
  assert.deepEqual(await r.object, { city: 'Rome', days: 3 });
});

check('embedMany', async () => {
  const model = createOpenAICompatible({ name: 'sparing', baseURL: MODEL_URL + '/v1' }).embeddingModel(ENCODER);
  assert.equal((await ai.embedMany({ model, values: ['one', 'two words'] })).embeddings.length, 2);
});

await done();
