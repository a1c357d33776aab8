// Makes the bundles of this folder from the packages of package-lock.json: `npm ci && node build.mjs [FOLDER]`.
// scripts/check-vendor builds into another folder and compares bytes.
import {deepStrictEqual} from 'node:assert';
import {build} from 'esbuild';
import {copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

const here = dirname(fileURLToPath(import.meta.url)), out = process.argv[2] ?? here;
const LANGUAGES = ['bash', 'c', 'cpp', 'diff', 'javascript', 'json',
                   'python', 'rust', 'sql', 'typescript', 'xml', 'yaml'];
const ENTRIES = {
  vendor: `export {h, render, Fragment, options} from 'preact';
export {useState, useEffect, useLayoutEffect, useRef, useMemo} from 'preact/hooks';
export {signal, computed, effect, batch} from '@preact/signals';
export {Marked} from 'marked';
import {h} from 'preact';
import htm from 'htm';
export const html = htm.bind(h);`,
  hljs: `import hljs from 'highlight.js/lib/core';
${LANGUAGES.map((l) => `import ${l} from 'highlight.js/lib/languages/${l}';`).join('\n')}
for (const [name, make] of Object.entries({${LANGUAGES.join(', ')}})) hljs.registerLanguage(name, make);
export default hljs;`,
  // From its sources, of which what is not reached from render stays out.
  katex: "export {render} from './node_modules/katex/katex.ts';",
  uplot: "export {default} from 'uplot';",
};
// The packages whose code is in a bundle, for LICENSES.
const PACKAGES = ['preact', '@preact/signals', '@preact/signals-core', 'htm', 'marked', 'highlight.js', 'katex', 'uplot'];

// KaTeX's table of the sizes of letters as text, a third as long: five numbers of each letter by font and code. The text has, by
// font, the steps from code to code and then each of the five for all letters, times 100,000, in base 36; `V*N` is V, N times.
function unpack(packed) {
  const out = {};
  for (const [font, text] of Object.entries(packed)) {
    const [steps, ...five] = text.split(';').map((column) => column.split(',').flatMap((run) => {
      const [value, n] = run.split('*');
      return Array(parseInt(n ?? 1, 36)).fill(parseInt(value || 0, 36));
    }));
    let code = 0;
    out[font] = {};
    steps.forEach((step, i) => { out[font][code += step] = five.map((column) => column[i] / 1e5); });
  }
  return out;
}

function pack(table) {
  const column = (values) => {
    const runs = [];
    for (const v of values) {
      if (runs.at(-1)?.[0] === v) runs.at(-1)[1]++;
      else runs.push([v, 1]);
    }
    const digits = (v) => (v ? v.toString(36) : '');
    return runs.map(([v, n]) => (n < 3 ? Array(n).fill(digits(v)).join() : `${digits(v)}*${n.toString(36)}`)).join();
  };
  return Object.fromEntries(Object.entries(table).map(([font, letters]) => {
    const codes = Object.keys(letters).map(Number);
    return [font, [codes.map((c, i) => c - (codes[i - 1] ?? 0)),
                   ...[0, 1, 2, 3, 4].map((k) => codes.map((c) => Math.round(letters[c][k] * 1e5)))].map(column).join(';')];
  }));
}

const metrics = {
  name: 'metrics',
  setup: (b) => b.onLoad({filter: /katex\/src\/fontMetricsData\.js$/}, async ({path}) => {
    const table = (await import(path)).default, packed = pack(table);
    deepStrictEqual(unpack(packed), table);
    return {contents: `${unpack}\nexport default unpack(${JSON.stringify(packed)});`};
  }),
};

const version = (name) => JSON.parse(readFileSync(join(here, 'node_modules', name, 'package.json'), 'utf8')).version;

mkdirSync(join(out, 'fonts'), {recursive: true});
for (const [name, contents] of Object.entries(ENTRIES))
  await build({stdin: {contents, resolveDir: here}, outfile: join(out, name + '.js'), bundle: true, minify: true,
               format: 'esm', target: 'es2021', legalComments: 'none', charset: 'utf8', plugins: [metrics],
               define: {__VERSION__: JSON.stringify(version('katex'))}});

// KaTeX's sheet with its woff2 fonts alone: each browser that runs this page reads them.
const css = readFileSync(join(here, 'node_modules/katex/dist/katex.min.css'), 'utf8');
writeFileSync(join(out, 'katex.css'), css.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, '') + '\n');
for (const f of readdirSync(join(here, 'node_modules/katex/dist/fonts')).filter((f) => f.endsWith('.woff2')))
  copyFileSync(join(here, 'node_modules/katex/dist/fonts', f), join(out, 'fonts', f));
copyFileSync(join(here, 'node_modules/uplot/dist/uPlot.min.css'), join(out, 'uplot.css'));

const licences = PACKAGES.map((name) => {
  const folder = join(here, 'node_modules', name), {version, license} = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), 'utf8').trim() : 'No licence file in the package.'}\n`;
});
writeFileSync(join(out, 'LICENSES'), licences.join('\n' + '-'.repeat(80) + '\n\n'));
