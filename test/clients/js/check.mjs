// What the clients of Node share: where the servers are, what makes the scripted model speak, and
// how checks are run. A runner calls check() for each, then await done().
import assert from 'node:assert/strict';

export { assert };
export const MODEL_URL = process.env.SPARING_MODEL_URL; // SmolLM2, with files and conversations
export const SCRIPT_URL = process.env.SPARING_SCRIPT_URL; // says what stands between [[say]] and [[/say]]
export const NAME = process.env.SPARING_MODEL;
export const ENCODER = process.env.SPARING_ENCODER;

export const say = (text, before = '') => `${before}[[say]]${text}[[/say]]`;
// Spaced as the grammar of a call has it; args is flat.
const spaced = (args) => `{${Object.entries(args).map(([k, v]) => `${JSON.stringify(k)}: ${JSON.stringify(v)}`).join(', ')}}`;
export const call = (name, args) => `<tool_call>\n{"name": "${name}", "arguments": ${spaced(args)}}\n</tool_call>`;
export const PARIS = call('get_weather', { city: 'Paris', days: 2 });
export const SUNNY = say('Sunny it is.', 'sunny ');

const checks = [];
export const check = (name, fn) => checks.push([name, fn]);

export async function done() {
  const only = process.argv.slice(2);
  let failed = 0;
  for (const [name, fn] of checks.filter(([n]) => !only.length || only.includes(n))) {
    try {
      await fn();
      console.log(`ok ${name}`);
    } catch (e) {
      failed++;
      console.log(`FAIL ${name}: ${String(e?.message ?? e).replaceAll('\n', ' ').slice(0, 300)}`);
      console.error(e?.stack ?? e);
    }
  }
  process.exit(failed ? 1 : 0);
}
