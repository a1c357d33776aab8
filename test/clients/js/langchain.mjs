// needs: @langchain/openai@1.6.0 @langchain/langgraph@1.7.3 @langchain/core@1.4.0 zod@4.6.7
import { ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { createReactAgent } from '@langchain/langgraph/prebuilt';
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';
import { z } from 'zod';
import { ENCODER, MODEL_URL, NAME, PARIS, SCRIPT_URL, SUNNY, assert, check, done, say } from './check.mjs';

const make = (more = {}) => new ChatOpenAI({ model: NAME, apiKey: 'none', maxRetries: 0, configuration: { baseURL: SCRIPT_URL + '/v1' }, ...more });
const weather = tool(async () => SUNNY, { name: 'get_weather', description: 'Weather of a city.', schema: z.object({ city: z.string(), days: z.number().int() }) });
const Weather = z.object({ city: z.string(), days: z.number().int() });

for (const [name, chat] of [['chat', make()], ['responses', make({ useResponsesApi: true })]]) {
  check(`${name} invoke`, async () => {
    assert.equal((await chat.invoke(say('Hello.'))).text, 'Hello.');
  });

  check(`${name} stream`, async () => {
    let text = '';
    for await (const chunk of await chat.stream(say('Hello there.'))) text += chunk.text;
    assert.equal(text, 'Hello there.');
  });

  check(`${name} tools`, async () => {
    const bound = chat.bindTools([weather]);
    const first = await bound.invoke([['user', say(PARIS)]]);
    assert.deepEqual(first.tool_calls.map((c) => c.args), [{ city: 'Paris', days: 2 }]);
    const second = await bound.invoke([['user', say(PARIS)], first, new ToolMessage({ content: SUNNY, tool_call_id: first.tool_calls[0].id })]);
    assert.equal(second.text, 'Sunny it is.');
  });

  check(`${name} agent`, async () => {
    const agent = createReactAgent({ llm: chat, tools: [weather] });
    const r = await agent.invoke({ messages: [['user', say(PARIS)]] });
    assert.equal(r.messages.at(-1).text, 'Sunny it is.');
  });

  for (const method of ['jsonSchema', 'functionCalling', 'jsonMode'])
    check(`${name} ${method}`, async () => {
      // A call that must come is begun by the prompt: the model says the rest of it.
      const text = method === 'functionCalling' ? '{"city": "Rome", "days": 3}}\n</tool_call>' : '{"city": "Rome", "days": 3}';
      const r = await chat.withStructuredOutput(Weather, { name: 'weather', method }).invoke(say(text));
      assert.deepEqual(r, { city: 'Rome', days: 3 });
    });
}

check('embeddings', async () => {
  const e = new OpenAIEmbeddings({ model: ENCODER, apiKey: 'none', maxRetries: 0, configuration: { baseURL: MODEL_URL + '/v1' } });
  assert.equal((await e.embedDocuments(['one', 'two words'])).length, 2);
});

await done();
